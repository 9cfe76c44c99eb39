//! The process that serves HTTP: when it exists, what it may do, what its death means, and what code that runs in it can
//! do. These tests need root, and a kernel with seccomp and landlock.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::runner::{is_gone, line};
use crate::support::daemon::{Daemon, Home, TOKEN};
use crate::support::frontend::{assert_sockets_are_safe, deadly_attempts, forge_receipt, frontend, processes};
use crate::support::inject::{Injected, Outcome};
use crate::support::payload::about;
use crate::support::process::Process;
use crate::support::tools::succeed;
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(60);
const NO_RULES: &str = "rules: []\n";
/// The number of the user that a test adds.
const OWN_USER: u32 = 61_234;

pub fn restarts(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric("evenkeel_frontend_restarts_total", &[("reason", reason)])
}

fn measures(daemon: &Daemon) -> Vec<&'static str> {
    let all = ["capabilities", "landlock", "no_new_privs", "seccomp", "user"];
    let is_in_force =
        |measure: &&str| daemon.metric("evenkeel_sandbox", &[("part", "frontend"), ("measure", measure)]) > 0.0;
    all.into_iter().filter(is_in_force).collect()
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).expect("the frontend runs")
}

fn post(daemon: &Daemon, token: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
    ];
    let payload = about("Test", &node_name());
    let answer = http::request(daemon.webhook, "POST", "/webhook", &headers, payload.as_bytes());
    answer.expect("evenkeel answers").status
}

#[test]
fn frontend_has_no_capability_and_its_own_filter() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    assert!(daemon.metric("node_load1", &[]) >= 0.0);
    let status = status(frontend(daemon.pid()));
    for (name, value) in [
        ("CapEff:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        assert_eq!(line(&status, name), value, "{name}");
    }
    let measures = measures(&daemon);
    assert!(
        measures.starts_with(&["capabilities", "landlock", "no_new_privs", "seccomp"]),
        "{measures:?}"
    );
    daemon.log_with("part=frontend");
}

#[test]
fn one_process_serves_where_the_split_is_impossible_or_unwanted() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&["--no-sandbox"]);
    assert_eq!((processes(daemon.pid()), measures(&daemon)), (None, vec![]));
    daemon.log_with("all: --no-sandbox");
    drop(daemon);
    let folder = home.path().to_str().expect("a path in UTF-8").to_owned();
    let program = format!("{folder}/evenkeel");
    fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &program).expect("a copy of the program");
    let mut command = Command::new("sh");
    let script = "chown -R 65534:65534 \"$1\" && program=$1/evenkeel && shift 2 && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$program\" \"$@\"";
    command.args(["-c", script, "sh", &folder]);
    let daemon = home.start_by(command, &[]);
    assert_eq!((processes(daemon.pid()), measures(&daemon)), (None, vec![]));
    daemon.log_with("all: evenkeel was not started as root");
}

#[test]
fn frontend_has_its_own_user_and_cannot_read_the_token_file() {
    let home = Home::new(NO_RULES);
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let own = format!("evenkeel:x:{OWN_USER}:{OWN_USER}::/:/usr/sbin/nologin\n");
    home.write("passwd", &format!("{own}{users}"));
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
    command.args(["--mount", "--", "sh", "-c", script, "sh"]);
    command.arg(home.path().join("passwd"));
    let daemon = home.start_by(command, &[]);
    assert_eq!(measures(&daemon).last(), Some(&"user"));
    let pid = frontend(daemon.pid());
    let numbers = [OWN_USER; 4].map(|number| number.to_string()).join("\t");
    let of_frontend = status(pid);
    assert_eq!(
        (line(&of_frontend, "Uid:"), line(&of_frontend, "Gid:")),
        (&*numbers, &*numbers)
    );
    assert_eq!(
        (line(&of_frontend, "Groups:"), line(&of_frontend, "CapEff:")),
        ("", "0000000000000000")
    );
    let other = "another-token-of-the-tests";
    assert_eq!((post(&daemon, TOKEN), post(&daemon, other)), (200, 401));
    home.write("webhook.token", other);
    eventually("the new token", TIMEOUT, || (post(&daemon, other) == 200).then_some(()));
    assert_eq!(post(&daemon, TOKEN), 401);
    // The starter may kill processes of this user.
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).expect("our own process");
    drop(daemon);
    eventually("the frontend to end", TIMEOUT, || is_gone(pid).then_some(()));
}

#[test]
fn frontend_ends_with_the_daemon_and_the_daemon_with_the_starter() {
    let home = Home::new(NO_RULES);
    let mut daemon = home.start(&[]);
    let pids = eventually("a frontend", TIMEOUT, || processes(daemon.pid()));
    daemon.kill();
    eventually("the frontend to end", TIMEOUT, || {
        pids.iter().all(|&pid| is_gone(pid)).then_some(())
    });
    let mut daemon = home.start_again(&daemon, &[]);
    let [starter, frontend] = eventually("a frontend", TIMEOUT, || processes(daemon.pid()));
    kill(Pid::from_raw(starter.cast_signed()), Signal::SIGKILL).expect("our own process");
    let status = eventually("evenkeel to end", TIMEOUT, || daemon.ended());
    assert!(!status.success() && is_gone(frontend), "{status}");
    daemon.log_with("the starter of the frontend ended");
    let log = daemon.log_with("shutting down");
    let place = |text: &str| log.iter().position(|line| line.contains(text));
    assert!(
        place("daemon failed").is_some() && place("daemon failed") < place("shutting down"),
        "{log:?}"
    );
    assert_eq!(place("startup failed"), None);
}

#[test]
fn crash_of_the_frontend_is_told_from_other_ends() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    kill(Pid::from_raw(frontend(daemon.pid()).cast_signed()), Signal::SIGABRT).expect("our own process");
    daemon.log_with("it was killed by SIGABRT");
    assert_eq!((restarts(&daemon, "crashed"), restarts(&daemon, "ended")), (1.0, 0.0));
}

#[test]
fn frontend_without_descriptors_says_why() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    let [starter, frontend] = eventually("a frontend", TIMEOUT, || processes(daemon.pid()));
    // The pipe that shows whether the frontend lives is closed with it.
    let open = fs::read_dir(format!("/proc/{starter}/fd")).expect("its files").count() - 1;
    // Enough to start the frontend, and too few for its runtime.
    limit_files(starter, open + 4);
    kill(Pid::from_raw(frontend.cast_signed()), Signal::SIGKILL).expect("our own process");
    for text in ["Too many open files", "it exited with 1"] {
        daemon.log_with(text);
    }
    limit_files(starter, open + 1);
    daemon.log_with("the kernel starts no process: Too many open files");
    limit_files(starter, 1024);
    let answer = eventually("metrics", TIMEOUT, || http::get(daemon.metrics, "/metrics").ok());
    assert_eq!(answer.status, 200);
}

fn limit_files(pid: u32, files: usize) {
    let limit = format!("--nofile={files}:1024");
    succeed(Command::new("prlimit").args([format!("--pid={pid}"), limit]));
}

/// The sockets of a process, as descriptor and inode.
fn sockets(pid: u32) -> Vec<(u64, String)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let socket = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    };
    open.filter_map(|entry| socket(entry.expect("a descriptor"))).collect()
}

/// The descriptors of a process that listen for TCP connections.
fn listening(pid: u32) -> Vec<u64> {
    let table = fs::read_to_string("/proc/net/tcp").expect("the sockets of the host");
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> = rows
        .filter(|row| row.get(3) == Some(&"0A"))
        .filter_map(|row| Some((*row.get(9)?).to_owned()))
        .collect();
    let sockets = sockets(pid).into_iter();
    sockets
        .filter(|(_, inode)| inodes.contains(inode))
        .map(|(descriptor, _)| descriptor)
        .collect()
}

/// Shuts a listening socket of a process down, for all that hold it.
fn shut_down(pid: u32, descriptor: u64) {
    let none: libc::c_long = 0;
    // SAFETY: the calls take numbers, and return descriptors that nothing else owns.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), none);
        let socket = libc::syscall(libc::SYS_pidfd_getfd, process, descriptor, none);
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        assert_eq!(
            libc::shutdown(i32::try_from(socket).expect("a descriptor"), libc::SHUT_RDWR),
            0
        );
        libc::syscall(libc::SYS_close, socket);
        libc::syscall(libc::SYS_close, process);
    }
}

#[test]
fn daemon_keeps_no_listening_socket_and_ends_without_one() {
    let home = Home::new(NO_RULES);
    let mut daemon = home.start(&[]);
    let [starter, frontend] = eventually("a frontend", TIMEOUT, || processes(daemon.pid()));
    assert_eq!(
        (
            listening(daemon.pid()),
            listening(starter).len(),
            listening(frontend).len()
        ),
        (vec![], 2, 2)
    );
    shut_down(starter, listening(starter)[0]);
    let status = eventually("evenkeel to end", TIMEOUT, || daemon.ended());
    assert!(!status.success(), "{status}");
    for text in ["listening socket shut down", "daemon failed", "start evenkeel again"] {
        daemon.log_with(text);
    }
    let mut daemon = home.start(&["--no-sandbox"]);
    shut_down(daemon.pid(), listening(daemon.pid())[1]);
    let status = eventually("evenkeel to end", TIMEOUT, || daemon.ended());
    assert!(!status.success(), "{status}");
    daemon.log_with("a listening socket was shut down");
}

#[test]
fn listener_has_many_addresses_and_too_many_are_named() {
    let home = Home::new(NO_RULES);
    let more = "--web.listen-address=127.0.0.1:0";
    let daemon = home.start(&[more; 70]);
    assert!(daemon.metric("node_load1", &[]) >= 0.0);
    drop(daemon);
    let mut command = home.run_command("127.0.0.1:0", "127.0.0.1:0");
    let output = command.args([more; 252]).output().expect("evenkeel ends by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("may name 252 addresses"),
        "{said}"
    );
}

#[test]
fn frontend_is_killed_first_and_its_memory_is_bounded() {
    let home = Home::new(NO_RULES);
    // Only a process with CAP_SYS_RESOURCE can lower it.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "(echo -900 >/proc/$$/oom_score_adj) 2>/dev/null; exec \"$@\"",
        "sh",
    ]);
    let daemon = home.start_by(command, &[]);
    let of = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
    let pid = frontend(daemon.pid());
    let own: i32 = of(daemon.pid(), "oom_score_adj").trim().parse().expect("a number");
    assert_eq!(of(pid, "oom_score_adj").trim(), own.max(0).to_string());
    let limits = of(pid, "limits");
    assert_eq!(
        line(&limits, "Max data size").split_whitespace().collect::<Vec<_>>(),
        ["1073741824", "1073741824", "bytes"]
    );
}

#[test]
fn memory_of_the_frontend_is_hidden_from_its_user() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    let without_capabilities = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--", program]);
        command
    };
    // The kernel guards `auxv` as it guards the memory, and dumps no core where it denies this.
    let read = |pid: u32| {
        let mut command = without_capabilities("cat");
        let output = command.arg(format!("/proc/{pid}/auxv")).output().expect("setpriv runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (is_readable, error) = read(frontend(daemon.pid()));
    assert!(!is_readable && error.contains("Permission denied"), "{error}");
    // Another process of the same user can be read.
    let other = Process::start("sleep", without_capabilities("sleep").arg("600"));
    eventually("a process without capabilities", TIMEOUT, || {
        read(other.pid()).0.then_some(())
    });
}

/// A FIFO, which opens once something writes to it, as a file system that does not answer.
#[test]
fn token_file_that_does_not_answer_stops_nothing() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    assert_eq!(post(&daemon, TOKEN), 200);
    let token = home.path().join("webhook.token");
    fs::remove_file(&token).expect("our own file");
    nix::unistd::mkfifo(&token, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    eventually("the error", TIMEOUT, || {
        assert_eq!(post(&daemon, TOKEN), 200);
        let log = daemon.log();
        let is_logged = log
            .iter()
            .any(|line| line.contains("does not answer, keeping the last known"));
        is_logged.then_some(())
    });
    kill(Pid::from_raw(frontend(daemon.pid()).cast_signed()), Signal::SIGKILL).expect("our own process");
    assert!(daemon.metric("node_load1", &[]) >= 0.0);
    assert_eq!(
        (post(&daemon, TOKEN), post(&daemon, "another-token-of-the-tests")),
        (200, 401)
    );
    // Lets the reading end, as the shutdown waits for it.
    fs::write(&token, TOKEN).expect("a reader");
}

#[test]
fn signal_to_all_processes_drains_and_ends_them() {
    let home = Home::new(NO_RULES);
    let mut daemon = home.start(&[]);
    let pids = eventually("a frontend", TIMEOUT, || processes(daemon.pid()));
    for pid in pids {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(Pid::from_raw(pid.cast_signed()), signal).expect("our own process");
        }
    }
    assert!(daemon.metric("node_load1", &[]) >= 0.0);
    assert_eq!(processes(daemon.pid()), Some(pids));
    assert!(daemon.terminate().success());
    eventually("the frontend to end", TIMEOUT, || {
        pids.iter().all(|&pid| is_gone(pid)).then_some(())
    });
    daemon.log_with("msg=stopped");
}

/// What code in the frontend tries.
#[cfg(target_arch = "x86_64")]
#[test]
fn code_in_the_frontend_is_refused_and_counted() {
    let home = Home::new(NO_RULES);
    let ledger = home.path().join("storage/ledger.db");
    let ledger = ledger.to_str().expect("a path in UTF-8");
    // A daemon waits longer before each new frontend, so a second one counts from zero.
    for of_daemon in [0..6, 6..12] {
        let daemon = home.start(&[]);
        for (count, attempt) in deadly_attempts(daemon.pid(), ledger)[of_daemon].iter().enumerate() {
            attempt.assert_deadly(frontend(daemon.pid()));
            let wanted = count as f64 + 1.0;
            eventually("the count", TIMEOUT, || {
                (restarts(&daemon, "sandbox") == wanted).then_some(())
            });
        }
        daemon.log_with("a system call that no part of it makes");
        assert!(!is_gone(daemon.pid()));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn code_in_the_frontend_cannot_break_sockets() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    let serve = || assert!(daemon.metric("node_load1", &[]) >= 0.0);
    serve();
    let pid = frontend(daemon.pid());
    assert_sockets_are_safe(pid, serve);
    assert_eq!(post(&daemon, TOKEN), 200);
    serve();
    assert_eq!(frontend(daemon.pid()), pid, "it lives on");
}

/// Code in the frontend closes its channel and lives on.
#[cfg(target_arch = "x86_64")]
#[test]
fn frontend_that_closes_its_channel_is_replaced() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    let pid = frontend(daemon.pid());
    let code = Injected::attach(pid);
    let unix = fs::read_to_string("/proc/net/unix").expect("the sockets of the host");
    let is_unix = |inode: &str| unix.lines().any(|row| row.split_whitespace().nth(6) == Some(inode));
    for (descriptor, inode) in sockets(pid) {
        if descriptor > 2 && is_unix(&inode) {
            assert_eq!(code.call(libc::SYS_close, [descriptor, 0, 0, 0]), Outcome::Returned(0));
        }
    }
    drop(code);
    eventually("another frontend", TIMEOUT, || {
        processes(daemon.pid()).filter(|processes| processes[1] != pid)
    });
    assert_eq!(restarts(&daemon, "ended"), 1.0);
}

/// Code in the frontend writes to its channel.
#[cfg(target_arch = "x86_64")]
#[test]
fn forged_message_ends_the_frontend_and_is_counted() {
    let home = Home::new(NO_RULES);
    let daemon = home.start(&[]);
    let pid = frontend(daemon.pid());
    assert!(daemon.metric("node_load1", &[]) >= 0.0);
    forge_receipt(pid);
    eventually("another frontend", TIMEOUT, || {
        processes(daemon.pid()).filter(|processes| processes[1] != pid)
    });
    eventually("the count", TIMEOUT, || {
        (restarts(&daemon, "protocol") == 1.0).then_some(())
    });
    daemon.log_with("it sent a message that is not allowed");
}
