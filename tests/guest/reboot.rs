//! A reboot with leases held. `before_the_reboot` leaves the package, its daemon and two leases; the guest then resets
//! the machine without stopping anything, and runs `after_the_reboot` (`tests/guest/root/usr/lib/evenkeel-guest/run`).

use super::package::{self, dpkg};
use super::shipped_unit::{history, recorded, send, shows, write};
use super::*;
use std::path::Path;

const TARGET: &str = "rebooted-target";
const LIMITED: &str = "rebooted";

fn nice() -> String {
    sh(&format!(
        "ps -o ni= -p $(systemctl show --value --property=MainPID {TARGET}.service)"
    ))
    .trim()
    .to_owned()
}

fn quota() -> String {
    sh(&format!(
        "systemctl show --value --property=CPUQuotaPerSecUSec {LIMITED}.service"
    ))
    .trim()
    .to_owned()
}

#[test]
fn before_the_reboot_two_leases_are_held() {
    for (name, settings) in [
        (TARGET, "ExecStart=/bin/sleep 7302\nUser=tenant\nNice=1"),
        (LIMITED, "ExecStart=/bin/sleep 7303\nCPUQuota=20%"),
    ] {
        write(
            &format!("/etc/systemd/system/{name}.service"),
            &format!("[Service]\n{settings}\n"),
        );
    }
    sh(&format!("systemctl daemon-reload; systemctl start {TARGET} {LIMITED}"));
    package::installs(&["-i", package::PACKAGE]);
    let rules = format!(
        "rules:\n\
         \x20 - name: test\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{cmdline: '.*sleep 7302', user: tenant}}\n\
         \x20   actions: [{{nice: 6}}]\n\
         \x20 - name: limit\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{unit: '{LIMITED}\\.service'}}\n\
         \x20   actions: [{{cgroup: {{cpu.max: +100%}}}}]\n"
    );
    package::enforce(&rules, "");
    send(&alert_at("2024-01-02T03:00:00Z"));
    eventually("both leases", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        (nice() == "6" && quota() == "400ms").then_some(())
    });
    recorded("applied", 2);
    // The guest resets the machine next.
    write(package::REBOOT, "");
}

#[test]
fn after_the_reboot_nothing_is_left_of_them() {
    let _installed = package::Installed;
    assert!(Path::new(package::REBOOT).exists(), "this is the boot after the reset");
    assert_eq!(shows("UnitFileState"), "enabled");
    sh(&format!(
        "systemctl daemon-reload; systemctl start {TARGET} {LIMITED}; systemctl start evenkeel"
    ));
    assert_eq!(shows("ActiveState"), "active");
    let leases = sh("evenkeel leases --output=json");
    assert!(!leases.contains("\"id\""), "{leases}");
    // Each lease has a line that closes it.
    let history = history();
    let closed = history.iter().filter(|(outcome, _)| outcome == "gone").count();
    assert_eq!(closed, 2, "{history:?}");
    assert_eq!((&*nice(), &*quota()), ("1", "200ms"));
    assert!(!unit::has_assignments(&format!("{LIMITED}.service")));

    // The alert fires on, and the next process and the unit get their leases and lose them again.
    send(&alert_at("2024-01-02T03:00:00Z"));
    eventually("both leases", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        (nice() == "6" && quota() == "400ms").then_some(())
    });
    package::resolve_installed("2024-01-02T03:00:00Z");
    recorded("restored", 2);
    assert_eq!((&*nice(), &*quota()), ("1", "200ms"));
    sh(&format!("systemctl stop {TARGET} {LIMITED}"));
    assert!(dpkg(&["--purge", "evenkeel"]).status.success());
}
