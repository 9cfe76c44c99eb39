//! The breaker of a rule: the number of irreversible actions in a row without effect, and whether it allows more.
//! Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Number of victims in a row without effect that opens the breaker.
pub const TRIPS_AT: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breaker {
    /// Victims without effect since the last one with.
    pub failures: u32,
    /// When it opened. From then on the rule applies no irreversible action until an operator closes it.
    pub opened_at: Option<Timestamp>,
}

impl Breaker {
    pub fn is_open(&self) -> bool {
        self.opened_at.is_some()
    }

    /// The breaker after one more victim. An open one stays open, even after a late effect.
    #[must_use]
    pub fn after(self, had_effect: bool, now: Timestamp) -> Breaker {
        if self.is_open() {
            return self;
        }
        if had_effect {
            return Breaker::default();
        }
        let failures = self.failures.saturating_add(1);
        Breaker {
            failures,
            opened_at: (failures >= TRIPS_AT).then_some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(effects: &[bool]) -> Breaker {
        let now = Timestamp::UNIX_EPOCH;
        effects
            .iter()
            .fold(Breaker::default(), |breaker, effect| breaker.after(*effect, now))
    }

    #[test]
    fn three_failures_in_a_row_open_it() {
        assert!(!after(&[false, false]).is_open());
        assert!(after(&[false, false, false]).is_open());
        assert!(!after(&[false, false, true, false, false]).is_open());
        assert!(after(&[false, true, false, false, false]).is_open());
    }

    #[test]
    fn later_effect_does_not_close_it() {
        assert_eq!(after(&[false, false, false, true]), after(&[false, false, false]));
        assert!(after(&[false, false, false, true, true, false]).is_open());
    }
}
