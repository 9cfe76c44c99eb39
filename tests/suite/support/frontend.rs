//! The process that serves HTTP for a daemon, and what foreign code in it tries.

use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;

use super::eventually;
use super::inject::{Injected, Outcome};
use super::process::child;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The filters of system calls that it has in addition to those of the process that starts it.
const OWN_FILTERS: u32 = 3;
/// Requests of fcntl(2) and ioctl(2) that libc lacks.
const F_SETSIG: u64 = 10;
const FIOASYNC: u64 = 0x5452;
/// In place of the address of an attempt's path.
const PATH: u64 = u64::MAX;
/// The filter looks at no descriptor.
const SOCKET: u64 = 3;

/// The processes that start and serve, once the latter has its sandbox.
pub fn processes(daemon: u32) -> Option<[u32; 2]> {
    let starter = child(daemon, "evenkeel-fstart")?;
    let frontend = child(starter, "evenkeel-front")?;
    let has_sandbox = filters(frontend)? == filters(starter)? + OWN_FILTERS;
    has_sandbox.then_some([starter, frontend])
}

pub fn frontend(daemon: u32) -> u32 {
    eventually("a frontend", TIMEOUT, || processes(daemon))[1]
}

fn filters(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?;
    count.trim().parse().ok()
}

/// A system call that the frontend never makes, and that kills it.
pub struct Attempt<'p> {
    pub name: &'static str,
    call: libc::c_long,
    path: Option<&'p str>,
    arguments: [u64; 4],
}

impl Attempt<'_> {
    /// Lets the process make the call, which must kill it.
    pub fn assert_deadly(&self, frontend: u32) {
        let code = Injected::attach(frontend);
        let address = self.path.map_or(0, |path| code.text(path));
        let arguments = self
            .arguments
            .map(|argument| if argument == PATH { address } else { argument });
        let outcome = code.call(self.call, arguments);
        assert_eq!(outcome, Outcome::KilledBy(Signal::SIGSYS), "{}", self.name);
    }
}

fn argument(number: libc::c_int) -> u64 {
    number.cast_unsigned().into()
}

/// What an attacker needs: files, programs, other processes, other users and sockets, and signals by the kernel.
pub fn deadly_attempts(daemon: u32, ledger: &str) -> [Attempt<'_>; 12] {
    let here = argument(libc::AT_FDCWD);
    let daemon = daemon.into();
    let on_file = |name, call, path, arguments| Attempt {
        name,
        call,
        path: Some(path),
        arguments,
    };
    let plain = |name, call, arguments| Attempt {
        name,
        call,
        path: None,
        arguments,
    };
    [
        on_file(
            "open /etc/shadow",
            libc::SYS_openat,
            "/etc/shadow",
            [here, PATH, argument(libc::O_RDONLY), 0],
        ),
        on_file(
            "write the ledger",
            libc::SYS_openat,
            ledger,
            [here, PATH, argument(libc::O_WRONLY), 0],
        ),
        on_file("exec a shell", libc::SYS_execve, "/bin/sh", [PATH, 0, 0, 0]),
        plain("signal pid 1", libc::SYS_kill, [1, argument(libc::SIGCONT), 0, 0]),
        plain(
            "trace the daemon",
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH.into(), daemon, 0, 0],
        ),
        plain("start a process", libc::SYS_clone, [argument(libc::SIGCHLD), 0, 0, 0]),
        plain("open a socket", libc::SYS_socket, [2, 1, 0, 0]),
        plain("become root", libc::SYS_setresuid, [0; 4]),
        plain(
            "have the kernel signal the daemon",
            libc::SYS_fcntl,
            [SOCKET, argument(libc::F_SETOWN), daemon, 0],
        ),
        plain(
            "choose SIGKILL for that",
            libc::SYS_fcntl,
            [SOCKET, F_SETSIG, argument(libc::SIGKILL), 0],
        ),
        plain(
            "ask for signals",
            libc::SYS_fcntl,
            [SOCKET, argument(libc::F_SETFL), argument(libc::O_ASYNC), 0],
        ),
        plain("ask for signals by ioctl", libc::SYS_ioctl, [SOCKET, FIOASYNC, 1, 0]),
    ]
}

/// Tries to break the sockets, which are those of the next frontend and, at standard error, of the daemon. The calls fail
/// and kill nothing. `serve` has the frontend answer a request in between, because the daemon kills one that is silent.
pub fn assert_sockets_are_safe(frontend: u32, serve: impl Fn()) {
    let denied = Outcome::Returned(-i64::from(libc::EPERM));
    for descriptor in 2..20 {
        let code = Injected::attach(frontend);
        for (attempt, number, arguments) in [
            ("shut down", libc::SYS_shutdown, [argument(libc::SHUT_RDWR), 0, 0]),
            ("stop receiving", libc::SYS_shutdown, [argument(libc::SHUT_RD), 0, 0]),
            ("connect", libc::SYS_sendto, [0, 0, argument(libc::MSG_FASTOPEN)]),
            (
                "keep a filter",
                libc::SYS_setsockopt,
                [argument(libc::SOL_SOCKET), argument(libc::SO_LOCK_FILTER), 0],
            ),
        ] {
            let [first, second, third] = arguments;
            let outcome = code.call(number, [descriptor, first, second, third]);
            assert_eq!(outcome, denied, "{attempt} {descriptor}");
        }
        drop(code);
        serve();
    }
    let end_of_log = [argument(libc::STDERR_FILENO), argument(libc::SHUT_WR), 0, 0];
    assert_eq!(Injected::attach(frontend).call(libc::SYS_shutdown, end_of_log), denied);
}

/// Answers a question that the daemon did not ask, on every socket, until the daemon kills the process.
pub fn forge_receipt(frontend: u32) {
    let code = Injected::attach(frontend);
    let head = br#"{"Answer":{"id":1,"answer":{"Receipt":"Durable"}}}"#;
    let length = u32::try_from(head.len()).expect("a short message").to_be_bytes();
    let frame = [&length[..], &[0; 4], &head[..]].concat();
    let address = code.write(&frame);
    let no_signal = argument(libc::MSG_NOSIGNAL);
    let mut taken = 0;
    for descriptor in 3..40 {
        match code.call(libc::SYS_sendto, [descriptor, address, frame.len() as u64, no_signal]) {
            Outcome::Returned(1..) => taken += 1,
            Outcome::Returned(_) => {}
            // As soon as the channel has taken it.
            Outcome::KilledBy(signal) => {
                assert_eq!(signal, Signal::SIGKILL);
                taken += 1;
                break;
            }
        }
    }
    assert!(taken >= 1, "a socket takes it");
}
