//! The jobs of leases on the host, requests to an allocator and commands: which ones are due, and what their results
//! mean for leases and episodes. Releases are retried until they are answered.

use super::episodes::Episodes;
use super::status::{end_of, log_outcome};
use super::timers::{RETRY, ROUND};
use super::transaction::{Action, AlertRef};
use crate::host::Moment;
use crate::ledger::{Effect, Entry, EpisodeKey, GrantState, Lease, LedgerState, Outcome, Record, TargetProgress};
use crate::process::Target;
use crate::step::allocate::lifecycle as allocate;
use crate::step::exec as command;
use std::collections::BTreeSet;
use std::time::Duration;

impl Episodes<'_> {
    /// Starts due jobs: retries, renewals and releases.
    pub fn run_due_jobs(&mut self) {
        let now = self.now();
        // A lease that ends in this transaction must not become in doubt by a request that is not sent.
        let ending: BTreeSet<u64> = self.transaction.undone().collect();
        let is_due =
            |lease: &&Lease| lease.retry().is_some_and(|retry| retry.next <= now) && !ending.contains(&lease.id);
        let mut room = self.jobs.room(false);
        let due = self.ledger.leases.values().filter(is_due);
        let due: Vec<Lease> = due.filter(|lease| !self.jobs.is_under_way(lease.id)).cloned().collect();
        for mut lease in due {
            let id = lease.id;
            if let Some(outcome) = lease.retry().and_then(|retry| retry.ending) {
                self.transaction.actions.push(Action::Undo { lease: id, outcome });
                continue;
            }
            if is_first_try(&lease) && (self.ledger.is_paused(&lease.rule) || self.is_in_doubt(&lease)) {
                // In a pause, and without a confirmed alert, grants are renewed but not requested, and no command starts.
                lease.retry_mut().into_iter().for_each(|retry| retry.next = now + ROUND);
                self.ledger.record(&Entry::Lease(lease));
                continue;
            }
            let mut was_in_doubt = false;
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let GrantState::Requested { in_doubt } = allocation.grant
            {
                if room == 0 {
                    allocation.retry.next = now + RETRY;
                    self.ledger.record(&Entry::Lease(lease));
                    continue;
                }
                room -= 1;
                was_in_doubt = in_doubt;
                if !in_doubt {
                    // Durable before the request, because after a crash the grant is unknown otherwise.
                    allocation.grant = GrantState::Requested { in_doubt: true };
                    self.stage(Entry::Lease(lease));
                }
            }
            self.transaction.actions.push(Action::Send {
                lease: id,
                was_in_doubt,
            });
        }
    }

    /// Makes the jobs of an episode due that waited for its confirmation.
    pub fn resume_requests(&mut self, key: &EpisodeKey) {
        let now = self.now();
        let waiting = self
            .ledger
            .leases_of(key)
            .filter(|lease| is_first_try(lease) && !lease.is_ending());
        for mut lease in waiting.cloned().collect::<Vec<_>>() {
            let retry = lease.retry_mut().filter(|retry| retry.next < Duration::MAX);
            retry.into_iter().for_each(|retry| retry.next = now);
            self.ledger.record(&Entry::Lease(lease));
        }
    }

    /// Settles commands that ran when the daemon died. They are not run again, because their effect is unknown.
    pub fn resume_jobs(&mut self) {
        let is_open = |lease: &&Lease| matches!(&lease.effect, Effect::Command(command) if !command.has_ended);
        for mut lease in self.ledger.leases.values().filter(is_open).cloned().collect::<Vec<_>>() {
            let Effect::Command(command) = &mut lease.effect else {
                continue;
            };
            command.has_ended = true;
            if command.retry.ending.is_none() {
                command.retry.next = Duration::MAX;
            }
            let (step, is_undone, id) = (command.step.clone(), command.undo.is_some(), lease.id);
            let mut record = self.record_of(&lease);
            record.step = Some(step);
            record.outcome = Some(Outcome::Failed);
            record.reason = "evenkeel stopped during the run; unknown whether it finished".to_owned();
            self.record_result(&lease, record);
            lease.settled = true;
            let entry = if is_undone {
                Entry::Lease(lease)
            } else {
                let outcome = Outcome::Failed;
                Entry::LeaseEnded { id, outcome }
            };
            self.record_always(entry);
        }
        self.run_due_jobs();
    }

    /// Releases a lease for an operator. The first request restarts its retries. With `may_drop`, a lease whose retry failed since
    /// is dropped. Returns whether it was dropped.
    pub fn note_release_by_hand(&mut self, lease: &Lease, may_drop: bool) -> bool {
        let mut lease = lease.clone();
        let is_ending = lease.is_ending();
        let Some(retry) = lease.retry_mut() else {
            return false;
        };
        if !retry.is_by_hand {
            retry.is_by_hand = true;
            if is_ending {
                retry.failures = 0;
            }
            self.record_always(Entry::Lease(lease));
            return false;
        }
        if !may_drop || !is_ending || retry.failures == 0 {
            return false;
        }
        let what = match &lease.effect {
            Effect::Allocation(allocation) => allocation.dropped(),
            _ => "the command was not reverted".to_owned(),
        };
        tracing::warn!(
            rule = lease.rule.as_str(),
            lease = lease.id,
            what,
            "lease dropped by an operator"
        );
        let (id, outcome) = (lease.id, Outcome::Failed);
        let mut record = self.record_of(&lease);
        record.step = Some(format!("undo {}", lease.knob()));
        record.outcome = Some(outcome);
        record.reason = lease.reason_of_revert(format!("dropped by hand: {what}"));
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        self.record_always(Entry::Record(record));
        self.record_always(Entry::LeaseEnded { id, outcome });
        true
    }

    pub fn record_response(&mut self, lease: &Lease, update: allocate::JobUpdate, step: String) {
        let outcome = update.outcome;
        let resource = update.allocation.as_ref().and_then(|allocation| allocation.resource());
        if update.is_news {
            let mut record = self.record_of(lease);
            record.step = Some(step);
            record.outcome = Some(outcome);
            record.reason = update.reason;
            record.output = update.output;
            record.after = resource.filter(|_| outcome == Outcome::Granted).map(str::to_owned);
            self.record_result(lease, record);
        }
        if let Some(left_over) = update.left_over {
            let left_over = Lease {
                id: self.ledger.last_lease_id + 1,
                effect: Effect::Allocation(Box::new(left_over)),
                ..lease.clone()
            };
            self.record_always(Entry::Lease(left_over));
        }
        let Some(allocation) = update.allocation else {
            return self.record_always(Entry::LeaseEnded { id: lease.id, outcome });
        };
        let is_granted = outcome == Outcome::Granted && allocation.retry.ending.is_none();
        let held = Lease {
            settled: allocation.resource().is_some(),
            effect: Effect::Allocation(Box::new(allocation)),
            ..lease.clone()
        };
        self.record_always(Entry::Lease(held));
        if is_granted && update.is_news {
            self.continue_steps(lease);
        }
    }

    pub fn record_command_exit(&mut self, lease: &Lease, update: command::JobUpdate, step: String) {
        let outcome = update.outcome;
        let mut record = self.record_of(lease);
        record.step = Some(step);
        record.outcome = Some(outcome);
        record.reason = update.reason;
        record.output = update.output;
        self.record_result(lease, record);
        if outcome == Outcome::Failed && lease.is_irreversible_command() {
            self.record_always(uncounted(lease));
        }
        let is_ending = update
            .command
            .as_ref()
            .is_some_and(|command| command.retry.ending.is_some());
        let entry = match update.command {
            Some(command) => Entry::Lease(Lease {
                settled: true,
                effect: Effect::Command(Box::new(command)),
                ..lease.clone()
            }),
            None => Entry::LeaseEnded { id: lease.id, outcome },
        };
        self.record_always(entry);
        if outcome == Outcome::Applied && !is_ending {
            self.continue_steps(lease);
        }
    }

    fn record_result(&mut self, lease: &Lease, mut record: Record) {
        let outcome = record.outcome.unwrap_or(Outcome::Failed);
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        record.reason = lease.reason_of_revert(record.reason);
        // What a command prints stays out of the log unless it failed.
        let output = if outcome.is_failure() {
            end_of(record.output.as_deref())
        } else {
            String::new()
        };
        log_outcome!(
            outcome,
            rule = lease.rule.as_str(),
            alert = record.alertname,
            lease = lease.id,
            step = record.step.as_deref().unwrap_or(""),
            outcome = outcome.as_str(),
            after = record.after.as_deref().unwrap_or(""),
            reason = record.reason,
            output,
            "job finished"
        );
        self.record_always(Entry::Record(record));
    }

    /// Continues the steps of the host in the episode of this lease.
    fn continue_steps(&mut self, lease: &Lease) {
        let Some(mut episode) = self.ledger.episodes.get(&lease.episode()).cloned() else {
            return;
        };
        let step_count = self.rule_of(&episode).map_or(0, |rule| rule.actions.len());
        let mut targets = episode.targets.iter_mut();
        let waits =
            |progress: &&mut TargetProgress| progress.target == Target::Host && progress.step_index < step_count;
        if let Some(progress) = targets.find(waits) {
            progress.due = self.now();
            self.record_always(Entry::Episode(episode));
        }
    }

    fn record_of(&self, lease: &Lease) -> Record {
        record_of(self.ledger, lease, self.transaction.now)
    }
}

/// Whether the grant or the exit of the command is still pending.
fn is_first_try(lease: &Lease) -> bool {
    match &lease.effect {
        Effect::Allocation(allocation) => allocation.resource().is_none(),
        Effect::Command(command) => !command.has_ended,
        Effect::Value { .. } | Effect::Signal { .. } => false,
    }
}

/// The entry for an irreversible command that failed or never started. The first command of an episode counts for all of
/// them, so a later one, whose lease is from another time, changes nothing.
pub(super) fn uncounted(lease: &Lease) -> Entry {
    Entry::CommandUncounted {
        key: lease.episode(),
        struck_at: lease.taken_at,
    }
}

/// A record about a lease; without a name of the alert if its episode is closed.
pub(super) fn record_of(ledger: &LedgerState, lease: &Lease, now: Moment) -> Record {
    let episode = ledger.episodes.get(&lease.episode());
    let labels = episode.map(|episode| episode.labels.clone()).unwrap_or_default();
    let mut record = AlertRef::new(&lease.rule, &labels, &lease.fingerprint).record(now);
    record.target = Some((lease.target, lease.name.clone()));
    record
}
