//! The former properties of a systemd unit, and the mapping between properties and cgroup files. Data and pure
//! functions; `systemd` is the client.

use crate::knob::limit::property::INFINITY;
use crate::knob::limit::{CgroupFile, Device, MAX_PAGE_BYTES, Property, Setting};
use serde::{Deserialize, Serialize};

/// A unit as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Such as `render.service`.
    pub unit: String,
    /// The properties behind a cgroup file, with their former values.
    pub properties: Vec<(String, Property)>,
    /// Properties that another program had set at runtime, with effect. evenkeel must not remove their drop-ins.
    pub at_runtime: Vec<String>,
}

impl UnitState {
    /// The state to restore for one device: its former limits, and the limits that other devices have `now`. The
    /// drop-ins stay while the limits of the other devices differ from the former ones.
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

    /// Replaces evenkeel's own limits of other devices by their former ones, so that they do not count as former state.
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
            // An otherwise unchanged property has only evenkeel's own drop-in, unless a drop-in existed before.
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

/// The name of the drop-in that systemd writes for a property.
pub fn drop_in_name(property: &str) -> String {
    format!("50-{}.conf", in_unit_files(property))
}

/// The name that a property has in unit files.
fn in_unit_files(property: &str) -> &str {
    match property {
        "CPUQuotaPerSecUSec" => "CPUQuota",
        "CPUQuotaPeriodUSec" => "CPUQuotaPeriodSec",
        other => other,
    }
}

/// The drop-in folders that systemd reads for a unit, below each folder of unit files: those of the unit, of its
/// template, of each prefix that ends in a dash, and of its type (systemd.unit(5)).
pub fn drop_in_folders(unit: &str) -> Vec<String> {
    let Some((name, suffix)) = unit.rsplit_once('.') else {
        return Vec::new();
    };
    let template = name.split_once('@').map(|(template, _)| format!("{template}@"));
    let whole = template.as_deref().unwrap_or(name);
    let prefixes = whole.match_indices('-').map(|(at, _)| whole[..=at].to_owned());
    let names = std::iter::once(name.to_owned()).chain(template.clone()).chain(prefixes);
    let mut folders: Vec<String> = names.map(|name| format!("{name}.{suffix}.d")).collect();
    folders.push(format!("{suffix}.d"));
    folders
}

/// The value that a drop-in written by systemd assigns to a property; `None` if it assigns nothing or another property.
pub fn assigned(property: &str, text: &str) -> Option<Property> {
    let mut found = None;
    for (key, value) in assignments(text) {
        if key != in_unit_files(property) {
            return None;
        }
        found = Some(match (property.starts_with("IO") && property.ends_with("Max"), value) {
            (true, "") => Property::Devices(Vec::new()),
            (true, value) => {
                let (device, limit) = value.rsplit_once(' ')?;
                let Some(Property::Devices(mut devices)) = found else {
                    return None;
                };
                devices.push((device.to_owned(), limit.parse().ok()?));
                Property::Devices(devices)
            }
            (false, "" | "infinity") => Property::Number(INFINITY),
            (false, value) => Property::Number(match property {
                "CPUQuotaPerSecUSec" => scaled(value.strip_suffix('%')?, 10_000.0)?,
                "CPUQuotaPeriodUSec" => microseconds(value)?,
                _ => value.parse().ok()?,
            }),
        });
    }
    found
}

fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with(['#', ';', '[']));
    lines.filter_map(|line| line.split_once('='))
}

fn scaled(number: &str, by: f64) -> Option<u64> {
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number >= 0.0).then(|| (number * by).round() as u64)
}

/// Parses a time span of at most a second in systemd's notation, such as `1.500ms` (systemd.time(7)).
fn microseconds(text: &str) -> Option<u64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units
        .into_iter()
        .find_map(|(unit, micros)| scaled(text.strip_suffix(unit)?, micros))
}

/// Whether a value found is the value set, after rounding: the kernel rounds memory to whole pages and quotas to whole
/// microseconds of a period, and a drop-in has whole per cents.
pub fn is_same(property: &str, found: &Property, set: &Property) -> bool {
    match (property, found, set) {
        (_, found, set) if found.has_same_devices(set) => true,
        (_, Property::Number(INFINITY), _) | (_, _, Property::Number(INFINITY)) => false,
        ("CPUQuotaPerSecUSec", Property::Number(found), Property::Number(set)) => found.abs_diff(*set) < 10_000,
        ("MemoryHigh" | "MemoryMax" | "MemorySwapMax", Property::Number(found), Property::Number(set)) => {
            found.checked_sub(*set).is_some_and(|cut| cut < MAX_PAGE_BYTES)
        }
        _ => false,
    }
}

/// The D-Bus interface with the resource properties of a unit of this type.
pub fn interface(unit: &str) -> Option<String> {
    let (_, suffix) = unit.rsplit_once('.')?;
    let known = ["service", "scope", "slice", "socket", "mount", "swap"];
    known.contains(&suffix).then(|| {
        let (first, rest) = suffix.split_at(1);
        format!("org.freedesktop.systemd1.{}{rest}", first.to_uppercase())
    })
}

/// The value that systemd writes into a file of the unit's next cgroup. `None` for I/O limits, which name devices by
/// path.
pub fn recorded(file: CgroupFile, state: &UnitState) -> Option<Setting> {
    let numbers = state.properties.iter().map(|(_, property)| match property {
        Property::Number(number) => Some(*number),
        Property::Devices(_) => None,
    });
    file.recorded(&numbers.collect::<Option<Vec<u64>>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: CgroupFile, text: &str, expected: &[(&str, Property)]) {
        let setting = Setting::parse(file, text).unwrap();
        assert_eq!(setting.properties(), expected, "{text}");
    }

    #[test]
    fn limits_are_mapped_to_properties() {
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

    /// As systemd 252 writes them.
    #[test]
    fn drop_ins_are_read_as_systemd_writes_them() {
        use Property::{Devices, Number};
        let drop_in = |lines: &str| format!("# This is a drop-in\n# or an equivalent operation.\n[Service]\n{lines}\n");
        for (name, lines, expected) in [
            ("CPUQuotaPerSecUSec", "CPUQuota=33%", Some(Number(330_000))),
            ("CPUQuotaPerSecUSec", "CPUQuota=", Some(Number(INFINITY))),
            ("CPUQuotaPerSecUSec", "CPUQuota=half", None),
            ("CPUQuotaPerSecUSec", "CPUWeight=20", None),
            (
                "CPUQuotaPeriodUSec",
                "CPUQuotaPeriodSec=333.333ms",
                Some(Number(333_333)),
            ),
            ("CPUQuotaPeriodUSec", "CPUQuotaPeriodSec=1s", Some(Number(1_000_000))),
            ("CPUWeight", "CPUWeight=20", Some(Number(20))),
            ("MemoryHigh", "MemoryHigh=314572800", Some(Number(300 << 20))),
            ("MemoryHigh", "MemoryHigh=300M", None),
            ("TasksMax", "TasksMax=infinity", Some(Number(INFINITY))),
            (
                "IOReadBandwidthMax",
                "IOReadBandwidthMax=\nIOReadBandwidthMax=/dev/vda 5000000\n",
                Some(Devices(vec![("/dev/vda".into(), 5_000_000)])),
            ),
            ("IOWriteIOPSMax", "IOWriteIOPSMax=\n", Some(Devices(vec![]))),
            ("IOWriteIOPSMax", "", None),
        ] {
            assert_eq!(assigned(name, &drop_in(lines)), expected, "{lines}");
        }
    }

    #[test]
    fn record_says_the_value_of_the_next_cgroup() {
        for (file, text) in [
            (CgroupFile::CpuMax, "60000 50000"),
            (CgroupFile::CpuMax, "max 100000"),
            (CgroupFile::CpuWeight, "20"),
            (CgroupFile::MemoryHigh, "4096"),
            (CgroupFile::PidsMax, "max"),
        ] {
            let setting = Setting::parse(file, text).unwrap();
            let owned = |(name, property): (&str, Property)| (name.to_owned(), property);
            let state = UnitState {
                unit: "shop.service".into(),
                properties: setting.properties().into_iter().map(owned).collect(),
                at_runtime: vec![],
            };
            assert_eq!(recorded(file, &state), Some(setting), "{text}");
        }
        let never_set = UnitState {
            unit: "shop.service".into(),
            properties: vec![("CPUWeight".into(), Property::Number(INFINITY))],
            at_runtime: vec![],
        };
        let expected = Some(Setting::CpuWeight(100));
        assert_eq!(recorded(CgroupFile::CpuWeight, &never_set), expected);
    }

    #[test]
    fn drop_ins_come_from_unit_template_prefixes_and_type() {
        for (unit, expected) in [
            ("shop.service", &["shop.service.d", "service.d"][..]),
            (
                "a-b@7.service",
                &["a-b@7.service.d", "a-b@.service.d", "a-.service.d", "service.d"],
            ),
            ("work-batch.slice", &["work-batch.slice.d", "work-.slice.d", "slice.d"]),
        ] {
            assert_eq!(drop_in_folders(unit), expected, "{unit}");
        }
    }

    #[test]
    fn quotas_of_units_are_whole_per_cents() {
        for (set, expected) in [
            ("66500 100000", "66000 100000"),
            ("50000 100000", "50000 100000"),
            ("1500 200000", "2000 200000"),
            ("100000 300000", "99000 300000"),
            ("max 100000", "max 100000"),
        ] {
            let setting = Setting::parse(CgroupFile::CpuMax, set).unwrap();
            assert_eq!(setting.kept_in_drop_in().to_string(), expected, "{set}");
        }
    }

    #[test]
    fn property_rounded_by_systemd_is_recognised() {
        for (name, found, set, expected) in [
            ("CPUQuotaPerSecUSec", 330_000, 333_333, true),
            ("CPUQuotaPerSecUSec", 340_000, 330_000, false),
            ("CPUQuotaPerSecUSec", INFINITY, INFINITY - 1, false),
            ("MemoryHigh", 1_000_001, 999_424, true),
            ("MemoryHigh", 999_424, 1_000_001, false),
            ("TasksMax", 41, 40, false),
        ] {
            let (found, set) = (Property::Number(found), Property::Number(set));
            assert_eq!(is_same(name, &found, &set), expected, "{name} {found:?} {set:?}");
        }
    }

    #[test]
    fn change_of_one_device_keeps_the_others() {
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
        assert_eq!(now.limits_of(device, number_in), [5]);
        assert_eq!(list(&[("9:0", 7)]).limits_of(device, number_in), [0; 0]);
        assert!(is_same("IOWriteBandwidthMax", &now, &list(&[("8:0", 5), ("9:0", 7)])));
        assert_eq!(
            now.with_device(device, &list(&[("8:0", 6)]), number_in),
            list(&[("9:0", 7), ("8:0", 6)])
        );
        assert_eq!(now.with_device(device, &list(&[]), number_in), list(&[("9:0", 7)]));

        // The drop-in is removed when only the former entries are left, in any order.
        let former = state(list(&[("8:0", 6), ("9:0", 7)]), &[]);
        let restored = former.of_device(device, &[now], number_in);
        assert_eq!(restored, state(list(&[("9:0", 7), ("8:0", 6)]), &[]));
        let former = state(list(&[]), &[]);
        let restored = former.of_device(device, &[list(&[("9:0", 7), ("8:0", 5)])], number_in);
        assert_eq!(restored, state(list(&[("9:0", 7)]), &["IOWriteBandwidthMax"]));

        // evenkeel's own limit of another device is no former state,
        let mut found = state(list(&[("8:0", 5), ("9:0", 7)]), &["IOWriteBandwidthMax"]);
        let other = state(list(&[("9:0", 7)]), &[]);
        found.forget_devices(&[(device, &other)], number_in);
        assert_eq!(found, other);
        // unless another program also set a property at runtime.
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
