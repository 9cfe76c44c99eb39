//! Fault points at which a test may kill the daemon: every call of the fake host and every commit of the journal.
//! Compiled for tests only.

use std::cell::Cell;

/// The panic message of a killed daemon.
pub const KILLED: &str = "killed at a fault point";

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Kills this thread at the `after`-th fault point from now, counted from 0; `None` lets it live.
pub fn arm(after: Option<u32>) {
    LEFT.set(after);
}

/// Whether an armed fault has not fired yet.
pub fn is_armed() -> bool {
    LEFT.get().is_some()
}

/// A place where the daemon may die.
pub fn point() {
    match LEFT.get() {
        None => {}
        Some(0) => {
            LEFT.set(None);
            // Bypasses the hook that prints panics, because a test panics here thousands of times.
            std::panic::resume_unwind(Box::new(KILLED));
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}
