//! The latency of each part of the way from a sample to an action, for the log at level debug.

use std::time::Instant;

/// The times of the sample and of the alert behind a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The sample behind the alert; unknown for alerts from Alertmanager.
    pub sampled_at: Option<Instant>,
    pub received_at: Instant,
}

impl From<Instant> for Arrival {
    fn from(received_at: Instant) -> Self {
        Arrival {
            sampled_at: None,
            received_at,
        }
    }
}

/// When each part of a transaction ended.
#[derive(Debug, Clone, Copy)]
pub struct TransactionTimes {
    begun: Instant,
    pub decided: Instant,
    /// The intent is on disk.
    pub durable: Instant,
}

impl TransactionTimes {
    pub fn begin() -> TransactionTimes {
        let now = Instant::now();
        TransactionTimes {
            begun: now,
            decided: now,
            durable: now,
        }
    }

    /// Logs the latency of a step that was applied at `done_at`.
    pub fn log(&self, arrival: Arrival, done_at: Instant, rule: &str, pid: Option<i32>) {
        let seen = arrival.sampled_at.unwrap_or(arrival.received_at);
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_micros() as f64 / 1e3;
        tracing::debug!(
            rule,
            pid,
            evaluate_ms = ms(seen, arrival.received_at),
            wait_ms = ms(arrival.received_at, self.begun),
            decide_ms = ms(self.begun, self.decided),
            commit_ms = ms(self.decided, self.durable),
            act_ms = ms(self.durable, done_at),
            total_ms = ms(seen, done_at),
            "reaction"
        );
    }
}
