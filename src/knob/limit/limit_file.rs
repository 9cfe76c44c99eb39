//! The trait of a file of a cgroup that limits it: what a file of this folder says about it.

use super::notation::NotALimit;
use super::property::Property;
use crate::knob::Change;
use crate::schema::Key;
use std::fmt;

/// What there is where a cgroup has no limit.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub processors: usize,
    pub memory_bytes: u64,
}

/// The change of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relative {
    /// Percentage of the present limit, or of the host's total without a limit.
    Percent(i32),
    Processors(i32),
    Bytes(i64),
    /// Percentage of the host's total.
    OfHost(u8),
}

impl fmt::Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relative::Percent(percent) => write!(f, "{percent:+}%"),
            Relative::Processors(cpus) => write!(f, "{cpus:+}"),
            Relative::Bytes(bytes) => write!(f, "{bytes:+}"),
            Relative::OfHost(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A file below `/sys/fs/cgroup`, and the properties of a systemd unit that stand for it.
pub trait LimitFile {
    type Value: Clone + PartialEq + fmt::Display;

    /// Its key under `cgroup` in a step of a rule; the name is that of the file.
    const KEY: Key;
    /// What can be written, for a finding about a text that cannot be read.
    const HELP: &'static str;
    /// What the kernel shows where nothing was set.
    const UNLIMITED: &'static str = "max";
    /// In the interface of a unit (org.freedesktop.systemd1(5)).
    const PROPERTIES: &'static [&'static str];
    /// Whether the kernel may kill processes when a value is written.
    const MAY_KILL: bool = false;

    /// The changes that a rule writes as this text. `None` if it makes no sense.
    fn compile(text: &str) -> Option<Vec<Change>>;

    /// A likelier text for one that makes no sense.
    fn suggestion(_text: &str) -> Option<String> {
        None
    }

    /// Reads what the kernel shows.
    ///
    /// # Errors
    /// When the text is not a value of that file.
    fn parse(text: &str) -> Result<Self::Value, NotALimit>;

    /// The line to write.
    fn line(value: &Self::Value) -> String {
        value.to_string()
    }

    /// Whether a file that shows `found` after `wanted` was written is what was to be expected.
    fn explains(wanted: &Self::Value, found: &Self::Value) -> bool {
        wanted == found
    }

    /// Whether `value` leaves a cgroup more than `other`.
    fn is_more(value: &Self::Value, other: &Self::Value) -> bool;

    /// The limit after a relative change. `None` if it has no relative form.
    fn relative(_by: Relative, _now: &Self::Value, _capacity: Capacity) -> Option<Self::Value> {
        None
    }

    /// The value of each of [`LimitFile::PROPERTIES`] that makes systemd write this.
    fn properties(value: &Self::Value) -> Vec<Property>;

    /// What systemd writes into the file of the unit's next cgroup, by the numbers of these properties.
    fn recorded(properties: &[u64]) -> Option<Self::Value>;

    /// What is left of a value when systemd has read its own drop-in again.
    fn kept_in_drop_in(value: &Self::Value) -> Self::Value {
        value.clone()
    }

    /// Bytes in use above which the kernel kills processes when this is written.
    fn kills_above(_value: &Self::Value) -> Option<u64> {
        None
    }
}
