//! The timers of the engine: waits, deadlines, rounds and retries. Pure.

use crate::ledger::{Lease, LedgerState};
use std::collections::BTreeSet;
use std::time::Duration;

/// Interval at which open episodes are evaluated again.
pub const ROUND: Duration = Duration::from_secs(15);
/// Interval of retries of failed writes and reverts.
pub const RETRY: Duration = Duration::from_secs(1);
/// Time between two readings of the process table for processor use.
pub const BASELINE: Duration = Duration::from_secs(10);

/// Shortest interval between updates of the page's lists.
pub const RELIST: Duration = Duration::from_millis(250);

/// The times of the engine's last activities, all on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timers {
    /// Last round over all open episodes.
    pub last_round: Duration,
    /// Last retry of a failed write; `None` if everything is written.
    pub last_retry: Option<Duration>,
    /// Last reading for processor use; `None` if no rule needs it.
    pub baseline_at: Option<Duration>,
    /// Last update of the page's lists.
    pub listed_at: Option<Duration>,
    /// Whether the lists have changed since.
    pub must_list: bool,
}

impl Timers {
    /// Brings the next round forward, once, because the cause of a denial may be gone soon. `now` is CLOCK_BOOTTIME.
    pub fn hasten_round(&mut self, now: Duration) {
        let last_round = (now + RETRY).saturating_sub(ROUND);
        self.last_round = self.last_round.min(last_round);
    }
}

/// The next due time, if there is one. A target without further steps has `Duration::MAX`. `under_way` are the leases with a job
/// in flight.
pub fn next_due(ledger: &LedgerState, timers: Timers, under_way: &BTreeSet<u64>) -> Option<Duration> {
    let targets = ledger
        .episodes
        .values()
        // Unconfirmed episodes have no due time.
        .filter(|episode| !episode.evidence.is_doubted())
        .flat_map(|episode| &episode.targets)
        .map(|progress| progress.due);
    let deadlines = ledger.leases.values().filter_map(Lease::runs_out_at);
    let idle = ledger.leases.values().filter(|lease| !under_way.contains(&lease.id));
    let jobs = idle.filter_map(Lease::retry).map(|retry| retry.next);
    let awaited = ledger.victims.iter().filter(|victim| victim.is_awaited());
    let effects = awaited.filter_map(|victim| victim.gone_by);
    let round = (!ledger.episodes.is_empty()).then_some(timers.last_round + ROUND);
    let retry = timers.last_retry.map(|at| at + RETRY);
    let baseline = timers.baseline_at.map(|at| at + BASELINE);
    let listing = timers.listed_at.filter(|_| timers.must_list).map(|at| at + RELIST);
    targets
        .chain(deadlines)
        .chain(effects)
        .chain(jobs)
        .chain(round)
        .chain(retry)
        .chain(baseline)
        .chain(listing)
        .filter(|due| *due < Duration::MAX)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_ledger_needs_no_timer() {
        let nothing = BTreeSet::new();
        assert_eq!(next_due(&LedgerState::default(), Timers::default(), &nothing), None);
        let measuring = Timers {
            baseline_at: Some(Duration::from_secs(5)),
            ..Timers::default()
        };
        assert_eq!(
            next_due(&LedgerState::default(), measuring, &nothing),
            Some(Duration::from_secs(15))
        );
    }
}
