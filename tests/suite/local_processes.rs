//! Attacks by an unprivileged user of the host, who runs processes that try to escape the rules. They are real
//! processes of another user, so these tests need root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use evenkeel::act::guard::Protection;
use evenkeel::engine::select::{Selection, select, still_holds};
use evenkeel::host::{Host, LinuxHost};
use evenkeel::process::table::Procfs;
use evenkeel::process::{Process, Unread};
use evenkeel::rule::Rule;

use crate::selection::one_rule;
use crate::support::daemon::Home;
use crate::support::fuse::Swallower;
use crate::support::payload::about;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Uids of users without an account on the host. Each attack has its own, because users share what they may use.
const RENAMING: &str = "61020";
const EXECUTING: &str = "61021";
const CROWDED: &str = "61022";
const BYSTANDER: &str = "61023";
const LEADERLESS: &str = "61024";
const DECOYS: &str = "61025";
const DECOYED: &str = "61026";
const LOOKING: &str = "61027";

/// The processes of an attack: a process group, which is killed at the end.
struct Attack(Child);

impl Attack {
    /// Starts a program of a user, and waits until it runs.
    fn start(user: &str, program: &str, args: &[&str]) -> Attack {
        let attack = Attack::spawn(user, program, args);
        let word = args.last().expect("an argument");
        eventually("the attack to begin", TIMEOUT, || {
            let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", attack.pid())).ok()?;
            (!cmdline.starts_with("setpriv") && cmdline.contains(word)).then_some(())
        });
        attack
    }

    fn spawn(user: &str, program: &str, args: &[&str]) -> Attack {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), "--clear-groups", "--", program]);
        command.args(args).stdin(Stdio::null()).process_group(0);
        Attack(command.spawn().expect("setpriv runs"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid fits")
    }

    fn nice(&self) -> Option<i32> {
        live_host().process(self.pid()).map(|process| process.nice)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.pid());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn live_host() -> LinuxHost {
    LinuxHost::new(Procfs::open(Path::new("/proc")).expect("a procfs"), Arc::new(|_| ()))
}

fn select_from(host: &mut LinuxHost, table: &[Process], rule: &Rule) -> Selection {
    let own_ancestors = host.own_ancestors();
    let protection = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    select(host, table, rule, rule.selector().expect("a selector"), &protection)
}

fn is_taken(host: &mut LinuxHost, found: &Process, rule: &Rule) -> bool {
    let own_ancestors = host.own_ancestors();
    let protection = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    still_holds(host, found, rule, rule.selector().expect("a selector"), &protection).is_ok()
}

const RENAME_ALL_THE_TIME: &str = "while :; do echo a >/proc/$$/comm; echo b >/proc/$$/comm; done";

#[test]
fn process_that_renames_itself_escapes_no_rule() {
    let attack = Attack::start(RENAMING, "sh", &["-c", RENAME_ALL_THE_TIME, "renaming"]);
    let rule = one_rule(&format!("{{user: '{RENAMING}', exe: '/.*'}}"));
    let mut host = live_host();
    for _ in 0..200 {
        let table = [host.process(attack.pid()).expect("it runs")];
        let found = select_from(&mut host, &table, &rule).matches;
        assert_eq!(found.len(), 1);
        assert!(is_taken(&mut host, &found[0], &rule));
    }
    let home = Home::new(&format!(
        "rules: [{{name: r, matchers: [alertname=Test], select: {{user: '{RENAMING}', cmdline: '(?s:.*) renaming'}}, \
         actions: [{{nice: 11}}]}}]\n"
    ));
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the nice value", TIMEOUT, || (attack.nice() == Some(11)).then_some(()));
}

#[test]
fn process_that_execs_all_the_time_is_taken_or_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mode = |name: &str| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path().join(name), mode).expect("our own file");
    };
    mode(".");
    for name in ["evk-a", "evk-b"] {
        std::fs::copy("/bin/sh", folder.path().join(name)).expect("a readable shell");
        mode(name);
    }
    std::fs::write(folder.path().join("loop"), "exec \"$2\" \"$0\" \"$2\" \"$1\"\n").expect("a writable folder");
    mode("loop");
    let attack = Attack::start(
        EXECUTING,
        &path("evk-a"),
        &[&path("loop"), &path("evk-a"), &path("evk-b")],
    );
    let rule = one_rule(&format!("{{user: '{EXECUTING}', exe: '{}'}}", path("evk-.")));
    let mut host = live_host();
    for _ in 0..300 {
        let table = [host.process(attack.pid()).expect("it runs")];
        let Selection { matches, unreadable } = select_from(&mut host, &table, &rule);
        assert_eq!(matches.len() + unreadable.len(), 1, "{unreadable:?}");
        for process in matches {
            assert_eq!(
                process.details.exe.as_deref().map(|exe| exe.starts_with(&path("evk-"))),
                Some(true)
            );
        }
        for process in unreadable {
            assert_eq!(process.details.unread, Some(Unread::Changing));
        }
    }
}

/// Number of processes with long command lines.
const CROWD: usize = 2000;
/// Starts them. The children of a shell that exec nothing have its command line.
const START_A_CROWD: &str = "exec 3<>\"$0\"; i=0; while [ $i -lt $1 ]; do (read line <&3) & i=$((i+1)); done; wait";

/// Uses 20 MB.
const GROW: &str = "text=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 600; : $text";

#[test]
fn long_command_lines_of_one_user_delay_no_decision_about_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a writable folder");
    for path in [folder.path(), &pipe] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("our own files");
    }
    let long = format!("{} escaping", "x".repeat(120_000));
    let (pipe, crowd) = (pipe.display().to_string(), CROWD.to_string());
    let attack = Attack::start(CROWDED, "sh", &["-c", START_A_CROWD, &pipe, &crowd, &long]);
    let bystander = Attack::start(BYSTANDER, "sh", &["-c", "sleep 600; :", "escaping"]);
    // It starts last, and uses more memory than the crowd.
    let hog = Attack::start(CROWDED, "sh", &["-c", GROW, "escaping"]);
    let mut host = live_host();
    let is_of_attack = |process: &Process| [process.identity.pid, process.parent].contains(&attack.pid());
    eventually("the crowd and the hog", Duration::from_secs(120), || {
        let table = host.processes().expect("a process table");
        let crowd = table.iter().filter(|process| is_of_attack(process)).count();
        let hog = table.iter().find(|process| process.identity.pid == hog.pid())?;
        (crowd == CROWD + 1 && hog.resident_bytes > 10 << 20).then_some(())
    });
    // Others on this machine may run shells with long command lines as well.
    let rule = one_rule(&format!(
        "{{name: sh, user: '{CROWDED}|{BYSTANDER}', cmdline: '(?s:.*) escaping'}}"
    ));
    for _ in 0..3 {
        let table = host.processes().expect("a process table");
        // On a fast machine, one decision does not use up the share.
        let unreadable = eventually("the user's share to be used up", TIMEOUT, || {
            let Selection { matches, unreadable } = select_from(&mut host, &table, &rule);
            for found in [&bystander, &hog] {
                assert!(matches.iter().any(|process| process.identity.pid == found.pid()));
            }
            (!unreadable.is_empty()).then_some(unreadable)
        });
        for process in unreadable {
            assert_eq!(process.details.unread, Some(Unread::OutOfTime));
            assert!(is_of_attack(&process), "{process:?}");
        }
        // The next decision has its own share.
        std::thread::sleep(Duration::from_millis(1100));
    }
}

/// Starts processes that match, and ends with the last of them.
const START_DECOYS: &str = "i=0; while [ $i -lt 20 ]; do (while :; do sleep 600; done) & i=$((i+1)); done; wait";

#[test]
fn decoys_of_one_user_do_not_switch_off_a_rule_for_others() {
    let _attack = Attack::start(DECOYS, "sh", &["-c", START_DECOYS, "decoy"]);
    let bystander = Attack::start(DECOYED, "sh", &["-c", "sleep 600; :", "decoy"]);
    let word = |process: &Process| {
        let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", process.identity.pid));
        process.name == "sh" && cmdline.is_ok_and(|cmdline| cmdline.ends_with("\0decoy\0"))
    };
    eventually("the decoys", TIMEOUT, || {
        let table = live_host().processes().expect("a process table");
        (table.iter().filter(|process| word(process)).count() == 22).then_some(())
    });
    let home = Home::new(
        "rules: [{name: r, matchers: [alertname=Test], select: {name: sh, cmdline: '(?s:.*) decoy'}, max_matches: 20, \
         limit: 100, actions: [{nice: 11}]}]\n",
    );
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the nice value", TIMEOUT, || {
        (bystander.nice() == Some(11)).then_some(())
    });
    evenkeel.wait_for_leases(1);
    let reason = format!("22 processes match, max_matches is 20; left out: 21 of uid {DECOYS}");
    eventually("the refusal in the history", TIMEOUT, || {
        home.ledger_has_row_with(&["too_many_matches", &reason]).then_some(())
    });
}

/// Mounts the open `/dev/fuse` ($1) below /usr/local, which no other process sees, then executes the command after it.
const MOUNT_AND_RUN: &str = "
mount -t tmpfs none /usr/local && mkdir /usr/local/dead &&
mount -i -t fuse -o fd=$1,rootmode=40000,user_id=0,group_id=0 swallower /usr/local/dead || exit 1
eval \"exec $1<&-\" &&
shift &&
exec \"$@\"
";
/// Runs sleep(1) of the host as a user ($1), under a path at which evenkeel has the mount that does not answer.
const RUN_BELOW_A_DEAD_MOUNT: &str = "
mount -t tmpfs none /usr/local && mkdir /usr/local/dead && touch /usr/local/dead/sshd &&
mount --bind /usr/bin/sleep /usr/local/dead/sshd &&
exec setpriv --reuid=$1 --clear-groups -- /usr/local/dead/sshd 1000001
";

#[test]
fn path_that_leads_to_a_dead_mount_delays_no_decision_about_others() {
    let run = ["--mount", "--", "sh", "-c", RUN_BELOW_A_DEAD_MOUNT, "sh", LOOKING];
    let attack = Attack::spawn("0", "unshare", &run);
    let path = "/usr/local/dead/sshd";
    eventually("the attack to begin", TIMEOUT, || {
        let exe = std::fs::read_link(format!("/proc/{}/exe", attack.pid())).ok()?;
        (exe == Path::new(path)).then_some(())
    });
    let bystander = Attack::start(BYSTANDER, "sh", &["-c", "sleep 600; :", "beside"]);
    let home = Home::new(&format!(
        "rules:\n- {{name: a, matchers: [alertname=Dead], select: {{user: '{LOOKING}', exe: {path}}}, actions: [{{nice: 11}}]}}\n\
         - {{name: b, matchers: [alertname=Test], select: {{user: '{BYSTANDER}', cmdline: '.* beside'}}, \
         actions: [{{nice: 11}}]}}\n"
    ));
    let mount = Swallower::open();
    let mut within = Command::new("unshare");
    // Other shells close descriptors below 10 only.
    within.args(["--mount", "--", "bash", "-c", MOUNT_AND_RUN, "bash"]);
    mount.pass_to(within.arg(mount.descriptor().to_string()));
    let evenkeel = home.start_by(within, &["--enforce"]);
    let swallower = mount.serve();
    evenkeel.post(about("Dead", &node_name()).as_bytes());
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the nice value", TIMEOUT, || {
        (bystander.nice() == Some(11)).then_some(())
    });
    let reason = "unidentified: looking up the path of its executable timed out";
    eventually("the refusal in the history", TIMEOUT, || {
        home.ledger_has_row_with(&["protected", reason]).then_some(())
    });
    assert!(swallower.requests() > 0, "no request reached the mount");
}

/// The first thread exits, and another one continues. Python is started as root, who can read it everywhere.
const EXIT_THE_LEADER: &str = "import ctypes, os, sys, threading, time\n\
    os.setresuid(*3 * [int(sys.argv[1])])\n\
    threading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)]).start()\n\
    ctypes.CDLL(None).syscall({'x86_64': 60}.get(os.uname().machine, 93), 0)";

#[test]
fn process_whose_first_thread_has_exited_escapes_no_rule() {
    let mut attack = Attack::spawn("0", "python3", &["-S", "-c", EXIT_THE_LEADER, LEADERLESS, "leaderless"]);
    let mut host = live_host();
    let process = eventually("a leader that has exited", TIMEOUT, || {
        host.process(attack.pid())
            .filter(|process| process.live_thread.is_some())
    });
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", attack.pid())).expect("it runs");
    assert!(stat.contains(") Z "), "{stat}");
    assert!(process.resident_bytes > 1 << 20, "{process:?}");
    let select = format!("{{user: '{LEADERLESS}', exe: '/.*/python3.*', cmdline: '(?s:.*) leaderless'}}");
    let rule = one_rule(&select);
    let table = host.processes().expect("a process table");
    let found = select_from(&mut host, &table, &rule).matches;
    let pids: Vec<i32> = found.iter().map(|process| process.identity.pid).collect();
    assert_eq!(pids, [attack.pid()]);
    assert!(is_taken(&mut host, &found[0], &rule));

    let rules = ["nice: 11", "freeze: true", "signal: SIGKILL"].map(|step| {
        let name = step.split(':').next().expect("a name");
        format!("- {{name: {name}, matchers: [alertname={name}], select: {select}, actions: [{{{step}}}]}}\n")
    });
    let home = Home::new(&format!("rules:\n{}", rules.concat()));
    let evenkeel = home.start(&["--enforce"]);
    let pid = attack.pid();
    let state = || live_host().process(pid).map(|process| process.state);
    evenkeel.post(about("nice", &node_name()).as_bytes());
    eventually("the nice value", TIMEOUT, || (attack.nice() == Some(11)).then_some(()));
    evenkeel.post(about("freeze", &node_name()).as_bytes());
    eventually("the stop", TIMEOUT, || (state() == Some('T')).then_some(()));
    evenkeel.post(about("signal", &node_name()).as_bytes());
    eventually("the end", TIMEOUT, || attack.0.try_wait().expect("our child"));
}
