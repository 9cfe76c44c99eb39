//! Calls with a deadline, for files that may block their reader. The kernel reads some files of a process, such as its
//! command line, under a lock of its memory (mmap_lock), which a process that is blocked in the kernel may hold. A
//! separate thread makes these calls. A call that misses the deadline keeps its thread; the number of such threads is
//! bounded, and its process is not read again until the call returns.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum number of blocked threads. Beyond that all calls fail.
pub const MAX_BLOCKED: usize = 8;
/// Deadline of a call. Reading a command line takes microseconds, and a thousand times longer on an overloaded host.
pub const PATIENCE: Duration = Duration::from_millis(500);
const STACK_BYTES: usize = 128 * 1024;

type Call = Box<dyn FnOnce() + Send>;

/// The call missed its deadline, or an earlier call for the same process has not returned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time: the process may be blocked in the kernel")]
pub struct Blocked;

/// A runner of calls about processes, one at a time. Clones share their threads.
#[derive(Debug, Clone, Default)]
pub struct BoundedCalls(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The sender to the present thread. A blocked thread is abandoned.
    worker: Option<Sender<Call>>,
    /// Pids of the processes that block a thread.
    blocked: BTreeSet<i32>,
}

impl BoundedCalls {
    /// Runs a call about the process `pid`, and waits at most `patience`.
    ///
    /// # Errors
    /// When it has not returned by then. It may still run.
    pub fn run<T: Send + 'static>(
        &self,
        pid: i32,
        patience: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Blocked> {
        let (sender, receiver) = channel();
        let this = self.clone();
        let reporting = move || {
            // After a panic there is no result, but the thread is free again.
            let answer = catch_unwind(AssertUnwindSafe(call)).ok();
            // Holds the lock, so that a call either counts as blocked or returns its result.
            let mut state = this.lock();
            let _ = answer.map(|answer| sender.send(answer));
            drop(sender);
            state.blocked.remove(&pid);
        };
        let mut state = self.lock();
        if state.blocked.contains(&pid) || state.blocked.len() >= MAX_BLOCKED {
            return Err(Blocked);
        }
        state.submit(Box::new(reporting));
        drop(state);
        if let Ok(answer) = receiver.recv_timeout(patience) {
            return Ok(answer);
        }
        let mut state = self.lock();
        match receiver.try_recv() {
            Ok(answer) => return Ok(answer),
            Err(TryRecvError::Empty) => {
                state.blocked.insert(pid);
                tracing::warn!(pid, blocked = state.blocked.len(), "call that may block timed out");
            }
            // The thread could not start, or it ended.
            Err(TryRecvError::Disconnected) => {}
        }
        state.worker = None;
        Err(Blocked)
    }

    /// Number of processes that block a thread now.
    pub fn blocked(&self) -> usize {
        self.lock().blocked.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn submit(&mut self, call: Call) {
        let worker = self.worker.take().or_else(spawn);
        // Without a thread the call is dropped, which its caller notices.
        self.worker = worker.filter(|worker| worker.send(call).is_ok());
    }
}

/// Starts a thread that runs calls until its sender is dropped.
fn spawn() -> Option<Sender<Call>> {
    let (sender, receiver) = channel::<Call>();
    let thread = std::thread::Builder::new()
        .name("process-reader".into())
        .stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || receiver.into_iter().for_each(|call| call()));
    match spawned {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!(%error, "could not start the thread that reads files of processes");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Receiver;

    const SOON: Duration = Duration::from_millis(20);

    /// Blocks a call about a process until the sender is used or dropped.
    fn block(calls: &BoundedCalls, pid: i32) -> (Sender<()>, Result<(), Blocked>) {
        let (release, waiting): (Sender<()>, Receiver<()>) = channel();
        let answer = calls.run(pid, SOON, move || {
            let _ = waiting.recv();
        });
        (release, answer)
    }

    fn await_blocked(calls: &BoundedCalls, expected: usize) {
        while calls.blocked() != expected {
            std::thread::yield_now();
        }
    }

    #[test]
    fn calls_return_their_result() {
        let calls = BoundedCalls::default();
        for number in 0..100 {
            assert_eq!(calls.run(7, PATIENCE, move || number), Ok(number));
        }
        assert_eq!(calls.blocked(), 0);
    }

    #[test]
    fn blocked_process_is_not_read_until_its_call_returns() {
        let calls = BoundedCalls::default();
        let (release, answer) = block(&calls, 7);
        assert_eq!((answer, calls.blocked()), (Err(Blocked), 1));
        assert_eq!(calls.run(7, PATIENCE, || 1), Err(Blocked));
        assert_eq!(
            calls.run(8, PATIENCE, || 2),
            Ok(2),
            "others are asked by another thread"
        );
        drop(release);
        await_blocked(&calls, 0);
        assert_eq!(calls.run(7, PATIENCE, || 3), Ok(3));
    }

    #[test]
    fn blocked_threads_are_bounded() {
        let calls = BoundedCalls::default();
        let held: Vec<_> = (0..MAX_BLOCKED as i32 + 3).map(|pid| block(&calls, pid)).collect();
        assert_eq!(calls.blocked(), MAX_BLOCKED);
        assert_eq!(calls.run(99, PATIENCE, || 1), Err(Blocked));
        drop(held);
        await_blocked(&calls, 0);
        assert_eq!(calls.run(99, PATIENCE, || 1), Ok(1));
    }

    #[test]
    fn panic_of_a_call_does_not_stop_the_next() {
        let calls = BoundedCalls::default();
        assert_eq!(calls.run(7, PATIENCE, || panic!("as intended")), Err::<(), _>(Blocked));
        await_blocked(&calls, 0);
        assert_eq!(calls.run(7, PATIENCE, || 1), Ok(1));
    }
}
