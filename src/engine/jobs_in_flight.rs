//! The jobs that run beside the engine, requests to an allocator and commands: how many may run, and which ones have no
//! result yet.

use crate::step::allocate::lifecycle as allocate;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Maximum number of parallel requests.
const MAX_REQUESTS: usize = 8;
/// Maximum number of parallel commands.
const MAX_COMMANDS: usize = 4;

/// A job that was started and has no result yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub lease: u64,
    pub kind: JobKind,
    /// Whether an earlier request may have been granted.
    pub was_in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    Request(allocate::AllocatorCall),
    Command,
}

/// The jobs without a result, by ticket.
#[derive(Default)]
pub(super) struct JobsInFlight(BTreeMap<u64, InFlight>);

impl JobsInFlight {
    /// Leases with a job in flight.
    pub fn awaited(&self) -> BTreeSet<u64> {
        self.0.values().map(|in_flight| in_flight.lease).collect()
    }

    pub fn is_under_way(&self, lease: u64) -> bool {
        self.0.values().any(|in_flight| in_flight.lease == lease)
    }

    /// How many more jobs of this kind may start.
    pub fn room(&self, is_command: bool) -> usize {
        let same = |in_flight: &&InFlight| (in_flight.kind == JobKind::Command) == is_command;
        let most = if is_command { MAX_COMMANDS } else { MAX_REQUESTS };
        most.saturating_sub(self.0.values().filter(same).count())
    }

    /// Removes a job whose result arrived.
    pub fn remove(&mut self, ticket: u64) -> Option<InFlight> {
        self.0.remove(&ticket)
    }

    /// Adds a job, and returns its ticket. Tickets grow with time, so that the successor of a crashed engine ignores
    /// results for it. `now` is CLOCK_BOOTTIME.
    pub fn add(&mut self, job: InFlight, now: Duration) -> u64 {
        let last = self.0.keys().next_back().copied().unwrap_or(0);
        let ticket = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(last + 1);
        self.0.insert(ticket, job);
        ticket
    }
}
