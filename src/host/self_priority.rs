//! Self-protection for times of short memory: evenkeel releases memory, locks its pages, lowers its `oom_score_adj`,
//! and raises the priority of the threads between sample and action. Otherwise it would wait for its own code to be
//! read from a busy disk, and for a processor behind the program that uses up the memory.

use nix::libc;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getpriority_process, getrlimit, setpriority_process};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// As in the shipped unit. Not -1000, so that the kernel can still kill an evenkeel that leaks memory.
const OOM_SCORE_ADJ: i32 = -900;

/// The nice value of threads between sample and action. They run for milliseconds.
const RAISED_NICE: i32 = -10;

/// Whether evenkeel lowers its own oom_score_adj, raises its own priority and locks its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelfProtection {
    #[default]
    On,
    Off,
}

impl SelfProtection {
    /// From the flag that switches it off.
    pub fn of(is_off: bool) -> SelfProtection {
        match is_off {
            true => SelfProtection::Off,
            false => SelfProtection::On,
        }
    }
}

/// Whether evenkeel has raised a priority, so that a raised one is not an operator's.
static HAS_RAISED: AtomicBool = AtomicBool::new(false);

/// Raises the priority of the calling thread, unless an operator has set its nice value or protection is off. Best
/// effort, because the call needs CAP_SYS_NICE. Threads and programs that the thread starts inherit the nice value
/// until they [`reset_priority`].
pub fn raise_priority(protection: SelfProtection) {
    if protection == SelfProtection::On && getpriority_process(None) == Ok(0) {
        let is_raised = setpriority_process(None, RAISED_NICE).is_ok();
        HAS_RAISED.fetch_or(is_raised, Ordering::Relaxed);
    }
}

/// Resets the priority of the calling thread, which it inherited from a thread of raised priority.
pub fn reset_priority() {
    if HAS_RAISED.load(Ordering::Relaxed) && getpriority_process(None) == Ok(RAISED_NICE) {
        let _ = setpriority_process(None, 0);
    }
}

/// Makes all threads allocate from one heap, because each further heap keeps its largest size and reserves 64 MiB that
/// count as locked. Call this before the first thread is started (mallopt(3)).
pub fn limit_heaps_to_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers and accesses no memory of evenkeel's.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Releases free heap (malloc_trim(3)). Call this before locking the memory, because locked pages cannot be released.
pub fn release_free_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases free memory only, and takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether locking memory takes CAP_IPC_LOCK, now and for each later allocation.
pub fn locking_takes_capability() -> bool {
    getrlimit(Resource::Memlock).current.is_some()
}

/// Locks present and future pages in memory once they have been touched (mlockall(2), MCL_ONFAULT).
///
/// # Errors
/// When the lock is not permitted.
pub fn lock_memory_pages() -> io::Result<()> {
    let is_privileged = capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK);
    if !is_privileged && locking_takes_capability() {
        // The limit counts all mapped pages, touched or not, so an allocation beyond it would fail later.
        return Err(io::Error::other("neither CAP_IPC_LOCK nor an unlimited RLIMIT_MEMLOCK"));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

/// Lowers evenkeel's `oom_score_adj`, unless an operator has set it.
///
/// # Errors
/// When the file cannot be read or written.
pub fn lower_oom_score_adj() -> io::Result<()> {
    if own_oom_score_adj()? == 0 {
        fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ.to_string())?;
    }
    Ok(())
}

/// Raises a negative `oom_score_adj` to 0, for a process that the kernel may kill instead of evenkeel's others.
///
/// # Errors
/// When the file cannot be read or written.
pub fn give_up_oom_protection() -> io::Result<()> {
    if own_oom_score_adj()? < 0 {
        fs::write("/proc/self/oom_score_adj", "0")?;
    }
    Ok(())
}

fn own_oom_score_adj() -> io::Result<i32> {
    let text = fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raised_priority_is_not_inherited_by_a_child() {
        let before = nice();
        let may = capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_NICE);
        let expected = if may && before == 0 { RAISED_NICE } else { before };
        assert_eq!(nice_of_thread_and_child(SelfProtection::On), (expected, before));
        assert_eq!(nice(), before);
    }

    #[test]
    fn priority_stays_where_protection_is_off() {
        assert_eq!(nice_of_thread_and_child(SelfProtection::Off), (nice(), nice()));
    }

    fn nice() -> i32 {
        getpriority_process(None).unwrap()
    }

    /// The nice values of a thread of raised priority, and of a thread that it starts and that resets its own.
    fn nice_of_thread_and_child(protection: SelfProtection) -> (i32, i32) {
        let run = std::thread::spawn(move || {
            raise_priority(protection);
            let first = nice();
            let child = std::thread::spawn(move || {
                reset_priority();
                nice()
            });
            (first, child.join().unwrap())
        });
        run.join().unwrap()
    }
}
