//! Runs of the daemon without single capabilities: it refuses steps that it could not revert or that other users'
//! processes would deny, and names the missing capability. These tests need root.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::faults::{alert, post, resolved};
use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
/// The uid of a user that owns no files.
const OTHER_USER: &str = "65534";

/// A sleeping process of root or of another user.
struct Sleeper(Child);

impl Sleeper {
    fn start(seconds: &str, is_own: bool) -> Sleeper {
        let mut command = Command::new(if is_own { "sleep" } else { "setpriv" });
        if !is_own {
            let [user, group] = ["reuid", "regid"].map(|id| format!("--{id}={OTHER_USER}"));
            command.args([&user, &group, "--clear-groups", "--", "sleep"]);
        }
        let child = command.arg(seconds).stdin(Stdio::null()).spawn().expect("a process");
        let sleeper = Sleeper(child);
        eventually("the sleeper to sleep", TIMEOUT, || {
            sleeper.read("cmdline").starts_with("sleep\0").then_some(())
        });
        sleeper
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap_or_default()
    }

    fn is_stopped(&self) -> bool {
        self.read("stat").contains(") T ")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The process may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rule(select: &str, step: &str) -> String {
    format!("rules: [{{name: r, matchers: [alertname=Test], select: {{{select}}}, limit: 2, actions: [{step}]}}]\n")
}

#[test]
fn check_names_the_capability_that_a_step_lacks() {
    let _other = Sleeper::start("600", false);
    let check = |step: &str, without: Option<&str>| {
        let home = Home::new(&rule("name: sleep", step));
        let output = home.without(without, &home.evenkeel("check")).output();
        let output = output.expect("check runs");
        // Removes the line breaks of the terminal output.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (step, capability, expected) in [
        ("nice: 5", "sys_nice", "nice cannot be reverted without CAP_SYS_NICE"),
        (
            "sched: batch",
            "sys_nice",
            "sched cannot be reverted without CAP_SYS_NICE",
        ),
        (
            "oom_score_adj: 500",
            "sys_resource",
            "oom_score_adj cannot be reverted without CAP_SYS_RESOURCE",
        ),
        ("signal: SIGTERM", "kill", "without CAP_KILL: `signal SIGTERM`"),
        ("freeze: true", "kill", "without CAP_KILL: `freeze true`"),
        ("affinity: all", "sys_nice", "without CAP_SYS_NICE: `affinity all`"),
        ("ionice: idle", "sys_nice", "without CAP_SYS_NICE: `ionice idle`"),
        (
            "oom_score_adj: 500",
            "dac_override",
            "without CAP_DAC_OVERRIDE: `oom_score_adj 500`",
        ),
        ("nice: 5", "sys_ptrace", "without CAP_SYS_PTRACE: identifying them"),
    ] {
        let said = check(step, Some(capability));
        assert!(said.contains(expected), "{step} without {capability}: {said}");
    }
    for step in ["nice: 5", "freeze: true", "affinity: all", "signal: SIGTERM"] {
        let said = check(step, None);
        assert!(!said.contains("CAP_"), "{step} with all: {said}");
    }
}

#[test]
fn processes_of_others_are_refused_and_own_ones_are_not() {
    let seconds = format!("{}", 1_000_000 + std::process::id());
    let [own, other] = [true, false].map(|is_own| Sleeper::start(&seconds, is_own));
    let home = Home::new(&rule(&format!("cmdline: sleep {seconds}"), "freeze: true"));
    let evenkeel = home.start_without("kill", &["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the own process to be stopped", TIMEOUT, || {
        own.is_stopped().then_some(())
    });
    let refused = evenkeel.metric("evenkeel_decisions_total", &[("rule", "r"), ("decision", "privilege")]);
    assert_eq!((refused, other.is_stopped()), (1.0, false));
    evenkeel.log_with("CAP_KILL");
}

/// An ordinary user's evenkeel where `/proc` hides the processes of others.
#[test]
fn hidden_processes_are_left_alone_and_own_ones_get_what_can_be_reverted() {
    let seconds = format!("{}", 2_000_000 + std::process::id());
    let [hidden, own] = [true, false].map(|is_roots| Sleeper::start(&seconds, is_roots));
    let home = Home::new(&rule(&format!("cmdline: sleep {seconds}"), "nice: 5, freeze: true"));
    let folder = home.path().to_str().expect("a path in UTF-8").to_owned();
    let program = format!("{folder}/evenkeel");
    std::fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &program).expect("a copy of the program");
    // The mount is private to these commands.
    let mut command = Command::new("unshare");
    let script = "chown -R 65534:65534 \"$1\" && program=$1/evenkeel && shift 2 && \
        mount -t proc -o hidepid=2 proc /proc && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$program\" \"$@\"";
    command.args(["--mount", "--", "sh", "-c", script, "sh", &folder]);
    let evenkeel = home.start_by(command, &["--enforce"]);
    let log = evenkeel.log_with("hidepid=").join("\n");
    assert!(log.contains("processes of other users cannot be seen"), "{log}");

    assert_eq!(post(&evenkeel, &[alert()]), 200);
    eventually("the own process to be stopped", TIMEOUT, || {
        own.is_stopped().then_some(())
    });
    evenkeel.wait_for_leases(1);
    let decisions = |decision| evenkeel.metric("evenkeel_decisions_total", &[("rule", "r"), ("decision", decision)]);
    assert_eq!(decisions("privilege"), 1.0, "nice could not be reverted");
    let nice = |sleeper: &Sleeper| sleeper.read("stat").split(' ').nth(18).map(str::to_owned);
    assert_eq!(
        (nice(&own).as_deref(), nice(&hidden).as_deref()),
        (Some("0"), Some("0"))
    );
    assert!(!hidden.is_stopped());
    assert_eq!(post(&evenkeel, &[resolved(alert())]), 200);
    eventually("the own process to run again", TIMEOUT, || {
        (!own.is_stopped()).then_some(())
    });
    evenkeel.wait_for_leases(0);
}
