//! The log, where its reader is no help.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::support::daemon::{Home, TOKEN};
use super::support::{eventually, free_address, http};

const PATIENCE: Duration = Duration::from_secs(60);
const NO_RULES: &str = "rules: []\n";

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe without room for one more byte; nothing reads it while the first half lives.
pub fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let bytes = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("the size of a pipe");
    writer
        .write_all(&vec![b'\n'; bytes as usize])
        .expect("room in a new pipe");
    (reader, writer)
}

#[test]
fn stalled_reader_of_the_log_stops_nothing() {
    let home = Home::new(NO_RULES);
    let (metrics, webhook) = (free_address(), free_address());
    let (reader, writer) = full_pipe();
    let mut command = home.run_command(&metrics.to_string(), &webhook.to_string());
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut daemon = Daemon(command.spawn().expect("evenkeel starts"));
    eventually("evenkeel to serve without a log", PATIENCE, || {
        http::get(metrics, "/metrics").ok()
    });
    let post = |token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
        ];
        http::request(
            webhook,
            "POST",
            "/webhook",
            &headers,
            b"{\"version\":\"4\",\"alerts\":[]}",
        )
        .expect("an answer")
        .status
    };
    for _ in 0..100 {
        assert_eq!(post("wrong"), 401);
    }
    assert_eq!(post(TOKEN), 200);
    assert_eq!(http::get(metrics, "/metrics").expect("a scrape").status, 200);
    kill(Pid::from_raw(daemon.0.id() as i32), Signal::SIGTERM).expect("evenkeel lives");
    let status = eventually("evenkeel to exit", PATIENCE, || daemon.0.try_wait().expect("a child"));
    assert!(status.success(), "{status}");
    drop(reader);
}
