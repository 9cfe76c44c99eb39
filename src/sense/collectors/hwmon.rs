//! `hwmon`: sensors of `/sys/class/hwmon` (Documentation/hwmon/sysfs-interface.rst).

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, MetricKind, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute};
use crate::sense::runtime::roots::Roots;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The published metrics.
const METRICS: &str = "\
    node_hwmon_beep_enabled node_hwmon_chip_names node_hwmon_fan_rpm node_hwmon_in_volts \
    node_hwmon_power_average_watt node_hwmon_sensor_label node_hwmon_temp_celsius node_hwmon_temp_crit_celsius \
    node_hwmon_temp_max_celsius node_hwmon_update_interval_seconds node_hwmon_voltage_regulator_version node_hwmon_*";

pub const INFO: CollectorInfo = CollectorInfo::on("hwmon", Pace::IsolatedScrape, "sensors", METRICS, |options| {
    let (chips, sensors) = (options.hwmon_chips.clone(), options.hwmon_sensors.clone());
    Box::new(move |roots| read_hwmon(roots, &chips, &sensors))
});

/// The documented kinds of sensors; files with other names are no sensors.
const SENSORS: [&str; 14] = [
    "vrm",
    "beep_enable",
    "update_interval",
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
    "freq",
];

/// `temp1_max_alarm` is kind `temp`, number 1, element `max_alarm`; a file without number is number 0.
fn parse_file_name(name: &str) -> Option<(&str, u32, &str)> {
    let number_at = name
        .find(|character: char| character.is_ascii_digit())
        .unwrap_or(name.len());
    let (kind, rest) = name.split_at(number_at);
    let number_end = rest
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, element) = rest.split_at(number_end);
    let number = if number.is_empty() { 0 } else { number.parse().ok()? };
    let element = if element.is_empty() {
        ""
    } else {
        element.strip_prefix('_')?
    };
    SENSORS.contains(&kind).then_some((kind, number, element))
}

/// A metric name: lower case, invalid characters replaced by underscores, none at the ends.
fn clean(name: &str) -> String {
    let keep = |character: char| character.is_ascii_alphanumeric() || matches!(character, ':' | '_');
    let replaced: String = name
        .trim()
        .to_lowercase()
        .chars()
        .map(|character| if keep(character) { character } else { '_' })
        .collect();
    replaced.trim_matches('_').to_owned()
}

/// The metric of an element of a sensor: name, kind, and divisor of its number.
fn metric(kind: &str, element: &str, has_bare_value: bool) -> (String, MetricKind, f64) {
    let base = match element {
        "" => format!("node_hwmon_{kind}"),
        // `input` is the value itself, unless a file without element exists.
        "input" if !has_bare_value => format!("node_hwmon_{kind}"),
        element => format!("node_hwmon_{kind}_{}", clean(element)),
    };
    let (unit, family, divisor) = match (kind, element) {
        ("beep_enable", _) => return ("node_hwmon_beep_enabled".to_owned(), MetricKind::Gauge, 1.0),
        ("vrm", _) => {
            return (
                "node_hwmon_voltage_regulator_version".to_owned(),
                MetricKind::Gauge,
                1.0,
            );
        }
        ("update_interval", _) => return ("node_hwmon_update_interval_seconds".to_owned(), MetricKind::Gauge, 1e3),
        (_, "fault" | "alarm") => ("", MetricKind::Gauge, 1.0),
        (_, "beep") => ("_enabled", MetricKind::Gauge, 1.0),
        ("in" | "cpu", _) => ("_volts", MetricKind::Gauge, 1e3),
        ("temp", "type") => ("", MetricKind::Gauge, 1.0),
        ("temp", _) => ("_celsius", MetricKind::Gauge, 1e3),
        ("curr", _) => ("_amps", MetricKind::Gauge, 1e3),
        ("energy", _) => ("_joule_total", MetricKind::Counter, 1e6),
        ("power", "accuracy") => ("", MetricKind::Gauge, 1e6),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => {
            ("_seconds", MetricKind::Gauge, 1e3)
        }
        ("power", _) => ("_watt", MetricKind::Gauge, 1e6),
        ("humidity", _) => ("", MetricKind::Gauge, 1e6),
        ("fan", "input" | "min" | "max" | "target") => ("_rpm", MetricKind::Gauge, 1.0),
        ("freq", "input") => ("_freq_mhz", MetricKind::Gauge, 1e6),
        _ => ("", MetricKind::Gauge, 1.0),
    };
    (base + unit, family, divisor)
}

/// A name of a chip that is stable across reboots: bus and name of its device instead of the driver's number.
fn chip_name(directory: &Path, hwmon: &str) -> String {
    let device = directory.join("device").canonicalize().ok();
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| clean(&name.to_string_lossy()))
    };
    let name = part(device.as_deref()).unwrap_or_default();
    let bus = part(device.as_deref().and_then(Path::parent)).unwrap_or_default();
    if !name.is_empty() {
        return if bus.is_empty() { name } else { format!("{bus}_{name}") };
    }
    let own = read_attribute(&directory.join("name"))
        .map(|name| clean(&name))
        .unwrap_or_default();
    if own.is_empty() { clean(hwmon) } else { own }
}

/// Sensors with their elements and texts. Old drivers put the files into the directory of the device.
fn sensors(directory: &Path) -> BTreeMap<(String, u32), BTreeMap<String, String>> {
    let mut sensors: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for directory in [directory.to_owned(), directory.join("device")] {
        for name in list_names(&directory).unwrap_or_default() {
            let Some((kind, number, element)) = parse_file_name(&name) else {
                continue;
            };
            let Some(text) = read_attribute(&directory.join(&name)) else {
                continue;
            };
            sensors
                .entry((kind.to_owned(), number))
                .or_default()
                .insert(element.to_owned(), text);
        }
    }
    sensors
}

/// Directories of chips with their names. Two chips of one device are told apart by what their drivers call them, and
/// else by number.
fn chips(base: &Path) -> Result<Vec<(PathBuf, String)>, ReadError> {
    let entries = list_names(base).map_err(|error| error.or_absent("no sensors"))?;
    let mut chips = Vec::new();
    let (mut of_device, mut of_driver) = (HashMap::new(), HashMap::new());
    for hwmon in entries.into_iter().filter(|hwmon| base.join(hwmon).is_dir()) {
        let directory = base.join(&hwmon);
        let chip = chip_name(&directory, &hwmon);
        let driver = read_attribute(&directory.join("name"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        *of_device.entry(chip.clone()).or_insert(0) += 1;
        *of_driver.entry((chip.clone(), driver.clone())).or_insert(0) += 1;
        chips.push((hwmon, chip, driver));
    }
    let named = chips.into_iter().map(|(hwmon, chip, driver)| {
        let suffix = match clean(&driver) {
            _ if of_device[&chip] == 1 => None,
            driver_name if !driver_name.is_empty() && of_driver[&(chip.clone(), driver)] == 1 => Some(driver_name),
            _ => Some(clean(&hwmon)),
        };
        let chip = suffix.map_or(chip.clone(), |suffix| format!("{chip}_{suffix}"));
        (base.join(hwmon), chip)
    });
    Ok(named.collect())
}

pub fn read_hwmon(roots: &Roots, wanted: &NameFilter, wanted_sensors: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let chips = chips(&roots.sys("class/hwmon"))?;
    let mut chip_names = Family::gauge(
        "node_hwmon_chip_names",
        "Name that the driver gives a chip; the value is always 1.",
    );
    let mut sensor_labels = Family::gauge("node_hwmon_sensor_label", "Label of a sensor; the value is always 1.");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();

    for (directory, chip) in chips.into_iter().filter(|(_, chip)| wanted.allows(chip)) {
        let name = read_attribute(&directory.join("name"))
            .map(|name| clean(&name))
            .filter(|name| !name.is_empty());
        if let Some(name) = name {
            chip_names.push([label("chip", chip.clone()), label("chip_name", name)], 1.0);
        }
        for ((kind, number), elements) in sensors(&directory) {
            let sensor = format!("{kind}{number}");
            if !wanted_sensors.allows(&format!("{chip};{sensor}")) {
                continue;
            }
            let labels = || vec![label("chip", chip.clone()), label("sensor", sensor.clone())];
            for (element, text) in &elements {
                if element == "label" {
                    let mut labels = labels();
                    labels.push(label("label", text.clone()));
                    sensor_labels.push(labels, 1.0);
                    continue;
                }
                let Ok(value) = text.trim().parse::<f64>() else {
                    continue;
                };
                let mut labels = labels();
                // A frequency of a graphics processor is known by its label, such as `sclk`.
                if (kind.as_str(), element.as_str()) == ("freq", "input") {
                    let Some(name) = elements.get("label") else {
                        continue;
                    };
                    labels[1] = label("sensor", clean(name));
                }
                let (name, family, divisor) = metric(&kind, element, elements.contains_key(""));
                let help = format!(
                    "Sensor of kind {kind}, its {}.",
                    if element.is_empty() { "value" } else { element }
                );
                families
                    .entry(name)
                    .or_insert_with_key(|name| Family::new(name.clone(), help, family))
                    .push(labels, value / divisor);
            }
        }
    }
    Ok([chip_names, sensor_labels]
        .into_iter()
        .chain(families.into_values())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;
    use std::os::unix::fs::symlink;

    fn read(tree: &Tree) -> Result<Vec<Family>, ReadError> {
        read_hwmon(&tree.roots, &NameFilter::default(), &NameFilter::default())
    }

    #[test]
    fn file_names_are_parsed() {
        for (name, expected) in [
            ("temp1_max_alarm", Some(("temp", 1, "max_alarm"))),
            ("pwm2", Some(("pwm", 2, ""))),
            ("update_interval", Some(("update_interval", 0, ""))),
            ("in0_input", Some(("in", 0, "input"))),
            ("uevent", None),
            ("temp1x", None),
            ("name", None),
        ] {
            assert_eq!(parse_file_name(name), expected, "{name}");
        }
    }

    #[test]
    fn values_have_units_and_stable_names() {
        let tree = Tree::new();
        assert!(matches!(read(&tree), Err(ReadError::Absent(_))));
        for (file, content) in [
            ("name", "coretemp\n"),
            ("temp1_input", "44500\n"),
            ("temp1_label", "Package \"0\"\n"),
            ("temp1_crit_alarm", "0\n"),
            ("fan2_input", "1200\n"),
            ("in0_input", "broken\n"),
            ("power1_average", "2500000\n"),
            ("energy1_input", "3000000\n"),
            ("pwm1", "128\n"),
            ("pwm1_enable", "2\n"),
        ] {
            tree.sys(&format!("class/hwmon/hwmon3/{file}"), content);
        }
        tree.sys("devices/platform/coretemp.0/uevent", "");
        symlink(
            tree.roots.sys("devices/platform/coretemp.0"),
            tree.roots.sys("class/hwmon/hwmon3/device"),
        )
        .unwrap();
        let of = "{chip=\"platform_coretemp_0\",sensor=";
        let mut lines = text_of(&read(&tree).unwrap(), "");
        lines.sort();
        assert_eq!(
            lines,
            [
                "node_hwmon_chip_names{chip=\"platform_coretemp_0\",chip_name=\"coretemp\"} 1".to_owned(),
                format!("node_hwmon_energy_joule_total{of}\"energy1\"}} 3"),
                format!("node_hwmon_fan_rpm{of}\"fan2\"}} 1200"),
                format!("node_hwmon_power_average_watt{of}\"power1\"}} 2.5"),
                format!("node_hwmon_pwm_enable{of}\"pwm1\"}} 2"),
                format!("node_hwmon_pwm{of}\"pwm1\"}} 128"),
                format!("node_hwmon_sensor_label{of}\"temp1\",label=\"Package \\\"0\\\"\"}} 1"),
                format!("node_hwmon_temp_celsius{of}\"temp1\"}} 44.5"),
                format!("node_hwmon_temp_crit_alarm_celsius{of}\"temp1\"}} 0"),
            ]
        );
    }

    #[test]
    fn chips_of_one_device_are_distinct() {
        let tree = Tree::new();
        tree.sys("devices/platform/wmi/uevent", "");
        for (hwmon, name) in [("hwmon0", "asus"), ("hwmon1", "asus"), ("hwmon2", "asus_fans")] {
            tree.sys(&format!("class/hwmon/{hwmon}/name"), format!("{name}\n"));
            tree.sys(&format!("class/hwmon/{hwmon}/fan1_input"), "1\n");
            let link = tree.roots.sys(&format!("class/hwmon/{hwmon}/device"));
            symlink(tree.roots.sys("devices/platform/wmi"), link).unwrap();
        }
        let fan = |chip: &str| format!("node_hwmon_fan_rpm{{chip=\"platform_wmi_{chip}\",sensor=\"fan1\"}} 1");
        let lines = text_of(&read(&tree).unwrap(), "rpm");
        assert_eq!(lines, ["hwmon0", "hwmon1", "asus_fans"].map(fan));
        let (chips, sensors) = (Regex::new("hwmon"), Regex::new("hwmon0;fan1$").unwrap());
        let (chips, sensors) = (NameFilter::include(chips.ok()), NameFilter::exclude(sensors));
        let families = read_hwmon(&tree.roots, &chips, &sensors).unwrap();
        assert_eq!(text_of(&families, "rpm"), [fan("hwmon1")]);
    }

    #[test]
    fn frequencies_are_known_by_label() {
        let tree = Tree::new();
        for (file, content) in [
            ("freq1_input", "300000000\n"),
            ("freq1_label", "sclk\n"),
            ("freq2_input", "1\n"),
        ] {
            tree.sys(&format!("class/hwmon/hwmon4/{file}"), content);
        }
        assert_eq!(
            text_of(&read(&tree).unwrap(), "freq_mhz"),
            ["node_hwmon_freq_freq_mhz{chip=\"hwmon4\",sensor=\"sclk\"} 300"]
        );
    }
}
