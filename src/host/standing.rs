//! evenkeel's own standing when memory is short: it takes little, its pages stay in memory, others are ended before it, and the
//! threads between sample and deed go first. Without that it would wait for its own code to be read back from a disk that everybody waits
//! for, and for its turn behind the program that takes the memory.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getpriority_process, getrlimit, setpriority_process};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;
use std::io;

/// As in the shipped unit. Not -1000: a fault of evenkeel's own must stay one that the kernel can end.
const OOM_SCORE_ADJ: i32 = -900;

/// The nice value of threads between sample and deed. They run for milliseconds.
const HASTE: i32 = -10;

/// Lets the calling thread run before others, unless somebody has said otherwise. Best effort: it takes CAP_SYS_NICE. Threads
/// and programs that it starts inherit it, until they [`take_turns`].
pub fn go_first() {
    if getpriority_process(None) == Ok(0) {
        let _ = setpriority_process(None, HASTE);
    }
}

/// Lets the calling thread, which was started by one that goes first, wait its turn again.
pub fn take_turns() {
    if getpriority_process(None) == Ok(HASTE) {
        let _ = setpriority_process(None, 0);
    }
}

/// Lets all threads allocate from one heap: of several each keeps what it once needed, and reserves 64 MiB that count as
/// locked. To be called before the first thread is started (mallopt(3)).
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers and touches nothing of ours.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what only the start needed (malloc_trim(3)). Locked pages cannot be given back, so this comes first.
pub fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back free memory only, and takes the allocator's own locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Keeps what is in memory there, and what comes into it from now on. What is never touched takes no memory (mlockall(2),
/// MCL_ONFAULT).
///
/// # Errors
/// Why it cannot be done.
pub fn stay_in_memory() -> io::Result<()> {
    let is_privileged = capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK);
    if !is_privileged && getrlimit(Resource::Memlock).current.is_some() {
        // The limit counts all that is mapped, untouched or not: an allocation beyond it would fail, some day.
        return Err(io::Error::other("neither CAP_IPC_LOCK nor an unlimited RLIMIT_MEMLOCK"));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

/// Makes the kernel end others first when memory runs out, unless somebody has said otherwise.
///
/// # Errors
/// Why it cannot be done.
pub fn be_ended_last() -> io::Result<()> {
    if own_oom_score_adj()? == 0 {
        fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ.to_string())?;
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
    fn who_goes_first_passes_it_on_until_turns_are_taken() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let run = std::thread::spawn(move || {
            go_first();
            let first = nice();
            let child = std::thread::spawn(move || {
                take_turns();
                nice()
            });
            (first, child.join().unwrap())
        });
        let (first, child) = run.join().unwrap();
        let may = capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_NICE);
        let expected = if may && before == 0 { HASTE } else { before };
        assert_eq!((first, child, nice()), (expected, before, before));
    }
}
