//! A ticker for the regular samples. Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// A ticker with a fixed grid. It skips ticks that it missed instead of catching up.
pub struct Ticker {
    interval: Duration,
    due: Instant,
}

impl Ticker {
    /// The first tick is one interval after `now`.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Ticker {
            interval,
            due: now + interval,
        }
    }

    /// Time until the next tick.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Advances by one tick and returns the time that was left until it.
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
    fn ticks_keep_their_grid_and_skip_missed_ones() {
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
