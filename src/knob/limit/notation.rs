//! The notation of limits that several files of a cgroup share (cgroup-v2.rst, "Interface Files"), as the kernel writes
//! it and as rules may write it.

use crate::yaml::parse_size;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An increase by more than this is a typo.
const MAX_PERCENT: i32 = 1000;
/// The kernel's word for no limit.
pub(super) const MAX: &str = "max";

/// A string that is not a value of this kind of file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {wanted}")]
pub struct NotALimit {
    found: String,
    wanted: &'static str,
}

pub(super) fn not(found: &str, wanted: &'static str) -> NotALimit {
    let found = found.to_owned();
    NotALimit { found, wanted }
}

/// A number of bytes, processes or operations; `None` is `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit(pub Option<u64>);

impl Limit {
    pub fn is_more_than(self, other: Limit) -> bool {
        match (self.0, other.0) {
            (None, Some(_)) => true,
            (Some(limit), Some(other)) => limit > other,
            (_, None) => false,
        }
    }
}

impl FromStr for Limit {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        match text.trim() {
            MAX => Ok(Limit(None)),
            number => number
                .parse()
                .map(|number| Limit(Some(number)))
                .map_err(|_| not(text, "a whole number, or max")),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str(MAX),
        }
    }
}

/// A block device by number, as `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl FromStr for Device {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let numbers = text
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = numbers.ok_or_else(|| not(text, "the number of a device, such as 8:0"))?;
        Ok(Device { major, minor })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Serialises these types in their `Display` notation.
macro_rules! as_text {
    ($($name:ident),*) => { $(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )* };
}

pub(in crate::knob) use as_text;

as_text!(Limit, Device);

/// A size or `max` as a rule writes it.
pub(super) fn size(text: &str) -> Option<Limit> {
    match text {
        MAX => Some(Limit(None)),
        size => parse_size(size).ok().map(|bytes| Limit(Some(bytes))),
    }
}

/// Parses a change by a percentage. A change to 0 or by 0 is invalid.
pub(super) fn percent(text: &str) -> Option<i32> {
    let percent: i32 = text.strip_suffix('%')?.parse().ok()?;
    (percent != 0 && percent > -100 && percent <= MAX_PERCENT).then_some(percent)
}
