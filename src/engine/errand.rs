//! Steps for the host as a whole, which others carry out and answer later: requests to an allocator, and commands. What
//! an answer means is decided in `act`; here it becomes entries and work. Giving back goes on until it is answered.

use super::Engine;
use super::agenda::{RETRY, ROUND};
use super::turn::{Action, AlertRef, Transaction};
use crate::act::guard::{Denial, FinalGate};
use crate::act::plan::{DueSteps, HOST_NAME};
use crate::act::{allocate, command};
use crate::host::{Host, Job, Report};
use crate::ledger::{
    Decision, Effect, Entry, Episode, EpisodeKey, Lease, Outcome, Record, Stage, TargetProgress, Victim,
};
use crate::process::Target;
use crate::rule::errand::without_query;
use crate::rule::{Rule, Step};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Requests under way at once; more wait for their turn.
const MAX_REQUESTS: usize = 8;
/// Commands that run at once; more wait for their turn.
const MAX_COMMANDS: usize = 4;
/// Stands for what would be granted where nothing is asked for.
const IMAGINED: &str = "RESOURCE";

/// Something that was begun and has not been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    lease: u64,
    kind: Kind,
    /// An earlier request may have been granted without our knowing.
    was_in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request(allocate::AllocatorCall),
    Command,
}

impl<H: Host> Engine<H> {
    /// Guards the steps of the host that are due, up to the first that others must answer. It goes on when they have.
    pub(super) fn climb_host(
        &mut self,
        ascent: DueSteps,
        rule: &Arc<Rule>,
        about: &AlertRef,
        episode: &mut Episode,
        turn: &mut Transaction,
    ) {
        let simulated = episode.key.simulated;
        let is_at_end = ascent.next_rung >= rule.actions.len();
        let mut climb = TargetProgress {
            target: Target::Host,
            name: HOST_NAME.to_owned(),
            rung: ascent.next_rung,
            due: if is_at_end {
                Duration::MAX
            } else {
                turn.boot_now() + ascent.wait
            },
            refused: None,
        };
        let known = episode.climbs.iter().find(|climb| climb.target == Target::Host);
        let told = known.and_then(|climb| climb.refused);
        for (rung, step) in &ascent.steps {
            let mut record = about.record(turn.now);
            record.target = Some((Target::Host, HOST_NAME.to_owned()));
            record.step = Some(step.to_string());
            if step.is_final()
                && let Err(refusal) = self.may_run(rule, episode, turn.boot_now())
            {
                if told != Some(refusal.decision) {
                    (record.decision, record.reason) = (Some(refusal.decision), refusal.reason);
                    turn.decide(&mut self.book, record);
                }
                (climb.rung, climb.due) = (*rung, turn.boot_now() + ROUND);
                climb.refused = Some(refusal.decision);
                break;
            }
            let effect = match self.host_effect(step, episode, turn) {
                Ok(effect) => effect,
                Err(reason) => {
                    record.decision = Some(Decision::Planned);
                    turn.decide(&mut self.book, record.clone());
                    (record.decision, record.outcome) = (None, Some(Outcome::Failed));
                    record.reason = reason;
                    self.tally.action(&rule.name, step.action(), Outcome::Failed.as_str());
                    turn.decide(&mut self.book, record);
                    (climb.rung, climb.due) = (rung + 1, Duration::MAX);
                    break;
                }
            };
            if let Effect::Allocation(allocation) = &effect {
                record.reason = format!("{} {}", allocation.ask.method, without_query(&allocation.ask.url));
            }
            record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
            turn.decide(&mut self.book, record.clone());
            if step.is_final() {
                self.note_run(episode, turn);
            }
            if simulated {
                (record.decision, record.outcome) = (None, Some(Outcome::DryRun));
                self.tally.action(&rule.name, step.action(), Outcome::DryRun.as_str());
                turn.decide(&mut self.book, record);
                continue;
            }
            let lease = Lease {
                id: self.book.last_lease_id + 1,
                rule: rule.name.clone(),
                fingerprint: about.fingerprint.clone(),
                target: Target::Host,
                name: HOST_NAME.to_owned(),
                effect,
                taken_at: turn.boot_now(),
                deadline: turn.boot_now() + rule.hold,
                settled: false,
                is_undoing: false,
            };
            let id = lease.id;
            turn.intend(&mut self.book, Entry::Lease(lease));
            turn.work.push(Action::Send {
                lease: id,
                was_in_doubt: false,
            });
            (climb.rung, climb.due) = (rung + 1, Duration::MAX);
            break;
        }
        episode.climbs.retain(|climb| climb.target != Target::Host);
        episode.climbs.push(climb);
    }

    fn may_run(&self, rule: &Rule, episode: &Episode, now: Duration) -> Result<(), Denial> {
        let condition = rule.condition.as_ref();
        let condition = condition.map(|text| (self.conditions)(text).is_some_and(|answer| answer.holds));
        let (stuck, orphaned) = (BTreeSet::new(), BTreeSet::new());
        let gate = FinalGate {
            rule,
            episode,
            victims: &self.book.victims,
            budget: self.policy.budget,
            now,
            sample_at: now,
            condition,
            stuck: &stuck,
            orphaned: &orphaned,
            is_broken: self.book.is_breaker_open(&rule.name),
        };
        gate.run().map(drop)
    }

    /// The host is a victim once per episode, and over it at once: nobody waits for its end.
    fn note_run(&mut self, episode: &Episode, turn: &mut Transaction) {
        let key = &episode.key;
        let is_known = |victim: &Victim| victim.target == Target::Host && victim.counts_for(episode);
        if self.book.victims.iter().any(is_known) {
            return;
        }
        let victim = Victim {
            rule: key.rule.clone(),
            fingerprint: key.fingerprint.clone(),
            gone_at: Some(turn.boot_now()),
            alert_starts_at: Some(episode.starts_at),
            ..Victim::new(Target::Host, key.simulated, turn.boot_now())
        };
        turn.intend(&mut self.book, Entry::Victim(victim));
    }

    /// What a step would have others do, with the alert filled in.
    fn host_effect(&self, step: &Step, episode: &Episode, turn: &Transaction) -> Result<Effect, String> {
        let granted = self.book.leases_of(&episode.key).filter(|lease| !lease.is_ending());
        let mut granted = granted.filter_map(|lease| match &lease.effect {
            Effect::Allocation(allocation) => allocation.resource(),
            _ => None,
        });
        let resource = if episode.key.simulated {
            Some(IMAGINED)
        } else {
            granted.next_back()
        };
        let now = turn.boot_now();
        let mut effect = match step {
            Step::Allocate(step) => {
                // Unlike any other, though the ledger may be lost and numbers begin anew.
                let (boot, id) = (self.journal.boot(), self.book.last_lease_id + 1);
                let key = format!("evenkeel-{boot}-{id}-{:x}", now.as_nanos());
                Effect::Allocation(Box::new(allocate::plan(step, episode, resource, key)?))
            }
            Step::Exec(step) => Effect::Command(Box::new(command::plan(step, episode, resource)?)),
            Step::Set(_) | Step::Signal(_) | Step::Reclaim(_) | Step::Kill | Step::Wait(_) => {
                return Err("it is no step for the host".to_owned());
            }
        };
        match &mut effect {
            Effect::Allocation(allocation) => allocation.course.next = now,
            Effect::Command(command) => command.course.next = now,
            Effect::Value { .. } | Effect::Signal { .. } => {}
        }
        Ok(effect)
    }

    /// Leases for which an answer is awaited.
    pub(super) fn awaited(&self) -> BTreeSet<u64> {
        self.flights.values().map(|flight| flight.lease).collect()
    }

    fn is_under_way(&self, lease: u64) -> bool {
        self.flights.values().any(|flight| flight.lease == lease)
    }

    /// How many more errands of this kind may begin.
    fn room(&self, is_command: bool) -> usize {
        let same = |flight: &&InFlight| (flight.kind == Kind::Command) == is_command;
        let most = if is_command { MAX_COMMANDS } else { MAX_REQUESTS };
        most.saturating_sub(self.flights.values().filter(same).count())
    }

    /// Whether something is still to be given back by others.
    pub fn is_giving_back(&self) -> bool {
        self.book.leases.values().any(Lease::is_ending)
    }

    /// What is due of others: tries that failed, renewals, what is to be given back.
    pub(super) fn run_errands(&mut self, turn: &mut Transaction) {
        let now = turn.boot_now();
        // One whose end is part of this turn must not become in doubt by a request that is not sent.
        let ending = |work: &Action| match work {
            Action::Undo { lease, .. } => Some(*lease),
            _ => None,
        };
        let ending: BTreeSet<u64> = turn.work.iter().filter_map(ending).collect();
        let is_due =
            |lease: &&Lease| lease.course().is_some_and(|course| course.next <= now) && !ending.contains(&lease.id);
        let mut room = self.room(false);
        let due = self.book.leases.values().filter(is_due);
        let due: Vec<Lease> = due.filter(|lease| !self.is_under_way(lease.id)).cloned().collect();
        for mut lease in due {
            let id = lease.id;
            if let Some(word) = lease.course().and_then(|course| course.ending) {
                turn.work.push(Action::Undo { lease: id, word });
                continue;
            }
            if is_first_try(&lease) && self.is_in_doubt(&lease) {
                // Nothing new is asked for until the alert is confirmed; what was granted is renewed.
                lease
                    .course_mut()
                    .into_iter()
                    .for_each(|course| course.next = now + ROUND);
                self.book.record(&Entry::Lease(lease));
                continue;
            }
            let mut was_in_doubt = false;
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let Stage::Requested { in_doubt } = allocation.stage
            {
                if self.book.paused || room == 0 {
                    allocation.course.next = now + if self.book.paused { ROUND } else { RETRY };
                    self.book.record(&Entry::Lease(lease));
                    continue;
                }
                room -= 1;
                was_in_doubt = in_doubt;
                if !in_doubt {
                    // Durable before the request: whoever finds it after a crash cannot know that it was not granted.
                    allocation.stage = Stage::Requested { in_doubt: true };
                    turn.intend(&mut self.book, Entry::Lease(lease));
                }
            }
            turn.work.push(Action::Send {
                lease: id,
                was_in_doubt,
            });
        }
    }

    /// What waited for a confirmation of the alert of this episode is due at once.
    pub(super) fn take_up_requests(&mut self, key: &EpisodeKey, now: Duration) {
        let waiting = self
            .book
            .leases_of(key)
            .filter(|lease| is_first_try(lease) && !lease.is_ending());
        for mut lease in waiting.cloned().collect::<Vec<_>>() {
            let course = lease.course_mut().filter(|course| course.next < Duration::MAX);
            course.into_iter().for_each(|course| course.next = now);
            self.book.record(&Entry::Lease(lease));
        }
    }

    /// At the end of the daemon: tries again what failed to be given back.
    pub fn go_on_giving_back(&mut self) {
        let mut turn = Transaction::new(self.host.now(), None);
        self.run_errands(&mut turn);
        self.finish(turn);
    }

    /// After a restart: a command that ran when the daemon died may have done anything. It is not run again.
    pub(super) fn take_up_errands(&mut self, turn: &mut Transaction) {
        let is_open = |lease: &&Lease| matches!(&lease.effect, Effect::Command(command) if !command.has_ended);
        for mut lease in self.book.leases.values().filter(is_open).cloned().collect::<Vec<_>>() {
            let Effect::Command(command) = &mut lease.effect else {
                continue;
            };
            command.has_ended = true;
            if command.course.ending.is_none() {
                command.course.next = Duration::MAX;
            }
            let (step, is_undone, id) = (command.step.clone(), command.undo.is_some(), lease.id);
            let mut record = self.about(&lease).record(turn.now);
            record.target = Some((lease.target, lease.name.clone()));
            (record.step, record.outcome) = (Some(step), Some(Outcome::Failed));
            record.reason = "evenkeel ended while it ran: whether it finished is not known".to_owned();
            self.tally.action(&lease.rule, "exec", Outcome::Failed.as_str());
            turn.close(&mut self.book, Entry::Record(record));
            lease.settled = true;
            let entry = if is_undone {
                Entry::Lease(lease)
            } else {
                let outcome = Outcome::Failed;
                Entry::LeaseEnded { id, outcome }
            };
            turn.close(&mut self.book, entry);
        }
        self.run_errands(turn);
    }

    /// Begins what this lease needs next, when there is room for it.
    pub(super) fn send(&mut self, id: u64, was_in_doubt: bool) {
        let Some(mut lease) = self.book.leases.get(&id).cloned().filter(|_| !self.is_under_way(id)) else {
            return;
        };
        let Some((kind, errand)) = next_errand(&lease) else {
            return;
        };
        let now = self.host.now().boot;
        let is_called_off = !lease.is_ending() && !self.book.episodes.contains_key(&key_of(&lease));
        if is_called_off || self.room(kind == Kind::Command) == 0 {
            lease
                .course_mut()
                .into_iter()
                .for_each(|course| course.next = now + RETRY);
            if let Effect::Allocation(allocation) = &mut lease.effect
                && let Stage::Requested { in_doubt } = &mut allocation.stage
            {
                // This one was not sent, so a resolve meanwhile has nothing to ask for.
                *in_doubt = was_in_doubt;
            }
            return self.book.record(&Entry::Lease(lease));
        }
        // Grows with time, so that an answer to an engine that died is not taken for one to its successor.
        let last = self.flights.keys().next_back().copied().unwrap_or(0);
        let ticket = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(last + 1);
        let flight = InFlight {
            lease: id,
            kind,
            was_in_doubt,
        };
        self.flights.insert(ticket, flight);
        self.host.begin(ticket, errand);
    }

    /// Begins to give back what a lease holds; it ends when that is answered.
    pub(super) fn give_back(&mut self, mut lease: Lease, word: Outcome, turn: &Transaction, outcomes: &mut Vec<Entry>) {
        let id = lease.id;
        let word = match (&lease.effect, word) {
            (Effect::Allocation(_), Outcome::Restored) => Outcome::Released,
            (_, word) => word,
        };
        if let Some(course) = lease.course_mut()
            && course.ending.is_none()
        {
            (course.ending, course.failures, course.next) = (Some(word), 0, turn.boot_now());
            self.keep(Entry::Lease(lease.clone()), outcomes);
        }
        if self.is_under_way(id) {
            return;
        }
        let (outcome, reason, output) = match &lease.effect {
            Effect::Command(command) if !command.has_ended => {
                (Outcome::Cancelled, "it was not started yet".to_owned(), None)
            }
            _ if next_errand(&lease).is_some() => {
                let is_in_doubt = matches!(&lease.effect, Effect::Allocation(allocation)
                    if allocation.stage == Stage::Requested { in_doubt: true });
                return self.send(id, is_in_doubt);
            }
            Effect::Allocation(allocation) => allocation.end_unasked(word),
            _ => (word, "it cannot be taken back".to_owned(), None),
        };
        let mut record = self.about(&lease).record(turn.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        (record.outcome, record.reason, record.output) = (Some(outcome), reason, output);
        self.tally.action(&lease.rule, lease.knob(), outcome.as_str());
        outcomes.push(Entry::Record(record));
        self.keep(Entry::LeaseEnded { id, outcome }, outcomes);
    }

    /// A lease is released by hand. The first time its tries start from the beginning. `may_drop`: if one failed since, it
    /// is dropped without an answer. Returns whether it was.
    pub(super) fn note_release_by_hand(&mut self, lease: &Lease, may_drop: bool, turn: &mut Transaction) -> bool {
        let mut lease = lease.clone();
        let is_ending = lease.is_ending();
        let Some(course) = lease.course_mut() else {
            return false;
        };
        if !course.is_by_hand {
            course.is_by_hand = true;
            if is_ending {
                course.failures = 0;
            }
            turn.close(&mut self.book, Entry::Lease(lease));
            return false;
        }
        if !may_drop || !is_ending || course.failures == 0 {
            return false;
        }
        let what = match &lease.effect {
            Effect::Allocation(allocation) => allocation.dropped(),
            _ => "the command was not taken back".to_owned(),
        };
        tracing::warn!(
            rule = lease.rule.as_str(),
            lease = lease.id,
            what,
            "lease dropped by hand"
        );
        let (id, outcome) = (lease.id, Outcome::Failed);
        let mut record = self.about(&lease).record(turn.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        (record.outcome, record.reason) = (Some(outcome), format!("dropped by hand: {what}"));
        self.tally.action(&lease.rule, lease.knob(), outcome.as_str());
        turn.close(&mut self.book, Entry::Record(record));
        turn.close(&mut self.book, Entry::LeaseEnded { id, outcome });
        true
    }

    /// An errand was answered.
    pub fn reported(&mut self, ticket: u64, report: &Report) {
        let Some(flight) = self.flights.remove(&ticket) else {
            return;
        };
        let Some(lease) = self.book.leases.get(&flight.lease).cloned() else {
            return;
        };
        let mut turn = Transaction::new(self.host.now(), None);
        match (&lease.effect, flight.kind) {
            (Effect::Allocation(allocation), Kind::Request(errand)) => {
                let heard = allocation.hear(errand, flight.was_in_doubt, report, turn.boot_now());
                let step = match errand {
                    allocate::AllocatorCall::Ask => allocation.step.clone(),
                    allocate::AllocatorCall::GiveBack => "undo allocate".to_owned(),
                };
                self.hear_server(&lease, heard, step, &mut turn);
            }
            (Effect::Command(command), Kind::Command) => {
                let heard = command.hear(report, turn.boot_now());
                let step = if heard.was_undo {
                    "undo exec".to_owned()
                } else {
                    command.step.clone()
                };
                self.hear_command(&lease, heard, step, &mut turn);
            }
            _ => {}
        }
        self.run_errands(&mut turn);
        self.finish(turn);
    }

    fn hear_server(&mut self, lease: &Lease, heard: allocate::Heard, step: String, turn: &mut Transaction) {
        let outcome = heard.outcome;
        let resource = heard.allocation.as_ref().and_then(|allocation| allocation.resource());
        if heard.is_news {
            let mut record = self.about(lease).record(turn.now);
            (record.step, record.outcome) = (Some(step), Some(outcome));
            (record.reason, record.output) = (heard.reason, heard.output);
            record.after = resource.filter(|_| outcome == Outcome::Granted).map(str::to_owned);
            self.tell_answer(lease, record, turn);
        }
        if let Some(left_over) = heard.left_over {
            let left_over = Lease {
                id: self.book.last_lease_id + 1,
                effect: Effect::Allocation(Box::new(left_over)),
                ..lease.clone()
            };
            turn.close(&mut self.book, Entry::Lease(left_over));
        }
        let Some(allocation) = heard.allocation else {
            return turn.close(&mut self.book, Entry::LeaseEnded { id: lease.id, outcome });
        };
        let is_granted = outcome == Outcome::Granted && allocation.course.ending.is_none();
        let held = Lease {
            settled: allocation.resource().is_some(),
            effect: Effect::Allocation(Box::new(allocation)),
            ..lease.clone()
        };
        turn.close(&mut self.book, Entry::Lease(held));
        if is_granted && heard.is_news {
            self.climb_on(lease, turn);
        }
    }

    fn hear_command(&mut self, lease: &Lease, heard: command::Heard, step: String, turn: &mut Transaction) {
        let outcome = heard.outcome;
        let mut record = self.about(lease).record(turn.now);
        (record.step, record.outcome) = (Some(step), Some(outcome));
        (record.reason, record.output) = (heard.reason, heard.output);
        self.tell_answer(lease, record, turn);
        let is_ending = heard
            .command
            .as_ref()
            .is_some_and(|command| command.course.ending.is_some());
        let entry = match heard.command {
            Some(command) => Entry::Lease(Lease {
                settled: true,
                effect: Effect::Command(Box::new(command)),
                ..lease.clone()
            }),
            None => Entry::LeaseEnded { id: lease.id, outcome },
        };
        turn.close(&mut self.book, entry);
        if outcome == Outcome::Applied && !is_ending {
            self.climb_on(lease, turn);
        }
    }

    fn tell_answer(&mut self, lease: &Lease, mut record: Record, turn: &mut Transaction) {
        let outcome = record.outcome.map_or("", Outcome::as_str);
        self.tally.action(
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
            "answer"
        );
        record.target = Some((lease.target, lease.name.clone()));
        turn.close(&mut self.book, Entry::Record(record));
    }

    /// The host takes its next steps in the episode of this lease.
    fn climb_on(&mut self, lease: &Lease, turn: &mut Transaction) {
        let Some(mut episode) = self.book.episodes.get(&key_of(lease)).cloned() else {
            return;
        };
        let ladder = self.rule_of(&episode).map_or(0, |rule| rule.actions.len());
        let mut climbs = episode.climbs.iter_mut();
        let waits = |climb: &&mut TargetProgress| climb.target == Target::Host && climb.rung < ladder;
        if let Some(climb) = climbs.find(waits) {
            climb.due = turn.boot_now();
            turn.close(&mut self.book, Entry::Episode(episode));
        }
    }

    fn about(&self, lease: &Lease) -> AlertRef {
        let episode = self.book.episodes.get(&key_of(lease));
        let labels = episode.map(|episode| episode.labels.clone()).unwrap_or_default();
        AlertRef::new(&lease.rule, &labels, &lease.fingerprint)
    }
}

/// Whether nothing was granted yet, and the command has not ended.
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
            let (errand, request) = allocation.next_errand()?;
            let request = Job::Request(request, allocation.server.clone());
            Some((Kind::Request(errand), request))
        }
        Effect::Command(command) => Some((Kind::Command, Job::Command(command.next_run()?.clone()))),
        Effect::Value { .. } | Effect::Signal { .. } => None,
    }
}
