//! The groups in which the kernel schedules processes: among processes of different groups the shares of the groups
//! count, not the nice values (sched(7), "The autogroup feature" and "The nice value and group scheduling").

use super::access::Access;

/// The setting that puts each session into a group of its own, an autogroup, unless its cgroup has a share.
pub const AUTOGROUPS: &str = "kernel/sched_autogroup_enabled";

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
