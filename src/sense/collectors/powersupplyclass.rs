//! `powersupplyclass`: batteries and mains, from `/sys/class/power_supply` (Documentation/ABI/testing/sysfs-class-power).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, Label, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError, list_names, parse_integer};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_power_supply_authentic node_power_supply_calibrate node_power_supply_capacity \
    node_power_supply_capacity_alert_max node_power_supply_capacity_alert_min node_power_supply_charge_ampere \
    node_power_supply_charge_control_limit node_power_supply_charge_control_limit_max \
    node_power_supply_charge_counter node_power_supply_charge_empty node_power_supply_charge_empty_design \
    node_power_supply_charge_full node_power_supply_charge_full_design node_power_supply_charge_term_current \
    node_power_supply_constant_charge_current node_power_supply_constant_charge_current_max \
    node_power_supply_constant_charge_voltage node_power_supply_constant_charge_voltage_max \
    node_power_supply_current_ampere node_power_supply_current_boot node_power_supply_current_max \
    node_power_supply_cyclecount node_power_supply_energy_empty node_power_supply_energy_empty_design \
    node_power_supply_energy_full node_power_supply_energy_full_design node_power_supply_energy_watthour \
    node_power_supply_info node_power_supply_input_current_limit node_power_supply_online \
    node_power_supply_power_watt node_power_supply_precharge_current node_power_supply_present \
    node_power_supply_temp_alert_max_celsius node_power_supply_temp_alert_min_celsius \
    node_power_supply_temp_ambient_celsius node_power_supply_temp_ambient_max_celsius \
    node_power_supply_temp_ambient_min_celsius node_power_supply_temp_celsius node_power_supply_temp_max_celsius \
    node_power_supply_temp_min_celsius node_power_supply_time_to_empty_seconds \
    node_power_supply_time_to_full_seconds node_power_supply_voltage_boot node_power_supply_voltage_max \
    node_power_supply_voltage_max_design node_power_supply_voltage_min node_power_supply_voltage_min_design \
    node_power_supply_voltage_ocv node_power_supply_voltage_volt";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "powersupplyclass",
    Pace::Slow,
    "batteries and mains",
    METRICS,
    |options| {
        let supplies = options.power_supplies.clone();
        Box::new(move |roots| read_powersupplyclass(roots, &supplies))
    },
);

/// File, metric, and divisor of its number.
const NUMBERS: [(&str, &str, f64); 49] = [
    ("authentic", "node_power_supply_authentic", 1.0),
    ("calibrate", "node_power_supply_calibrate", 1.0),
    ("capacity", "node_power_supply_capacity", 1.0),
    ("capacity_alert_max", "node_power_supply_capacity_alert_max", 1.0),
    ("capacity_alert_min", "node_power_supply_capacity_alert_min", 1.0),
    ("cycle_count", "node_power_supply_cyclecount", 1.0),
    ("online", "node_power_supply_online", 1.0),
    ("present", "node_power_supply_present", 1.0),
    ("time_to_empty_now", "node_power_supply_time_to_empty_seconds", 1.0),
    ("time_to_full_now", "node_power_supply_time_to_full_seconds", 1.0),
    ("current_boot", "node_power_supply_current_boot", 1e6),
    ("current_max", "node_power_supply_current_max", 1e6),
    ("current_now", "node_power_supply_current_ampere", 1e6),
    ("energy_empty", "node_power_supply_energy_empty", 1e6),
    ("energy_empty_design", "node_power_supply_energy_empty_design", 1e6),
    ("energy_full", "node_power_supply_energy_full", 1e6),
    ("energy_full_design", "node_power_supply_energy_full_design", 1e6),
    ("energy_now", "node_power_supply_energy_watthour", 1e6),
    ("voltage_boot", "node_power_supply_voltage_boot", 1e6),
    ("voltage_max", "node_power_supply_voltage_max", 1e6),
    ("voltage_max_design", "node_power_supply_voltage_max_design", 1e6),
    ("voltage_min", "node_power_supply_voltage_min", 1e6),
    ("voltage_min_design", "node_power_supply_voltage_min_design", 1e6),
    ("voltage_now", "node_power_supply_voltage_volt", 1e6),
    ("voltage_ocv", "node_power_supply_voltage_ocv", 1e6),
    ("charge_control_limit", "node_power_supply_charge_control_limit", 1e6),
    (
        "charge_control_limit_max",
        "node_power_supply_charge_control_limit_max",
        1e6,
    ),
    ("charge_counter", "node_power_supply_charge_counter", 1e6),
    ("charge_empty", "node_power_supply_charge_empty", 1e6),
    ("charge_empty_design", "node_power_supply_charge_empty_design", 1e6),
    ("charge_full", "node_power_supply_charge_full", 1e6),
    ("charge_full_design", "node_power_supply_charge_full_design", 1e6),
    ("charge_now", "node_power_supply_charge_ampere", 1e6),
    ("charge_term_current", "node_power_supply_charge_term_current", 1e6),
    (
        "constant_charge_current",
        "node_power_supply_constant_charge_current",
        1e6,
    ),
    (
        "constant_charge_current_max",
        "node_power_supply_constant_charge_current_max",
        1e6,
    ),
    (
        "constant_charge_voltage",
        "node_power_supply_constant_charge_voltage",
        1e6,
    ),
    (
        "constant_charge_voltage_max",
        "node_power_supply_constant_charge_voltage_max",
        1e6,
    ),
    ("precharge_current", "node_power_supply_precharge_current", 1e6),
    ("input_current_limit", "node_power_supply_input_current_limit", 1e6),
    ("power_now", "node_power_supply_power_watt", 1e6),
    ("temp", "node_power_supply_temp_celsius", 10.0),
    ("temp_alert_max", "node_power_supply_temp_alert_max_celsius", 10.0),
    ("temp_alert_min", "node_power_supply_temp_alert_min_celsius", 10.0),
    ("temp_ambient", "node_power_supply_temp_ambient_celsius", 10.0),
    ("temp_ambient_max", "node_power_supply_temp_ambient_max_celsius", 10.0),
    ("temp_ambient_min", "node_power_supply_temp_ambient_min_celsius", 10.0),
    ("temp_max", "node_power_supply_temp_max_celsius", 10.0),
    ("temp_min", "node_power_supply_temp_min_celsius", 10.0),
];

/// Files whose text is a label of the same name.
const LABELS: [&str; 11] = [
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
    "scope",
];

pub fn read_powersupplyclass(roots: &Roots, supplies: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/power_supply");
    let names = list_names(&base).map_err(|error| error.or_absent("no power supply"))?;
    let mut set = FamilySet::default();
    for name in names.into_iter().filter(|name| supplies.allows(name)) {
        let Some(attributes) = Attributes::open(&base.join(&name)) else {
            continue;
        };
        let supply = label("power_supply", name);
        for (file, metric, divisor) in NUMBERS {
            if let Some(number) = attributes.read(file).and_then(|text| parse_integer(&text)) {
                let help = format!("{} of a power supply.", file.replace('_', " "));
                set.add(metric, help, std::slice::from_ref(&supply), number / divisor);
            }
        }
        let labels = LABELS.iter().filter_map(|name| -> Option<Label> {
            let text = attributes.read(name)?.trim().to_owned();
            (!text.is_empty()).then(|| ((*name).into(), text.into()))
        });
        let labels: Vec<Label> = std::iter::once(supply.clone()).chain(labels).collect();
        set.add(
            "node_power_supply_info",
            "A power supply; the value is always 1.",
            &labels,
            1.0,
        );
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;

    #[test]
    fn numbers_are_in_base_units() {
        let tree = Tree::new();
        let all = NameFilter::default();
        assert!(matches!(
            read_powersupplyclass(&tree.roots, &all),
            Err(ReadError::Absent(_))
        ));
        for (file, text) in [
            ("BAT0/capacity", "81\n"),
            ("BAT0/voltage_now", "11660000\n"),
            ("BAT0/temp", "305\n"),
            ("BAT0/cycle_count", "none\n"),
            ("BAT0/status", "Discharging\n"),
            ("AC/online", "0\n"),
        ] {
            tree.sys(&format!("class/power_supply/{file}"), text);
        }
        let filter = NameFilter::exclude(Regex::new("^AC$").unwrap());
        assert_eq!(
            text_of(&read_powersupplyclass(&tree.roots, &filter).unwrap(), ""),
            [
                "node_power_supply_capacity{power_supply=\"BAT0\"} 81",
                "node_power_supply_voltage_volt{power_supply=\"BAT0\"} 11.66",
                "node_power_supply_temp_celsius{power_supply=\"BAT0\"} 30.5",
                "node_power_supply_info{power_supply=\"BAT0\",status=\"Discharging\"} 1",
            ]
        );
        assert_eq!(
            text_of(&read_powersupplyclass(&tree.roots, &all).unwrap(), "AC").len(),
            2
        );
    }
}
