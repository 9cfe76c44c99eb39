//! The Debian package on the guest: installation, actions by a real alert, upgrade, removal and purge, each with a lease
//! held.

use super::shipped_unit::{get, history, metric, recorded, scrape_text, send, shows, write};
use super::target::Target;
use super::*;
use std::path::Path;
use std::process::{Command, Output};

pub const PACKAGE: &str = "/usr/lib/evenkeel-guest/evenkeel.deb";
/// The same with a higher version.
const NEXT: &str = "/usr/lib/evenkeel-guest/next.deb";
/// Tells the guest to reset the machine.
pub const REBOOT: &str = "/var/lib/evenkeel-reboot";
const DROP_INS: &str = "/etc/systemd/system/evenkeel.service.d";

const RULES: &str = "rules:\n\
    \x20 - name: test\n\
    \x20   matchers: ['alertname=\"Test\"']\n\
    \x20   select: {cmdline: 'sleep 7301', user: tenant}\n\
    \x20   actions: [{nice: 6}]\n\
    \x20 - name: limit\n\
    \x20   matchers: ['alertname=\"Test\"']\n\
    \x20   select: {unit: 'packaged\\.service'}\n\
    \x20   actions: [{cgroup: {cpu.max: +100%}}]\n\
    \x20 - name: calm-tenant\n\
    \x20   matchers: [alertname=TenantBusy]\n\
    \x20   select: {cmdline: 'bash -c while .*', user: tenant}\n\
    \x20   actions: [{nice: 4}]\n\
    \x20 - name: limit-unit\n\
    \x20   matchers: [alertname=TenantBusy]\n\
    \x20   select: {unit: 'packaged\\.service'}\n\
    \x20   actions: [{cgroup: {cpu.max: -50%}}]\n";

/// An alert that evenkeel evaluates itself.
const ALERTING: &str = "groups: [{name: own, rules: [{alert: TenantBusy, for: 3s, \
    expr: 'sum(rate(evenkeel_group_cpu_seconds_total{group=\"tenant\"}[30s])) > 0.2'}]}]\n";
const ALERTING_CONFIG: &str = "sampling: {slow_interval: 2s}\nalerting_rule_files: [alerting/own.rules.yml]\n\
    process_groups: [{name: tenant, select: {user: tenant}}]\n";

pub fn dpkg(arguments: &[&str]) -> Output {
    let output = Command::new("dpkg").args(arguments).output().expect("dpkg runs");
    println!("dpkg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn installs(arguments: &[&str]) {
    let output = dpkg(arguments);
    assert!(output.status.success(), "{output:?}");
}

/// Purges the package however the test ends.
pub struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = Command::new("dpkg")
            .args(["--purge", "--force-all", "evenkeel"])
            .output();
    }
}

/// Fires the alert, until the process and the unit have their leases.
fn hold(target: &Target, service: &unit::Service, starts_at: &str) {
    send(&alert_at(starts_at));
    eventually("both leases", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        is_held(target, 6, service, "400ms").then_some(())
    });
}

fn is_held(target: &Target, nice: i32, service: &unit::Service, quota: &str) -> bool {
    target.nice() == nice && service.shows("CPUQuotaPerSecUSec") == quota
}

/// Reloads the daemon, which must still hold two leases when the command returns, and has reverted `reverted` before.
fn reload_keeps(reverted: usize) {
    sh("systemctl reload evenkeel");
    assert_eq!(metric("evenkeel_leases", &[]), 2.0);
    let history = history();
    let restored = history.iter().filter(|(outcome, _)| outcome == "restored");
    assert_eq!(restored.count(), reverted, "{history:?}");
}

/// Lets a process of `tenant` use a processor until evenkeel's own alert has led to two leases, and lets it rest until
/// they are reverted.
fn answer_to_a_busy_process(service: &unit::Service) {
    let busy = Target::start("bash", &["-c", "while :; do :; done"]);
    eventually("the answer to the busy process", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        is_held(&busy, 4, service, "100ms").then_some(())
    });
    reload_keeps(0);
    assert!(is_held(&busy, 4, service, "100ms"));
    sh(&format!("kill -STOP {}", busy.pid()));
    recorded("restored", 2);
    assert_restored(&busy, service);
}

fn assert_restored(target: &Target, service: &unit::Service) {
    assert_eq!(target.nice(), 0);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "200ms");
    assert!(!service.has_assignments());
}

/// Makes the installed daemon apply rules of the administrator, by a drop-in, with more lines of the configuration.
pub fn enforce(rules: &str, config: &str) {
    std::fs::create_dir_all(DROP_INS).expect("a writable guest");
    write(
        &format!("{DROP_INS}/cgroup-rules.conf"),
        include_str!("../../packaging/drop-ins/cgroup-rules.conf"),
    );
    let start = sh("grep ^ExecStart= /usr/lib/systemd/system/evenkeel.service");
    write(
        &format!("{DROP_INS}/enforce.conf"),
        &format!("[Service]\nExecStart=\n{} --enforce\n", start.trim()),
    );
    write(
        "/etc/evenkeel/evenkeel.yml",
        &format!("rule_files: [rules/*.yml]\nwebhook: {{allow_unauthenticated: true}}\n{config}"),
    );
    write("/etc/evenkeel/rules/own.yml", rules);
    sh("systemctl daemon-reload; systemctl restart evenkeel");
}

#[test]
fn package_is_installed_upgraded_removed_and_purged() {
    let service = unit::Service::start("packaged", "CPUQuota=20%");
    let target = Target::start("sleep", &["7301"]);
    let _installed = Installed;
    installs(&["-i", PACKAGE]);

    // It runs in dry-run and samples.
    assert_eq!(shows("ActiveState"), "active");
    assert_eq!(shows("UnitFileState"), "enabled");
    assert!(shows("StatusText").starts_with("dry-run: "), "{}", shows("StatusText"));
    let scrape = scrape_text();
    assert!(scrape.contains("node_memory_MemAvailable_bytes"), "{scrape}");
    for file in [
        "/etc/evenkeel/rules/free-memory.yml",
        "/etc/evenkeel/alerting/host.rules.yml",
    ] {
        assert!(Path::new(file).exists(), "{file}");
    }
    sh("evenkeel check --config.file=/etc/evenkeel/evenkeel.yml; getent passwd evenkeel");

    // Enforced by a drop-in, with a rule of the administrator, whose change of a conffile stays.
    write("/etc/evenkeel/alerting/own.rules.yml", ALERTING);
    enforce(RULES, ALERTING_CONFIG);
    answer_to_a_busy_process(&service);
    hold(&target, &service, "2024-01-02T03:00:00Z");
    reload_keeps(2);
    assert!(is_held(&target, 6, &service, "400ms"));

    // An upgrade keeps the leases and refuses no connection.
    let pid = shows("MainPID");
    installs(&["-i", "--force-confold", NEXT]);
    assert_ne!(shows("MainPID"), pid);
    assert_eq!(get("/-/healthy").expect("an answer"), 200);
    assert!(is_held(&target, 6, &service, "400ms"));
    let config = std::fs::read_to_string("/etc/evenkeel/evenkeel.yml").expect("a conffile");
    assert!(config.contains("allow_unauthenticated"), "{config}");
    resolve_installed("2024-01-02T03:00:00Z");
    recorded("restored", 4);
    assert_restored(&target, &service);

    // A removal restores everything, also where other exits keep it, and an installation afterwards starts evenkeel.
    write("/etc/evenkeel/evenkeel.yml", &format!("on_exit: keep\n{config}"));
    sh("systemctl reload evenkeel");
    hold(&target, &service, "2024-01-02T04:00:00Z");
    installs(&["-r", "evenkeel"]);
    assert_restored(&target, &service);
    assert!(get("/-/healthy").is_err(), "its sockets are closed");
    assert!(Path::new("/etc/evenkeel/rules/own.yml").exists());
    installs(&["-i", NEXT]);
    assert_eq!(shows("ActiveState"), "active");

    // Targets that were released by hand stay alone until their alert is over.
    resolve_installed("2024-01-02T04:00:00Z");

    // A purge restores as well, and leaves nothing.
    hold(&target, &service, "2024-01-02T05:00:00Z");
    installs(&["--purge", "evenkeel"]);
    assert_restored(&target, &service);
    let left = sh(
        "find / -xdev -path '/proc' -prune -o -name '*evenkeel*' -print | grep -v -e evenkeel-guest -e ^/sys -e ^/run/systemd || true",
    );
    let left: Vec<&str> = left
        .lines()
        .filter(|path| !path.contains("/target/") && !path.starts_with("/tmp") && !path.starts_with("/var/tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    sh("! getent passwd evenkeel");
}

pub fn resolve_installed(starts_at: &str) {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    (alert["status"], alert["startsAt"]) = (json!("resolved"), json!(starts_at));
    alert["endsAt"] = json!(starts_at.replace(":00:00Z", ":30:00Z"));
    send(&envelope(&[alert]).to_string());
}
