//! Listeners from socket activation, as by systemd (sd_listen_fds(3)).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::support::daemon::{Home, TOKEN};
use crate::support::process::Process;
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Above the descriptors that a shell uses.
const FIRST_DESCRIPTOR: i32 = 100;

/// A listening socket that children inherit.
fn socket() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let descriptor = fcntl_dupfd_cloexec(&listener, FIRST_DESCRIPTOR).expect("a descriptor");
    fcntl_setfd(&descriptor, FdFlags::empty()).expect("an open descriptor");
    (descriptor, address)
}

/// `evenkeel run` with `sockets` from descriptor 3 on, under these names.
fn hand_over(home: &Home, sockets: &[&OwnedFd], names: &str, flags: &[&str]) -> Process {
    let places = sockets.iter().enumerate();
    let places = places.map(|(index, socket)| format!("{}<&{}", index + 3, socket.as_raw_fd()));
    // A shell that executes evenkeel, because LISTEN_PID must be evenkeel's pid.
    let script = format!(
        "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names}; exec \"$@\" {}",
        sockets.len(),
        places.collect::<Vec<_>>().join(" ")
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_evenkeel"), "run"]);
    command.arg(format!("--config.file={}", home.path().join("evenkeel.yml").display()));
    command.arg(format!("--storage.path={}", home.path().join("storage").display()));
    Process::start("evenkeel", command.args(flags))
}

#[test]
fn both_listeners_can_be_handed_over_and_outlast_the_daemon() {
    let home = Home::new("rules: []\n");
    let ((metrics, metrics_at), (webhook, webhook_at)) = (socket(), socket());
    let flags = ["--web.systemd-socket", "--webhook.systemd-socket"];
    for _ in 0..2 {
        let mut evenkeel = hand_over(&home, &[&webhook, &metrics], "webhook:metrics", &flags);
        // A request before the daemon is ready waits in the kernel and is not refused.
        let answer = http::get(metrics_at, "/-/healthy").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = format!("Bearer {TOKEN}");
        let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
        let answer = http::request(webhook_at, "POST", "/webhook", &headers, b"{}").expect("an answer");
        assert_eq!(answer.status, 400, "{answer:?}");
        evenkeel.end_by(Signal::SIGTERM);
    }
}

#[test]
fn a_socket_that_is_missing_is_named() {
    let home = Home::new("rules: []\n");
    let mut evenkeel = hand_over(&home, &[], "", &["--web.systemd-socket"]);
    let status = eventually("evenkeel to end", TIMEOUT, || evenkeel.ended());
    let said = evenkeel.whole_log().join("\n");
    assert!(!status.success() && said.contains("--web.systemd-socket"), "{said}");
}
