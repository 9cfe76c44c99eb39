//! The pipeline through which every alert passes:
//!
//! decode -> match rules -> select targets -> plan -> guard -> ledger.begin (durable intent)
//!        -> apply -> ledger.settle (durable outcome)
//!
//! The webhook, the reconciler and own evaluation have decoded the alerts. A round over open episodes enters at
//! "select targets".

use super::Engine;
use super::batch::{DueEpisode, DueEpisodes};
use super::episodes::{Trigger, differs_durably};
use super::late_delivery::Statement;
use super::select::selector_for;
use super::status::{show, show_decisions};
use super::steps::StepContext;
use super::timers::{RETRY, ROUND};
use super::transaction::{AlertRef, Transaction};
use super::undo::sweep_children;
use super::victims::spent;
use crate::act::plan::{beyond_limit, drop_unselected, plan};
use crate::alert::Status;
use crate::host::Host;
use crate::ledger::{Decision, Entry, EpisodeKey, Level};
use crate::process::{Candidate, Target};
use crate::rule::RuleIndex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

impl<H: Host> Engine<H> {
    /// Matches one report with the rules, and records it in their episodes. Those to evaluate are added to `due`.
    pub(super) fn record_statement<'a>(
        &mut self,
        statement: &Statement<'a>,
        index: &RuleIndex<'_>,
        due: &mut DueEpisodes<'a>,
        transaction: &mut Transaction,
    ) {
        let matching = index.matching(&statement.alert.labels);
        if statement.alert.status == Status::Resolved {
            self.report(*statement, transaction).record_resolved(matching);
            return due.drop_closed_of(&statement.alert.fingerprint, &self.ledger);
        }
        for rule in matching {
            let Some((key, trigger)) = self.report(*statement, transaction).record_firing(rule) else {
                continue;
            };
            let is_known = due.add(DueEpisode {
                key,
                trigger,
                rule: Arc::clone(rule),
                statement: *statement,
            });
            if is_known {
                transaction.counted.push((rule.name.clone(), Decision::Duplicate));
            }
        }
    }

    /// Evaluates one open episode: selects its targets, plans their due steps, and stages what the guard allows.
    pub(super) fn evaluate_episode(&mut self, key: &EpisodeKey, trigger: Trigger, transaction: &mut Transaction) {
        let mut episodes = self.episodes(transaction);
        let Some(mut episode) = episodes.ledger.episodes.get(key).cloned() else {
            return;
        };
        let Some(rule) = episodes.rule_of(&episode) else {
            return;
        };
        let about = AlertRef::new(&rule.name, &episode.labels, &key.fingerprint);
        match episodes.level_of(&episode) {
            Level::Firing => {}
            Level::Unconfirmed => return self.verifier(transaction).wait_for_confirmation(episode),
            Level::Over => return episodes.close_silent(&episode, &about),
        }
        episodes.open.set_evaluated(key, episodes.now());
        if episodes.ledger.is_paused(&rule.name) {
            return episodes.postpone(key);
        }
        let selector = selector_for(&rule, &episode, transaction.now).map(Arc::new);
        let mut planner = self.planner(transaction);
        let Some(mut matches) = planner.select_targets(&rule, selector.as_deref(), &about, key, trigger) else {
            return;
        };
        self.verifier(transaction).drop_gone_targets(&mut episode);
        let is_touched = |target: Target| {
            let mut leases = self.ledger.leases_of(key);
            leases.any(|lease| lease.target == target)
                || self.ledger.victims.iter().any(|victim| victim.target == target)
        };
        drop_unselected(&mut episode, &matches, is_touched);
        if rule.has_final_steps() {
            let spent = spent(&self.ledger, transaction.processes());
            matches.retain(|candidate| !spent.contains(&candidate.target()));
        }
        let is_repeat = trigger == Trigger::Repeat;
        let held = self.episodes(transaction).with_leased_targets(&episode);
        let mut due = plan(&rule, &held, &matches, transaction.boot_now(), is_repeat);
        if trigger == Trigger::Opened {
            let others = beyond_limit(&held, &matches, &due);
            self.episodes(transaction).record_beyond_limit(&rule, &about, &others);
        }
        let mut planner = self.planner(transaction);
        let condition = if due.is_empty() {
            None
        } else {
            planner.condition_of(&rule)
        };
        planner.refuse_new_targets(&mut due, condition, &about, key);
        if is_repeat {
            episode.excluded.retain(|excluded| !excluded.until_repeat);
            if due.is_empty() {
                transaction.counted.push((rule.name.clone(), Decision::Duplicate));
            }
        }
        let before = self.ledger.episodes.get(key).cloned();
        let by_target: HashMap<Target, &Candidate> = matches.iter().map(|found| (found.target(), found)).collect();
        let mut planner = self.planner(transaction);
        for due_steps in due {
            let candidate = by_target.get(&due_steps.target).copied();
            if due_steps.target == Target::Host {
                planner.plan_host_steps(due_steps, &rule, &about, condition, &mut episode);
            } else if let (Some(candidate), Some(selector)) = (candidate, &selector) {
                let context = StepContext {
                    rule: &rule,
                    selector,
                    about: &about,
                    candidate,
                    condition,
                };
                planner.plan_steps(due_steps, context, &mut episode);
            }
        }
        let now = transaction.boot_now();
        for progress in episode.targets.iter_mut().filter(|progress| progress.due <= now) {
            // The process does not match the selector now; the next round checks again.
            progress.due = now + ROUND;
        }
        if before.as_ref() == Some(&episode) {
            return;
        }
        // Only a new step or a new reason is worth a commit; a new time for the next check is not.
        let is_durable = differs_durably(before.as_ref(), &episode);
        let entry = Entry::Episode(episode);
        match is_durable {
            true => transaction.stage(&mut self.ledger, entry),
            false => self.ledger.record(&entry),
        }
    }

    /// Commits and applies a transaction. If its intents cannot be made durable, `again` evaluates the rules that act
    /// without a ledger.
    ///
    /// # Errors
    /// When the intents could not be made durable.
    pub(super) fn commit_and_apply_or(
        &mut self,
        transaction: Transaction,
        again: impl FnOnce(&mut Self, &mut Transaction),
    ) -> Result<(), String> {
        let (now, arrival) = (transaction.boot_now(), transaction.arrival);
        let begun = self.commit_and_apply(transaction);
        if begun.is_err() {
            let mut rest = Transaction::without_ledger(self.host.now(), arrival);
            again(self, &mut rest);
            if rest.has_something() {
                // Its intents are valid, durable or not.
                let _ = self.commit_and_apply(rest);
            }
            self.ledger.postpone_due(now, now + RETRY);
        }
        begun
    }

    /// Makes the intents durable, applies the actions, and makes the outcomes durable.
    ///
    /// # Errors
    /// When the intent could not be made durable.
    pub(super) fn commit_and_apply(&mut self, mut transaction: Transaction) -> Result<(), String> {
        if transaction.wants_early_round {
            self.timers.hasten_round(transaction.boot_now());
        }
        let entries = transaction.entries();
        transaction.latency.decided = Instant::now();
        let begun = match entries.is_empty() || transaction.is_unledgered {
            true => Ok(()),
            false => self.journal.begin(&entries).map_err(|error| error.to_string()),
        };
        transaction.latency.durable = Instant::now();
        if begun.is_err() {
            let closings = transaction.roll_back(&mut self.ledger);
            self.journal.settle(closings);
        }
        let counted = std::mem::take(&mut transaction.counted);
        self.count_decisions(&entries, counted, begun.is_ok());
        // Many repeats must not each describe thousands of open episodes.
        let changes_nothing = transaction.arrival.is_some() && entries.is_empty() && transaction.actions.is_empty();
        if changes_nothing && self.journal.is_writable() {
            return begun;
        }
        let actions = std::mem::take(&mut transaction.actions);
        if !actions.is_empty() {
            self.processes.forget_table();
        }
        let mut executor = self.executor(&mut transaction);
        executor.execute_all(actions);
        let outcomes = executor.outcomes;
        show_decisions(&self.telemetry, &transaction);
        let undone = std::mem::take(&mut self.reverts.undone);
        sweep_children(&mut self.host, &self.ledger.leases, &self.processes, undone);
        outcomes.iter().for_each(|entry| show(&self.telemetry, entry));
        // Without a ledger the record follows the action.
        let intents = if transaction.is_unledgered { entries } else { Vec::new() };
        self.journal.settle(intents.into_iter().chain(outcomes).collect());
        self.timers.last_retry = (!self.journal.is_writable()).then_some(transaction.now.boot);
        self.publish_state();
        begun
    }
}
