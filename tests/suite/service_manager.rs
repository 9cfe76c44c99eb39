//! What evenkeel tells the service manager that started it (sd_notify(3)), and the exit that keeps the leases.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::daemon::Home;
use crate::support::payload::{envelope, firing};
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A socket of a service manager.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("a free path");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        Manager { socket }
    }

    /// The next message that contains `text`.
    fn message_with(&self, text: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes);
            let length = length.unwrap_or_else(|error| panic!("no message with {text}: {error}"));
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if message.contains(text) {
                return message;
            }
        }
    }
}

#[test]
fn service_manager_learns_readiness_status_and_stop() {
    let home = Home::new("rules: []\n");
    let manager = Manager::new(&home.path().join("notify"));
    let mut command = Command::new("env");
    command.arg(format!("NOTIFY_SOCKET={}", home.path().join("notify").display()));
    command.arg("WATCHDOG_USEC=1500000");
    let mut evenkeel = home.start_by(command, &[]);
    manager.message_with("READY=1");
    assert_eq!(
        manager.message_with("STATUS="),
        "STATUS=dry-run: 0 rules, 0 alerts firing, 0 leases"
    );
    let started = Instant::now();
    for _ in 0..4 {
        manager.message_with("WATCHDOG=1");
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "three times in 1.5 s");
    home.write("rules/test.yml", "rules: [{nam: x}]\n");
    evenkeel.reload();
    manager.message_with("; last reload refused");
    evenkeel.terminate();
    manager.message_with("STOPPING=1");
}

/// A process to act on, which is killed when the test ends.
struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nice(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    fields
        .split(' ')
        .nth(16)
        .and_then(|nice| nice.parse().ok())
        .expect("a nice value")
}

#[test]
fn sigusr1_keeps_the_leases_for_the_next_daemon() {
    let home = Home::new(
        "rules:\n\
         \x20 - name: test\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {cmdline: 'sleep 4711.25'}\n\
         \x20   actions: [{nice: 7}]\n",
    );
    let target = Target(Command::new("sleep").arg("4711.25").spawn().expect("it starts"));
    let mut evenkeel = home.start(&["--enforce"]);
    let mut alert = firing(json!({"alertname": "Test", "instance": node_name()}));
    evenkeel.post(envelope(&[alert.clone()]).to_string().as_bytes());
    eventually("the nice value", TIMEOUT, || (nice(target.0.id()) == 7).then_some(()));
    let status = evenkeel.hand_over();
    assert!(status.success(), "{status}");
    assert_eq!(nice(target.0.id()), 7);

    let evenkeel = home.start(&["--enforce"]);
    assert_eq!(nice(target.0.id()), 7);
    (alert["status"], alert["endsAt"]) = (json!("resolved"), json!("2024-01-02T04:00:00Z"));
    evenkeel.post(envelope(&[alert]).to_string().as_bytes());
    eventually("the former nice value", TIMEOUT, || {
        (nice(target.0.id()) == 0).then_some(())
    });
}
