//! The start of the jobs of a lease: requests to an allocator, and commands.

use super::executor::Executor;
use super::job_results::{record_of, uncounted};
use super::jobs_in_flight::{InFlight, JobKind};
use super::status::{end_of, log_outcome};
use super::timers::RETRY;
use crate::host::{Host, Job};
use crate::ledger::{Effect, Entry, GrantState, Lease, Outcome};
use crate::telemetry::NOT_REVERTIBLE;

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
        if is_called_off || self.jobs.room(kind == JobKind::Command) == 0 {
            lease.retry_mut().into_iter().for_each(|retry| retry.next = now + RETRY);
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let GrantState::Requested { in_doubt } = &mut allocation.grant
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
                    if allocation.grant == GrantState::Requested { in_doubt: true });
                return self.send(id, is_in_doubt);
            }
            Effect::Allocation(allocation) => allocation.end_unasked(word),
            _ => (word, NOT_REVERTIBLE.to_owned(), None),
        };
        let mut record = record_of(self.ledger, &lease, self.transaction.now);
        record.step = Some(format!("undo {}", lease.knob()));
        record.outcome = Some(outcome);
        record.reason = lease.reason_of_revert(reason);
        log_outcome!(
            outcome,
            rule = lease.rule.as_str(),
            alert = record.alertname,
            lease = id,
            step = record.step.as_deref().unwrap_or(""),
            outcome = outcome.as_str(),
            reason = record.reason,
            output = end_of(output.as_deref()),
            "job released"
        );
        record.output = output;
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        self.outcomes.push(Entry::Record(record));
        if outcome == Outcome::Cancelled && lease.is_irreversible_command() {
            self.settle(uncounted(&lease));
        }
        self.settle(Entry::LeaseEnded { id, outcome });
    }
}

fn next_job(lease: &Lease) -> Option<(JobKind, Job)> {
    match &lease.effect {
        Effect::Allocation(allocation) => {
            let (job, request) = allocation.next_job()?;
            let request = Job::Request(request, allocation.server.clone());
            Some((JobKind::Request(job), request))
        }
        Effect::Command(command) => Some((JobKind::Command, Job::Command(command.next_run()?.clone()))),
        Effect::Value { .. } | Effect::Signal { .. } => None,
    }
}
