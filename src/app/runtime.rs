//! The tokio runtime of a process of evenkeel.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Files are read and passwords checked on so many threads at most. What comes on top waits.
const MAX_BLOCKING_THREADS: usize = 64;
/// A year: a thread for blocking calls stays. Where the user or the cgroup has no process left (`RLIMIT_NPROC`,
/// `pids.max`), no other thread could take its place, and a request whose token has to be checked would wait for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A runtime of one thread: scrapes and webhooks wait for disk and samples, not for processors, and wake-ups between
/// several workers would cost more than the workers gain.
///
/// # Errors
/// The kernel gives no epoll instance or no timer.
pub fn new(on_thread_start: impl Fn() + Send + Sync + 'static) -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .on_thread_start(on_thread_start)
        .build()
}
