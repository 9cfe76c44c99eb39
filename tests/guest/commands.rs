//! Commands under the shipped unit: what its sandbox forbids, what the shipped drop-ins allow, and a reload that fails.

use super::shipped_unit::{RULES, ShippedUnit, history, send, write};
use super::*;
use std::path::Path;
use std::process::Command;

/// The record of the command's end, after an alert.
fn end_of_command() -> String {
    send(&alert_at("2024-01-02T03:00:00Z"));
    eventually("the end of the command", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        let mut history = history().into_iter();
        let ended = history.find(|(outcome, _)| outcome == "applied" || outcome == "failed");
        ended.map(|(_, line)| line)
    })
}

#[test]
fn journal_is_vacuumed_with_its_drop_in_only() {
    // A file of an earlier boot, which a journal keeps until it is vacuumed.
    let old = "/var/log/journal/d57ff1ef8e3d47c9b8b4d2b1f5a1c0de/system@0123456789abcdef0123456789abcdef-0000000000000001-0005f00000000000.journal";
    let vacuum = "[/bin/journalctl, --vacuum-time=1s, --directory=/var/log/journal]";
    let touch = "[/bin/touch, /var/log/journal/evenkeel-probe]";
    let _without = ShippedUnit::start_with_command(touch, &[]);
    let ended = end_of_command();
    assert!(ended.contains("\"failed\"") && ended.contains("Read-only"), "{ended}");
    drop(_without);
    let drop_in = include_str!("../../packaging/drop-ins/journal-vacuum.conf");
    let _with = ShippedUnit::start_with_command(vacuum, &[drop_in]);
    std::fs::create_dir_all(Path::new(old).parent().expect("a folder")).expect("a writable guest");
    write(old, "");
    let ended = end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
    assert!(!Path::new(old).exists(), "{ended}");
}

#[test]
fn systemctl_restarts_a_unit_without_a_drop_in() {
    let service = unit::Service::start("restarted", "");
    let restart = format!("[/bin/systemctl, restart, {}]", service.name);
    let main_pid = || service.shows("MainPID");
    let before = main_pid();
    let _unit = ShippedUnit::start_with_command(&restart, &[]);
    let ended = end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
    assert_ne!(main_pid(), before);
}

#[test]
fn network_is_open_with_its_drop_in_only() {
    let connect = "[/bin/bash, -c, 'exec 3<>/dev/tcp/127.0.0.1/19797']";
    let unit = ShippedUnit::start_with_command(connect, &[]);
    let ended = end_of_command();
    assert!(ended.contains("\"failed\""), "{ended}");
    drop(unit);
    let drop_in = include_str!("../../packaging/drop-ins/outgoing-requests.conf");
    let _unit = ShippedUnit::start_with_command(connect, &[drop_in]);
    let ended = end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
}

#[test]
fn command_of_another_user_needs_its_drop_in() {
    let command = "{argv: [/usr/bin/id, -u], user: tenant}";
    let unit = ShippedUnit::start_with_command(command, &[]);
    let ended = end_of_command();
    assert!(ended.contains("\"failed\""), "{ended}");
    drop(unit);
    let drop_in = include_str!("../../packaging/drop-ins/commands-of-users.conf");
    let _unit = ShippedUnit::start_with_command(command, &[drop_in]);
    let ended = end_of_command();
    assert!(ended.contains("\"applied\""), "{ended}");
}

#[test]
fn systemctl_reload_fails_where_the_configuration_is_refused() {
    let _unit = ShippedUnit::start_with_command("[/bin/true]", &[]);
    sh("systemctl reload evenkeel");
    write(RULES, "rules: [{nam: x}]\n");
    let reload = Command::new("systemctl").args(["reload", "evenkeel"]).status();
    assert!(!reload.expect("systemctl runs").success());
}
