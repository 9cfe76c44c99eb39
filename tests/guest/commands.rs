//! Commands under the shipped unit: what its sandbox forbids, what the shipped drop-in allows, and a reload that fails.

use super::*;
use std::path::Path;
use std::process::Command;

const UNIT: &str = "/etc/systemd/system/evenkeel.service";
const DROP_INS: &str = "/etc/systemd/system/evenkeel.service.d";
const STORAGE: &str = "/var/lib/evenkeel";

/// The shipped unit with this tree's program, and a configuration with one rule that runs a command.
struct ShippedUnit;

impl ShippedUnit {
    fn start(argv: &str, drop_in: Option<&str>) -> ShippedUnit {
        let program = env!("CARGO_BIN_EXE_evenkeel");
        let shipped = include_str!("../../packaging/evenkeel.service").replace("/usr/bin/evenkeel", program);
        for folder in ["/etc/evenkeel/rules", DROP_INS, "/var/log/journal"] {
            std::fs::create_dir_all(folder).expect("a writable guest");
        }
        write(UNIT, &shipped);
        if let Some(text) = drop_in {
            write(&format!("{DROP_INS}/shipped.conf"), text);
        }
        write(
            "/etc/evenkeel/evenkeel.yml",
            "mode: enforce\nallow_exec: true\nrule_files: [rules/*.yml]\nwebhook: {allow_unauthenticated: true}\n",
        );
        write(
            "/etc/evenkeel/rules/test.yml",
            &format!("rules: [{{name: test, matchers: ['alertname=\"Test\"'], actions: [{{exec: {argv}}}]}}]\n"),
        );
        sh("systemctl daemon-reload; systemctl start evenkeel");
        let unit = ShippedUnit;
        eventually("evenkeel to serve", TIMEOUT, || unit.history().map(drop));
        unit
    }

    fn history(&self) -> Option<String> {
        let mut history = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        history.args(["history", "--output=json", &format!("--storage.path={STORAGE}")]);
        let output = history.output().expect("it runs");
        let is_there = output.status.success() && Path::new(STORAGE).join("control.sock").exists();
        is_there.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The record of the command's end, after an alert.
    fn end_of_command(&self) -> String {
        let address = "127.0.0.1:19798".parse().expect("an address");
        let headers = [("Content-Type", "application/json")];
        let alert = alert_at("2024-01-02T03:00:00Z");
        let answer = support::http::request(address, "POST", "/webhook", &headers, alert.as_bytes());
        assert_eq!(answer.expect("evenkeel answers").status, 200);
        eventually("the end of the command", TIMEOUT, || {
            std::thread::sleep(PAUSE);
            let history = self.history()?;
            let ended =
                |line: &&str| line.contains("\"outcome\":\"applied\"") || line.contains("\"outcome\":\"failed\"");
            history.lines().find(ended).map(str::to_owned)
        })
    }
}

impl Drop for ShippedUnit {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", "evenkeel"]).status();
        for folder in [DROP_INS, STORAGE, "/etc/evenkeel"] {
            let _ = std::fs::remove_dir_all(folder);
        }
        let _ = std::fs::remove_file(UNIT);
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

fn write(path: &str, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

#[test]
fn journal_is_writable_with_its_drop_in_only() {
    let touch = "[/bin/touch, /var/log/journal/evenkeel-probe]";
    let ended = ShippedUnit::start(touch, None).end_of_command();
    assert!(ended.contains("\"failed\"") && ended.contains("Read-only"), "{ended}");
    let drop_in = include_str!("../../packaging/drop-ins/journal-vacuum.conf");
    let ended = ShippedUnit::start(touch, Some(drop_in)).end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
    assert!(Path::new("/var/log/journal/evenkeel-probe").exists());
}

#[test]
fn systemctl_restarts_a_unit() {
    let service = unit::Service::start("restarted", "");
    let restart = format!("[/bin/systemctl, restart, {}]", service.name);
    let main_pid = || service.shows("MainPID");
    let before = main_pid();
    let ended = ShippedUnit::start(&restart, None).end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
    assert_ne!(main_pid(), before);
}

#[test]
fn systemctl_reload_fails_where_the_configuration_is_refused() {
    let _unit = ShippedUnit::start("[/bin/true]", None);
    sh("systemctl reload evenkeel");
    write("/etc/evenkeel/rules/test.yml", "rules: [{nam: x}]\n");
    let reload = Command::new("systemctl").args(["reload", "evenkeel"]).status();
    assert!(!reload.expect("systemctl runs").success());
}
