//! The sandbox of the running daemon, as the kernel reports it (proc_pid_status(5)). These tests need root, and a kernel
//! with seccomp and landlock.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::metrics::Scrape;
use crate::support::payload::about;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
const MEASURES: [&str; 4] = ["capabilities", "landlock", "no_new_privs", "seccomp"];

/// What the kernel says about a thread.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Status {
    effective: u64,
    has_no_new_privs: bool,
    has_filter: bool,
}

impl Status {
    fn parse(text: &str) -> Status {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = |name| value(name).expect("a line of the status").trim();
        Status {
            effective: u64::from_str_radix(value("CapEff"), 16).expect("a number"),
            has_no_new_privs: value("NoNewPrivs") == "1",
            has_filter: value("Seccomp") == "2",
        }
    }

    fn has(&self, capability: CapabilitySet) -> bool {
        self.effective & capability.bits() != 0
    }
}

/// The status of all threads, which must be the same.
fn status(daemon: &Daemon) -> Status {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("evenkeel runs");
    let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let found: BTreeSet<Status> = texts.map(|text| Status::parse(&text)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("a thread")
}

fn measures(daemon: &Daemon) -> Vec<&'static str> {
    let is_in_force =
        |measure: &&str| daemon.metric("evenkeel_sandbox", &[("part", "actuator"), ("measure", measure)]) > 0.0;
    MEASURES.into_iter().filter(is_in_force).collect()
}

/// The line of the start about the sandbox.
fn line(daemon: &Daemon) -> String {
    let is_it = |line: &String| line.contains("msg=sandbox");
    eventually("the line about the sandbox", TIMEOUT, || {
        daemon.log().into_iter().find(is_it)
    })
}

fn rule(select: &str, step: &str) -> String {
    format!("rules: [{{name: r, matchers: [alertname=Test], {select}actions: [{step}]}}]\n")
}

#[test]
fn daemon_without_rules_keeps_what_reading_takes() {
    let evenkeel = Home::new("rules: []\n").start(&["--no-self-protection"]);
    let status = status(&evenkeel);
    assert_eq!(status.effective, CapabilitySet::DAC_READ_SEARCH.bits());
    assert!(status.has_no_new_privs && status.has_filter, "{status:?}");
    assert_eq!(measures(&evenkeel), MEASURES);
    let line = line(&evenkeel);
    assert!(
        line.contains("capabilities=CAP_DAC_READ_SEARCH") && line.contains("missing=\"\""),
        "{line}"
    );
}

#[test]
fn performance_counters_outlive_the_sandbox() {
    let home = Home::new("rules: []\n");
    let daemon = home.start(&[
        "--collector.perf",
        "--collector.perf.disable-hardware-profilers",
        "--collector.perf.disable-cache-profilers",
    ]);
    assert!(measures(&daemon).contains(&"seccomp"));
    assert!(!status(&daemon).has(CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN));
    for name in ["node_perf_context_switches_total", "node_perf_page_faults_total"] {
        let sum = || {
            Scrape::parse(&daemon.scrape_text())
                .sum(name, &[])
                .expect("a software counter")
        };
        let before = sum();
        eventually("more events", TIMEOUT, || {
            // New pages of this process are page faults.
            std::hint::black_box(vec![1_u8; 1 << 20]);
            (sum() > before).then_some(())
        });
    }
}

#[test]
fn steps_keep_the_capabilities_that_they_take() {
    let kept = |select: &str, step: &str| {
        let home = Home::new(&rule(&format!("select: {{{select}}}, "), step));
        let evenkeel = home.start(&["--no-self-protection"]);
        let expected = ["capabilities", "no_new_privs", "seccomp"];
        assert_eq!(measures(&evenkeel), expected, "{step}");
        assert!(line(&evenkeel).contains("landlock: it would hide"), "{step}");
        status(&evenkeel)
    };
    let nice = kept("name: none", "nice: 5");
    assert!(nice.has(CapabilitySet::SYS_NICE) && nice.has(CapabilitySet::SYS_PTRACE));
    assert!(!nice.has(CapabilitySet::KILL) && !nice.has(CapabilitySet::SYS_ADMIN));
    let signal = kept("name: none", "signal: SIGTERM");
    assert!(signal.has(CapabilitySet::KILL) && !signal.has(CapabilitySet::SYS_NICE));
    let limit = kept("cgroup: /none", "cgroup: {cpu.weight: 50}");
    assert!(limit.has(CapabilitySet::SYS_ADMIN) && limit.has(CapabilitySet::DAC_OVERRIDE));
}

#[test]
fn daemon_of_another_user_has_its_sandbox() {
    let home = Home::new("rules: []\n");
    let folder = home.path().to_str().expect("a path in UTF-8").to_owned();
    let program = format!("{folder}/evenkeel");
    fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &program).expect("a copy of the program");
    let mut command = Command::new("sh");
    // The tests' own folder may be closed to other users.
    let script = "chown -R 65534:65534 \"$1\" && program=$1/evenkeel && shift 2 && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$program\" \"$@\"";
    command.args(["-c", script, "sh", &folder]);
    let evenkeel = home.start_by(command, &[]);
    let status = status(&evenkeel);
    assert_eq!(status.effective, 0);
    assert!(status.has_no_new_privs && status.has_filter, "{status:?}");
    assert_eq!(measures(&evenkeel), MEASURES);
    assert!(evenkeel.metric("node_load1", &[]) >= 0.0);
}

#[test]
fn sandbox_can_be_switched_off() {
    let evenkeel = Home::new("rules: []\n").start(&["--no-sandbox"]);
    let status = status(&evenkeel);
    assert!(!status.has_no_new_privs && !status.has_filter, "{status:?}");
    assert!(status.has(CapabilitySet::SYS_CHROOT));
    assert_eq!(measures(&evenkeel), [""; 0]);
    assert!(line(&evenkeel).contains("seccomp: --no-sandbox"));
}

#[test]
fn lease_of_a_former_run_keeps_what_its_revert_takes() {
    let name = format!("sbx-{}", std::process::id());
    let burner = Burner::start(&name);
    let before = burner.nice_values();
    let home = Home::new(&rule(&format!("select: {{name: {name}}}, "), "nice: 7"));
    let mut evenkeel = home.start(&["--enforce", "--no-self-protection"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the step to be applied", TIMEOUT, || burner.is_at(7).then_some(()));
    evenkeel.wait_for_leases(1);
    evenkeel.kill();
    home.write("rules/test.yml", "rules: []\n");
    let evenkeel = home.start(&["--enforce", "--no-self-protection"]);
    eventually("the lease to be reverted", TIMEOUT, || {
        (burner.nice_values() == before).then_some(())
    });
    assert!(status(&evenkeel).has(CapabilitySet::SYS_NICE));
}

#[test]
fn reload_says_what_takes_effect_at_the_next_start() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&["--no-self-protection"]);
    home.write("rules/test.yml", &rule("select: {name: none}, ", "nice: 5"));
    evenkeel.reload();
    let warning = eventually("the warning", TIMEOUT, || {
        let said = "denies what the config needs, it takes effect at the next start";
        evenkeel.log().into_iter().find(|line| line.contains(said))
    });
    for denied in ["CAP_SYS_NICE", "CAP_SYS_PTRACE", "reading the executables of processes"] {
        assert!(warning.contains(denied), "{warning}");
    }
    assert_eq!(evenkeel.metric("evenkeel_config_last_reload_successful", &[]), 1.0);
}
