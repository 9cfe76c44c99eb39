//! Attacks by a user of the host: what a rule protects or favours cannot be borrowed. Each attack runs as another user.
//! These tests need root.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evenkeel::act::guard::Protection;
use evenkeel::host::Host;
use evenkeel::process::Process;

use crate::selection::{live_host, one_rule};
use crate::support::eventually;

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
