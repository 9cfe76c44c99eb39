//! A thread that waits for the exit of one process. `unsafe` is for a call that no crate wraps.

use super::OnExit;
use crate::host::self_priority;
use crate::process::Identity;
use nix::libc;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::{io, thread};

/// Starts a thread that calls `on_exit` once the process has exited, or at once without a `pidfd`. Victims go one at a
/// time per rule, so there are few threads.
pub fn start(id: Identity, pidfd: Option<OwnedFd>, on_exit: OnExit) -> io::Result<()> {
    let watcher = thread::Builder::new().name("exit-watch".into()).stack_size(64 * 1024);
    let spawned = watcher.spawn(move || {
        self_priority::reset_priority();
        if let Some(pidfd) = pidfd {
            release_memory(&pidfd);
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            while matches!(poll(&mut fds, None), Err(Errno::INTR)) {}
        }
        // Not from the caller's thread: it may be the one that empties the queue which this fills.
        on_exit(id);
    });
    spawned.map(drop)
}

pub fn warn(id: Identity, error: &impl Display) {
    tracing::warn!(pid = id.pid, %error, "could not watch for the exit of a process, polling every 15 s");
}

/// Frees the memory of a process that SIGKILL is on its way to, from this thread, for its own may hang in the kernel.
/// For any other process the kernel refuses; older kernels than 5.15 do not know the call, and need no help.
fn release_memory(pidfd: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: takes a descriptor that lives through the call and a number, touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
}
