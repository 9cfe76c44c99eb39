//! Steps for the host as a whole: requests to an allocator and commands, whose results arrive later. `act` decides
//! what a result means; this module turns that into entries and work. Releases are retried until they are answered.

use super::Engine;
use super::timers::{RETRY, ROUND};
use super::transaction::{Action, AlertRef, Transaction};
use crate::act::guard::{Denial, FinalGate};
use crate::act::plan::{DueSteps, HOST_NAME};
use crate::act::{allocate, command};
use crate::host::{Host, Job, Report};
use crate::ledger::{
    Decision, Effect, Entry, Episode, EpisodeKey, Lease, Outcome, Record, Stage, TargetProgress, Victim,
};
use crate::process::Target;
use crate::rule::job::without_query;
use crate::rule::{Rule, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of parallel requests.
const MAX_REQUESTS: usize = 8;
/// Maximum number of parallel commands.
const MAX_COMMANDS: usize = 4;
/// The placeholder for a granted resource in a dry-run.
const IMAGINED: &str = "RESOURCE";

/// A job that was started and has no result yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    lease: u64,
    kind: Kind,
    /// Whether an earlier request may have been granted.
    was_in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request(allocate::AllocatorCall),
    Command,
}

impl<H: Host> Engine<H> {
    /// Passes the due steps of the host to the guard, up to the first job. The rest follows after its result.
    pub(super) fn step_host(
        &mut self,
        due_steps: DueSteps,
        rule: &Arc<Rule>,
        about: &AlertRef,
        episode: &mut Episode,
        transaction: &mut Transaction,
    ) {
        let simulated = episode.key.simulated;
        let is_at_end = due_steps.next_rung >= rule.actions.len();
        let mut progress = TargetProgress {
            target: Target::Host,
            name: HOST_NAME.to_owned(),
            step_index: due_steps.next_rung,
            due: if is_at_end {
                Duration::MAX
            } else {
                transaction.boot_now() + due_steps.wait
            },
            refused: None,
        };
        let known = episode.targets.iter().find(|progress| progress.target == Target::Host);
        let told = known.and_then(|progress| progress.refused);
        for (step_index, step) in &due_steps.steps {
            let mut record = about.record(transaction.now);
            record.target = Some((Target::Host, HOST_NAME.to_owned()));
            record.step = Some(step.to_string());
            if step.is_final()
                && let Err(denial) = self.may_run(rule, episode, transaction.boot_now())
            {
                if told != Some(denial.decision) {
                    (record.decision, record.reason) = (Some(denial.decision), denial.reason);
                    transaction.stage_record(&mut self.ledger, record);
                }
                (progress.step_index, progress.due) = (*step_index, transaction.boot_now() + ROUND);
                progress.refused = Some(denial.decision);
                break;
            }
            let effect = match self.host_effect(step, episode, transaction) {
                Ok(effect) => effect,
                Err(reason) => {
                    record.decision = Some(Decision::Planned);
                    transaction.stage_record(&mut self.ledger, record.clone());
                    (record.decision, record.outcome) = (None, Some(Outcome::Failed));
                    record.reason = reason;
                    self.telemetry
                        .action(&rule.name, step.action(), Outcome::Failed.as_str());
                    transaction.stage_record(&mut self.ledger, record);
                    (progress.step_index, progress.due) = (step_index + 1, Duration::MAX);
                    break;
                }
            };
            if let Effect::Allocation(allocation) = &effect {
                record.reason = format!("{} {}", allocation.ask.method, without_query(&allocation.ask.url));
            }
            record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
            transaction.stage_record(&mut self.ledger, record.clone());
            if step.is_final() {
                self.note_run(episode, transaction);
            }
            if simulated {
                (record.decision, record.outcome) = (None, Some(Outcome::DryRun));
                self.telemetry
                    .action(&rule.name, step.action(), Outcome::DryRun.as_str());
                transaction.stage_record(&mut self.ledger, record);
                continue;
            }
            let lease = Lease {
                id: self.ledger.last_lease_id + 1,
                rule: rule.name.clone(),
                fingerprint: about.fingerprint.clone(),
                target: Target::Host,
                name: HOST_NAME.to_owned(),
                effect,
                taken_at: transaction.boot_now(),
                deadline: transaction.boot_now() + rule.hold,
                settled: false,
                is_undoing: false,
            };
            let id = lease.id;
            transaction.stage(&mut self.ledger, Entry::Lease(lease));
            transaction.work.push(Action::Send {
                lease: id,
                was_in_doubt: false,
            });
            (progress.step_index, progress.due) = (step_index + 1, Duration::MAX);
            break;
        }
        episode.targets.retain(|progress| progress.target != Target::Host);
        episode.targets.push(progress);
    }

    fn may_run(&self, rule: &Rule, episode: &Episode, now: Duration) -> Result<(), Denial> {
        let condition = rule.condition.as_ref();
        let condition = condition.map(|text| (self.conditions)(text).is_some_and(|answer| answer.holds));
        let (stuck, orphaned) = (BTreeSet::new(), BTreeSet::new());
        let gate = FinalGate {
            rule,
            episode,
            victims: &self.ledger.victims,
            budget: self.policy.budget,
            now,
            sample_at: now,
            condition,
            stuck: &stuck,
            orphaned: &orphaned,
            is_broken: self.ledger.is_breaker_open(&rule.name),
        };
        gate.run().map(drop)
    }

    /// Counts the host as one victim per episode, which is settled at once because no step waits for it.
    fn note_run(&mut self, episode: &Episode, transaction: &mut Transaction) {
        let key = &episode.key;
        let is_known = |victim: &Victim| victim.target == Target::Host && victim.counts_for(episode);
        if self.ledger.victims.iter().any(is_known) {
            return;
        }
        let victim = Victim {
            rule: key.rule.clone(),
            fingerprint: key.fingerprint.clone(),
            gone_at: Some(transaction.boot_now()),
            alert_starts_at: Some(episode.starts_at),
            ..Victim::new(Target::Host, key.simulated, transaction.boot_now())
        };
        transaction.stage(&mut self.ledger, Entry::Victim(victim));
    }

    /// The job of a step, with the labels of the alert.
    fn host_effect(&self, step: &Step, episode: &Episode, transaction: &Transaction) -> Result<Effect, String> {
        let granted = self.ledger.leases_of(&episode.key).filter(|lease| !lease.is_ending());
        let mut granted = granted.filter_map(|lease| match &lease.effect {
            Effect::Allocation(allocation) => allocation.resource(),
            _ => None,
        });
        let resource = if episode.key.simulated {
            Some(IMAGINED)
        } else {
            granted.next_back()
        };
        let now = transaction.boot_now();
        let mut effect = match step {
            Step::Allocate(step) => {
                // Unique even if the ledger is lost and its numbers start over.
                let (boot, id) = (self.journal.boot(), self.ledger.last_lease_id + 1);
                let key = format!("evenkeel-{boot}-{id}-{:x}", now.as_nanos());
                Effect::Allocation(Box::new(allocate::plan(step, episode, resource, key)?))
            }
            Step::Exec(step) => Effect::Command(Box::new(command::plan(step, episode, resource)?)),
            Step::Set(_) | Step::Signal(_) | Step::Reclaim(_) | Step::Kill | Step::Wait(_) => {
                return Err("not a step for the host".to_owned());
            }
        };
        match &mut effect {
            Effect::Allocation(allocation) => allocation.retry.next = now,
            Effect::Command(command) => command.retry.next = now,
            Effect::Value { .. } | Effect::Signal { .. } => {}
        }
        Ok(effect)
    }

    /// Leases with a job in flight.
    pub(super) fn awaited(&self) -> BTreeSet<u64> {
        self.jobs_in_flight.values().map(|in_flight| in_flight.lease).collect()
    }

    fn is_under_way(&self, lease: u64) -> bool {
        self.jobs_in_flight.values().any(|in_flight| in_flight.lease == lease)
    }

    /// How many more jobs of this kind may start.
    fn room(&self, is_command: bool) -> usize {
        let same = |in_flight: &&InFlight| (in_flight.kind == Kind::Command) == is_command;
        let most = if is_command { MAX_COMMANDS } else { MAX_REQUESTS };
        most.saturating_sub(self.jobs_in_flight.values().filter(same).count())
    }

    /// Whether a release is still pending.
    pub fn is_giving_back(&self) -> bool {
        self.ledger.leases.values().any(Lease::is_ending)
    }

    /// Starts due jobs: retries, renewals and releases.
    pub(super) fn run_due_jobs(&mut self, transaction: &mut Transaction) {
        let now = transaction.boot_now();
        // A lease that ends in this transaction must not become in doubt by a request that is not sent.
        let ending = |work: &Action| match work {
            Action::Undo { lease, .. } => Some(*lease),
            _ => None,
        };
        let ending: BTreeSet<u64> = transaction.work.iter().filter_map(ending).collect();
        let is_due =
            |lease: &&Lease| lease.retry().is_some_and(|retry| retry.next <= now) && !ending.contains(&lease.id);
        let mut room = self.room(false);
        let due = self.ledger.leases.values().filter(is_due);
        let due: Vec<Lease> = due.filter(|lease| !self.is_under_way(lease.id)).cloned().collect();
        for mut lease in due {
            let id = lease.id;
            if let Some(word) = lease.retry().and_then(|retry| retry.ending) {
                transaction.work.push(Action::Undo { lease: id, word });
                continue;
            }
            if is_first_try(&lease) && self.is_in_doubt(&lease) {
                // Without a confirmed alert, grants are renewed but not requested.
                lease.retry_mut().into_iter().for_each(|retry| retry.next = now + ROUND);
                self.ledger.record(&Entry::Lease(lease));
                continue;
            }
            let mut was_in_doubt = false;
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let Stage::Requested { in_doubt } = allocation.stage
            {
                if self.ledger.paused || room == 0 {
                    allocation.retry.next = now + if self.ledger.paused { ROUND } else { RETRY };
                    self.ledger.record(&Entry::Lease(lease));
                    continue;
                }
                room -= 1;
                was_in_doubt = in_doubt;
                if !in_doubt {
                    // Durable before the request, because after a crash the grant is unknown otherwise.
                    allocation.stage = Stage::Requested { in_doubt: true };
                    transaction.stage(&mut self.ledger, Entry::Lease(lease));
                }
            }
            transaction.work.push(Action::Send {
                lease: id,
                was_in_doubt,
            });
        }
    }

    /// Makes the jobs of an episode due that waited for its confirmation.
    pub(super) fn resume_requests(&mut self, key: &EpisodeKey, now: Duration) {
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

    /// Retries failed releases at the daemon's exit.
    pub fn go_on_giving_back(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        self.run_due_jobs(&mut transaction);
        self.finish(transaction);
    }

    /// Settles commands that ran when the daemon died. They are not run again, because their effect is unknown.
    pub(super) fn resume_jobs(&mut self, transaction: &mut Transaction) {
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
            let mut record = self.about(&lease).record(transaction.now);
            record.target = Some((lease.target, lease.name.clone()));
            (record.step, record.outcome) = (Some(step), Some(Outcome::Failed));
            record.reason = "evenkeel stopped during the run; unknown whether it finished".to_owned();
            self.telemetry.action(&lease.rule, "exec", Outcome::Failed.as_str());
            transaction.close(&mut self.ledger, Entry::Record(record));
            lease.settled = true;
            let entry = if is_undone {
                Entry::Lease(lease)
            } else {
                let outcome = Outcome::Failed;
                Entry::LeaseEnded { id, outcome }
            };
            transaction.close(&mut self.ledger, entry);
        }
        self.run_due_jobs(transaction);
    }

    /// Starts the next job of a lease, unless too many run.
    pub(super) fn send(&mut self, id: u64, was_in_doubt: bool) {
        let Some(mut lease) = self.ledger.leases.get(&id).cloned().filter(|_| !self.is_under_way(id)) else {
            return;
        };
        let Some((kind, job)) = next_errand(&lease) else {
            return;
        };
        let now = self.host.now().boot;
        let is_called_off = !lease.is_ending() && !self.ledger.episodes.contains_key(&key_of(&lease));
        if is_called_off || self.room(kind == Kind::Command) == 0 {
            lease.retry_mut().into_iter().for_each(|retry| retry.next = now + RETRY);
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let Stage::Requested { in_doubt } = &mut allocation.stage
            {
                // The request was not sent, so a resolve meanwhile needs no release.
                *in_doubt = was_in_doubt;
            }
            return self.ledger.record(&Entry::Lease(lease));
        }
        // Grows with time, so that the successor of a crashed engine ignores results for it.
        let last = self.jobs_in_flight.keys().next_back().copied().unwrap_or(0);
        let ticket = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(last + 1);
        let in_flight = InFlight {
            lease: id,
            kind,
            was_in_doubt,
        };
        self.jobs_in_flight.insert(ticket, in_flight);
        self.host.begin(ticket, job);
    }

    /// Starts the release of a lease, which ends with the response.
    pub(super) fn begin_release(
        &mut self,
        mut lease: Lease,
        word: Outcome,
        transaction: &Transaction,
        outcomes: &mut Vec<Entry>,
    ) {
        let id = lease.id;
        let word = match (&lease.effect, word) {
            (Effect::Allocation(_), Outcome::Restored) => Outcome::Released,
            (_, word) => word,
        };
        if let Some(retry) = lease.retry_mut()
            && retry.ending.is_none()
        {
            (retry.ending, retry.failures, retry.next) = (Some(word), 0, transaction.boot_now());
            self.keep(Entry::Lease(lease.clone()), outcomes);
        }
        if self.is_under_way(id) {
            return;
        }
        let (outcome, reason, output) = match &lease.effect {
            Effect::Command(command) if !command.has_ended => (Outcome::Cancelled, "not started yet".to_owned(), None),
            _ if next_errand(&lease).is_some() => {
                let is_in_doubt = matches!(&lease.effect, Effect::Allocation(allocation)
                    if allocation.stage == Stage::Requested { in_doubt: true });
                return self.send(id, is_in_doubt);
            }
            Effect::Allocation(allocation) => allocation.end_unasked(word),
            _ => (word, "not revertible".to_owned(), None),
        };
        let mut record = self.about(&lease).record(transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        (record.outcome, record.reason, record.output) = (Some(outcome), reason, output);
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        outcomes.push(Entry::Record(record));
        self.keep(Entry::LeaseEnded { id, outcome }, outcomes);
    }

    /// Releases a lease for an operator. The first request restarts its retries. With `may_drop`, a lease whose retry failed since
    /// is dropped. Returns whether it was dropped.
    pub(super) fn note_release_by_hand(
        &mut self,
        lease: &Lease,
        may_drop: bool,
        transaction: &mut Transaction,
    ) -> bool {
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
            transaction.close(&mut self.ledger, Entry::Lease(lease));
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
        let mut record = self.about(&lease).record(transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        (record.outcome, record.reason) = (Some(outcome), format!("dropped by hand: {what}"));
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        transaction.close(&mut self.ledger, Entry::Record(record));
        transaction.close(&mut self.ledger, Entry::LeaseEnded { id, outcome });
        true
    }

    /// Handles the result of a job.
    pub fn reported(&mut self, ticket: u64, report: &Report) {
        let Some(in_flight) = self.jobs_in_flight.remove(&ticket) else {
            return;
        };
        let Some(lease) = self.ledger.leases.get(&in_flight.lease).cloned() else {
            return;
        };
        let mut transaction = Transaction::new(self.host.now(), None);
        match (&lease.effect, in_flight.kind) {
            (Effect::Allocation(allocation), Kind::Request(job)) => {
                let heard = allocation.hear(job, in_flight.was_in_doubt, report, transaction.boot_now());
                let step = match job {
                    allocate::AllocatorCall::Ask => allocation.step.clone(),
                    allocate::AllocatorCall::GiveBack => "undo allocate".to_owned(),
                };
                self.hear_server(&lease, heard, step, &mut transaction);
            }
            (Effect::Command(command), Kind::Command) => {
                let heard = command.hear(report, transaction.boot_now());
                let step = if heard.was_undo {
                    "undo exec".to_owned()
                } else {
                    command.step.clone()
                };
                self.hear_command(&lease, heard, step, &mut transaction);
            }
            _ => {}
        }
        self.run_due_jobs(&mut transaction);
        self.finish(transaction);
    }

    fn hear_server(&mut self, lease: &Lease, heard: allocate::Heard, step: String, transaction: &mut Transaction) {
        let outcome = heard.outcome;
        let resource = heard.allocation.as_ref().and_then(|allocation| allocation.resource());
        if heard.is_news {
            let mut record = self.about(lease).record(transaction.now);
            (record.step, record.outcome) = (Some(step), Some(outcome));
            (record.reason, record.output) = (heard.reason, heard.output);
            record.after = resource.filter(|_| outcome == Outcome::Granted).map(str::to_owned);
            self.tell_answer(lease, record, transaction);
        }
        if let Some(left_over) = heard.left_over {
            let left_over = Lease {
                id: self.ledger.last_lease_id + 1,
                effect: Effect::Allocation(Box::new(left_over)),
                ..lease.clone()
            };
            transaction.close(&mut self.ledger, Entry::Lease(left_over));
        }
        let Some(allocation) = heard.allocation else {
            return transaction.close(&mut self.ledger, Entry::LeaseEnded { id: lease.id, outcome });
        };
        let is_granted = outcome == Outcome::Granted && allocation.retry.ending.is_none();
        let held = Lease {
            settled: allocation.resource().is_some(),
            effect: Effect::Allocation(Box::new(allocation)),
            ..lease.clone()
        };
        transaction.close(&mut self.ledger, Entry::Lease(held));
        if is_granted && heard.is_news {
            self.climb_on(lease, transaction);
        }
    }

    fn hear_command(&mut self, lease: &Lease, heard: command::Heard, step: String, transaction: &mut Transaction) {
        let outcome = heard.outcome;
        let mut record = self.about(lease).record(transaction.now);
        (record.step, record.outcome) = (Some(step), Some(outcome));
        (record.reason, record.output) = (heard.reason, heard.output);
        self.tell_answer(lease, record, transaction);
        let is_ending = heard
            .command
            .as_ref()
            .is_some_and(|command| command.retry.ending.is_some());
        let entry = match heard.command {
            Some(command) => Entry::Lease(Lease {
                settled: true,
                effect: Effect::Command(Box::new(command)),
                ..lease.clone()
            }),
            None => Entry::LeaseEnded { id: lease.id, outcome },
        };
        transaction.close(&mut self.ledger, entry);
        if outcome == Outcome::Applied && !is_ending {
            self.climb_on(lease, transaction);
        }
    }

    fn tell_answer(&mut self, lease: &Lease, mut record: Record, transaction: &mut Transaction) {
        let outcome = record.outcome.map_or("", Outcome::as_str);
        self.telemetry.action(
            &lease.rule,
            lease.knob(),
            record.outcome.unwrap_or(Outcome::Failed).as_str(),
        );
        tracing::info!(
            rule = lease.rule.as_str(),
            alert = record.alertname,
            lease = lease.id,
            step = record.step.as_deref().unwrap_or(""),
            outcome,
            after = record.after.as_deref().unwrap_or(""),
            reason = record.reason,
            "job finished"
        );
        record.target = Some((lease.target, lease.name.clone()));
        transaction.close(&mut self.ledger, Entry::Record(record));
    }

    /// Continues the steps of the host in the episode of this lease.
    fn climb_on(&mut self, lease: &Lease, transaction: &mut Transaction) {
        let Some(mut episode) = self.ledger.episodes.get(&key_of(lease)).cloned() else {
            return;
        };
        let ladder = self.rule_of(&episode).map_or(0, |rule| rule.actions.len());
        let mut targets = episode.targets.iter_mut();
        let waits = |progress: &&mut TargetProgress| progress.target == Target::Host && progress.step_index < ladder;
        if let Some(progress) = targets.find(waits) {
            progress.due = transaction.boot_now();
            transaction.close(&mut self.ledger, Entry::Episode(episode));
        }
    }

    fn about(&self, lease: &Lease) -> AlertRef {
        let episode = self.ledger.episodes.get(&key_of(lease));
        let labels = episode.map(|episode| episode.labels.clone()).unwrap_or_default();
        AlertRef::new(&lease.rule, &labels, &lease.fingerprint)
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

fn key_of(lease: &Lease) -> EpisodeKey {
    EpisodeKey {
        rule: lease.rule.clone(),
        fingerprint: lease.fingerprint.clone(),
        simulated: false,
    }
}

fn next_errand(lease: &Lease) -> Option<(Kind, Job)> {
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
