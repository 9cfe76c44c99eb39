//! evenkeel's other processes in the process table, by their names. No rule may touch these processes.

use crate::process::table::Procfs;
use std::collections::BTreeSet;
use std::io;

pub const RUNNER_STARTER: &str = "evenkeel-start";
pub const RUNNER: &str = "evenkeel-runner";
pub const FRONTEND_STARTER: &str = "evenkeel-fstart";
pub const FRONTEND: &str = "evenkeel-front";

/// Each child of evenkeel and the child of that one.
pub const LINES: [(&str, &str); 2] = [(RUNNER_STARTER, RUNNER), (FRONTEND_STARTER, FRONTEND)];

/// A process of evenkeel with its ancestors, and the processes that it has started for itself.
///
/// # Errors
/// When evenkeel can read no process. One that it may not read ends the line, as with `hidepid` of proc(5).
pub fn line_of(procfs: &Procfs, own_pid: i32) -> io::Result<BTreeSet<i32>> {
    let mut line = BTreeSet::new();
    let mut pid = own_pid;
    while pid > 0 && line.insert(pid) {
        let found = procfs.readable_process(pid)?;
        pid = found.map_or(0, |process| process.parent);
    }
    // Children of the runner are commands.
    for (starter, child) in LINES {
        for starter in children(procfs, own_pid, starter)? {
            line.insert(starter);
            line.extend(children(procfs, starter, child)?);
        }
    }
    Ok(line)
}

/// The child processes that the first thread of a process started and that have this name.
fn children(procfs: &Procfs, pid: i32, name: &str) -> io::Result<Vec<i32>> {
    let mut named = Vec::new();
    for pid in procfs.children(pid)? {
        let found = procfs.readable_process(pid)?;
        named.extend(found.filter(|process| process.name == name).map(|_| pid));
    }
    Ok(named)
}
