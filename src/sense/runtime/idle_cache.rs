//! A cache of the usage of processes that have not run since the last read. Most processes of a host sleep through a
//! second, and their file `status` alone costs the kernel more than all their other files.

use crate::process::proc_dir::{OpenProcess, Ran};
use crate::process::user_names::UserNames;
use crate::process::{Identity, Process, ProcessFields, Usage};
use std::collections::HashMap;
use std::time::Duration;

/// An idle process is read again after this time all the same: others can set its limits, and a little of its memory
/// can go to swap without being counted at once.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The usage of a process, valid while `ran` stays the same.
#[derive(Debug, Clone, Copy)]
struct CachedUsage {
    ran: Ran,
    /// The kernel reclaims memory of sleeping processes, too: then this differs.
    resident_bytes: u64,
    known: ProcessFields,
    usage: Usage,
    read_at: Duration,
}

/// The processes of the last read and of the read in progress.
#[derive(Debug, Default)]
pub struct IdleCache {
    before: HashMap<Identity, CachedUsage>,
    now: HashMap<Identity, CachedUsage>,
}

impl IdleCache {
    /// Begins a read: forgets processes that the last read did not see.
    pub fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Fills in the usage of a process, and reads its files only where the usage may have changed. Call it once per
    /// process and read.
    pub fn fill_usage(
        &mut self,
        process: &mut Process,
        files: &OpenProcess,
        needs: ProcessFields,
        boot_now: Duration,
        users: &mut UserNames,
    ) {
        // The kernel reports one thread, so it must be the only one; a running thread is reported late. `ran` is read
        // before the other files, so that a process that runs meanwhile differs next time. A selector may have read
        // `status` earlier.
        let may_be_cached =
            is_expensive(needs) && process.threads == 1 && process.state != 'R' && !files.has_read_status();
        let ran = if may_be_cached { files.ran() } else { None };
        let same = |seen: &&CachedUsage| {
            Some(seen.ran) == ran
                && seen.resident_bytes == process.resident_bytes
                && seen.known == needs
                && boot_now.saturating_sub(seen.read_at) < MAX_AGE
        };
        let seen = self.before.get(&process.identity).filter(same).copied();
        match seen {
            Some(seen) => process.details.usage = seen.usage,
            None => files.read_details(&mut process.details, needs, users),
        }
        // An incomplete usage is read again next time.
        let Some(ran) = ran.filter(|_| process.details.usage.is_complete(needs)) else {
            return;
        };
        let seen = seen.unwrap_or(CachedUsage {
            ran,
            resident_bytes: process.resident_bytes,
            known: needs,
            usage: process.details.usage,
            read_at: boot_now,
        });
        self.now.insert(process.identity, seen);
    }
}

/// Whether reading these costs more than reading whether the process has run.
fn is_expensive(needs: ProcessFields) -> bool {
    [
        ProcessFields::SWAP,
        ProcessFields::CONTEXT_SWITCHES,
        ProcessFields::OPEN_FDS,
    ]
    .into_iter()
    .any(|expensive| needs.contains(expensive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::table::Procfs;
    use crate::sense::fixture::Tree;

    #[test]
    fn stale_or_incomplete_usage_is_read_again() {
        let tree = Tree::new();
        tree.proc("sys/kernel/random/boot_id", "6e0d8a1c-0c1d-4f3e-9a52-0123456789ab\n");
        tree.proc("7/schedstat", "900 5 1");
        let procfs = Procfs::open(&tree.roots.procfs).unwrap();
        let mut idle_cache = IdleCache::default();
        let mut swapped = |kibibytes: Option<u32>, needs, second| {
            match kibibytes {
                Some(kibibytes) => tree.proc(
                    "7/status",
                    format!("VmSwap: {kibibytes} kB\nvoluntary_ctxt_switches: 1\nnonvoluntary_ctxt_switches: 1\n"),
                ),
                None => tree.proc("7/status", ""),
            }
            let mut process = Process::example(7, "a");
            let files = OpenProcess::open(&procfs, 7).unwrap();
            idle_cache.begin();
            idle_cache.fill_usage(
                &mut process,
                &files,
                needs,
                Duration::from_secs(second),
                &mut UserNames::default(),
            );
            process.details.usage.swap_bytes.map(|bytes| bytes / 1024)
        };
        let both = ProcessFields::SWAP | ProcessFields::CONTEXT_SWITCHES;
        assert_eq!(swapped(Some(1), ProcessFields::SWAP, 100), Some(1));
        assert_eq!(swapped(Some(2), ProcessFields::SWAP, 159), Some(1));
        assert_eq!(
            swapped(Some(3), ProcessFields::SWAP, 160),
            Some(3),
            "a minute after it was read"
        );
        assert_eq!(swapped(Some(4), both, 161), Some(4), "other figures");
        assert_eq!(swapped(Some(5), both, 162), Some(4));
        assert_eq!(swapped(None, both, 230), None);
        assert_eq!(swapped(Some(6), both, 231), Some(6), "it could not be read");
    }

    #[test]
    fn usage_read_by_selector_is_not_cached() {
        let procfs = Procfs::open(std::path::Path::new("/proc")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let mut idle_cache = IdleCache::default();
        for is_read_before in [false, true] {
            let mut process = Process::example(pid, "sleep");
            let files = OpenProcess::open(&procfs, pid).unwrap();
            if is_read_before {
                files.read_details(&mut process.details, ProcessFields::USER, &mut UserNames::default());
            }
            idle_cache.begin();
            idle_cache.fill_usage(
                &mut process,
                &files,
                ProcessFields::CONTEXT_SWITCHES,
                Duration::ZERO,
                &mut UserNames::default(),
            );
            assert!(process.details.usage.voluntary_switches.is_some());
            assert_eq!(idle_cache.now.is_empty(), is_read_before);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
