//! evenkeel's other processes in the process table, by their names. No rule may touch these processes.

use crate::process::table::Procfs;
use std::collections::BTreeSet;
use std::time::Duration;

pub const RUNNER_STARTER: &str = "evenkeel-start";
pub const RUNNER: &str = "evenkeel-runner";
pub const FRONTEND_STARTER: &str = "evenkeel-fstart";
pub const FRONTEND: &str = "evenkeel-front";

/// Each child of evenkeel and the child of that one.
pub const LINES: [(&str, &str); 2] = [(RUNNER_STARTER, RUNNER), (FRONTEND_STARTER, FRONTEND)];

/// A process of evenkeel with its ancestors, and the processes that it has started for itself.
pub fn line_of(procfs: &Procfs, own_pid: i32) -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut pid = own_pid;
    while pid > 0 && line.insert(pid) {
        pid = procfs
            .read_process(pid, Duration::ZERO)
            .map_or(0, |process| process.parent);
    }
    // Children of the runner are commands.
    for (starter, child) in LINES {
        for starter in children(procfs, own_pid, starter) {
            line.insert(starter);
            line.extend(children(procfs, starter, child));
        }
    }
    line
}

/// The child processes that the first thread of a process started and that have this name.
fn children(procfs: &Procfs, pid: i32, name: &str) -> Vec<i32> {
    let text = procfs.read(&format!("{pid}/task/{pid}/children")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let pids = text.split(' ').flat_map(str::parse);
    let has_name = |pid: &i32| {
        let found = procfs.read_process(*pid, Duration::ZERO);
        found.is_some_and(|process| process.name == name)
    };
    pids.filter(has_name).collect()
}
