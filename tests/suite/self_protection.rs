//! Self-protection: `oom_score_adj`, priority, locked memory. These tests need root. Without CAP_SYS_RESOURCE, as in
//! some containers, `oom_score_adj` stays.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities};

use crate::support::daemon::{Daemon, Home};
use crate::support::eventually;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The protection of a daemon, from procfs (proc(5)).
#[derive(Debug, PartialEq)]
struct Protection {
    oom_score_adj: i32,
    /// The nice values of all threads.
    nice_values: BTreeSet<i32>,
    is_memory_locked: bool,
}

impl Protection {
    fn of(daemon: &Daemon) -> Protection {
        let folder = format!("/proc/{}", daemon.pid());
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("evenkeel runs");
        let tasks = std::fs::read_dir(format!("{folder}/task")).expect("evenkeel runs");
        // A thread may exit meanwhile.
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let nice_value = |stat: String| {
            let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
            fields
                .split(' ')
                .nth(16)
                .expect("a nice value")
                .parse()
                .expect("a number")
        };
        let locked = read("status").lines().find_map(|line| {
            line.strip_prefix("VmLck:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        });
        Protection {
            oom_score_adj: read("oom_score_adj").trim().parse().expect("a number"),
            nice_values: stats.map(nice_value).collect(),
            is_memory_locked: locked.expect("a size in kB") > 0,
        }
    }
}

#[test]
fn unit_outlasts_the_oom_kill_of_one_process() {
    let unit = include_str!("../../packaging/evenkeel.service");
    assert!(unit.lines().any(|line| line == "OOMPolicy=continue"));
}

/// Starts a daemon with an oom_score_adj and a nice value of 0, because it changes only these values.
fn start(home: &Home, flags: &[&str]) -> Daemon {
    let mut shell = Command::new("sh");
    let reset = "echo 0 >/proc/$$/oom_score_adj && renice -n 0 -p $$ >/dev/null && exec \"$@\"";
    shell.args(["-c", reset, "sh"]);
    home.start_by(shell, flags)
}

#[test]
fn no_self_protection_leaves_the_daemon_as_it_started() {
    let homes = [(); 2].map(|()| Home::new("rules: []\n"));
    let unprotected = start(&homes[0], &["--no-self-protection"]);
    // The protected daemon starts later, so the other one has had enough time once this one is protected.
    let protected = start(&homes[1], &[]);
    let own = capabilities(None).expect("own capabilities").effective;
    eventually("evenkeel to protect itself", TIMEOUT, || {
        let expected = Protection {
            oom_score_adj: if own.contains(CapabilitySet::SYS_RESOURCE) {
                -900
            } else {
                0
            },
            nice_values: BTreeSet::from([-10, 0]),
            is_memory_locked: true,
        };
        (Protection::of(&protected) == expected).then_some(())
    });
    let expected = Protection {
        oom_score_adj: 0,
        nice_values: BTreeSet::from([0]),
        is_memory_locked: false,
    };
    assert_eq!(Protection::of(&unprotected), expected);
}
