//! The victims of irreversible actions: which ones still count, which ones get no further steps, and whether their
//! exit had the intended effect. Three in a row without effect open the breaker of their rule.

use super::Policy;
use super::episodes::Episodes;
use super::status::log_outcome;
use super::transaction::AlertRef;
use crate::act::effect;
use crate::host::{Host, Moment};
use crate::ledger::{Entry, Episode, EpisodeKey, LedgerState, Level, Outcome, Record, TargetProgress, Victim};
use crate::process::{Process, Target};
use crate::rule::Step;
use crate::telemetry::Telemetry;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

impl Episodes<'_> {
    /// Victims whose steps ended early: the alert resolved or is unconfirmed, or they were excluded from their episode. Others wait
    /// for them no longer than for one that got its last signal.
    pub fn bound_interrupted(&mut self) {
        let now = self.now();
        let is_left = |victim: &&Victim| {
            victim.is_awaited()
                && victim.target != Target::Host
                // The signal may still be dropped by a failed commit.
                && victim.unsent.is_none()
                && victim.gone_by.is_none()
                && !victim.outlived
                && !is_continuing(self.ledger, self.policy, victim, now)
        };
        for mut victim in self.ledger.victims.iter().filter(is_left).cloned().collect::<Vec<_>>() {
            victim.gone_by = Some(now + effect::PATIENCE);
            victim.is_interrupted = true;
            self.record_always(Entry::Victim(victim));
        }
    }

    /// Continues the steps of the victims of an episode that was unconfirmed, also of those that no step waited for any more.
    pub fn resume_victims(&mut self, key: &EpisodeKey) {
        let now = self.now();
        let is_its = |victim: &&Victim| {
            victim.is_interrupted
                && victim.is_awaited()
                && victim.rule == key.rule
                && victim.fingerprint == key.fingerprint
                && is_continuing(self.ledger, self.policy, victim, now)
        };
        for mut victim in self.ledger.victims.iter().filter(is_its).cloned().collect::<Vec<_>>() {
            victim.gone_by = None;
            victim.is_interrupted = false;
            victim.outlived = false;
            self.stage(Entry::Victim(victim));
        }
    }

    /// Continues the interrupted steps of a victim, after the signal that was already sent. From now on it counts for this episode.
    pub fn adopt_victim(&mut self, target: Target, episode: &Episode) {
        let simulated = episode.key.simulated;
        let is_it = |victim: &&Victim| victim.lives_as(target, simulated) && victim.is_interrupted;
        let Some(mut victim) = self.ledger.victims.iter().find(is_it).cloned() else {
            return;
        };
        victim.assign(episode);
        victim.gone_by = None;
        victim.is_interrupted = false;
        self.stage(Entry::Victim(victim));
    }

    /// A fatal signal that may or may not have been sent is sent again, and its wait starts over: it does
    /// not harm an exiting process, and SIGKILL must not hit one that never got SIGTERM.
    pub fn resend_unsettled(&mut self) {
        let is_open = |victim: &&Victim| victim.is_awaited() && victim.unsent.is_some();
        for mut victim in self.ledger.victims.iter().filter(is_open).cloned().collect::<Vec<_>>() {
            let Some(unsent) = victim.unsent.take() else { continue };
            victim.signals.retain(|sent| *sent != unsent);
            let target = victim.target;
            let sends = |step: &Step| step.final_signal().is_some_and(|sent| sent as i32 == unsent);
            let is_set_back = self.return_to_step(&victim.episode(), target, sends);
            let entry = if is_set_back || !victim.signals.is_empty() {
                Entry::Victim(victim)
            } else {
                Entry::VictimSpared { target }
            };
            self.record_always(entry);
        }
    }

    /// Removes victims of an episode whose first signal may have been sent, and now will not be.
    pub fn cancel_unsent_signals(&mut self, key: &EpisodeKey) {
        let is_its = |victim: &&Victim| {
            victim.is_awaited()
                && victim.target != Target::Host
                && victim.signals.is_empty()
                && victim.rule == key.rule
                && victim.fingerprint == key.fingerprint
        };
        let unsent = self.ledger.victims.iter().filter(is_its).map(|victim| victim.target);
        for target in unsent.collect::<Vec<_>>() {
            self.record_always(Entry::VictimSpared { target });
        }
    }
}

/// Whether an episode whose alert fires continues the steps of a victim.
fn is_continuing(ledger: &LedgerState, policy: &Policy, victim: &Victim, now: Duration) -> bool {
    let is_it = |progress: &TargetProgress| progress.target == victim.target && progress.due < Duration::MAX;
    let episode = ledger.episodes.get(&victim.episode());
    episode.is_some_and(|episode| episode.targets.iter().any(is_it) && policy.level_of(episode, now) == Level::Firing)
}

/// Victims that get no further steps: they are blocked in the kernel with SIGKILL pending, or were given up after their last
/// step.
pub(super) fn spent(ledger: &LedgerState, table: &[Process]) -> BTreeSet<Target> {
    let hangs = |target: Target| {
        let is_it = |process: &Process| target == process.identity.into() && process.state == 'D';
        table.iter().any(is_it)
    };
    let awaited = ledger.victims.iter().filter(|victim| victim.is_awaited());
    awaited
        .filter(|victim| {
            let is_killed = victim.signals.contains(&(Signal::SIGKILL as i32));
            (victim.outlived && !victim.is_interrupted) || (is_killed && hangs(victim.target))
        })
        .map(|victim| victim.target)
        .collect()
}

pub(super) fn orphaned_victims(ledger: &LedgerState) -> BTreeSet<Target> {
    let is_open = |victim: &Victim| ledger.episodes.contains_key(&victim.episode());
    let victims = ledger.victims.iter();
    let victims = victims.filter(|victim| victim.is_interrupted || !is_open(victim));
    victims.map(|victim| victim.target).collect()
}

/// The entries for the exit of a process, if it is a victim that counted as running.
pub(super) fn exit_entries(
    host: &mut impl Host,
    ledger: &LedgerState,
    telemetry: &Telemetry,
    target: Target,
    now: Moment,
) -> Vec<Entry> {
    let is_it = |victim: &&Victim| victim.target == target && victim.gone_at.is_none();
    let Some(victim) = ledger.victims.iter().find(is_it).cloned() else {
        return Vec::new();
    };
    let (at, simulated) = (now.boot, false);
    let mut entries = vec![Entry::VictimGone { target, at, simulated }];
    if !victim.is_awaited() || victim.signals.is_empty() {
        return entries;
    }
    let available = victim.memory.and_then(|_| host.available_memory());
    let came = effect::of_end(&victim, now.boot, available);
    // A victim that was given up is counted already.
    if !victim.outlived {
        entries.extend(count_effect(ledger, &victim.rule, came.is_ok(), now));
    }
    let (outcome, reason) = match came {
        Ok(reason) => (Outcome::Gone, reason),
        Err(reason) => (Outcome::NoEffect, reason),
    };
    entries.push(Entry::Record(effect_record(
        ledger, telemetry, &victim, outcome, reason, now,
    )));
    entries
}

/// The deadline for the exit of a victim after a fatal signal; `None` if another one follows.
pub(super) fn set_patience(ledger: &LedgerState, policy: &Policy, victim: &mut Victim, is_last: bool, now: Duration) {
    victim.is_interrupted = !is_last && !is_continuing(ledger, policy, victim, now);
    victim.gone_by = (is_last || victim.is_interrupted).then(|| now + effect::PATIENCE);
}

/// The change of a rule's breaker by one more victim.
pub(super) fn count_effect(ledger: &LedgerState, rule: &str, had_effect: bool, now: Moment) -> Option<Entry> {
    let before = ledger.breakers.get(rule).copied().unwrap_or_default();
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

pub(super) fn effect_record(
    ledger: &LedgerState,
    telemetry: &Telemetry,
    victim: &Victim,
    outcome: Outcome,
    reason: String,
    now: Moment,
) -> Record {
    if outcome == Outcome::NoEffect {
        telemetry.action(&victim.rule, "signal", outcome.as_str());
    }
    let key = victim.episode();
    let episode = ledger.episodes.get(&key);
    let labels = episode.map(|episode| episode.labels.clone()).unwrap_or_default();
    let named = |progress: &&TargetProgress| progress.target == victim.target;
    let name = episode.and_then(|episode| episode.targets.iter().find(named));
    let name = name.map(|progress| progress.name.clone()).unwrap_or_default();
    let signal = victim.signals.last().and_then(|number| Signal::try_from(*number).ok());
    let mut record = AlertRef::new(&victim.rule, &labels, &victim.fingerprint).record(now);
    record.target = Some((victim.target, name));
    record.step = signal.map(|signal| format!("signal {signal}"));
    record.outcome = Some(outcome);
    record.reason = reason;
    record.is_effect = true;
    log_outcome!(
        outcome,
        rule = record.rule,
        pid = victim.target.pid(),
        step = record.step.as_deref().unwrap_or(""),
        outcome = outcome.as_str(),
        reason = record.reason,
        "effect"
    );
    record
}
