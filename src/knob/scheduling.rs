//! What the knobs of scheduling share: the errors of their system calls, and the groups in which the kernel schedules
//! processes. Among processes of different groups the shares of the groups count, not the nice values (sched(7), "The
//! autogroup feature" and "The nice value and group scheduling").

use super::thread_access::{Access, HostError};
use std::io;

/// The setting that puts each session into a group of its own, an autogroup, unless its cgroup has a share.
pub const AUTOGROUPS: &str = "kernel/sched_autogroup_enabled";

/// The result of a call named `what` on a thread, for which the kernel may ask for CAP_SYS_NICE.
pub fn called<T>(what: &'static str, tid: i32, result: Result<T, impl Into<io::Error>>) -> Result<T, HostError> {
    result.map_err(|error| HostError::of_call(what, "CAP_SYS_NICE", tid, error.into()))
}

/// Whether the kernel has autogroups, by the text of their setting.
pub fn has_autogroups(setting: Option<String>) -> bool {
    setting.is_some_and(|text| text.trim() == "1")
}

/// The cgroup of a process, if that has a share of the processors of its own.
pub fn cgroup_with_share(thread: &mut dyn Access) -> Option<String> {
    let groups = thread.read("cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let has_share = path != "/" && thread.has_cgroup_file(path, "cpu.weight");
    has_share.then(|| path.to_owned())
}
