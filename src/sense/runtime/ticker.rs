//! When the next regular sample is due. Pure: takes `now`.

use std::time::{Duration, Instant};

/// A regular beat that skips what it missed instead of catching up.
pub struct Ticker {
    interval: Duration,
    due: Instant,
}

impl Ticker {
    /// The first beat is one interval after `now`.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Ticker {
            interval,
            due: now + interval,
        }
    }

    /// Time until the next beat.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Takes the beat that is due and returns the time until the one after it.
    pub fn next(&mut self, now: Instant) -> Duration {
        let remaining = self.remaining(now);
        self.due += self.interval;
        if self.due <= now {
            self.due = now + self.interval;
        }
        remaining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_keep_their_grid_and_skip_what_was_missed() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut ticker = Ticker::new(second, start);
        assert_eq!(ticker.remaining(at(400)), Duration::from_millis(600));
        assert_eq!(ticker.next(at(1000)), Duration::ZERO);
        assert_eq!(
            ticker.remaining(at(1100)),
            Duration::from_millis(900),
            "lateness does not add up"
        );
        assert_eq!(ticker.next(at(7300)), Duration::ZERO);
        assert_eq!(ticker.remaining(at(7300)), second, "no burst after a pause");
    }
}
