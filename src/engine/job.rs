//! Jobs that run beside the engine, requests to an allocator and commands: how many may run, and how one starts.

use super::executor::Executor;
use super::job_results::alert_of;
use super::timers::RETRY;
use crate::host::{Host, Job};
use crate::ledger::{Effect, Entry, Lease, Outcome, Stage};
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
    pub kind: Kind,
    /// Whether an earlier request may have been granted.
    pub was_in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
        let same = |in_flight: &&InFlight| (in_flight.kind == Kind::Command) == is_command;
        let most = if is_command { MAX_COMMANDS } else { MAX_REQUESTS };
        most.saturating_sub(self.0.values().filter(same).count())
    }

    /// Removes a job whose result arrived.
    pub fn remove(&mut self, ticket: u64) -> Option<InFlight> {
        self.0.remove(&ticket)
    }

    /// Adds a job, and returns its ticket. Tickets grow with time, so that the successor of a crashed engine ignores
    /// results for it. `now` is CLOCK_BOOTTIME.
    fn add(&mut self, job: InFlight, now: Duration) -> u64 {
        let last = self.0.keys().next_back().copied().unwrap_or(0);
        let ticket = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(last + 1);
        self.0.insert(ticket, job);
        ticket
    }
}

impl<H: Host> Executor<'_, H> {
    /// Starts the next job of a lease, unless too many run.
    pub fn send(&mut self, id: u64, was_in_doubt: bool) {
        let Some(mut lease) = self
            .ledger
            .leases
            .get(&id)
            .cloned()
            .filter(|_| !self.jobs.is_under_way(id))
        else {
            return;
        };
        let Some((kind, job)) = next_job(&lease) else {
            return;
        };
        let now = self.host.now().boot;
        let is_called_off = !lease.is_ending() && !self.ledger.episodes.contains_key(&lease.episode());
        if is_called_off || self.jobs.room(kind == Kind::Command) == 0 {
            lease.retry_mut().into_iter().for_each(|retry| retry.next = now + RETRY);
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let Stage::Requested { in_doubt } = &mut allocation.stage
            {
                // The request was not sent, so a resolve meanwhile needs no release.
                *in_doubt = was_in_doubt;
            }
            return self.ledger.record(&Entry::Lease(lease));
        }
        let in_flight = InFlight {
            lease: id,
            kind,
            was_in_doubt,
        };
        let ticket = self.jobs.add(in_flight, now);
        self.host.begin(ticket, job);
    }

    /// Starts the release of a lease, which ends with the response.
    pub fn begin_release(&mut self, mut lease: Lease, word: Outcome) {
        let id = lease.id;
        let word = match (&lease.effect, word) {
            (Effect::Allocation(_), Outcome::Restored) => Outcome::Released,
            (_, word) => word,
        };
        if let Some(retry) = lease.retry_mut()
            && retry.ending.is_none()
        {
            retry.ending = Some(word);
            retry.failures = 0;
            retry.next = self.transaction.boot_now();
            self.settle(Entry::Lease(lease.clone()));
        }
        if self.jobs.is_under_way(id) {
            return;
        }
        let (outcome, reason, output) = match &lease.effect {
            Effect::Command(command) if !command.has_ended => (Outcome::Cancelled, "not started yet".to_owned(), None),
            _ if next_job(&lease).is_some() => {
                let is_in_doubt = matches!(&lease.effect, Effect::Allocation(allocation)
                    if allocation.stage == Stage::Requested { in_doubt: true });
                return self.send(id, is_in_doubt);
            }
            Effect::Allocation(allocation) => allocation.end_unasked(word),
            _ => (word, "not revertible".to_owned(), None),
        };
        let mut record = alert_of(self.ledger, &lease).record(self.transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        record.outcome = Some(outcome);
        record.reason = reason;
        record.output = output;
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        self.outcomes.push(Entry::Record(record));
        self.settle(Entry::LeaseEnded { id, outcome });
    }
}

fn next_job(lease: &Lease) -> Option<(Kind, Job)> {
    match &lease.effect {
        Effect::Allocation(allocation) => {
            let (job, request) = allocation.next_errand()?;
            let request = Job::Request(request, allocation.server.clone());
            Some((Kind::Request(job), request))
        }
        Effect::Command(command) => Some((Kind::Command, Job::Command(command.next_run()?.clone()))),
        Effect::Value { .. } | Effect::Signal { .. } => None,
    }
}
