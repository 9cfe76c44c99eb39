//! `memory.high`, `memory.max` and `memory.swap.max`: the memory of a cgroup, in bytes.

use super::limit_file::{Capacity, LimitFile, Relative};
use super::notation::{Limit, NotALimit, percent, size};
use super::property::{Property, number_of, recorded_limit};
use super::{CgroupFile, Setting};
use crate::knob::Change;
use crate::schema::{Key, Kind, optional};
use crate::yaml::{SizeError, parse_size};

/// The kernel counts memory in pages and cuts what is no whole number of them; 64 KiB are the largest pages of any
/// port.
pub const MAX_PAGE_BYTES: u64 = 64 << 10;
/// Smallest result of a relative change, because with less nothing runs, and no revert would be possible.
const MIN_MEMORY_BYTES: u64 = 1 << 20;
const HELP: &str = "write a size such as 1GiB, max, a part of the host's memory (50%), or what to add or take away: \
     +512MiB, +100%, -50%";

/// A file of bytes: what its three kinds have in common.
macro_rules! file_of_bytes {
    ($compile:expr) => {
        type Value = Limit;

        fn compile(text: &str) -> Option<Vec<Change>> {
            $compile(text).map(|change: Change| vec![change])
        }

        fn suggestion(text: &str) -> Option<String> {
            let slip = parse_size(text.trim_start_matches(['+', '-'])).err();
            slip.filter(|slip| matches!(slip, SizeError::Unit { .. }))
                .map(|slip| slip.to_string())
        }

        fn parse(text: &str) -> Result<Limit, NotALimit> {
            text.parse()
        }

        /// The kernel cuts memory to whole pages.
        fn explains(wanted: &Limit, found: &Limit) -> bool {
            match (wanted.0, found.0) {
                (Some(wanted), Some(found)) => wanted.checked_sub(found).is_some_and(|cut| cut < MAX_PAGE_BYTES),
                (wanted, found) => wanted == found,
            }
        }

        fn is_more(limit: &Limit, other: &Limit) -> bool {
            limit.is_more_than(*other)
        }

        fn properties(limit: &Limit) -> Vec<Property> {
            vec![number_of(*limit)]
        }

        fn recorded(properties: &[u64]) -> Option<Limit> {
            recorded_limit(properties)
        }
    };
}

pub struct MemoryHigh;

impl LimitFile for MemoryHigh {
    const KEY: Key = optional(
        "memory.high",
        Kind::Text,
        "Memory above which the kernel throttles the cgroup and reclaims its pages: 1GiB, max, 50% (of the host), \
         or relative to the current limit, +512MiB, +100%, -50%.",
    );
    const HELP: &'static str = HELP;
    const PROPERTIES: &'static [&'static str] = &["MemoryHigh"];

    file_of_bytes!(|text| change(CgroupFile::MemoryHigh, text, Setting::MemoryHigh));

    fn relative(by: Relative, now: &Limit, capacity: Capacity) -> Option<Limit> {
        Some(relative(by, *now, capacity))
    }
}

pub struct MemoryMax;

impl LimitFile for MemoryMax {
    const KEY: Key = optional(
        "memory.max",
        Kind::Text,
        "Hard memory limit, in the format of memory.high. Refused below the current use, because the kernel would \
         kill processes.",
    );
    const HELP: &'static str = HELP;
    const PROPERTIES: &'static [&'static str] = &["MemoryMax"];
    /// Below the memory in use the kernel reclaims, and then kills (cgroup-v2.rst, "memory.max").
    const MAY_KILL: bool = true;

    file_of_bytes!(|text| change(CgroupFile::MemoryMax, text, Setting::MemoryMax));

    fn relative(by: Relative, now: &Limit, capacity: Capacity) -> Option<Limit> {
        Some(relative(by, *now, capacity))
    }

    fn kills_above(limit: &Limit) -> Option<u64> {
        limit.0
    }
}

pub struct MemorySwapMax;

impl LimitFile for MemorySwapMax {
    const KEY: Key = optional("memory.swap.max", Kind::Text, "Hard swap limit: a size, 0, or max.");
    const HELP: &'static str = "write a size such as 1GiB, 0, or max";
    const PROPERTIES: &'static [&'static str] = &["MemorySwapMax"];

    file_of_bytes!(|text| size(text).map(|limit| Setting::MemorySwapMax(limit).into()));
}

fn change(file: CgroupFile, text: &str, setting: impl Fn(Limit) -> Setting) -> Option<Change> {
    if let Some(amount) = text.strip_prefix(['+', '-']) {
        let bytes = || {
            let bytes = parse_size(amount).ok().filter(|bytes| *bytes > 0)? as i64;
            Some(Relative::Bytes(if text.starts_with('-') { -bytes } else { bytes }))
        };
        let by = percent(text).map(Relative::Percent).or_else(bytes)?;
        return Some(Change::Limit { file, by });
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u8 = percent.parse().ok().filter(|percent| (1..=100).contains(percent))?;
        let by = Relative::OfHost(percent);
        return Some(Change::Limit { file, by });
    }
    size(text).map(|limit| setting(limit).into())
}

fn relative(by: Relative, now: Limit, capacity: Capacity) -> Limit {
    let all = capacity.memory_bytes;
    let have = now.0.unwrap_or(all);
    let share = |of: u64, percent: i64| (i128::from(of) * i128::from(percent) / 100).max(0) as u64;
    let wanted = match by {
        Relative::Percent(percent) => share(have, 100 + i64::from(percent)),
        Relative::Bytes(bytes) => have.saturating_add_signed(bytes),
        Relative::OfHost(percent) => return Limit(Some(share(all, i64::from(percent)))),
        Relative::Processors(_) => have,
    };
    if now.0.is_none() && wanted >= all {
        return now;
    }
    Limit(Some(wanted.min(all.max(have)).max(MIN_MEMORY_BYTES)))
}
