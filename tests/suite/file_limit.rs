//! Few file descriptors: the daemon raises its own limit, and refuses to start where nothing would fit.

use std::process::Command;

use crate::support::daemon::Home;
use crate::support::http;

/// A command that lowers the limits of open files, soft and hard, for the command behind it.
fn limited(limits: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={limits}"));
    command
}

#[test]
fn low_soft_limit_is_raised() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start_by(limited("32:4096"), &[]);
    let held: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(evenkeel.webhook).expect("a connection"))
        .collect();
    assert_eq!(http::get(evenkeel.metrics, "/metrics").expect("a scrape").status, 200);
    drop(held);
}

#[test]
fn low_hard_limit_leaves_room_for_every_listener() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start_by(limited("150:150"), &[]);
    // More connections than descriptors: idle ones lose theirs, and both listeners answer.
    let held: Vec<_> = (0..300)
        .map(|_| std::net::TcpStream::connect(evenkeel.webhook).expect("a connection"))
        .collect();
    for _ in 0..3 {
        assert_eq!(http::get(evenkeel.metrics, "/metrics").expect("a scrape").status, 200);
        assert_eq!(
            http::get(evenkeel.webhook, "/-/healthy").expect("an answer").status,
            200
        );
    }
    let log = evenkeel.log().join("\n");
    assert!(!log.contains("could not accept"), "{log}");
    drop(held);
}

#[test]
fn too_low_hard_limit_is_refused() {
    let home = Home::new("rules: []\n");
    let run = home.run_command("127.0.0.1:0", "127.0.0.1:0");
    let output = limited("32:32")
        .arg(run.get_program())
        .args(run.get_args())
        .output()
        .expect("prlimit runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("LimitNOFILE="), "{log}");
    assert!(!log.contains("listening"), "{log}");
}
