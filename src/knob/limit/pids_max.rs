//! `pids.max`: the number of processes and threads in a cgroup.

use super::Setting;
use super::limit_file::LimitFile;
use super::notation::{Limit, NotALimit};
use super::property::{Property, number_of, recorded_limit};
use crate::knob::Change;
use crate::schema::{Key, Kind, optional};

pub struct PidsMax;

impl LimitFile for PidsMax {
    type Value = Limit;

    const KEY: Key = optional(
        "pids.max",
        Kind::Text,
        "Maximum number of processes and threads, or max.",
    );
    const HELP: &'static str = "write a number of processes, or max";
    const PROPERTIES: &'static [&'static str] = &["TasksMax"];

    fn compile(text: &str) -> Option<Vec<Change>> {
        Some(vec![Setting::PidsMax(text.parse().ok()?).into()])
    }

    fn parse(text: &str) -> Result<Limit, NotALimit> {
        text.parse()
    }

    fn is_more(value: &Limit, other: &Limit) -> bool {
        value.is_more_than(*other)
    }

    fn properties(limit: &Limit) -> Vec<Property> {
        vec![number_of(*limit)]
    }

    fn recorded(properties: &[u64]) -> Option<Limit> {
        recorded_limit(properties)
    }
}
