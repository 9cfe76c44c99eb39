//! Units that systemd or a person changes under a lease: a reload, a restart at the wrong moment, a value by hand. The
//! limit stays in effect while its alert fires, and nothing of it is left behind.

use super::unit::Service;
use super::*;
use std::process::{Child, Command};

/// Persistent properties, which are reverted on drop.
struct Persistent<'a>(&'a Service);

impl Drop for Persistent<'_> {
    fn drop(&mut self) {
        let unit = &self.0.name;
        sh(&format!(
            "rm -rf /etc/systemd/system.control/{unit}.d /etc/systemd/system/{unit}.d; systemctl daemon-reload"
        ));
    }
}

fn held(evenkeel: &Daemon) -> f64 {
    evenkeel.metric("evenkeel_leases", &[("knob", "cpu.max")])
}

fn wait_for(service: &Service, file: &str, value: &str) {
    eventually(&format!("{file} to be {value}"), TIMEOUT, || {
        std::thread::sleep(PAUSE);
        (read(&service.cgroup(), file) == value).then_some(())
    });
}

#[test]
fn a_limit_outlasts_a_reload_with_a_persistent_property() {
    let service = Service::start("hidden", "");
    sh(&format!("systemctl set-property {} CPUQuota=60%", service.name));
    let _persistent = Persistent(&service);
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh("systemctl daemon-reload");
    assert_eq!(
        read(&service.cgroup(), "cpu.max"),
        "60000 100000",
        "systemd took it away"
    );
    wait_for(&service, "cpu.max", "30000 100000");
    assert_eq!(held(&evenkeel), 1.0);
    sh("systemctl daemon-reload");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "60000 100000");
    assert!(!service.has_assignments());
}

#[test]
fn a_limit_outlasts_a_reload_with_a_later_drop_in() {
    let service = Service::start("later", "");
    let folder = format!("/etc/systemd/system/{}.d", service.name);
    sh(&format!(
        "mkdir -p {folder}; printf '[Service]\\nCPUQuota=60%%\\n' >{folder}/override.conf; systemctl daemon-reload"
    ));
    let _persistent = Persistent(&service);
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh("systemctl daemon-reload");
    assert_eq!(
        read(&service.cgroup(), "cpu.max"),
        "60000 100000",
        "systemd took it away"
    );
    wait_for(&service, "cpu.max", "30000 100000");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    sh("systemctl daemon-reload");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "60000 100000");
    assert!(!service.has_assignments());
}

#[test]
fn a_persistent_property_of_a_person_ends_the_lease() {
    let service = Service::start("person", "CPUQuota=20%");
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh(&format!("systemctl set-property {} CPUQuota=50%", service.name));
    let _persistent = Persistent(&service);
    outcomes(&evenkeel, "superseded", 1.0);
    assert_eq!(held(&evenkeel), 0.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "50000 100000");
    assert!(!service.has_assignments(), "what is hidden was ours");
    resolve(&evenkeel);
    sh(&format!(
        "rm -r /etc/systemd/system.control/{}.d; systemctl daemon-reload",
        service.name
    ));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
}

#[test]
fn a_quota_is_the_same_before_and_after_a_reload() {
    let service = Service::start("fraction", "CPUQuota=50%");
    let home = service.home("[{cgroup: {cpu.max: +33%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let before = read(&service.cgroup(), "cpu.max");
    sh("systemctl daemon-reload");
    assert_eq!(read(&service.cgroup(), "cpu.max"), before);
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "50000 100000");
}

#[test]
fn value_by_hand_stays_and_the_limit_does_not_return() {
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

#[test]
fn a_resolve_asks_for_no_reload() {
    let service = Service::start("quiet", "CPUQuota=20%\nIOReadBandwidthMax=/dev/vda 5M");
    let home =
        service.home("[{cgroup: {cpu.max: '30000 50000', io.max: /dev/vda riops=20 wbps=1MiB, memory.high: 300MiB}}]");
    let evenkeel = enforce(&home);
    for (round, starts) in ["2024-01-02T05:00:00Z", "2024-01-02T06:00:00Z"].into_iter().enumerate() {
        deliver(&evenkeel, &alert_at(starts));
        outcomes(&evenkeel, "applied", 4.0 * (round + 1) as f64);
        assert_eq!(service.shows("NeedDaemonReload"), "no", "while they are held");
        resolve_at(&evenkeel, starts);
        outcomes(&evenkeel, "restored", 4.0 * (round + 1) as f64);
        assert_eq!(service.shows("NeedDaemonReload"), "no");
        assert!(!service.has_assignments());
    }
    // Nothing hides later changes of the unit file.
    sh(&format!(
        "printf '[Service]\\nExecStart=/bin/sleep 1000\\nCPUQuota=45%%\\n' >{}; systemctl daemon-reload",
        service.file()
    ));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "45000 100000");
}

#[test]
fn a_drop_in_of_the_same_name_is_not_hidden_after_a_resolve() {
    let service = Service::start("same", "");
    let folder = format!("/etc/systemd/system/{}.d", service.name);
    sh(&format!(
        "mkdir -p {folder}; printf '[Service]\\nCPUQuota=60%%\\n' >{folder}/50-CPUQuota.conf; systemctl daemon-reload"
    ));
    let _persistent = Persistent(&service);
    let home = service.home("[{cgroup: {cpu.max: 30%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh("systemctl daemon-reload");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "30000 100000");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "60000 100000");
    sh("systemctl daemon-reload");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "60000 100000");
}

#[test]
fn a_frozen_unit_that_is_restarted_is_frozen_again() {
    let service = Service::start("thawed", "");
    let home = service.home("[{freeze: true}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh(&format!("systemctl restart {}", service.name));
    outcomes(&evenkeel, "applied", 2.0);
    assert_eq!(service.shows("FreezerState"), "frozen");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(service.shows("FreezerState"), "running");
}

#[test]
fn unloaded_unit_keeps_the_properties_of_the_administrator() {
    let service = Service::start("unloaded", "CPUQuota=20%");
    let set = format!("systemctl set-property --runtime {} CPUQuota=40%", service.name);
    sh(&set);
    let home = service.home("[{cgroup: {cpu.max: 70%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh(&format!("systemctl stop {}", service.name));
    resolve(&evenkeel);
    outcomes(&evenkeel, "gone", 1.0);
    sh(&format!("systemctl start {}", service.name));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "40000 100000");
    sh(&format!("systemctl revert {}", service.name));
}

/// Restarts a unit repeatedly, until dropped.
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
fn unit_that_restarts_constantly_keeps_no_limit() {
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
