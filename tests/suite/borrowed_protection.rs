//! Attacks by a user of the host who wants the protection or the favour of another program. Each attack runs as
//! another user, so these tests need root.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evenkeel::act::guard::Protection;
use evenkeel::host::{Host, Thread};
use evenkeel::process::Process;

use crate::selection::{live_host, one_rule};
use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Runs the rest of a command line as a user that owns no files.
const AS_USER: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// A shell script, and all processes that it leaves behind in its process group.
struct Attack(Child);

impl Attack {
    fn start(script: &str) -> Attack {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command.args(["-ec", script]).stdin(Stdio::null()).process_group(0);
        Attack(command.spawn().expect("sh runs"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The process with these arguments, once it runs, with the fields that the guard needs.
fn await_process(cmdline: &str) -> Process {
    let mut host = live_host();
    let protection = Protection {
        own_ancestors: &BTreeSet::new(),
        protect: &[],
    };
    let needs = protection.needs() | evenkeel::process::ProcessFields::CMDLINE;
    eventually(cmdline, TIMEOUT, || {
        let table = host.processes().expect("a process table");
        table.into_iter().find_map(|mut process| {
            let is_read = host.read_details(&mut process, needs);
            (is_read && process.details.cmdline.as_deref() == Some(cmdline)).then_some(process)
        })
    })
}

/// The reason for which a rule must not touch a process.
fn protection_of(process: &Process) -> Option<String> {
    let protection = Protection {
        own_ancestors: &BTreeSet::new(),
        protect: &[],
    };
    let screened = protection.screen(&one_rule("{name: x}"), process);
    screened.err().map(|denial| denial.reason)
}

#[test]
fn mount_namespace_does_not_lend_a_protected_path() {
    let seconds = format!("{}", 2_000_000 + std::process::id());
    let path = "/usr/local/bin/prometheus";
    let _attack = Attack::start(&format!(
        "exec unshare --mount sh -ec 'mount -t tmpfs none /usr/local/bin; cp /usr/bin/sleep {path}; \
         exec {AS_USER} {path} {seconds}'"
    ));
    let impostor = await_process(&format!("{path} {seconds}"));
    assert_eq!(
        impostor.details.exe.as_deref(),
        Some(path),
        "its path is that of a protected program"
    );
    assert_eq!(protection_of(&impostor), None);
    check_warns_of(path, &seconds, impostor.identity.pid);
}

/// A program in a container looks to `check` as the impostor does.
fn check_warns_of(path: &str, seconds: &str, pid: i32) {
    let rule = "rules: [{name: r, matchers: [alertname=Test], select: {user: '65534'}, actions: [{nice: 10}]}]\n";
    let home = Home::new(rule);
    let warnings = |config: &str| {
        home.write("evenkeel.yml", &format!("rule_files: [rules/*.yml]\n{config}"));
        let output = home.evenkeel("check").output().expect("check runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let said = warnings("");
    assert!(said.contains(&format!("warning: `{path}` (pid ")), "{said}");
    assert!(said.contains("is not protected: it is no file of this host"), "{said}");
    let said = warnings(&format!("protect: [{{cmdline: '{path} {seconds}'}}]\n"));
    assert!(!said.contains(&format!("(pid {pid}")), "{said}");
}

#[test]
fn terminal_of_a_user_does_not_make_a_login() {
    let seconds = format!("{}", 3_000_000 + std::process::id());
    let _attack = Attack::start(&format!("exec {AS_USER} script -qc 'exec sleep {seconds}' /dev/null"));
    let impostor = await_process(&format!("sleep {seconds}"));
    assert!(
        impostor.session == impostor.identity.pid && impostor.has_terminal,
        "{impostor:?}"
    );
    assert_eq!(protection_of(&impostor), None);
}

/// The processes with these arguments, which contain no blanks.
fn running(cmdline: &str) -> Vec<Process> {
    let table = live_host().processes().expect("a process table");
    let arguments = cmdline.replace(' ', "\0") + "\0";
    let is_it = |process: &Process| {
        let found = std::fs::read_to_string(format!("/proc/{}/cmdline", process.identity.pid));
        found.is_ok_and(|found| found == arguments)
    };
    table.into_iter().filter(is_it).collect()
}

#[test]
fn program_from_a_mount_namespace_gets_no_favour() {
    let seconds = format!("{}", 4_000_000 + std::process::id());
    let path = "/usr/local/bin/render";
    let _attack = Attack::start(&format!(
        "exec unshare --mount sh -ec 'mount -t tmpfs none /usr/local/bin; cp /usr/bin/sleep {path}; \
         exec {AS_USER} {path} {seconds}'"
    ));
    let cmdline = format!("{path} {seconds}");
    let own = await_process(&cmdline).nice;
    let home = Home::new(&format!(
        "rules: [{{name: r, matchers: [alertname=Test], select: {{exe: {path}, cmdline: '{cmdline}'}}, \
         actions: [{{nice: -10}}]}}]\n"
    ));
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    let labels = [("rule", "r"), ("decision", "protected")];
    eventually("a refusal", TIMEOUT, || {
        (evenkeel.metric("evenkeel_decisions_total", &labels) == 1.0).then_some(())
    });
    let nice: Vec<i32> = running(&cmdline).into_iter().map(|process| process.nice).collect();
    assert_eq!(nice, [own]);
}

#[test]
fn descendants_get_no_nice_value_that_favours_them() {
    let seconds = format!("{}", 5_000_000 + std::process::id());
    // Each sleep(1) outlives its parent, which is below the shell that the rule favours.
    let script = format!("while :; do (sleep {seconds} &); sleep 0.2; done # {seconds}");
    let _attack = Attack::start(&format!("exec {AS_USER} sh -c '{script}'"));
    let shell = await_process(&format!("sh -c {script}"));
    let (id, own) = (shell.identity, shell.nice);
    let path = shell.details.exe.expect("a readable executable");
    let home = Home::new(&format!(
        "rules: [{{name: r, matchers: [alertname=Test], select: {{exe: {path}, cmdline: '.*# {seconds}'}}, \
         actions: [{{nice: -10}}]}}]\n"
    ));
    let evenkeel = home.start(&["--enforce"]);
    let shell_becomes = |what: &str, nice: i32| {
        eventually(what, TIMEOUT, || {
            (live_host().process(id.pid)?.nice == nice).then_some(())
        });
    };
    let all_have_their_own = || {
        let descendants = format!("sleep {seconds}");
        let before = running(&descendants).len();
        eventually("more descendants", TIMEOUT, || {
            (running(&descendants).len() > before + 2).then_some(())
        });
        let nice: BTreeSet<i32> = running(&descendants).into_iter().map(|process| process.nice).collect();
        assert_eq!(nice, BTreeSet::from([own]));
    };
    let alert = about("Test", &node_name());
    evenkeel.post(alert.as_bytes());
    shell_becomes("a favour", -10);
    all_have_their_own();
    evenkeel.post(resolved(&alert).as_bytes());
    shell_becomes("the end of the favour", own);
    all_have_their_own();
    let main = Thread {
        tid: id.pid,
        start_ticks: id.start_ticks,
    };
    let resets = live_host().resets_on_fork(id, main);
    assert!(resets.is_ok_and(|resets| !resets), "children inherit its values again");
}

fn resolved(alert: &str) -> String {
    let mut payload: serde_json::Value = serde_json::from_str(alert).expect("an alert");
    let alert = &mut payload["alerts"][0];
    alert["status"] = "resolved".into();
    alert["endsAt"] = jiff::Timestamp::now().to_string().into();
    payload.to_string()
}
