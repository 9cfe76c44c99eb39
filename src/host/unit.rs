//! What systemd had on record for a unit before a limit of it was changed, and which of its properties stand for which
//! file of a cgroup. Data and pure functions; the talking is in `systemd`.

use super::limit::{Bandwidth, CgroupFile, DEFAULT_PERIOD_MICROS, Device, IoKind, Setting};
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

impl Property {
    /// Whether two lists say the same, in whatever order.
    fn has_same_devices(&self, other: &Property) -> bool {
        let (Property::Devices(ours), Property::Devices(theirs)) = (self, other) else {
            return self == other;
        };
        ours.len() == theirs.len() && ours.iter().all(|entry| theirs.contains(entry))
    }

    /// A list in which one device has what it has in `other`; what is no list is as in `other`.
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

impl UnitState {
    /// What there should be when one device has what it had, and the others what they have `now`. As long as those are
    /// not what they were either, the drop-ins are needed.
    pub fn of_device(
        &self,
        device: Device,
        now: &[Property],
        number: impl Fn(&str) -> Option<Device> + Copy,
    ) -> UnitState {
        let mut state = self.clone();
        for ((name, former), now) in state.properties.iter_mut().zip(now) {
            let merged = now.with_device(device, former, number);
            if !merged.has_same_devices(former) {
                state.at_runtime.push(name.clone());
            }
            *former = merged;
        }
        state
    }

    /// Takes out what evenkeel set for other devices, each since it was `former`, so that it is not taken for what was
    /// there before.
    pub fn forget_devices(&mut self, others: &[(Device, &UnitState)], number: impl Fn(&str) -> Option<Device> + Copy) {
        let of = |state: &UnitState, name: &str| {
            let mut properties = state.properties.iter();
            let found = properties.find(|(known, _)| known == name);
            found.map(|(_, property)| property.clone())
        };
        for (name, property) in &mut self.properties {
            for (device, former) in others {
                if let Some(theirs) = of(former, name) {
                    *property = property.with_device(*device, &theirs, number);
                }
            }
            // Where nothing else was set at runtime since, a drop-in is evenkeel's own, unless there was one then.
            let is_same =
                |former: &&UnitState| of(former, name).is_some_and(|theirs| theirs.has_same_devices(property));
            let former = others.iter().map(|(_, former)| *former).find(is_same);
            if former.is_some_and(|former| !former.at_runtime.contains(name)) {
                self.at_runtime.retain(|known| known != name);
            }
        }
    }
}

/// The device in a path such as `/dev/block/8:0`.
pub fn number_in(path: &str) -> Option<Device> {
    path.rsplit('/').next()?.parse().ok()
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

/// The property behind one kind of limit in `io.max`.
pub fn name_of(kind: IoKind) -> &'static &'static str {
    let names = names(CgroupFile::IoMax);
    let index = IoKind::ALL.iter().position(|known| *known == kind).unwrap_or_default();
    &names[index]
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
        Setting::IoLimit(limit) => {
            let path = format!("/dev/block/{}", limit.device);
            let entries = limit.limit.0.map(|most| (path, most)).into_iter().collect();
            return vec![(*name_of(limit.kind), Property::Devices(entries))];
        }
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
    fn one_device_is_changed_in_a_list_and_the_others_stay() {
        let list = |entries: &[(&str, u64)]| {
            let entries = entries
                .iter()
                .map(|(device, limit)| (format!("/dev/block/{device}"), *limit));
            Property::Devices(entries.collect())
        };
        let device = Device { major: 8, minor: 0 };
        let state = |property: Property, at_runtime: &[&str]| UnitState {
            unit: "x.service".into(),
            properties: vec![("IOWriteBandwidthMax".into(), property)],
            at_runtime: at_runtime.iter().map(|name| (*name).to_owned()).collect(),
        };
        let now = list(&[("9:0", 7), ("8:0", 5)]);
        assert_eq!(
            now.with_device(device, &list(&[("8:0", 6)]), number_in),
            list(&[("9:0", 7), ("8:0", 6)])
        );
        assert_eq!(now.with_device(device, &list(&[]), number_in), list(&[("9:0", 7)]));

        // The drop-in goes where nothing but what was there before is left, in whatever order.
        let former = state(list(&[("8:0", 6), ("9:0", 7)]), &[]);
        let restored = former.of_device(device, &[now], number_in);
        assert_eq!(restored, state(list(&[("9:0", 7), ("8:0", 6)]), &[]));
        let former = state(list(&[]), &[]);
        let restored = former.of_device(device, &[list(&[("9:0", 7), ("8:0", 5)])], number_in);
        assert_eq!(restored, state(list(&[("9:0", 7)]), &["IOWriteBandwidthMax"]));

        // What evenkeel set on another device was not there before.
        let mut found = state(list(&[("8:0", 5), ("9:0", 7)]), &["IOWriteBandwidthMax"]);
        let other = state(list(&[("9:0", 7)]), &[]);
        found.forget_devices(&[(device, &other)], number_in);
        assert_eq!(found, other);
        // Unless somebody else set something at runtime, too.
        let mut found = state(list(&[("8:0", 5), ("9:0", 7)]), &["IOWriteBandwidthMax"]);
        found.forget_devices(&[(device, &state(list(&[]), &[]))], number_in);
        assert_eq!(found, state(list(&[("9:0", 7)]), &["IOWriteBandwidthMax"]));
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
