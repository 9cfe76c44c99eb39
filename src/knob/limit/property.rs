//! The value of a resource property of a systemd unit, which stands for a limit. Data.

use super::notation::{Device, Limit};
use serde::{Deserialize, Serialize};

/// systemd's number for no limit and for an unset property (CGROUP_LIMIT_MAX, CGROUP_WEIGHT_INVALID, USEC_INFINITY).
pub const INFINITY: u64 = u64::MAX;

/// The number of a limit.
pub(super) fn number_of(limit: Limit) -> Property {
    Property::Number(limit.0.unwrap_or(INFINITY))
}

/// The limit behind a number.
pub(super) fn recorded_limit(numbers: &[u64]) -> Option<Limit> {
    let first = *numbers.first()?;
    Some(Limit((first != INFINITY).then_some(first)))
}

/// The value of a property of org.freedesktop.systemd1(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// Type `t`.
    Number(u64),
    /// Type `a(st)`: the path of a device and its limit.
    Devices(Vec<(String, u64)>),
}

impl Property {
    /// Whether two lists have the same entries, in any order.
    pub fn has_same_devices(&self, other: &Property) -> bool {
        let (Property::Devices(ours), Property::Devices(theirs)) = (self, other) else {
            return self == other;
        };
        ours.len() == theirs.len() && ours.iter().all(|entry| theirs.contains(entry))
    }

    /// The limits of one device in a list, under any path of the device.
    pub fn limits_of(&self, device: Device, number: impl Fn(&str) -> Option<Device>) -> Vec<u64> {
        let Property::Devices(entries) = self else {
            return Vec::new();
        };
        let of_device = entries.iter().filter(|(path, _)| number(path) == Some(device));
        of_device.map(|(_, limit)| *limit).collect()
    }

    /// This list with the entries of one device from `other`. Returns `other` if one of the two is no list.
    pub fn with_device(&self, device: Device, other: &Property, number: impl Fn(&str) -> Option<Device>) -> Property {
        let (Property::Devices(ours), Property::Devices(theirs)) = (self, other) else {
            return other.clone();
        };
        let is_it = |(path, _): &&(String, u64)| number(path) == Some(device);
        if ours.iter().filter(is_it).eq(theirs.iter().filter(is_it)) {
            return self.clone();
        }
        let others = ours.iter().filter(|entry| !is_it(entry));
        Property::Devices(others.chain(theirs.iter().filter(is_it)).cloned().collect())
    }
}
