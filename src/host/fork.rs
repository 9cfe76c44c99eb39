//! Starts processes that go on with the program of this one (fork(2)), which share its memory until they write to it.

use nix::unistd::{ForkResult, Pid};

/// Starts a process. `None` in the new one.
///
/// # Errors
/// When the kernel refuses, or this process has other threads: a lock that one of them holds would stay locked in the new
/// process.
pub fn fork() -> std::io::Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(std::io::Error::other("a process with threads cannot be copied"));
    }
    // SAFETY: there is no other thread, so the new process may do all that this one may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(None),
        ForkResult::Parent { child } => Ok(Some(child)),
    }
}
