//! `io.max`: bytes and operations per second of a cgroup on each device. Each limit of each device is a knob of its
//! own.

use super::limit_file::LimitFile;
use super::notation::{Device, Limit, MAX, NotALimit, as_text, not, size};
use super::property::Property;
use crate::knob::Change;
use crate::schema::{Key, Kind, optional};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A kind of I/O limit: bytes or operations per second, for reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoKind {
    ReadBytes,
    WriteBytes,
    Reads,
    Writes,
}

impl IoKind {
    pub const ALL: [IoKind; 4] = [IoKind::ReadBytes, IoKind::WriteBytes, IoKind::Reads, IoKind::Writes];

    /// The property of a systemd unit that holds the limits of this kind.
    pub fn property(self) -> &'static &'static str {
        let index = IoKind::ALL.iter().position(|known| *known == self).unwrap_or_default();
        &IoMax::PROPERTIES[index]
    }

    /// The key in `io.max`.
    pub fn as_str(self) -> &'static str {
        match self {
            IoKind::ReadBytes => "rbps",
            IoKind::WriteBytes => "wbps",
            IoKind::Reads => "riops",
            IoKind::Writes => "wiops",
        }
    }
}

impl FromStr for IoKind {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let known = IoKind::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| not(text, "one of rbps, wbps, riops, wiops"))
    }
}

/// `io.max` of all devices. A device and kind without an entry has no limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct IoLimits(pub BTreeMap<(Device, IoKind), u64>);

impl IoLimits {
    /// Sets or removes one limit.
    pub fn put(&mut self, device: Device, kind: IoKind, limit: Limit) {
        match limit.0 {
            Some(limit) => self.0.insert((device, kind), limit),
            None => self.0.remove(&(device, kind)),
        };
    }

    pub fn get(&self, device: Device, kind: IoKind) -> Limit {
        Limit(self.0.get(&(device, kind)).copied())
    }

    /// The limit that differs, if exactly one differs.
    pub fn only_difference(&self, other: &IoLimits) -> Option<(Device, IoKind)> {
        let keys: BTreeSet<_> = self.0.keys().chain(other.0.keys()).copied().collect();
        let mut different = keys.into_iter().filter(|key| self.0.get(key) != other.0.get(key));
        different.next().filter(|_| different.next().is_none())
    }

    /// Every device with at least one limit.
    pub fn devices(&self) -> impl Iterator<Item = Device> {
        let mut devices: Vec<Device> = self.0.keys().map(|(device, _)| *device).collect();
        devices.dedup();
        devices.into_iter()
    }

    /// The line of one device, with all four kinds.
    pub fn line(&self, device: Device) -> String {
        let words = IoKind::ALL.map(|kind| format!("{}={}", kind.as_str(), self.get(device, kind)));
        format!("{device} {}", words.join(" "))
    }
}

/// Parses the kernel's notation, one line for each device. `;` may separate the devices instead.
impl FromStr for IoLimits {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let mut limits = IoLimits::default();
        for line in text.split(['\n', ';']).filter(|line| line.trim() != MAX) {
            let mut words = line.split_whitespace();
            let Some(device) = words.next() else { continue };
            let device = device.parse()?;
            for word in words {
                let (kind, limit) = word
                    .split_once('=')
                    .ok_or_else(|| not(word, "a limit such as rbps=1048576"))?;
                limits.put(device, kind.parse()?, limit.parse()?);
            }
        }
        Ok(limits)
    }
}

impl fmt::Display for IoLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(MAX);
        }
        let lines: Vec<String> = self.devices().map(|device| self.line(device)).collect();
        f.write_str(&lines.join("; "))
    }
}

/// One limit of one device in `io.max`, in the notation that the kernel accepts for a single limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoLimit {
    pub device: Device,
    pub kind: IoKind,
    pub limit: Limit,
}

impl FromStr for IoLimit {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let wrong = || not(text, "a device and a limit, such as \"8:0 rbps=1048576\"");
        let (device, word) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let (kind, limit) = word.split_once('=').ok_or_else(wrong)?;
        Ok(IoLimit {
            device: device.parse()?,
            kind: kind.parse()?,
            limit: limit.parse()?,
        })
    }
}

impl fmt::Display for IoLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}={}", self.device, self.kind.as_str(), self.limit)
    }
}

as_text!(IoLimits, IoLimit);

impl IoLimit {
    /// The value of its property: a list with this device alone.
    pub fn property(&self) -> Property {
        let path = format!("/dev/block/{}", self.device);
        Property::Devices(self.limit.0.map(|most| (path, most)).into_iter().collect())
    }
}

/// One limit of one device, as a rule writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoChange {
    /// A path below `/dev`, or a number such as `8:0`.
    pub device: String,
    pub kind: IoKind,
    pub limit: Limit,
}

impl fmt::Display for IoChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}={}", self.device, self.kind.as_str(), self.limit)
    }
}

pub struct IoMax;

impl LimitFile for IoMax {
    type Value = IoLimits;

    const KEY: Key = optional(
        "io.max",
        Kind::Text,
        "I/O of a device per second: \"/dev/sda rbps=10MiB wbps=max riops=100 wiops=100\".",
    );
    const HELP: &'static str =
        "write a device and its limits, as in \"/dev/sda wbps=10MiB riops=max\"; limits are rbps, wbps, riops, wiops";
    const PROPERTIES: &'static [&'static str] = &[
        "IOReadBandwidthMax",
        "IOWriteBandwidthMax",
        "IOReadIOPSMax",
        "IOWriteIOPSMax",
    ];

    fn compile(text: &str) -> Option<Vec<Change>> {
        changes(text)
    }

    fn parse(text: &str) -> Result<IoLimits, NotALimit> {
        text.parse()
    }

    /// A rule sets single limits, which are compared on their own.
    fn is_more(_: &IoLimits, _: &IoLimits) -> bool {
        false
    }

    fn properties(limits: &IoLimits) -> Vec<Property> {
        let devices = |kind: IoKind| {
            let limited = limits.0.iter().filter(move |((_, of), _)| *of == kind);
            let named = limited.map(|((device, _), limit)| (format!("/dev/block/{device}"), *limit));
            Property::Devices(named.collect())
        };
        IoKind::ALL.map(devices).into()
    }

    /// Unknown, because its properties name devices by paths.
    fn recorded(_: &[u64]) -> Option<IoLimits> {
        None
    }
}

/// Parses a device with one limit or several.
fn changes(text: &str) -> Option<Vec<Change>> {
    let mut words = text.split_whitespace();
    let device = words
        .next()
        .filter(|device| device.starts_with("/dev/") || device.contains(':'))?;
    let changes: Option<Vec<Change>> = words
        .map(|word| {
            let (kind, limit) = word.split_once('=')?;
            let device = device.to_owned();
            let (kind, limit) = (kind.parse().ok()?, size(limit)?);
            Some(Change::Io(IoChange { device, kind, limit }))
        })
        .collect();
    changes.filter(|changes| !changes.is_empty())
}
