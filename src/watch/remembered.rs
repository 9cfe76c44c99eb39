//! What is known of an alert from before a restart.

/// The last known state of an alert before a restart. Times are Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pub active_at_ms: i64,
    pub fired_at_ms: Option<i64>,
    /// The time since which only `keep_firing_for` kept the alert firing.
    pub kept_since_ms: Option<i64>,
    pub seen_at_ms: i64,
}

/// Maximum age of the state of an alert before a restart.
const MAX_UNSEEN_MS: i64 = 10 * 60 * 1000;

impl Remembered {
    pub(super) fn is_recent(&self, now_ms: i64) -> bool {
        (0..=MAX_UNSEEN_MS).contains(&(now_ms - self.seen_at_ms))
    }

    /// The time from which on `keep_firing_for` counts, where the expression does not yield the alert at `now_ms`.
    pub(super) fn kept_since_ms(&self, now_ms: i64) -> i64 {
        let ended_ms = if self.is_recent(now_ms) {
            now_ms
        } else {
            self.seen_at_ms
        };
        self.kept_since_ms.unwrap_or(ended_ms)
    }
}

/// The times since which an alert is active and fires. After a restart a firing alert continues, and time without
/// evaluation does not count for the `for` of a pending one.
pub(super) fn begun(remembered: Option<Remembered>, now_ms: i64) -> (i64, Option<i64>) {
    match remembered {
        None => (now_ms, None),
        Some(before) if before.fired_at_ms.is_some() => (before.active_at_ms, before.fired_at_ms),
        Some(before) => (before.active_at_ms + (now_ms - before.seen_at_ms), None),
    }
}
