//! Units that systemd or a person changes under a lease: a reload, a restart at the wrong moment, a value by hand. What
//! evenkeel set stands while its alert fires, and nothing of it is left behind.

use super::unit::Service;
use super::*;
use std::process::{Child, Command};

fn held(evenkeel: &Daemon) -> f64 {
    evenkeel.metric("evenkeel_leases", &[("knob", "cpu.max")])
}

#[test]
fn a_value_by_hand_stays_and_ours_does_not_come_back() {
    let service = Service::start("byhand", "CPUQuota=20%");
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let file = format!("/sys/fs/cgroup{}/cpu.max", service.cgroup());
    std::fs::write(&file, "55000 100000").expect("root writes it");
    resolve(&evenkeel);
    outcomes(&evenkeel, "superseded", 1.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "55000 100000");
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "200ms");
    assert!(!service.has_assignments());
    sh(&format!("systemctl daemon-reload; systemctl restart {}", service.name));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
}

/// Restarts a unit over and over, until this is dropped.
struct Restarts(Child);

impl Restarts {
    fn of(service: &Service) -> Restarts {
        let script = format!("while :; do systemctl restart {}; done", service.name);
        Restarts(Command::new("bash").args(["-c", &script]).spawn().expect("bash"))
    }
}

impl Drop for Restarts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_unit_that_restarts_all_the_time_keeps_nothing_of_ours() {
    let service = Service::start("restless", "CPUQuota=20%\n[Unit]\nStartLimitIntervalSec=0");
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    let restarts = Restarts::of(&service);
    for hour in 5..15 {
        let starts = format!("2024-01-02T{hour:02}:00:00Z");
        deliver(&evenkeel, &alert_at(&starts));
        resolve_at(&evenkeel, &starts);
    }
    drop(restarts);
    eventually("all leases to end", TIMEOUT, || (held(&evenkeel) == 0.0).then_some(()));
    assert!(!service.has_assignments());
    sh(&format!("systemctl restart {}", service.name));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
}
