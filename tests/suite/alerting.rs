//! What ships for Prometheus and Alertmanager is accepted by their own tools, and the alerts fire when they should.

use std::path::Path;
use std::process::Command;

use crate::support::tools::{succeed, tool};

/// Runs a tool in `alerting/`, where the files name each other by relative paths.
#[track_caller]
fn check(name: &str, arguments: &[&str]) {
    let mut command: Command = tool(name);
    succeed(
        command
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("alerting")),
    );
}

#[test]
fn promtool_accepts_the_alerting_rules() {
    check("promtool", &["check", "rules", "--lint-fatal", "host.rules.yml"]);
}

#[test]
fn alerting_rules_fire_when_they_should() {
    check("promtool", &["test", "rules", "host.rules.test.yml"]);
}

#[test]
fn promtool_accepts_the_prometheus_configuration() {
    check("promtool", &["check", "config", "prometheus.yml"]);
}

#[test]
fn amtool_accepts_the_alertmanager_configuration() {
    check("amtool", &["check-config", "alertmanager.yml"]);
}
