//! The collector `systemd` compared with systemctl.

use crate::support::daemon::Home;
use crate::support::eventually;
use crate::{TIMEOUT, sh};

#[test]
fn units_are_reported_as_systemctl_reports_them() {
    sh("systemd-run --unit=told --collect sleep 600");
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 1s, slow_interval: 1s}\nrule_files: [rules/*.yml]\n",
    );
    let evenkeel = home.start(&[
        "--collector.disable-defaults",
        "--collector.systemd",
        "--collector.systemd.enable-task-metrics",
        "--collector.systemd.enable-restarts-metrics",
        "--collector.systemd.enable-start-time-metrics",
    ]);
    let told = |state| {
        let labels = [("name", "told.service"), ("state", state), ("type", "simple")];
        evenkeel.metric("node_systemd_unit_state", &labels)
    };
    eventually("the unit to be told", TIMEOUT, || (told("active") == 1.0).then_some(()));
    assert_eq!(told("failed"), 0.0);
    let shown = |property: &str| -> f64 {
        let text = sh(&format!("systemctl show --property={property} --value told.service"));
        text.trim().parse().expect("a number")
    };
    let name = [("name", "told.service")];
    assert_eq!(
        evenkeel.metric("node_systemd_unit_tasks_current", &name),
        shown("TasksCurrent")
    );
    assert_eq!(
        evenkeel.metric("node_systemd_service_restart_total", &name),
        shown("NRestarts")
    );
    let started = evenkeel.metric("node_systemd_unit_start_time_seconds", &name);
    assert!(started > 1e9, "{started}");
    let version = sh("systemctl --version | head -n 1 | cut -d' ' -f2");
    let number = evenkeel.metric("node_systemd_version", &[]);
    assert_eq!(number.trunc().to_string(), version.trim());
    sh("systemctl stop told.service");
    eventually("the unit to be gone", TIMEOUT, || (told("active") == 0.0).then_some(()));
}
