//! What systemd had on record for a unit before a limit of it was changed, and which of its properties stand for which
//! file of a cgroup. Data and pure functions; the talking is in `systemd`.

use super::limit::{Bandwidth, CgroupFile, DEFAULT_PERIOD_MICROS, IoKind, Setting};
use serde::{Deserialize, Serialize};

/// systemd's word for no limit, and for what was never set (CGROUP_LIMIT_MAX, CGROUP_WEIGHT_INVALID, USEC_INFINITY).
const INFINITY: u64 = u64::MAX;

/// A unit as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Such as `render.service`.
    pub unit: String,
    /// The properties that stand for the file, and what they were.
    pub properties: Vec<(String, Property)>,
    /// Those of them that were set at runtime already: their drop-ins are not ours to remove.
    pub at_runtime: Vec<String>,
}

/// The value of a property of org.freedesktop.systemd1(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// Type `t`.
    Number(u64),
    /// Type `a(st)`: a path of a device, and its limit.
    Devices(Vec<(String, u64)>),
}

/// The properties behind a file.
pub fn names(file: CgroupFile) -> &'static [&'static str] {
    match file {
        CgroupFile::CpuMax => &["CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"],
        CgroupFile::CpuWeight => &["CPUWeight"],
        CgroupFile::MemoryHigh => &["MemoryHigh"],
        CgroupFile::MemoryMax => &["MemoryMax"],
        CgroupFile::MemorySwapMax => &["MemorySwapMax"],
        CgroupFile::IoMax => &[
            "IOReadBandwidthMax",
            "IOWriteBandwidthMax",
            "IOReadIOPSMax",
            "IOWriteIOPSMax",
        ],
        CgroupFile::IoWeight => &["IOWeight"],
        CgroupFile::PidsMax => &["TasksMax"],
    }
}

/// The name that a property has in unit files, after which systemd calls the drop-in that it makes for it.
pub fn in_unit_files(property: &str) -> &str {
    match property {
        "CPUQuotaPerSecUSec" => "CPUQuota",
        "CPUQuotaPeriodUSec" => "CPUQuotaPeriodSec",
        other => other,
    }
}

/// The interface that has the resource properties of a unit, after its suffix.
pub fn interface(unit: &str) -> Option<String> {
    let (_, suffix) = unit.rsplit_once('.')?;
    let known = ["service", "scope", "slice", "socket", "mount", "swap"];
    known.contains(&suffix).then(|| {
        let (first, rest) = suffix.split_at(1);
        format!("org.freedesktop.systemd1.{}{rest}", first.to_uppercase())
    })
}

/// What to set so that systemd writes this into the file.
pub fn properties(setting: &Setting) -> Vec<(&'static str, Property)> {
    let file = setting.file();
    let numbers: Vec<u64> = match setting {
        Setting::CpuMax(bandwidth) => per_second(*bandwidth),
        Setting::CpuWeight(weight) | Setting::IoWeight(weight) => vec![u64::from(*weight)],
        Setting::MemoryHigh(limit)
        | Setting::MemoryMax(limit)
        | Setting::MemorySwapMax(limit)
        | Setting::PidsMax(limit) => vec![limit.0.unwrap_or(INFINITY)],
        Setting::IoMax(limits) => {
            let devices = |kind: IoKind| {
                let limited = limits.0.iter().filter(move |((_, of), _)| *of == kind);
                Property::Devices(
                    limited
                        .map(|((device, _), limit)| (format!("/dev/block/{device}"), *limit))
                        .collect(),
                )
            };
            return names(file).iter().copied().zip(IoKind::ALL.map(devices)).collect();
        }
    };
    names(file)
        .iter()
        .copied()
        .zip(numbers.into_iter().map(Property::Number))
        .collect()
}

fn per_second(bandwidth: Bandwidth) -> Vec<u64> {
    let Bandwidth {
        quota_micros,
        period_micros,
    } = bandwidth;
    let per_second = |quota: u64| (u128::from(quota) * 1_000_000 / u128::from(period_micros)) as u64;
    let period = if period_micros == DEFAULT_PERIOD_MICROS {
        INFINITY
    } else {
        period_micros
    };
    vec![quota_micros.map_or(INFINITY, per_second), period]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: CgroupFile, text: &str, expected: &[(&str, Property)]) {
        let setting = Setting::parse(file, text).unwrap();
        assert_eq!(properties(&setting), expected, "{text}");
    }

    #[test]
    fn limits_are_spoken_as_systemd_speaks_of_them() {
        use Property::{Devices, Number};
        check(
            CgroupFile::CpuMax,
            "50000 200000",
            &[
                ("CPUQuotaPerSecUSec", Number(250_000)),
                ("CPUQuotaPeriodUSec", Number(200_000)),
            ],
        );
        check(
            CgroupFile::CpuMax,
            "max",
            &[
                ("CPUQuotaPerSecUSec", Number(INFINITY)),
                ("CPUQuotaPeriodUSec", Number(INFINITY)),
            ],
        );
        check(CgroupFile::MemoryHigh, "4096", &[("MemoryHigh", Number(4096))]);
        check(CgroupFile::PidsMax, "max", &[("TasksMax", Number(INFINITY))]);
        check(
            CgroupFile::IoMax,
            "8:0 wbps=5",
            &[
                ("IOReadBandwidthMax", Devices(vec![])),
                ("IOWriteBandwidthMax", Devices(vec![("/dev/block/8:0".into(), 5)])),
                ("IOReadIOPSMax", Devices(vec![])),
                ("IOWriteIOPSMax", Devices(vec![])),
            ],
        );
    }

    #[test]
    fn every_kind_of_unit_has_its_interface() {
        assert_eq!(
            interface("a.b.service").as_deref(),
            Some("org.freedesktop.systemd1.Service")
        );
        assert_eq!(
            interface("batch.slice").as_deref(),
            Some("org.freedesktop.systemd1.Slice")
        );
        assert_eq!(interface("x.timer"), None);
        assert_eq!(interface("plain"), None);
    }
}
