//! A progress line on a terminal for work that takes longer than a second. It disappears when the work is done.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_secs(1);

/// Runs `work`, and shows `what` on standard error each second until it is done, if that is a terminal.
pub fn during<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        scope.spawn(move || {
            let started = Instant::now();
            let mut has_said = false;
            while is_done.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                eprint!("\r{what} ({} s) ", started.elapsed().as_secs());
                has_said = true;
            }
            if has_said {
                // Overwrites the line and returns to its start.
                eprint!("\r{}\r", " ".repeat(what.len() + 12));
            }
            drop(std::io::stderr().flush());
        });
        let result = work();
        drop(done);
        result
    })
}
