//! Leases whose revert waits because it would kill now, and their retries. They are kept in memory only: the lease
//! itself is in the ledger, and a restart reverts it like any other without an episode.

use super::Engine;
use super::timers::{RETRY, ROUND};
use super::transaction::{Action, Transaction};
use crate::act::room::Shortage;
use crate::host::Host;
use crate::ledger::{Entry, Lease, Outcome};
use std::time::Duration;

/// A revert that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// The outcome on success.
    pub word: Outcome,
    used_bytes: u64,
    delay: Duration,
}

impl Wait {
    fn next(former: Option<&Wait>, word: Outcome, shortage: Shortage) -> Wait {
        let used_bytes = shortage.used_bytes;
        let delay = match former {
            // While the use falls, the next retry is soon.
            Some(former) if used_bytes >= former.used_bytes => (former.delay * 2).min(ROUND),
            _ => RETRY,
        };
        Wait {
            word,
            used_bytes,
            delay,
        }
    }
}

impl<H: Host> Engine<H> {
    /// Whether the revert of a lease waits; nothing renews the lease then.
    pub(super) fn is_waiting_for_room(&self, lease: &Lease) -> bool {
        self.waits.contains_key(&lease.id)
    }

    /// Retries waiting reverts, independently of their episodes.
    pub(super) fn retry_waiting(&mut self, transaction: &mut Transaction) {
        let now = transaction.boot_now();
        let leases = &self.ledger.leases;
        self.waits.retain(|id, _| leases.contains_key(id));
        let is_due = |id: &u64| leases.get(id).is_some_and(|lease| lease.deadline <= now);
        let due = self.waits.iter().rev().filter(|(id, _)| is_due(id));
        transaction
            .work
            .extend(due.map(|(&lease, wait)| Action::Undo { lease, word: wait.word }));
    }

    /// Postpones the revert of a lease. True the first time, for the record.
    pub(super) fn wait_for_room(&mut self, lease: &Lease, word: Outcome, shortage: Shortage) -> bool {
        let wait = Wait::next(self.waits.get(&lease.id), word, shortage);
        let is_first = self.waits.insert(lease.id, wait).is_none();
        // Reclaiming takes time, so the clock is read again.
        let deadline = self.host.now().boot + wait.delay;
        let ids = vec![lease.id];
        self.ledger.record(&Entry::Renewed { ids, deadline });
        is_first
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
