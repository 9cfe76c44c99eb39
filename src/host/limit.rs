//! The values of cgroup files, in the kernel's notation (cgroup-v2.rst, "Interface Files"). Data only.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The kernel's word for no limit.
const MAX: &str = "max";
/// The kernel's own period of `cpu.max`, and what a quota without a period means.
pub const DEFAULT_PERIOD_MICROS: u64 = 100_000;
/// Bounds of a period, and the least quota (`min_cfs_quota_period`, `max_cfs_quota_period` of kernel/sched/core.c).
pub const MIN_PERIOD_MICROS: u64 = 1_000;
pub const MAX_PERIOD_MICROS: u64 = 1_000_000;

/// A string that is not a value of this kind of file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {wanted}")]
pub struct NotALimit {
    found: String,
    wanted: &'static str,
}

fn not(found: &str, wanted: &'static str) -> NotALimit {
    let found = found.to_owned();
    NotALimit { found, wanted }
}

/// A number of bytes, processes or operations; `None` is `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit(pub Option<u64>);

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

/// `cpu.max`: the processor time in each period, summed over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bandwidth {
    /// `None` is no limit.
    pub quota_micros: Option<u64>,
    pub period_micros: u64,
}

impl Bandwidth {
    /// The quota as a number of processors.
    pub fn processors(self) -> Option<f64> {
        self.quota_micros.map(|quota| quota as f64 / self.period_micros as f64)
    }
}

impl FromStr for Bandwidth {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let wrong = || {
            not(
                text,
                "a quota and a period in microseconds, such as \"50000 100000\", or max",
            )
        };
        let mut words = text.split_whitespace();
        let Limit(quota_micros) = words.next().unwrap_or_default().parse().map_err(|_| wrong())?;
        let period_micros = match words.next() {
            Some(period) => period.parse().map_err(|_| wrong())?,
            None => DEFAULT_PERIOD_MICROS,
        };
        let is_sound = (MIN_PERIOD_MICROS..=MAX_PERIOD_MICROS).contains(&period_micros)
            && quota_micros.is_none_or(|quota| quota >= MIN_PERIOD_MICROS)
            && words.next().is_none();
        is_sound
            .then_some(Bandwidth {
                quota_micros,
                period_micros,
            })
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Limit(self.quota_micros), self.period_micros)
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

/// A file of a cgroup that a rule can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CgroupFile {
    #[serde(rename = "cpu.max")]
    CpuMax,
    #[serde(rename = "cpu.weight")]
    CpuWeight,
    #[serde(rename = "memory.high")]
    MemoryHigh,
    #[serde(rename = "memory.max")]
    MemoryMax,
    #[serde(rename = "memory.swap.max")]
    MemorySwapMax,
    #[serde(rename = "io.max")]
    IoMax,
    #[serde(rename = "io.weight")]
    IoWeight,
    #[serde(rename = "pids.max")]
    PidsMax,
}

impl CgroupFile {
    pub const ALL: [CgroupFile; 8] = [
        CgroupFile::CpuMax,
        CgroupFile::CpuWeight,
        CgroupFile::MemoryHigh,
        CgroupFile::MemoryMax,
        CgroupFile::MemorySwapMax,
        CgroupFile::IoMax,
        CgroupFile::IoWeight,
        CgroupFile::PidsMax,
    ];

    /// The name of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            CgroupFile::CpuMax => "cpu.max",
            CgroupFile::CpuWeight => "cpu.weight",
            CgroupFile::MemoryHigh => "memory.high",
            CgroupFile::MemoryMax => "memory.max",
            CgroupFile::MemorySwapMax => "memory.swap.max",
            CgroupFile::IoMax => "io.max",
            CgroupFile::IoWeight => "io.weight",
            CgroupFile::PidsMax => "pids.max",
        }
    }

    /// The controller that must be enabled for the file to exist.
    pub fn controller(self) -> &'static str {
        self.as_str().split('.').next().unwrap_or_default()
    }
}

impl fmt::Display for CgroupFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The value of one such file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Setting {
    #[serde(rename = "cpu.max")]
    CpuMax(Bandwidth),
    /// 1 to 10000.
    #[serde(rename = "cpu.weight")]
    CpuWeight(u32),
    #[serde(rename = "memory.high")]
    MemoryHigh(Limit),
    #[serde(rename = "memory.max")]
    MemoryMax(Limit),
    #[serde(rename = "memory.swap.max")]
    MemorySwapMax(Limit),
    #[serde(rename = "io.max")]
    IoMax(IoLimits),
    #[serde(rename = "io.max limit")]
    IoLimit(IoLimit),
    /// 1 to 10000: the default for all devices. Weights of single devices stay unchanged.
    #[serde(rename = "io.weight")]
    IoWeight(u32),
    #[serde(rename = "pids.max")]
    PidsMax(Limit),
}

/// The range of a weight.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// The kernel rounds memory limits down to whole pages. 64 KiB is the largest page size of any architecture.
pub const MAX_PAGE_BYTES: u64 = 64 << 10;

impl Setting {
    pub fn file(&self) -> CgroupFile {
        match self {
            Setting::CpuMax(_) => CgroupFile::CpuMax,
            Setting::CpuWeight(_) => CgroupFile::CpuWeight,
            Setting::MemoryHigh(_) => CgroupFile::MemoryHigh,
            Setting::MemoryMax(_) => CgroupFile::MemoryMax,
            Setting::MemorySwapMax(_) => CgroupFile::MemorySwapMax,
            Setting::IoMax(_) | Setting::IoLimit(_) => CgroupFile::IoMax,
            Setting::IoWeight(_) => CgroupFile::IoWeight,
            Setting::PidsMax(_) => CgroupFile::PidsMax,
        }
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// When the text is not a value of that file.
    pub fn parse(file: CgroupFile, text: &str) -> Result<Setting, NotALimit> {
        Ok(match file {
            CgroupFile::CpuMax => Setting::CpuMax(text.parse()?),
            CgroupFile::CpuWeight => Setting::CpuWeight(weight(text)?),
            CgroupFile::MemoryHigh => Setting::MemoryHigh(text.parse()?),
            CgroupFile::MemoryMax => Setting::MemoryMax(text.parse()?),
            CgroupFile::MemorySwapMax => Setting::MemorySwapMax(text.parse()?),
            CgroupFile::IoMax => Setting::IoMax(text.parse()?),
            // The first line is `default 100`; then each device with its own weight has a line.
            CgroupFile::IoWeight => {
                let default = text.lines().find_map(|line| line.strip_prefix("default "));
                Setting::IoWeight(weight(default.unwrap_or(text))?)
            }
            CgroupFile::PidsMax => Setting::PidsMax(text.parse()?),
        })
    }

    /// Whether `found` is this setting after rounding: the kernel rounds memory down to whole pages, and systemd stores
    /// quotas in microseconds per second.
    pub fn explains(&self, found: &Setting) -> bool {
        match (self, found) {
            (Setting::CpuMax(wanted), Setting::CpuMax(found)) => match (wanted.processors(), found.processors()) {
                (Some(wanted), Some(found)) => (wanted - found).abs() <= wanted / 100.0,
                (wanted, found) => wanted == found,
            },
            (Setting::MemoryHigh(Limit(Some(wanted))), Setting::MemoryHigh(Limit(Some(found))))
            | (Setting::MemoryMax(Limit(Some(wanted))), Setting::MemoryMax(Limit(Some(found))))
            | (Setting::MemorySwapMax(Limit(Some(wanted))), Setting::MemorySwapMax(Limit(Some(found)))) => {
                wanted.checked_sub(*found).is_some_and(|cut| cut < MAX_PAGE_BYTES)
            }
            _ => self == found,
        }
    }
}

fn weight(text: &str) -> Result<u32, NotALimit> {
    let weight = text.trim().parse().ok().filter(|weight| WEIGHTS.contains(weight));
    weight.ok_or_else(|| not(text, "a weight of 1 to 10000"))
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::CpuMax(bandwidth) => write!(f, "{bandwidth}"),
            Setting::CpuWeight(weight) | Setting::IoWeight(weight) => write!(f, "{weight}"),
            Setting::MemoryHigh(limit)
            | Setting::MemoryMax(limit)
            | Setting::MemorySwapMax(limit)
            | Setting::PidsMax(limit) => write!(f, "{limit}"),
            Setting::IoMax(limits) => write!(f, "{limits}"),
            Setting::IoLimit(limit) => write!(f, "{limit}"),
        }
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

as_text!(Limit, Bandwidth, IoLimits, IoLimit, Device);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = NotALimit> + fmt::Display>(pairs: &[(&str, &str)], wrong: &[&str]) {
        for (text, canonical) in pairs {
            let value: T = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(value.to_string(), *canonical);
            let again: T = canonical.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(again.to_string(), *canonical);
        }
        for text in wrong {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn file_values_parse_and_print() {
        check::<Limit>(&[("max\n", "max"), ("4096\n", "4096")], &["", "-1", "1k", "max max"]);
        check::<Bandwidth>(
            &[
                ("max 100000\n", "max 100000"),
                ("50000 20000", "50000 20000"),
                ("50000", "50000 100000"),
            ],
            &["", "1 100000", "50000 10", "50000 2000000", "5 5 5", "half"],
        );
    }

    #[test]
    fn value_rounded_by_the_kernel_is_recognised() {
        for (file, wanted, found, expected) in [
            (CgroupFile::MemoryHigh, "1000001", "999424", true),
            (CgroupFile::MemoryHigh, "1000001", "900000", false),
            (CgroupFile::MemoryHigh, "999424", "1000001", false),
            (CgroupFile::MemoryMax, "max", "4096", false),
            (CgroupFile::CpuMax, "100000 300000", "99999 300000", true),
            (CgroupFile::CpuMax, "50000 100000", "25000 50000", true),
            (CgroupFile::CpuMax, "50000 100000", "max 100000", false),
            (CgroupFile::CpuMax, "max 50000", "max 100000", true),
            (CgroupFile::PidsMax, "100", "99", false),
            (CgroupFile::IoWeight, "50", "default 50\n8:0 200\n", true),
        ] {
            let (wanted, found) = (
                Setting::parse(file, wanted).unwrap(),
                Setting::parse(file, found).unwrap(),
            );
            assert_eq!(wanted.explains(&found), expected, "{wanted} {found}");
        }
    }

    #[test]
    fn one_io_limit_is_written_in_the_kernels_form() {
        check::<IoLimit>(
            &[("8:0 wbps=5", "8:0 wbps=5"), ("8:16 riops=max\n", "8:16 riops=max")],
            &["", "8:0", "8:0 wbps", "sda wbps=1", "8:0 wbps=1 rbps=1"],
        );
    }

    #[test]
    fn io_limits_name_every_kind_of_each_device_only() {
        check::<IoLimits>(
            &[
                ("", "max"),
                ("254:0 rbps=max wbps=max riops=max wiops=max\n", "max"),
                (
                    "8:16 rbps=1048576 wiops=120\n8:0 riops=9\n",
                    "8:0 rbps=max wbps=max riops=9 wiops=max; 8:16 rbps=1048576 wbps=max riops=max wiops=120",
                ),
            ],
            &["sda rbps=1", "8:0 rbps", "8:0 speed=1", "8:0 rbps=-1"],
        );
    }
}
