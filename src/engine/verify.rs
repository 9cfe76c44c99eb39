//! The follow-up of irreversible actions. It records victims that exited, and gives up those that outlive their time,
//! so that they block no others. Three in a row without effect open the breaker of their rule.

use super::Engine;
use super::transaction::{AlertRef, Transaction};
use crate::act::effect;
use crate::host::{Host, Moment};
use crate::ledger::{Breaker, Entry, EpisodeKey, Outcome, Record, TargetProgress, Victim};
use crate::process::{Process, Target};
use crate::rule::Step;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

impl<H: Host> Engine<H> {
    /// The entries for the exit of a process, if it is a victim that counted as running.
    pub(super) fn end_of(&mut self, target: Target, now: Moment) -> Vec<Entry> {
        let is_it = |victim: &&Victim| victim.target == target && victim.gone_at.is_none();
        let Some(victim) = self.ledger.victims.iter().find(is_it).cloned() else {
            return Vec::new();
        };
        let (at, simulated) = (now.boot, false);
        let mut entries = vec![Entry::VictimGone { target, at, simulated }];
        if !victim.is_awaited() || victim.signals.is_empty() {
            return entries;
        }
        let available = victim.memory.and_then(|_| self.host.available_memory());
        let came = effect::of_end(&victim, now.boot, available);
        // A victim that was given up is counted already.
        if !victim.outlived {
            entries.extend(self.count_effect(&victim.rule, came.is_ok(), now));
        }
        let (outcome, reason) = match came {
            Ok(told) => (Outcome::Gone, told),
            Err(told) => (Outcome::NoEffect, told),
        };
        entries.push(Entry::Record(self.effect_record(&victim, outcome, reason, now)));
        entries
    }

    /// Whether an open episode continues the steps of a victim.
    fn is_climbing(&self, victim: &Victim) -> bool {
        let targets = |progress: &TargetProgress| progress.target == victim.target && progress.due < Duration::MAX;
        let episode = self.ledger.episodes.get(&victim.episode());
        episode.is_some_and(|episode| episode.targets.iter().any(targets))
    }

    /// Victims whose steps ended early: the alert resolved, or they were excluded from their episode. Others wait for them no
    /// longer than for one that got its last signal.
    pub(super) fn bound_interrupted(&mut self, transaction: &mut Transaction) {
        let is_left = |victim: &&Victim| {
            victim.is_awaited()
                && victim.target != Target::Host
                // The signal may still be dropped by a failed commit.
                && victim.unsent.is_none()
                && victim.gone_by.is_none()
                && !victim.outlived
                && !self.is_climbing(victim)
        };
        for mut victim in self.ledger.victims.iter().filter(is_left).cloned().collect::<Vec<_>>() {
            (victim.gone_by, victim.is_interrupted) = (Some(transaction.boot_now() + effect::PATIENCE), true);
            transaction.close(&mut self.ledger, Entry::Victim(victim));
        }
    }

    /// The deadline for the exit of a victim after a fatal signal; `None` if another one follows.
    pub(super) fn patience_after(&self, victim: &mut Victim, is_last: bool, now: Duration) {
        victim.is_interrupted = !is_last && !self.is_climbing(victim);
        victim.gone_by = (is_last || victim.is_interrupted).then(|| now + effect::PATIENCE);
    }

    /// Continues the interrupted steps of a victim, after the signal that was already sent.
    pub(super) fn adopt_victim(&mut self, target: Target, key: &EpisodeKey, transaction: &mut Transaction) {
        let is_it = |victim: &&Victim| victim.lives_as(target, key.simulated) && victim.is_interrupted;
        let Some(mut victim) = self.ledger.victims.iter().find(is_it).cloned() else {
            return;
        };
        victim.rule.clone_from(&key.rule);
        victim.fingerprint.clone_from(&key.fingerprint);
        (victim.gone_by, victim.is_interrupted) = (None, false);
        transaction.stage(&mut self.ledger, Entry::Victim(victim));
    }

    /// Victims that still run after their last step.
    pub(super) fn give_up_survivors(&mut self, transaction: &mut Transaction) {
        let now = transaction.boot_now();
        let is_due = |victim: &&Victim| victim.is_awaited() && victim.gone_by.is_some_and(|at| at <= now);
        for mut victim in self.ledger.victims.iter().filter(is_due).cloned().collect::<Vec<_>>() {
            if self.has_ended(victim.target) {
                self.note_death(victim.target, transaction);
                continue;
            }
            let process = victim.target.pid().and_then(|pid| self.host.process(pid));
            let state = process.map(|process| process.state);
            let reason = effect::of_survivor(state, victim.is_interrupted);
            let outcome = match victim.is_interrupted {
                true => Outcome::Cancelled,
                false => Outcome::NoEffect,
            };
            let record = self.effect_record(&victim, outcome, reason, transaction.now);
            let counted = match victim.is_interrupted {
                true => None,
                false => self.count_effect(&victim.rule, false, transaction.now),
            };
            (victim.gone_by, victim.outlived) = (None, true);
            for entry in [Entry::Victim(victim), Entry::Record(record)]
                .into_iter()
                .chain(counted)
            {
                transaction.close(&mut self.ledger, entry);
            }
        }
    }

    /// The change of a rule's breaker by one more victim.
    fn count_effect(&self, rule: &str, had_effect: bool, now: Moment) -> Option<Entry> {
        let before = self.ledger.breakers.get(rule).copied().unwrap_or_default();
        let breaker = before.after(had_effect, now.wall);
        if breaker.is_open() && !before.is_open() {
            tracing::warn!(
                rule,
                failures = breaker.failures,
                "breaker opened: irreversible actions of this rule have no effect, close it with `evenkeel release --breaker`"
            );
        }
        let rule = rule.to_owned();
        (breaker != before).then_some(Entry::Breaker { rule, breaker })
    }

    fn effect_record(&self, victim: &Victim, outcome: Outcome, reason: String, now: Moment) -> Record {
        if outcome == Outcome::NoEffect {
            self.telemetry.action(&victim.rule, "signal", outcome.as_str());
        }
        let key = EpisodeKey {
            rule: victim.rule.clone(),
            fingerprint: victim.fingerprint.clone(),
            simulated: false,
        };
        let episode = self.ledger.episodes.get(&key);
        let labels = episode.map(|episode| episode.labels.clone()).unwrap_or_default();
        let named = |progress: &&TargetProgress| progress.target == victim.target;
        let name = episode.and_then(|episode| episode.targets.iter().find(named));
        let name = name.map(|progress| progress.name.clone()).unwrap_or_default();
        let signal = victim.signals.last().and_then(|number| Signal::try_from(*number).ok());
        let mut record = AlertRef::new(&victim.rule, &labels, &victim.fingerprint).record(now);
        record.target = Some((victim.target, name));
        record.step = signal.map(|signal| format!("signal {signal}"));
        (record.outcome, record.reason, record.is_effect) = (Some(outcome), reason, true);
        tracing::info!(
            rule = record.rule,
            pid = victim.target.pid(),
            step = record.step.as_deref().unwrap_or(""),
            outcome = outcome.as_str(),
            reason = record.reason,
            "effect"
        );
        record
    }

    /// Victims that get no further steps: they are blocked in the kernel with SIGKILL pending, or were given up after their last
    /// step.
    pub(super) fn spent(&self, table: &[Process]) -> BTreeSet<Target> {
        let hangs = |target: Target| {
            let is_it = |process: &Process| target == process.identity.into() && process.state == 'D';
            table.iter().any(is_it)
        };
        let awaited = self.ledger.victims.iter().filter(|victim| victim.is_awaited());
        awaited
            .filter(|victim| {
                let is_killed = victim.signals.contains(&(Signal::SIGKILL as i32));
                (victim.outlived && !victim.is_interrupted) || (is_killed && hangs(victim.target))
            })
            .map(|victim| victim.target)
            .collect()
    }

    /// Closes the breaker of a rule. False if it is not open.
    pub fn close_breaker(&mut self, rule: &str) -> bool {
        if !self.ledger.is_breaker_open(rule) {
            return false;
        }
        let mut transaction = Transaction::new(self.host.now(), None);
        let (rule, breaker) = (rule.to_owned(), Breaker::default());
        tracing::info!(rule, "breaker closed by an operator");
        transaction.close(&mut self.ledger, Entry::Breaker { rule, breaker });
        self.finish(transaction);
        true
    }

    /// A fatal signal that may or may not have been sent is sent again, and its wait starts over: it does
    /// not harm an exiting process, and SIGKILL must not hit one that never got SIGTERM.
    pub(super) fn resend_unsettled(&mut self, transaction: &mut Transaction) {
        let is_open = |victim: &&Victim| victim.is_awaited() && victim.unsent.is_some();
        for mut victim in self.ledger.victims.iter().filter(is_open).cloned().collect::<Vec<_>>() {
            let Some(unsent) = victim.unsent.take() else { continue };
            victim.signals.retain(|sent| *sent != unsent);
            let is_set_back = self.set_back_to(&victim, unsent, transaction);
            let target = victim.target;
            let entry = if is_set_back || !victim.signals.is_empty() {
                Entry::Victim(victim)
            } else {
                Entry::VictimSpared { target }
            };
            transaction.close(&mut self.ledger, entry);
        }
    }

    /// Sets a victim back to the step that sends this signal. False if its episode is over.
    fn set_back_to(&mut self, victim: &Victim, signal: i32, transaction: &mut Transaction) -> bool {
        let key = EpisodeKey {
            rule: victim.rule.clone(),
            fingerprint: victim.fingerprint.clone(),
            simulated: false,
        };
        let Some(mut episode) = self.ledger.episodes.get(&key).cloned() else {
            return false;
        };
        let Some(rule) = self.rule_of(&episode) else {
            return false;
        };
        let is_it = |progress: &&mut TargetProgress| progress.target == victim.target;
        let Some(progress) = episode.targets.iter_mut().find(is_it) else {
            return false;
        };
        let sends = |step: &Step| step.final_signal().is_some_and(|sent| sent as i32 == signal);
        let step_index = rule.actions.iter().take(progress.step_index).rposition(sends);
        let Some(step_index) = step_index.filter(|_| episode.ladder == rule.ladder()) else {
            return false;
        };
        (progress.step_index, progress.due, progress.refused) = (step_index, transaction.boot_now(), None);
        transaction.close(&mut self.ledger, Entry::Episode(episode));
        true
    }

    /// Removes victims of an episode whose first signal may have been sent, and now will not be.
    pub(super) fn cancel_unsent_signals(&mut self, key: &EpisodeKey, transaction: &mut Transaction) {
        let is_its = |victim: &&Victim| {
            victim.is_awaited()
                && victim.target != Target::Host
                && victim.signals.is_empty()
                && victim.rule == key.rule
                && victim.fingerprint == key.fingerprint
        };
        let unsent = self.ledger.victims.iter().filter(is_its).map(|victim| victim.target);
        for target in unsent.collect::<Vec<_>>() {
            transaction.close(&mut self.ledger, Entry::VictimSpared { target });
        }
    }
}
