//! Random histories of one service: alerts fire and resolve, evenkeel stops and is killed, systemd restarts the unit
//! and reloads, a person sets properties. At the end, the present cgroup and the next one have the limits of the unit
//! file and of the person.

use super::unit::Service;
use super::*;

/// Number of histories, each of which takes about twenty seconds in the guest.
const HISTORIES: u64 = 4;
const STEPS: usize = 7;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// An alert fires, or is repeated.
    Fire(usize),
    Resolve(usize),
    Restart,
    Reload,
    /// A person sets the quota, at runtime or persistently.
    Quota {
        percent: u64,
        is_persistent: bool,
    },
    Kill,
    Stop,
}

/// A sequence of pseudo-random numbers (xorshift64), so that a number identifies a history.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn step(&mut self) -> Step {
        match self.below(12) {
            0..=3 => Step::Fire(self.below(2) as usize),
            4..=5 => Step::Resolve(self.below(2) as usize),
            6 => Step::Restart,
            7..=8 => Step::Reload,
            9 => Step::Quota {
                percent: 40 + 10 * self.below(5),
                is_persistent: self.below(2) == 0,
            },
            10 => Step::Kill,
            _ => Step::Stop,
        }
    }
}

const ALERTS: [&str; 2] = ["Quota", "Both"];

struct History {
    service: Service,
    home: Home,
    evenkeel: Daemon,
    /// The start of each firing alert, as an hour.
    firing: [Option<u32>; 2],
    hour: u32,
    /// The quota without evenkeel, in per cent.
    quota: u64,
}

impl History {
    fn begin(number: u64) -> History {
        let service = Service::start(&format!("history{number}"), "CPUQuota=20%\nCPUWeight=70");
        let select = format!("{{unit: '{}'}}", service.name.replace('.', "\\."));
        let rule = |name: &str, actions: &str| {
            format!(
                "  - {{name: {name}, matchers: ['alertname=\"{name}\"'], select: {select}, order_by: memory, \
                 actions: {actions}}}\n"
            )
        };
        let home = Home::new(&format!(
            "rules:\n{}{}",
            rule(ALERTS[0], "[{cgroup: {cpu.max: 30%}}]"),
            rule(ALERTS[1], "[{cgroup: {cpu.weight: 20, cpu.max: 10%}}]"),
        ));
        History {
            evenkeel: enforce(&home),
            service,
            home,
            firing: [None; 2],
            hour: 0,
            quota: 20,
        }
    }

    fn deliver(&self, alert: usize, status: &str, hour: u32) {
        let mut payload: Value = firing(json!({"alertname": ALERTS[alert], "instance": node_name()}));
        payload["status"] = json!(status);
        payload["fingerprint"] = json!(format!("{alert:016x}"));
        payload["startsAt"] = json!(format!("2024-01-02T{hour:02}:00:00Z"));
        if status == "resolved" {
            payload["endsAt"] = json!(format!("2024-01-02T{hour:02}:30:00Z"));
        }
        deliver(&self.evenkeel, &envelope(&[payload]).to_string());
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Fire(alert) => {
                let hour = *self.firing[alert].get_or_insert_with(|| {
                    self.hour += 1;
                    self.hour
                });
                self.deliver(alert, "firing", hour);
            }
            Step::Resolve(alert) => {
                if let Some(hour) = self.firing[alert].take() {
                    self.deliver(alert, "resolved", hour);
                }
            }
            Step::Restart => drop(sh(&format!("systemctl restart {}", self.service.name))),
            Step::Reload => drop(sh("systemctl daemon-reload")),
            Step::Quota { percent, is_persistent } => {
                let runtime = if is_persistent { "" } else { "--runtime" };
                let name = &self.service.name;
                // The later property wins, except that a persistent one wins over a runtime one at the next reload.
                sh(&format!(
                    "rm -f /etc/systemd/system.control/{name}.d/50-CPUQuota*.conf; \
                     systemctl set-property {runtime} {name} CPUQuota={percent}%"
                ));
                self.quota = percent;
            }
            Step::Kill => {
                self.evenkeel.kill();
                self.evenkeel = self.home.start_again(&self.evenkeel, &FLAGS);
            }
            Step::Stop => {
                self.evenkeel.terminate();
                self.evenkeel = self.home.start_again(&self.evenkeel, &FLAGS);
            }
        }
    }

    /// Resolves all alerts.
    fn end(mut self, what: &str) {
        for alert in 0..ALERTS.len() {
            self.take(Step::Resolve(alert));
        }
        let held = |knob| self.evenkeel.metric("evenkeel_leases", &[("knob", knob)]);
        eventually(&format!("all leases to end after {what}"), TIMEOUT, || {
            std::thread::sleep(PAUSE);
            (held("cpu.max") == 0.0 && held("cpu.weight") == 0.0).then_some(())
        });
        self.check(what);
        sh(&format!(
            "systemctl daemon-reload; systemctl restart {}",
            self.service.name
        ));
        self.check(&format!("{what}, a reload and a restart"));
    }

    fn check(&self, what: &str) {
        let found = |file| read(&self.service.cgroup(), file);
        let quota = format!("{} 100000", self.quota * 1000);
        assert_eq!(
            (found("cpu.max"), found("cpu.weight")),
            (quota, "70".to_owned()),
            "after {what}"
        );
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let name = &self.service.name;
        sh(&format!(
            "rm -rf /etc/systemd/system.control/{name}.d /run/systemd/system.control/{name}.d; systemctl daemon-reload"
        ));
    }
}

#[test]
fn random_histories_leave_a_unit_as_file_and_person_have_it() {
    for number in 1..=HISTORIES {
        let mut numbers = Numbers(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut history = History::begin(number);
        let mut taken = Vec::new();
        for _ in 0..STEPS {
            let step = numbers.step();
            taken.push(step);
            println!("history {number}: {step:?}");
            history.take(step);
        }
        history.end(&format!("history {number}, {taken:?}"));
    }
}
