//! The process that runs commands and sends requests: when it exists, what it may do, and what its death means.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::daemon::{Daemon, Home};
use crate::support::payload::{envelope, firing};
use crate::support::process::child;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(60);
const CONFIG: &str = "rule_files: [rules/*.yml]\nallow_exec: true\nwebhook: {token_file: webhook.token}\n";

/// A rule for the alert `More` of any host.
fn rules(step: &str) -> String {
    format!("rules: [{{name: more, matchers: [alertname=More], any_host: true, actions: [{{exec: {step}}}]}}]\n")
}

fn start(home: &Home, step: &str) -> Daemon {
    home.write("rules/test.yml", &rules(step));
    home.write("evenkeel.yml", CONFIG);
    home.start(&["--enforce"])
}

fn fire(daemon: &Daemon) {
    let alerts = [firing(json!({"alertname": "More"}))];
    assert_eq!(daemon.post(envelope(&alerts).to_string().as_bytes()).status, 200);
}

fn runner(daemon: &Daemon) -> Option<u32> {
    child(child(daemon.pid(), "evenkeel-start")?, "evenkeel-runner")
}

pub fn is_gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// A line of a status file (proc_pid_status(5)).
pub fn line<'s>(status: &'s str, name: &str) -> &'s str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line of the status").trim()
}

#[test]
fn command_has_no_sandbox_and_the_daemon_has_one() {
    let home = Home::new("rules: []\n");
    let found = home.path().join("found");
    let daemon = start(
        &home,
        &format!(
            "[/bin/sh, -c, 'cat /proc/self/status >{0}.new; mv {0}.new {0}']",
            found.display()
        ),
    );
    fire(&daemon);
    let of_command = eventually("the command", TIMEOUT, || fs::read_to_string(&found).ok());
    let of_daemon = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("evenkeel runs");
    for (name, of_both) in [("NoNewPrivs:", ("1", "0")), ("Seccomp:", ("2", "0"))] {
        assert_eq!((line(&of_daemon, name), line(&of_command, name)), of_both, "{name}");
    }
    let own = fs::read_to_string("/proc/self/status").expect("this process runs");
    assert_eq!(line(&of_command, "CapEff:"), line(&own, "CapEff:"));
    assert_ne!(line(&of_daemon, "CapEff:"), line(&own, "CapEff:"));
    let log = daemon.log_of_start().join("\n");
    assert!(!log.contains("CAP_SYS_PTRACE"), "no rule selects processes:\n{log}");
    for (part, is_in_force) in [("actuator", 1.0), ("runner", 0.0)] {
        let labels = [("part", part), ("measure", "seccomp")];
        assert_eq!(daemon.metric("evenkeel_sandbox", &labels), is_in_force, "{part}");
    }
}

#[test]
fn runner_exists_where_a_rule_needs_it_and_ends_with_the_daemon() {
    let home = Home::new("rules: [{name: r, matchers: [alertname=Test], select: {name: none}, actions: [nice: 5]}]\n");
    let daemon = home.start(&[]);
    assert_eq!(child(daemon.pid(), "evenkeel-start"), None);
    drop(daemon);
    let mut daemon = start(&home, "[/bin/true]");
    let pids = eventually("the runner", TIMEOUT, || {
        Some([child(daemon.pid(), "evenkeel-start")?, runner(&daemon)?])
    });
    daemon.kill();
    eventually("the runner to end", TIMEOUT, || {
        pids.iter().all(|&pid| is_gone(pid)).then_some(())
    });
}

#[test]
fn job_of_a_killed_runner_is_in_doubt_and_undone() {
    let home = Home::new("rules: []\n");
    let folder = home.path().display();
    let daemon = start(
        &home,
        &format!("{{argv: [/bin/sh, -c, 'touch {folder}/begun; sleep 600'], undo: [/usr/bin/touch, {folder}/undone]}}"),
    );
    fire(&daemon);
    eventually("the command", TIMEOUT, || {
        home.path().join("begun").exists().then_some(())
    });
    let first = runner(&daemon).expect("a runner");
    let command = eventually("its process", TIMEOUT, || child(first, "sh"));
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).expect("our own process");
    let second = eventually("another runner", TIMEOUT, || {
        runner(&daemon).filter(|&pid| pid != first)
    });
    eventually("the command to be undone", TIMEOUT, || {
        home.path().join("undone").exists().then_some(())
    });
    eventually("the record", TIMEOUT, || {
        let row = ["failed", "the process that ran it ended; unknown whether it finished"];
        home.ledger_has_row_with(&row).then_some(())
    });
    assert_eq!(runner(&daemon), Some(second));
    // As after a crash of evenkeel, the command itself goes on.
    assert!(!is_gone(command));
    let _ = kill(Pid::from_raw(-command.cast_signed()), Signal::SIGKILL);
}

#[test]
fn first_command_of_a_reload_waits_for_the_next_start() {
    let home = Home::new("rules: []\n");
    home.write("evenkeel.yml", CONFIG);
    let daemon = home.start(&["--enforce"]);
    home.write("rules/test.yml", &rules("[/bin/true]"));
    daemon.reload();
    eventually("the warning", TIMEOUT, || {
        let said = "running commands and sending requests";
        daemon
            .log()
            .iter()
            .any(|line| line.contains(said) && line.contains("next start"))
            .then_some(())
    });
    fire(&daemon);
    eventually("the refusal", TIMEOUT, || (home.outcomes("failed") == 1).then_some(()));
    assert!(home.ledger_has_row_with(&["failed", "restart evenkeel"]));
}

#[test]
fn no_rule_kills_the_runner_and_the_frontend() {
    let home = Home::new("rules: []\n");
    // By number, because other daemons of this machine have processes of these names.
    let select = "{pid: '{{ $labels.pid }}', name: evenkeel-(start|runner|fstart|front)}";
    let kill = format!("{{name: kill, matchers: [alertname=Kill], select: {select}, actions: [signal: SIGKILL]}}");
    home.write("evenkeel.yml", CONFIG);
    home.write(
        "rules/test.yml",
        &rules("[/bin/true]").replacen("[{", &format!("[{kill}, {{"), 1),
    );
    let daemon = home.start(&["--enforce"]);
    let labels = [("rule", "kill"), ("decision", "protected")];
    for (count, starter, name) in [
        (1.0, "evenkeel-start", None),
        (2.0, "evenkeel-start", Some("evenkeel-runner")),
        (3.0, "evenkeel-fstart", None),
        (4.0, "evenkeel-fstart", Some("evenkeel-front")),
    ] {
        let pid = eventually("the process", TIMEOUT, || {
            let starter = child(daemon.pid(), starter)?;
            name.map_or(Some(starter), |name| child(starter, name))
        });
        let labels_of_alert = json!({"alertname": "Kill", "instance": node_name(), "pid": pid.to_string()});
        let mut alert = firing(labels_of_alert);
        // A process that is younger than the alert is no target.
        alert["startsAt"] = json!(jiff::Timestamp::now().to_string());
        alert["fingerprint"] = json!(format!("{pid:016x}"));
        assert_eq!(daemon.post(envelope(&[alert]).to_string().as_bytes()).status, 200);
        eventually("the refusal", TIMEOUT, || {
            (daemon.metric("evenkeel_decisions_total", &labels) >= count).then_some(())
        });
        assert!(!is_gone(pid), "{starter} {name:?}");
    }
}
