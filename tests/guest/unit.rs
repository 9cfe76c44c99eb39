//! Units of systemd: evenkeel sets runtime properties, so that systemd and evenkeel do not overwrite each other, and
//! leaves nothing behind.

use super::*;
use std::time::Instant;

/// A service with a unit file that uses all processors. It is stopped and removed when the test ends.
pub struct Service {
    pub name: String,
}

impl Service {
    pub fn start(name: &str, settings: &str) -> Self {
        let service = Service {
            name: format!("{name}.service"),
        };
        let text = format!("[Service]\nExecStart=/bin/sh -c 'while :; do :; done'\n{settings}\n");
        std::fs::write(service.file(), text).expect("units are written by root");
        sh(&format!("systemctl daemon-reload; systemctl start {}", service.name));
        service
    }

    pub fn file(&self) -> String {
        format!("/etc/systemd/system/{}", self.name)
    }

    pub fn cgroup(&self) -> String {
        format!("/system.slice/{}", self.name)
    }

    /// A property as `systemctl show` prints it.
    pub fn shows(&self, property: &str) -> String {
        sh(&format!("systemctl show --value --property={property} {}", self.name))
            .trim()
            .to_owned()
    }

    pub fn has_assignments(&self) -> bool {
        has_assignments(&self.name)
    }

    pub fn home(&self, actions: &str) -> Home {
        home(&format!("{{unit: '{}'}}", self.name.replace('.', "\\.")), actions)
    }
}

/// Whether a runtime drop-in assigns anything for a unit.
pub fn has_assignments(unit: &str) -> bool {
    let folders = ["/run/systemd/system.control", "/run/systemd/transient"];
    let of_unit = folders.map(|folder| std::fs::read_dir(format!("{folder}/{unit}.d")));
    of_unit.into_iter().flatten().flatten().flatten().any(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        text.lines()
            .any(|line| !line.starts_with(['#', '[']) && !line.is_empty())
    })
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::process::Command::new("systemctl")
            .args(["kill", "--signal=KILL", &self.name])
            .status();
        let _ = std::process::Command::new("systemctl")
            .args(["stop", &self.name])
            .status();
        let _ = std::fs::remove_file(self.file());
    }
}

#[test]
fn quota_of_a_service_is_raised_and_restored() {
    let service = Service::start("quota", "CPUQuota=20%");
    let home = service.home("[{cgroup: {cpu.max: +300%}}]");
    let evenkeel = enforce(&home);
    let before = processors(&service.cgroup());
    assert!(
        (0.1..0.3).contains(&before),
        "{before} processors under a quota of 20 %"
    );

    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "800ms");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "80000 100000");
    // A daemon-reload keeps the limit.
    sh("systemctl daemon-reload");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "80000 100000");
    let during = processors(&service.cgroup());
    assert!(during > 0.45, "{during} processors of 0.8");
    let page = support::http::get(evenkeel.metrics, "/")
        .expect("evenkeel answers")
        .body;
    for text in ["quota.service", "cpu.max", "20000 100000", "80000 100000"] {
        assert!(page.contains(text), "{text:?} in {page}");
    }

    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "200ms");
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
    assert!(!service.has_assignments());
    let after = processors(&service.cgroup());
    assert!((0.1..0.3).contains(&after), "{after} processors after it gave back");
    println!("processors: {before:.2} before, {during:.2} during, {after:.2} after");
}

#[test]
fn limits_of_a_unit_are_restored_after_a_kill_of_the_daemon() {
    let service = Service::start("every", "CPUWeight=70\nIOReadBandwidthMax=/dev/vda 5M\nTasksMax=50");
    let files = [
        "cpu.max",
        "cpu.weight",
        "memory.high",
        "memory.max",
        "memory.swap.max",
        "io.max",
        "io.weight",
        "pids.max",
    ];
    let properties = [
        "CPUQuotaPerSecUSec",
        "CPUQuotaPeriodUSec",
        "CPUWeight",
        "MemoryHigh",
        "MemoryMax",
        "MemorySwapMax",
        "IOWeight",
        "IOReadBandwidthMax",
        "IOWriteBandwidthMax",
        "IOReadIOPSMax",
        "IOWriteIOPSMax",
        "TasksMax",
    ];
    let state = || -> Vec<String> {
        let files = files.map(|file| format!("{file}: {}", read(&service.cgroup(), file)));
        let properties = properties.map(|name| format!("{name}: {}", service.shows(name)));
        files.into_iter().chain(properties).collect()
    };
    let before = state();
    let home = service.home(
        "[{cgroup: {cpu.max: '30000 50000', cpu.weight: 20, memory.high: 300MiB, memory.max: 50%, memory.swap.max: 1GiB, \
         io.max: /dev/vda wbps=1MiB riops=20, io.weight: 30, pids.max: 40}}]",
    );
    let mut evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 9.0);
    let cgroup = service.cgroup();
    assert_eq!(read(&cgroup, "cpu.max"), "30000 50000");
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "600ms");
    assert_eq!(service.shows("CPUQuotaPeriodUSec"), "50ms");
    assert_eq!(read(&cgroup, "cpu.weight"), "20");
    assert_eq!(read(&cgroup, "memory.high"), (300 << 20).to_string());
    assert_eq!(service.shows("MemoryHigh"), (300 << 20).to_string());
    assert_eq!(read(&cgroup, "memory.swap.max"), (1 << 30).to_string());
    assert!(
        read(&cgroup, "io.max").contains("rbps=5000000 wbps=1048576 riops=20"),
        "{}",
        read(&cgroup, "io.max")
    );
    assert!(read(&cgroup, "io.weight").contains("30"));
    assert_eq!(read(&cgroup, "pids.max"), "40");
    evenkeel.kill();

    let evenkeel = home.start_again(&evenkeel, &FLAGS);
    assert_eq!(read(&cgroup, "pids.max"), "40", "its episode is still open");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 9.0);
    assert_eq!(state(), before);
    assert!(!service.has_assignments());
    sh("systemctl daemon-reload");
    assert_eq!(state(), before);
}

#[test]
fn runtime_property_of_the_administrator_stays() {
    let service = Service::start("admins", "CPUQuota=20%");
    sh(&format!(
        "systemctl set-property --runtime {} CPUQuota=30% CPUWeight=50",
        service.name
    ));
    let home = service.home("[{cgroup: {cpu.max: +100%, cpu.weight: 10}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 2.0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "600ms");
    // The administrator changes one of the two meanwhile.
    sh(&format!(
        "systemctl set-property --runtime {} CPUWeight=77",
        service.name
    ));
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    outcomes(&evenkeel, "superseded", 1.0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "300ms");
    assert_eq!(service.shows("CPUWeight"), "77");
    assert!(service.has_assignments());
    sh(&format!("systemctl revert {}", service.name));
}

#[test]
fn restarted_unit_is_limited_again_and_restored_afterwards() {
    let service = Service::start("restarted", "CPUQuota=20%");
    let home = service.home("[{cgroup: {cpu.max: +100%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh(&format!("systemctl restart {}", service.name));
    // The next round finds the new cgroup, whose limit is evenkeel's own and is not doubled again.
    outcomes(&evenkeel, "applied", 2.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "40000 100000");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
    assert!(!service.has_assignments());
}

#[test]
fn unit_stopped_under_its_lease_starts_with_its_own_limits() {
    let service = Service::start("stopped", "CPUQuota=20%");
    let home = service.home("[{cgroup: {cpu.max: 70%}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    sh(&format!("systemctl stop {}", service.name));
    resolve(&evenkeel);
    outcomes(&evenkeel, "gone", 1.0);
    assert!(!service.has_assignments());
    sh(&format!("systemctl start {}", service.name));
    assert_eq!(read(&service.cgroup(), "cpu.max"), "20000 100000");
}

#[test]
fn frozen_unit_is_thawed_even_after_a_kill_of_evenkeel() {
    let service = Service::start("frozen", "");
    let home = service.home("[{freeze: true}]");
    let mut evenkeel = enforce(&home);
    assert!(processors(&service.cgroup()) > 0.3);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    assert!(read(&service.cgroup(), "cgroup.events").contains("frozen 1"));
    assert_eq!(service.shows("FreezerState"), "frozen");
    let at_rest = processors(&service.cgroup());
    assert!(at_rest < 0.01, "{at_rest} processors while frozen");
    evenkeel.kill();

    let evenkeel = home.start_again(&evenkeel, &FLAGS);
    assert_eq!(service.shows("FreezerState"), "frozen", "its episode is still open");
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(service.shows("FreezerState"), "running");
    assert!(processors(&service.cgroup()) > 0.3);
}

#[test]
fn killed_unit_is_one_victim() {
    let service = Service::start("ended", "");
    let home = service.home("[{kill: true}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    eventually("the unit to have failed", TIMEOUT, || {
        (service.shows("Result") == "signal").then_some(())
    });
    assert_eq!(evenkeel.metric("evenkeel_budget_remaining", &[]), 2.0, "of three");
    sh(&format!("systemctl reset-failed {}", service.name));
}

#[test]
fn cgroups_with_protected_processes_are_never_touched() {
    // A weight makes systemd enable its controller for the slice.
    let service = Service::start("bystander", "CPUWeight=50");
    // The slice contains dbus and journald; the guest's own service contains evenkeel; the root contains everything.
    for select in [
        "{unit: 'system\\.slice'}",
        "{unit: 'guest-tests\\.service'}",
        "{cgroup: '/'}",
        "{unit: 'dbus\\.service'}",
    ] {
        let home = home(
            select,
            "[{cgroup: {cpu.weight: 5}}, {freeze: true}, {wait: 1s}, {kill: true}]",
        );
        let evenkeel = enforce(&home);
        fire(&evenkeel);
        eventually("a refusal", TIMEOUT, || {
            let refused = evenkeel.metric("evenkeel_decisions_total", &[("decision", "protected")]);
            (refused == 1.0).then_some(())
        });
        assert_eq!(evenkeel.metric("evenkeel_actions_total", &[]), 0.0, "{select}");
    }
    assert_eq!(read("/system.slice", "cpu.weight"), "100");
    assert_eq!(read("/system.slice", "cgroup.freeze"), "0");
    assert!(processors(&service.cgroup()) > 0.3);
}

/// A stopped bus, which continues on drop.
struct StoppedBus;

impl StoppedBus {
    fn new() -> StoppedBus {
        // The first call starts the bus.
        sh("systemctl start dbus.service; systemctl kill --signal=STOP dbus.service");
        StoppedBus
    }
}

impl Drop for StoppedBus {
    fn drop(&mut self) {
        sh("systemctl kill --signal=CONT dbus.service");
    }
}

#[test]
fn silent_bus_costs_one_timeout_and_is_retried_later() {
    let service = Service::start("silent", "CPUQuota=20%\nTasksMax=50");
    let home = service.home("[{cgroup: {cpu.max: 40%, cpu.weight: 20, memory.high: 300MiB, pids.max: 40}}]");
    let evenkeel = enforce(&home);
    // This alert needs no action, and its response shows that the start, which uses the bus as well, is over. It is
    // another alert than the firing one, because evenkeel remembers a resolve and would ignore an earlier start.
    deliver(&evenkeel, &unrelated_end());
    let bus = StoppedBus::new();
    let started = Instant::now();
    fire(&evenkeel);
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(11),
        "{took:?} for four limits, one wait is 3 s"
    );
    // evenkeel notices before or after planning a step, depending on its last call to systemd.
    eventually("each step to fail or to be refused", TIMEOUT, || {
        let refused = evenkeel.metric("evenkeel_decisions_total", &[("decision", "privilege")]);
        let failed = evenkeel.metric("evenkeel_actions_total", &[("outcome", "failed")]);
        (refused + failed == 4.0).then_some(())
    });
    resolve(&evenkeel);
    drop(bus);
    std::thread::sleep(Duration::from_secs(10));
    deliver(&evenkeel, &alert_at("2024-01-02T05:00:00Z"));
    outcomes(&evenkeel, "applied", 4.0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "400ms");
}
