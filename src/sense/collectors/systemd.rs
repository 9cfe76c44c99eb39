//! `systemd`: states and properties of units, read over D-Bus (org.freedesktop.systemd1(5)). The choice of properties
//! and the families are pure; `bus` makes the calls.

pub mod options;
mod bus;

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, MetricKind, SharedStr, label};
use crate::sense::runtime::kernel_file::ReadError;
use bus::{Bus, BusError, Unit};
use options::SystemdOptions;
use regex::Regex;
use std::collections::BTreeSet;

/// The published metrics.
const METRICS: &str = "\
    node_systemd_service_restart_total node_systemd_socket_accepted_connections_total \
    node_systemd_socket_current_connections node_systemd_socket_refused_connections_total \
    node_systemd_system_running node_systemd_timer_last_trigger_seconds node_systemd_unit_start_time_seconds \
    node_systemd_unit_state node_systemd_unit_tasks_current node_systemd_unit_tasks_max node_systemd_units \
    node_systemd_version node_systemd_virtualization_info";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "systemd",
    Pace::IsolatedScrape,
    "units of systemd, asked over D-Bus",
    METRICS,
    |options| {
        let mut systemd = Systemd::new(options.systemd.clone());
        Box::new(move |_| systemd.read())
    },
);

const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];

/// The value of a property that systemd does not count.
const UNCOUNTED: u64 = u64::MAX;

const START_TIME: &str = "node_systemd_unit_start_time_seconds";

const PROPERTIES: [PropertyQuery; 8] = [
    PropertyQuery::new(
        [".service", "Service", "NRestarts"],
        "node_systemd_service_restart_total",
        "Times that systemd restarted a service by itself.",
        MetricKind::Counter,
    )
    .when(|options| options.restarts),
    PropertyQuery::new(
        ["", "Unit", "ActiveEnterTimestamp"],
        START_TIME,
        "Unix time at which a unit became active; 0 where it is not.",
        MetricKind::Gauge,
    )
    .microseconds()
    .when(|options| options.start_times),
    PropertyQuery::new(
        [".service", "Service", "TasksCurrent"],
        "node_systemd_unit_tasks_current",
        "Processes and threads of a service.",
        MetricKind::Gauge,
    )
    .when(|options| options.tasks),
    PropertyQuery::new(
        [".service", "Service", "TasksMax"],
        "node_systemd_unit_tasks_max",
        "Processes and threads that a service may have.",
        MetricKind::Gauge,
    )
    .when(|options| options.tasks),
    PropertyQuery::new(
        [".timer", "Timer", "LastTriggerUSec"],
        "node_systemd_timer_last_trigger_seconds",
        "Unix time at which a timer went off last.",
        MetricKind::Gauge,
    )
    .microseconds(),
    PropertyQuery::new(
        [".socket", "Socket", "NAccepted"],
        "node_systemd_socket_accepted_connections_total",
        "Connections that a socket unit accepted.",
        MetricKind::Counter,
    ),
    PropertyQuery::new(
        [".socket", "Socket", "NConnections"],
        "node_systemd_socket_current_connections",
        "Connections of a socket unit that are open.",
        MetricKind::Gauge,
    ),
    // A gauge, as in node_exporter, although it only grows.
    PropertyQuery::new(
        [".socket", "Socket", "NRefused"],
        "node_systemd_socket_refused_connections_total",
        "Connections that a socket unit refused.",
        MetricKind::Gauge,
    ),
];

/// A numeric property of units and the family that it becomes.
struct PropertyQuery {
    /// Suffix of the units that have it; empty for all units.
    suffix: &'static str,
    interface: &'static str,
    property: &'static str,
    family: &'static str,
    help: &'static str,
    kind: MetricKind,
    per_unit: f64,
    is_on: fn(&SystemdOptions) -> bool,
}

impl PropertyQuery {
    const fn new(
        queried: [&'static str; 3],
        family: &'static str,
        help: &'static str,
        kind: MetricKind,
    ) -> PropertyQuery {
        let [suffix, interface, property] = queried;
        PropertyQuery {
            suffix,
            interface,
            property,
            family,
            help,
            kind,
            per_unit: 1.0,
            is_on: |_| true,
        }
    }

    const fn microseconds(self) -> PropertyQuery {
        PropertyQuery { per_unit: 1e6, ..self }
    }

    const fn when(self, is_on: fn(&SystemdOptions) -> bool) -> PropertyQuery {
        PropertyQuery { is_on, ..self }
    }

    fn applies_to(&self, unit: &Unit, options: &SystemdOptions) -> bool {
        unit.name.ends_with(self.suffix) && (self.is_on)(options)
    }
}

/// The properties of one unit: its type, and a number for each entry of `PROPERTIES` that it has.
#[derive(Debug, Default)]
struct UnitProperties {
    kind: String,
    numbers: [Option<u64>; PROPERTIES.len()],
}

/// The interface that has the type of a unit; other units have no type.
fn type_interface(unit: &str) -> Option<&'static str> {
    match unit.rsplit_once('.')?.1 {
        "service" => Some("Service"),
        "mount" => Some("Mount"),
        _ => None,
    }
}

fn is_shown(unit: &Unit, options: &SystemdOptions) -> bool {
    unit.load_state == "loaded" && options.units.allows(&unit.name)
}

/// `252.39-1~deb12u1` is 252.39.
fn version_number(version: &str) -> Option<f64> {
    let digits = Regex::new(r"[0-9]{3,}(\.[0-9]+)?").expect("a constant that tests compile");
    digits.find(version)?.as_str().parse().ok()
}

/// Families about systemd as a whole: its version, its state, and the number of units per state.
fn systemd_families(version: &str, state: &str, units: &[Unit]) -> Vec<Family> {
    let mut version_family = Family::gauge(
        "node_systemd_version",
        "The version of systemd, its number as the value.",
    );
    let version_label = vec![label("version", version.to_owned())];
    version_family.push(version_label, version_number(version).unwrap_or(0.0));
    let running = f64::from(state == "running");
    let mut count = Family::gauge("node_systemd_units", "Units that systemd has, by state.");
    // The usual states always have a series, and others (`reloading`, `maintenance`) while a unit is in them.
    let others: BTreeSet<&str> = units.iter().map(|unit| unit.active_state.as_str()).collect();
    let others = others.into_iter().filter(|state| !STATES.contains(state));
    for state in STATES.into_iter().chain(others) {
        let units = units.iter().filter(|unit| unit.active_state == state);
        count.push([label("state", state.to_owned())], units.count() as f64);
    }
    let help = "1 where systemd is neither starting, stopping nor degraded (systemctl is-system-running).";
    vec![
        version_family,
        Family::gauge("node_systemd_system_running", help).value(running),
        count,
    ]
}

fn virtualization_family(kind: &str) -> Family {
    let kind = if kind.is_empty() { "none" } else { kind };
    let mut family = Family::gauge(
        "node_systemd_virtualization_info",
        "The virtualization that systemd found; the value is always 1.",
    );
    family.push([label("virtualization_type", kind.to_owned())], 1.0);
    family
}

fn unit_families(units: &[(Unit, UnitProperties)]) -> Vec<Family> {
    let mut states = Family::gauge(
        "node_systemd_unit_state",
        "1 for the state that a unit is in, 0 for the others.",
    );
    let mut families: Vec<_> = PROPERTIES
        .iter()
        .map(|query| Family::new(query.family, query.help, query.kind))
        .collect();
    for (unit, properties) in units {
        let name = SharedStr::from(unit.name.clone());
        let kind = SharedStr::from(properties.kind.clone());
        for state in STATES {
            let labels = vec![
                label("name", name.clone()),
                label("state", state),
                label("type", kind.clone()),
            ];
            states.push(labels, f64::from(unit.active_state == state));
        }
        for ((family, query), number) in families.iter_mut().zip(&PROPERTIES).zip(properties.numbers) {
            let Some(number) = number.filter(|number| *number != UNCOUNTED) else {
                continue;
            };
            let is_stale = query.family == START_TIME && unit.active_state != "active";
            let value = if is_stale { 0.0 } else { number as f64 / query.per_unit };
            family.push([label("name", name.clone())], value);
        }
    }
    families.insert(0, states);
    families.retain(|family| !family.is_empty());
    families
}

/// The state between two reads.
pub struct Systemd {
    options: SystemdOptions,
    bus: Bus,
}

impl Systemd {
    /// A collector on the system bus.
    pub fn new(options: SystemdOptions) -> Systemd {
        Systemd {
            options,
            bus: Bus::default(),
        }
    }

    pub fn read(&mut self) -> Result<Vec<Family>, ReadError> {
        self.read_families()
            .map_err(|error| ReadError::System(error.to_string()))
    }

    fn read_families(&mut self) -> Result<Vec<Family>, BusError> {
        let mut bus = self.bus.round()?;
        let version = bus.manager_property("Version")?;
        let state = bus.manager_property("SystemState")?;
        let units = bus.units()?;
        let mut families = systemd_families(&version, &state, &units);
        // systemd tells nothing on real hardware.
        let virtualization = bus.manager_property("Virtualization").unwrap_or_default();
        families.push(virtualization_family(&virtualization));
        let mut described = Vec::new();
        for unit in units.into_iter().filter(|unit| is_shown(unit, &self.options)) {
            let mut properties = UnitProperties::default();
            if let Some(interface) = type_interface(&unit.name) {
                properties.kind = bus.text_property(&unit.object, interface, "Type")?.unwrap_or_default();
            }
            for (number, query) in properties.numbers.iter_mut().zip(&PROPERTIES) {
                if query.applies_to(&unit, &self.options) {
                    *number = bus.number_property(&unit.object, query.interface, query.property)?;
                }
            }
            described.push((unit, properties));
        }
        families.extend(unit_families(&described));
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::text_of;

    fn unit(name: &str, load_state: &str, active_state: &str) -> Unit {
        Unit {
            name: name.to_owned(),
            load_state: load_state.to_owned(),
            active_state: active_state.to_owned(),
            object: String::new(),
        }
    }

    #[test]
    fn units_are_counted_and_version_is_a_number() {
        let units = [
            unit("a.service", "loaded", "active"),
            unit("b.mount", "not-found", "active"),
            unit("c.service", "loaded", "failed"),
            unit("d.service", "loaded", "reloading"),
        ];
        let families = systemd_families("252.39-1~deb12u1", "degraded", &units);
        assert_eq!(
            text_of(&families, ""),
            [
                "node_systemd_version{version=\"252.39-1~deb12u1\"} 252.39",
                "node_systemd_system_running 0",
                "node_systemd_units{state=\"active\"} 2",
                "node_systemd_units{state=\"activating\"} 0",
                "node_systemd_units{state=\"deactivating\"} 0",
                "node_systemd_units{state=\"inactive\"} 0",
                "node_systemd_units{state=\"failed\"} 1",
                "node_systemd_units{state=\"reloading\"} 1",
            ]
        );
        assert_eq!(version_number("v256 (256.4-2-arch)"), Some(256.0));
        assert_eq!(version_number("12"), None);
    }

    #[test]
    fn loaded_units_with_matching_names_are_shown() {
        let options = SystemdOptions::default();
        assert!(is_shown(&unit("a.service", "loaded", "active"), &options));
        assert!(is_shown(&unit("a.mount.service", "loaded", "active"), &options));
        assert!(!is_shown(&unit("a.service", "not-found", "inactive"), &options));
        assert!(!is_shown(&unit("srv.mount", "loaded", "active"), &options));
        assert!(is_shown(&unit("a.mount.x", "loaded", "active"), &options));
    }

    #[test]
    fn unit_is_queried_for_its_enabled_properties() {
        let queried = |name: &str, options: &SystemdOptions| -> Vec<&str> {
            let unit = unit(name, "loaded", "active");
            let questions = PROPERTIES.iter().filter(|query| query.applies_to(&unit, options));
            questions.map(|query| query.property).collect()
        };
        let few = SystemdOptions::default();
        let all = SystemdOptions {
            start_times: true,
            restarts: true,
            tasks: true,
            ..few.clone()
        };
        assert!(queried("a.service", &few).is_empty());
        assert_eq!(
            queried("a.service", &all),
            ["NRestarts", "ActiveEnterTimestamp", "TasksCurrent", "TasksMax"]
        );
        assert_eq!(queried("a.timer", &few), ["LastTriggerUSec"]);
        assert_eq!(queried("a.socket", &few), ["NAccepted", "NConnections", "NRefused"]);
        assert_eq!(type_interface("srv.mount"), Some("Mount"));
        assert_eq!(type_interface("a.timer"), None);
    }

    #[test]
    fn properties_become_series_unless_uncounted() {
        let mut properties = UnitProperties {
            kind: "notify".to_owned(),
            ..UnitProperties::default()
        };
        properties.numbers[1] = Some(1_700_000_000_500_000);
        properties.numbers[2] = Some(7);
        properties.numbers[3] = Some(UNCOUNTED);
        let mut gone = UnitProperties::default();
        gone.numbers[1] = Some(1_600_000_000_000_000);
        let families = unit_families(&[
            (unit("a.service", "loaded", "active"), properties),
            (unit("b.service", "loaded", "inactive"), gone),
        ]);
        assert_eq!(
            text_of(&families, "\"a.service\""),
            [
                "node_systemd_unit_state{name=\"a.service\",state=\"active\",type=\"notify\"} 1",
                "node_systemd_unit_state{name=\"a.service\",state=\"activating\",type=\"notify\"} 0",
                "node_systemd_unit_state{name=\"a.service\",state=\"deactivating\",type=\"notify\"} 0",
                "node_systemd_unit_state{name=\"a.service\",state=\"inactive\",type=\"notify\"} 0",
                "node_systemd_unit_state{name=\"a.service\",state=\"failed\",type=\"notify\"} 0",
                "node_systemd_unit_start_time_seconds{name=\"a.service\"} 1700000000.5",
                "node_systemd_unit_tasks_current{name=\"a.service\"} 7",
            ]
        );
        assert_eq!(
            text_of(&families, "start_time_seconds{name=\"b"),
            ["node_systemd_unit_start_time_seconds{name=\"b.service\"} 0"]
        );
    }
}
