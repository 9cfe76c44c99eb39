//! Few file descriptors: the daemon raises its own limit, refuses to start where nothing would fit, and goes on where they
//! run out later.

use std::process::Command;
use std::time::Duration;

use crate::faults::{NICE, Scene, alert, limit, post, resolved};
use crate::support::daemon::{Daemon, Home};
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(60);

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

/// Lets the daemon open this number of files at once beside those that it has open.
fn leave_free(daemon: &Daemon, free: usize) {
    let folder = format!("/proc/{}/fd", daemon.pid());
    let open = std::fs::read_dir(folder).expect("evenkeel runs").flatten();
    let open: Vec<usize> = open
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The kernel gives away the lowest free number below the limit.
    let below = (0..).filter(|number| !open.contains(number)).nth(free);
    limit(daemon.pid(), &format!("--nofile={}:", below.expect("an endless range")));
}

#[test]
fn alerts_are_answered_once_descriptors_are_free_again() {
    let scene = Scene::new("flt-fd");
    let daemon = scene.home.start(&["--enforce"]);
    daemon.log_of_start();
    leave_free(&daemon, 0);
    assert_eq!(post(&daemon, &[alert()]), 200);
    daemon.log_with("Too many open files");
    assert_eq!(scene.burner.nice_values(), scene.before);
    limit(daemon.pid(), "--nofile=1024:");
    scene.wait_for_nice();
    daemon.wait_for_leases(1);

    // One descriptor lists the threads of a process and reads none of them. It counts neither as gone nor as restored.
    leave_free(&daemon, 1);
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    eventually("the first try to revert", TIMEOUT, || {
        let is_try = |line: &String| line.contains("revert postponed") || line.contains("msg=undo");
        daemon.log().iter().any(is_try).then_some(())
    });
    assert!(scene.burner.is_at(NICE));
    assert_eq!(daemon.leases(), 1);
    limit(daemon.pid(), "--nofile=1024:");
    scene.wait_for_restore();
    daemon.wait_for_leases(0);
    assert_eq!(http::get(daemon.metrics, "/metrics").expect("a scrape").status, 200);
}
