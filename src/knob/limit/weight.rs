//! `cpu.weight` and `io.weight`: the share of a cgroup under contention.

use super::Setting;
use super::limit_file::LimitFile;
use super::notation::{NotALimit, not};
use super::property::{INFINITY, Property};
use crate::knob::Change;
use crate::schema::{Key, Kind, optional};

/// The range of a weight.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// That of a cgroup whose weight was never set.
const DEFAULT_WEIGHT: u32 = 100;

/// A file with a weight: what its two kinds have in common.
macro_rules! file_of_weight {
    ($setting:path) => {
        type Value = u32;

        const HELP: &'static str = "a weight is a number from 1 to 10000; 100 is the default";
        const UNLIMITED: &'static str = "100";

        fn compile(text: &str) -> Option<Vec<Change>> {
            weight(text).ok().map(|weight| vec![$setting(weight).into()])
        }

        fn is_more(weight: &u32, other: &u32) -> bool {
            weight > other
        }

        fn properties(weight: &u32) -> Vec<Property> {
            vec![Property::Number(u64::from(*weight))]
        }

        fn recorded(properties: &[u64]) -> Option<u32> {
            match *properties.first()? {
                INFINITY => Some(DEFAULT_WEIGHT),
                weight => weight.try_into().ok(),
            }
        }
    };
}

pub struct CpuWeight;

impl LimitFile for CpuWeight {
    const KEY: Key = optional(
        "cpu.weight",
        Kind::Text,
        "Share of processor time under contention: 1 to 10000. The kernel's default is 100.",
    );
    const PROPERTIES: &'static [&'static str] = &["CPUWeight"];

    file_of_weight!(Setting::CpuWeight);

    fn parse(text: &str) -> Result<u32, NotALimit> {
        weight(text.trim())
    }
}

pub struct IoWeight;

/// The default of all devices. Weights of single devices stay unchanged.
impl LimitFile for IoWeight {
    const KEY: Key = optional(
        "io.weight",
        Kind::Text,
        "Share of a device's I/O under contention: 1 to 10000. The kernel's default is 100.",
    );
    const PROPERTIES: &'static [&'static str] = &["IOWeight"];

    file_of_weight!(Setting::IoWeight);

    /// `default 100` first, then a line for each device that has its own.
    fn parse(text: &str) -> Result<u32, NotALimit> {
        let default = text.lines().find_map(|line| line.strip_prefix("default "));
        weight(default.unwrap_or(text).trim())
    }

    fn line(weight: &u32) -> String {
        format!("default {weight}")
    }
}

fn weight(text: &str) -> Result<u32, NotALimit> {
    let weight = text.parse().ok().filter(|weight| WEIGHTS.contains(weight));
    weight.ok_or_else(|| not(text, "a weight of 1 to 10000"))
}
