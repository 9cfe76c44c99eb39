//! Tests that need a real systemd and all of cgroup v2. They run as root in the guest that `tests/guest.sh` boots,
//! change its cgroups and units at will, and run one at a time.

mod clock;
mod commands;
mod frontend;
mod limits;
mod memory;
mod package;
mod reboot;
mod role;
mod sandbox;
mod shipped_unit;
mod slice;
// Other tests use more of this module.
#[allow(dead_code)]
#[path = "../suite/support/mod.rs"]
mod support;
mod systemd;
mod target;
mod unit;
mod unit_histories;
mod unit_reload;
mod users;

use std::time::Duration;

use serde_json::{Value, json};
use support::daemon::{Daemon, Home};
use support::payload::{envelope, firing};
use support::tools::succeed;
use support::{eventually, node_name};

/// Timeout of the slow guest, in which systemd freezes and restarts units.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Interval between checks, so that checking does not slow down the awaited work.
const PAUSE: Duration = Duration::from_millis(300);

/// A configuration with one rule named `test` for the alert `Test`, without conditions that need a measurement.
pub fn home(select: &str, actions: &str) -> Home {
    Home::new(&format!(
        "rules:\n\
         \x20 - name: test\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {select}\n\
         \x20   order_by: memory\n\
         \x20   actions: {actions}\n"
    ))
}

/// Flags without collectors, which are expensive in an emulated machine and not needed here.
pub const FLAGS: [&str; 2] = ["--enforce", "--collector.disable-defaults"];

pub fn enforce(home: &Home) -> Daemon {
    home.start(&FLAGS)
}

fn alert(status: &str, ends_at: &str) -> String {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    (alert["status"], alert["endsAt"]) = (json!(status), json!(ends_at));
    envelope(&[alert]).to_string()
}

/// The firing alert with a later start.
pub fn alert_at(starts_at: &str) -> String {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    alert["startsAt"] = json!(starts_at);
    envelope(&[alert]).to_string()
}

/// The resolved alert with this start.
pub fn resolve_at(evenkeel: &Daemon, starts_at: &str) {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    (alert["status"], alert["startsAt"]) = (json!("resolved"), json!(starts_at));
    alert["endsAt"] = json!(starts_at.replace(":00:00Z", ":30:00Z"));
    deliver(evenkeel, &envelope(&[alert]).to_string());
}

/// A resolved alert of the rule that never fired.
pub fn unrelated_end() -> String {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    (alert["status"], alert["endsAt"]) = (json!("resolved"), json!("2024-01-02T04:00:00Z"));
    alert["fingerprint"] = json!("fedcba9876543210");
    envelope(&[alert]).to_string()
}

/// Sends a webhook, which must be accepted.
pub fn deliver(evenkeel: &Daemon, webhook: &str) {
    let answer = evenkeel.post(webhook.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

pub fn fire(evenkeel: &Daemon) {
    deliver(evenkeel, &alert("firing", "0001-01-01T00:00:00Z"));
}

pub fn resolve(evenkeel: &Daemon) {
    deliver(evenkeel, &alert("resolved", "2024-01-02T04:00:00Z"));
}

/// Waits until the rule has this many outcomes of a kind.
pub fn outcomes(evenkeel: &Daemon, outcome: &str, number: f64) {
    eventually(&format!("{number} outcomes {outcome}"), TIMEOUT, || {
        let found = evenkeel.metric("evenkeel_actions_total", &[("outcome", outcome)]);
        std::thread::sleep(PAUSE);
        assert!(found <= number, "{found} outcomes {outcome}: {:?}", evenkeel.log());
        (found == number).then_some(())
    });
}

/// Runs a shell command of the guest and returns its output.
pub fn sh(command: &str) -> String {
    succeed(std::process::Command::new("bash").args(["-e", "-c", command]))
}

/// A file of a cgroup, without its last newline.
pub fn read(cgroup: &str, file: &str) -> String {
    let path = format!("/sys/fs/cgroup{cgroup}/{file}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim_end().to_owned()
}

/// Processor cores that a cgroup uses, over two seconds.
pub fn processors(cgroup: &str) -> f64 {
    let used = || -> f64 {
        let stat = read(cgroup, "cpu.stat");
        let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        micros
            .and_then(|text| text.parse().ok())
            .expect("cpu.stat has usage_usec")
    };
    let (before, started) = (used(), std::time::Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    (used() - before) / started.elapsed().as_micros() as f64
}

/// Checks the requirements of the other tests.
#[test]
fn the_guest_has_controllers_systemd_swap_and_a_disk() {
    let controllers = read("", "cgroup.controllers");
    for controller in ["cpu", "io", "memory", "pids"] {
        let mut found = controllers.split_whitespace();
        assert!(found.any(|found| found == controller), "{controllers}");
    }
    sh("systemctl show --property=Version");
    let swaps = std::fs::read_to_string("/proc/swaps").expect("a kernel with swap");
    assert!(swaps.contains("/dev/vda"), "{swaps}");
}
