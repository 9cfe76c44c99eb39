//! The schedule of memory polls: when to poll available memory again, and when a drop is worth an early sample. Pure.
//!
//! A program that grows can take all memory between two regular samples. The time until then has a lower bound: no
//! program fills memory faster than the machine can write it.

use std::time::{Duration, Instant};

/// The most that a few threads get that touch fresh pages, on machines of today.
const FILL_BYTES_PER_SECOND: f64 = (6u64 << 30) as f64;

/// Number of polls before falling memory would be exhausted.
const POLLS_BEFORE_EXHAUSTION: f64 = 4.0;

/// Shorter intervals would cost more than they bring, because a decision takes some milliseconds itself.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A drop by this fraction of the last sample can cross a threshold; a smaller one waits for the regular sample.
const DROP_DIVISOR: u64 = 64;

/// The available memory at the last poll and in the last sample.
#[derive(Debug, Default)]
pub struct Headroom {
    before: Option<(Instant, u64)>,
    /// Available bytes in the newest sample that rules have seen.
    sampled: Option<u64>,
}

impl Headroom {
    /// Records the bytes available at `now` and returns the time until the next poll.
    pub fn next_poll(&mut self, now: Instant, available_bytes: u64) -> Duration {
        let falling_per_second = self.before.map_or(0.0, |(at, before)| {
            let seconds = now.saturating_duration_since(at).as_secs_f64();
            before.saturating_sub(available_bytes) as f64 / seconds.max(MIN_POLL_INTERVAL.as_secs_f64())
        });
        self.before = Some((now, available_bytes));
        let bytes_per_second = FILL_BYTES_PER_SECOND.max(falling_per_second * POLLS_BEFORE_EXHAUSTION);
        Duration::from_secs_f64(available_bytes as f64 / bytes_per_second).max(MIN_POLL_INTERVAL)
    }

    /// Whether memory has dropped so far since the last sample that rules should see it now.
    pub fn has_dropped(&self, available_bytes: u64) -> bool {
        self.sampled
            .is_some_and(|sampled| available_bytes < sampled - sampled / DROP_DIVISOR)
    }

    /// Records the figure of a sample that rules have seen.
    pub fn record_sample(&mut self, available_bytes: u64) {
        self.sampled = Some(available_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn poll_interval_shrinks_with_memory_and_with_fast_drops() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for (polls, expected_ms) in [
            (&[(0, 12 * GIB)][..], 2000),
            (&[(0, 3 * GIB)], 500),
            (&[(0, GIB / 8)], 20),
            (&[(0, 0)], 20),
            // 3 GiB/s: a quarter of the second that is left.
            (&[(0, 6 * GIB), (1000, 3 * GIB)], 250),
            // Slow falls, and rises, do not shorten the interval.
            (&[(0, 3 * GIB + 1000), (1000, 3 * GIB)], 500),
            (&[(0, GIB), (1000, 3 * GIB)], 500),
            // Two polls at one moment give no infinite rate.
            (&[(0, 3 * GIB + 1000), (0, 3 * GIB)], 500),
        ] {
            let mut headroom = Headroom::default();
            let waits: Vec<Duration> = polls
                .iter()
                .map(|(ms, bytes)| headroom.next_poll(at(*ms), *bytes))
                .collect();
            assert_eq!(waits.last().unwrap().as_millis(), expected_ms, "{polls:?}");
        }
    }

    #[test]
    fn only_a_large_drop_is_reported() {
        let mut headroom = Headroom::default();
        assert!(!headroom.has_dropped(0), "nothing was sampled to compare with");
        headroom.record_sample(6400);
        for (available, expected) in [(6399, false), (6300, false), (6299, true), (0, true), (9000, false)] {
            assert_eq!(headroom.has_dropped(available), expected, "{available}");
        }
        headroom.record_sample(0);
        assert!(!headroom.has_dropped(0));
    }
}
