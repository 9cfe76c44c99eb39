//! Leases whose revert waits because it would kill now, and their retries. The waits are kept in memory only: the lease
//! itself is in the ledger, marked as being reverted, so that a restart goes on with it.

use super::timers::{RETRY, ROUND};
use super::transaction::Action;
use crate::act::memory_headroom::Shortage;
use crate::ledger::leases::Leases;
use crate::ledger::stacked_leases::Undo;
use crate::ledger::{Lease, Outcome};
use std::collections::BTreeMap;
use std::time::Duration;

/// A revert that waits.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// The outcome on success.
    outcome: Outcome,
    used_bytes: u64,
    delay: Duration,
}

impl Wait {
    fn next(former: Option<&Wait>, outcome: Outcome, shortage: Shortage) -> Wait {
        let used_bytes = shortage.used_bytes;
        let delay = match former {
            // While the use falls, the next retry is soon.
            Some(former) if used_bytes >= former.used_bytes => (former.delay * 2).min(ROUND),
            _ => RETRY,
        };
        Wait {
            outcome,
            used_bytes,
            delay,
        }
    }
}

/// The reverts that go on after their transaction.
#[derive(Default)]
pub(super) struct PendingReverts {
    /// The leases reverted by this transaction, whose newest children are checked once more.
    pub undone: Vec<(Lease, Undo)>,
    /// The reverts that wait for room, by lease.
    waits: BTreeMap<u64, Wait>,
}

impl PendingReverts {
    /// Whether the revert of a lease waits; nothing renews the lease then.
    pub fn is_waiting(&self, lease: &Lease) -> bool {
        self.waits.contains_key(&lease.id)
    }

    /// The outcome on success of a waiting revert.
    pub fn outcome_of(&self, lease: u64) -> Option<Outcome> {
        self.waits.get(&lease).map(|wait| wait.outcome)
    }

    /// Retries of the waiting reverts that are due at `now` (CLOCK_BOOTTIME), independently of their episodes.
    pub fn due_retries(&mut self, leases: &Leases, now: Duration) -> Vec<Action> {
        self.waits.retain(|id, _| leases.contains_key(id));
        let is_due = |id: &u64| leases.get(id).is_some_and(|lease| lease.deadline <= now);
        let due = self.waits.iter().rev().filter(|(id, _)| is_due(id));
        due.map(|(&lease, wait)| Action::Undo {
            lease,
            outcome: wait.outcome,
        })
        .collect()
    }

    /// Postpones a revert. Returns whether it is the first time, and the time of the next try.
    pub fn postpone(&mut self, lease: u64, outcome: Outcome, shortage: Shortage, now: Duration) -> (bool, Duration) {
        let wait = Wait::next(self.waits.get(&lease), outcome, shortage);
        let is_first = self.waits.insert(lease, wait).is_none();
        (is_first, now + wait.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_while_use_does_not_fall() {
        let mut wait = None;
        let mut delay = |used_bytes| {
            let shortage = Shortage {
                used_bytes,
                limit_bytes: 1,
            };
            let next = Wait::next(wait.as_ref(), Outcome::Restored, shortage);
            wait = Some(next);
            next.delay.as_secs()
        };
        let delays = [9, 9, 9, 8, 8, 9, 9, 9, 9].map(&mut delay);
        assert_eq!(delays, [1, 2, 4, 1, 2, 4, 8, 15, 15]);
    }
}
