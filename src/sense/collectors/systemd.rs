//! `systemd`: units and what systemd tells of them, asked over D-Bus (org.freedesktop.systemd1(5)). Which unit is asked what,
//! and what is made of the answers, is pure; `bus` asks.

pub mod options;
mod bus;

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, MetricKind, SharedStr, label};
use crate::sense::runtime::kernel_file::ReadError;
use bus::{Bus, Unit};
use options::SystemdOptions;
use regex::Regex;

pub const INFO: CollectorInfo = CollectorInfo::off(
    "systemd",
    Pace::Isolated,
    "units of systemd, asked over D-Bus",
    |options| {
        let mut systemd = Systemd::new(options.systemd.clone());
        Box::new(move |_| systemd.read())
    },
);

const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];

/// How systemd writes that it does not count something.
const UNCOUNTED: u64 = u64::MAX;

const START_TIME: &str = "node_systemd_unit_start_time_seconds";

const QUESTIONS: [Question; 8] = [
    Question::new(
        [".service", "Service", "NRestarts"],
        "node_systemd_service_restart_total",
        "Times that systemd restarted a service by itself.",
        MetricKind::Counter,
    )
    .when(|options| options.restarts),
    Question::new(
        ["", "Unit", "ActiveEnterTimestamp"],
        START_TIME,
        "Unix time at which a unit became active; 0 where it is not.",
        MetricKind::Gauge,
    )
    .microseconds()
    .when(|options| options.start_times),
    Question::new(
        [".service", "Service", "TasksCurrent"],
        "node_systemd_unit_tasks_current",
        "Processes and threads of a service.",
        MetricKind::Gauge,
    )
    .when(|options| options.tasks),
    Question::new(
        [".service", "Service", "TasksMax"],
        "node_systemd_unit_tasks_max",
        "Processes and threads that a service may have.",
        MetricKind::Gauge,
    )
    .when(|options| options.tasks),
    Question::new(
        [".timer", "Timer", "LastTriggerUSec"],
        "node_systemd_timer_last_trigger_seconds",
        "Unix time at which a timer went off last.",
        MetricKind::Gauge,
    )
    .microseconds(),
    Question::new(
        [".socket", "Socket", "NAccepted"],
        "node_systemd_socket_accepted_connections_total",
        "Connections that a socket unit accepted.",
        MetricKind::Counter,
    ),
    Question::new(
        [".socket", "Socket", "NConnections"],
        "node_systemd_socket_current_connections",
        "Connections of a socket unit that are open.",
        MetricKind::Gauge,
    ),
    // A gauge, as node_exporter has it, although it only grows.
    Question::new(
        [".socket", "Socket", "NRefused"],
        "node_systemd_socket_refused_connections_total",
        "Connections that a socket unit refused.",
        MetricKind::Gauge,
    ),
];

/// A number that a unit is asked for, and what becomes of it.
struct Question {
    /// Ending of the units that are asked; all where it is empty.
    suffix: &'static str,
    interface: &'static str,
    property: &'static str,
    family: &'static str,
    help: &'static str,
    kind: MetricKind,
    per_unit: f64,
    is_on: fn(&SystemdOptions) -> bool,
}

impl Question {
    const fn new(asked: [&'static str; 3], family: &'static str, help: &'static str, kind: MetricKind) -> Question {
        let [suffix, interface, property] = asked;
        Question {
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

    const fn microseconds(self) -> Question {
        Question { per_unit: 1e6, ..self }
    }

    const fn when(self, is_on: fn(&SystemdOptions) -> bool) -> Question {
        Question { is_on, ..self }
    }

    fn concerns(&self, unit: &Unit, options: &SystemdOptions) -> bool {
        unit.name.ends_with(self.suffix) && (self.is_on)(options)
    }
}

/// Answers of one unit: its type, and a number for each of `QUESTIONS` that it answered.
#[derive(Debug, Default)]
struct Answers {
    kind: String,
    numbers: [Option<u64>; QUESTIONS.len()],
}

/// Which interface knows the type of a unit; others have none.
fn typed_by(unit: &str) -> Option<&'static str> {
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

/// What is told of systemd as a whole: its version, its state, and how many of all its units are in which state.
fn about_systemd(version: &str, state: &str, units: &[Unit]) -> Vec<Family> {
    let mut told = Family::gauge(
        "node_systemd_version",
        "The version of systemd, its number as the value.",
    );
    let version_label = vec![label("version", version.to_owned())];
    told.push(version_label, version_number(version).unwrap_or(0.0));
    let running = f64::from(u8::from(state == "running"));
    let mut count = Family::gauge("node_systemd_units", "Units that systemd has, by state.");
    for state in STATES {
        let units = units.iter().filter(|unit| unit.active_state == state);
        count.push([label("state", state)], units.count() as f64);
    }
    let help = "1 where systemd is neither starting, stopping nor degraded (systemctl is-system-running).";
    vec![
        told,
        Family::gauge("node_systemd_system_running", help).value(running),
        count,
    ]
}

fn about_units(units: &[(Unit, Answers)]) -> Vec<Family> {
    let mut states = Family::gauge(
        "node_systemd_unit_state",
        "1 for the state that a unit is in, 0 for the others.",
    );
    let mut families: Vec<_> = QUESTIONS
        .iter()
        .map(|question| Family::new(question.family, question.help, question.kind))
        .collect();
    for (unit, answers) in units {
        let name = SharedStr::from(unit.name.clone());
        let kind = SharedStr::from(answers.kind.clone());
        for state in STATES {
            let labels = vec![
                label("name", name.clone()),
                label("state", state),
                label("type", kind.clone()),
            ];
            states.push(labels, f64::from(u8::from(unit.active_state == state)));
        }
        for ((family, question), number) in families.iter_mut().zip(&QUESTIONS).zip(answers.numbers) {
            let Some(number) = number.filter(|number| *number != UNCOUNTED) else {
                continue;
            };
            let is_stale = question.family == START_TIME && unit.active_state != "active";
            let value = if is_stale {
                0.0
            } else {
                number as f64 / question.per_unit
            };
            family.push([label("name", name.clone())], value);
        }
    }
    families.insert(0, states);
    families.retain(|family| !family.is_empty());
    families
}

/// The collector's memory between two reads.
pub struct Systemd {
    options: SystemdOptions,
    bus: Bus,
}

impl Systemd {
    /// Asks on the system's bus.
    pub fn new(options: SystemdOptions) -> Systemd {
        Systemd {
            options,
            bus: Bus::default(),
        }
    }

    pub fn read(&mut self) -> Result<Vec<Family>, ReadError> {
        self.ask().map_err(ReadError::System)
    }

    fn ask(&mut self) -> Result<Vec<Family>, String> {
        let mut bus = self.bus.round()?;
        let version = bus.of_manager("Version")?;
        let state = bus.of_manager("SystemState")?;
        let units = bus.units()?;
        let mut families = about_systemd(&version, &state, &units);
        let mut answered = Vec::new();
        for unit in units.into_iter().filter(|unit| is_shown(unit, &self.options)) {
            let mut answers = Answers::default();
            if let Some(interface) = typed_by(&unit.name) {
                answers.kind = bus.text(&unit.object, interface, "Type")?.unwrap_or_default();
            }
            for (number, question) in answers.numbers.iter_mut().zip(&QUESTIONS) {
                if question.concerns(&unit, &self.options) {
                    *number = bus.number(&unit.object, question.interface, question.property)?;
                }
            }
            answered.push((unit, answers));
        }
        families.extend(about_units(&answered));
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::options::whole_name;
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
    fn all_units_are_counted_and_the_version_is_a_number() {
        let units = [
            unit("a.service", "loaded", "active"),
            unit("b.mount", "not-found", "active"),
            unit("c.service", "loaded", "failed"),
        ];
        let families = about_systemd("252.39-1~deb12u1", "degraded", &units);
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
            ]
        );
        assert_eq!(version_number("v256 (256.4-2-arch)"), Some(256.0));
        assert_eq!(version_number("12"), None);
    }

    #[test]
    fn loaded_units_are_shown_whose_whole_name_fits() {
        let options = SystemdOptions::default();
        assert!(is_shown(&unit("a.service", "loaded", "active"), &options));
        assert!(is_shown(&unit("a.mount.service", "loaded", "active"), &options));
        assert!(!is_shown(&unit("a.service", "not-found", "inactive"), &options));
        assert!(!is_shown(&unit("srv.mount", "loaded", "active"), &options));
        assert!(!whole_name("ssh").unwrap().is_match("sshd.service"));
    }

    #[test]
    fn a_unit_is_asked_what_it_knows_and_what_is_wanted() {
        let asked = |name: &str, options: &SystemdOptions| -> Vec<&str> {
            let unit = unit(name, "loaded", "active");
            let questions = QUESTIONS.iter().filter(|question| question.concerns(&unit, options));
            questions.map(|question| question.property).collect()
        };
        let few = SystemdOptions::default();
        let all = SystemdOptions {
            start_times: true,
            restarts: true,
            tasks: true,
            ..few.clone()
        };
        assert!(asked("a.service", &few).is_empty());
        assert_eq!(
            asked("a.service", &all),
            ["NRestarts", "ActiveEnterTimestamp", "TasksCurrent", "TasksMax"]
        );
        assert_eq!(asked("a.timer", &few), ["LastTriggerUSec"]);
        assert_eq!(asked("a.socket", &few), ["NAccepted", "NConnections", "NRefused"]);
        assert_eq!(typed_by("srv.mount"), Some("Mount"));
        assert_eq!(typed_by("a.timer"), None);
    }

    #[test]
    fn answers_become_series_and_what_is_not_counted_none() {
        let mut answers = Answers {
            kind: "notify".to_owned(),
            ..Answers::default()
        };
        answers.numbers[1] = Some(1_700_000_000_500_000);
        answers.numbers[2] = Some(7);
        answers.numbers[3] = Some(UNCOUNTED);
        let mut gone = Answers::default();
        gone.numbers[1] = Some(1_600_000_000_000_000);
        let families = about_units(&[
            (unit("a.service", "loaded", "active"), answers),
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
