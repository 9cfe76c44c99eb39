//! The processors that are online, and those of a cpuset.

use crate::knob::{CpuSet, affinity};
use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// Processors that are plugged in, as a list.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The online processors. Where /sys is hidden, those of evenkeel's own affinity, which says nothing of others.
pub fn online() -> BTreeSet<u32> {
    let own = || affinity::of_thread(0).map(|cpus| cpus.iter().collect());
    cpu_list(fs::read_to_string(ONLINE)).unwrap_or_else(|| own().unwrap_or_default())
}

/// The online processors of a cgroup's cpuset; that of a cgroup without the controller is the one above. `mount` is
/// that of cgroup2.
pub fn online_in_cpuset(mount: &Path, path: &str) -> BTreeSet<u32> {
    let online = online();
    let folder = mount.join(path.trim_start_matches('/'));
    let within = folder.ancestors().take_while(|folder| folder.starts_with(mount));
    let mut sets = within.filter_map(|folder| cpu_list(fs::read_to_string(folder.join("cpuset.cpus.effective"))));
    match sets.next() {
        Some(cpuset) => cpuset.intersection(&online).copied().collect(),
        None => online,
    }
}

fn cpu_list(text: io::Result<String>) -> Option<BTreeSet<u32>> {
    let cpus: CpuSet = text.ok()?.trim().parse().ok()?;
    Some(cpus.iter().collect())
}
