//! The execution of actions whose intent is durable, and the record of their outcomes. Right before a step it reads
//! and checks the process once more.

use super::Engine;
use super::timers::{RETRY, ROUND};
use super::transaction::{Action, ActionContext, Transaction, shown};
use crate::act::apply::{self, StepResult};
use crate::act::effect;
use crate::act::guard::Protection;
use crate::act::limit;
use crate::engine::select::still_holds;
use crate::host::Host;
use crate::ledger::lease::{self, Undo};
use crate::ledger::{Effect, Entry, EpisodeKey, Outcome, TargetProgress, Victim};
use crate::process::{Candidate, Target};
use nix::sys::signal::Signal;
use std::time::Instant;

impl<H: Host> Engine<H> {
    pub(super) fn perform(&mut self, work: Action, transaction: &Transaction, outcomes: &mut Vec<Entry>) {
        match work {
            Action::Undo { lease, word } => self.undo(lease, word, transaction, outcomes),
            Action::Send { lease, was_in_doubt } => self.send(lease, was_in_doubt),
            Action::Take { lease, context } if self.is_called_off(&context) => {
                self.cancel_lease(lease, Outcome::Cancelled, outcomes);
            }
            Action::Signal {
                signal, lease, context, ..
            } if self.is_called_off(&context) => {
                let outcome = Outcome::Cancelled;
                if let Some(id) = lease {
                    self.keep(Entry::LeaseEnded { id, outcome }, outcomes);
                }
                self.spare(context.candidate.target(), signal, outcomes);
            }
            Action::Kill { context } if self.is_called_off(&context) => {
                self.spare(context.candidate.target(), Signal::SIGKILL, outcomes);
            }
            Action::Reclaim { context, .. } if self.is_called_off(&context) => {}
            Action::Kill { context } => self.kill(&context, transaction, outcomes),
            Action::Reclaim { bytes, context } => {
                let effected = self.verify(&context).map_or_else(
                    |effected| effected,
                    |()| match &context.candidate {
                        Candidate::Process(process) => limit::page_out(&mut self.host, process.identity, bytes),
                        Candidate::Cgroup(cgroup) => limit::reclaim(&mut self.host, cgroup, bytes),
                    },
                );
                let done_at = Instant::now();
                self.set_back(&context, &effected, transaction, outcomes);
                self.report(&context, effected, done_at, transaction, outcomes);
            }
            Action::Take { lease, context } => {
                let Some(mut held) = self.ledger.leases.get(&lease).cloned() else {
                    return;
                };
                let Effect::Value { value, saved } = &mut held.effect else {
                    return;
                };
                let verified = self.verify(&context);
                let was_unit_set = verified.is_ok() && saved.iter().any(|saved| saved.unit.is_some());
                let effected = match verified {
                    Ok(()) => match &context.candidate {
                        Candidate::Process(process) => apply::set(&mut self.host, process.identity, value, saved),
                        Candidate::Cgroup(cgroup) => limit::set(&mut self.host, cgroup, value, saved),
                    },
                    Err(effected) => effected,
                };
                let done_at = Instant::now();
                match effected.outcome {
                    Outcome::Gone | Outcome::ChangedIdentity if was_unit_set => {
                        self.undo_for_unit(lease, transaction, outcomes);
                    }
                    Outcome::Gone | Outcome::ChangedIdentity => {
                        self.cancel_lease(lease, effected.outcome, outcomes);
                    }
                    _ => {
                        held.settled = true;
                        self.keep(Entry::Lease(held), outcomes);
                    }
                }
                let is_halfway = matches!(effected.outcome, Outcome::Denied | Outcome::Failed);
                self.set_back(&context, &effected, transaction, outcomes);
                self.report(&context, effected, done_at, transaction, outcomes);
                if is_halfway {
                    self.undo(lease, Outcome::Cancelled, transaction, outcomes);
                }
            }
            Action::Signal {
                signal,
                lease,
                is_final,
                context,
            } => {
                // Other targets have no signals.
                let Some(target) = context.candidate.process().map(|process| process.identity) else {
                    return;
                };
                let held = lease.and_then(|id| self.ledger.leases.get(&id)).cloned();
                let sent = self.deliver(signal, held.as_ref(), &context, transaction, outcomes);
                let done_at = Instant::now();
                let effected = sent.unwrap_or_else(|effected| effected);
                let is_sent = effected.outcome == Outcome::Applied;
                if let Some(mut held) = held {
                    held.settled = true;
                    let id = held.id;
                    let outcome = effected.outcome;
                    let entry = if matches!(outcome, Outcome::Applied | Outcome::AlreadySet) {
                        Entry::Lease(held)
                    } else {
                        Entry::LeaseEnded { id, outcome }
                    };
                    self.keep(entry, outcomes);
                }
                if is_final && is_sent {
                    self.host.watch_exit(target);
                    self.await_effect(&context, signal, outcomes);
                    self.wait_from_now(&context, transaction, outcomes);
                } else if is_final {
                    if self.host.is_alive(target) {
                        self.spare(target.into(), signal, outcomes);
                    } else {
                        for entry in self.end_of(target.into(), transaction.now) {
                            self.keep(entry, outcomes);
                        }
                    }
                }
                self.set_back(&context, &effected, transaction, outcomes);
                self.report(&context, effected, done_at, transaction, outcomes);
            }
        }
    }

    /// Kills every process in a cgroup, which counts as gone once it is empty.
    fn kill(&mut self, context: &ActionContext, transaction: &Transaction, outcomes: &mut Vec<Entry>) {
        let Some(cgroup) = context.candidate.cgroup() else {
            return;
        };
        let effected = self
            .verify(context)
            .map_or_else(|effected| effected, |()| limit::kill(&mut self.host, cgroup));
        let done_at = Instant::now();
        let target = context.candidate.target();
        if effected.outcome == Outcome::Applied {
            self.await_effect(context, Signal::SIGKILL, outcomes);
            self.wait_from_now(context, transaction, outcomes);
        } else if self.is_cgroup_there(cgroup.identity, &cgroup.path) {
            self.spare(target, Signal::SIGKILL, outcomes);
        } else {
            for entry in self.end_of(target, transaction.now) {
                self.keep(entry, outcomes);
            }
        }
        self.set_back(context, &effected, transaction, outcomes);
        self.report(context, effected, done_at, transaction, outcomes);
    }

    /// Ends a lease that was never applied, and the leases above it from the same transaction.
    fn cancel_lease(&mut self, id: u64, outcome: Outcome, outcomes: &mut Vec<Entry>) {
        let undo = self
            .ledger
            .leases
            .get(&id)
            .map(|lease| lease::undo(lease, self.ledger.leases.on(lease.target)));
        if let Some(Undo::HandOver { heir, inherited, .. }) = undo {
            let (id, saved) = (heir, inherited);
            self.keep(Entry::LeasePrior { id, saved }, outcomes);
        }
        self.keep(Entry::LeaseEnded { id, outcome }, outcomes);
    }

    /// Reverts a lease whose cgroup was replaced during the step, because systemd applies the property to the unit's next cgroup.
    /// Leases above it were never applied and end first, because the unit has the value of this one.
    fn undo_for_unit(&mut self, id: u64, transaction: &Transaction, outcomes: &mut Vec<Entry>) {
        let Some(lease) = self.ledger.leases.get(&id) else {
            return;
        };
        let on_target = self.ledger.leases.on(lease.target);
        let stack = on_target.filter(|other| other.id >= id && (other.id == id || other.shares_knob(lease)));
        let ids: Vec<u64> = stack.map(|lease| lease.id).rev().collect();
        for id in ids {
            self.undo(id, Outcome::Gone, transaction, outcomes);
        }
    }

    /// Does not count a fatal signal that did not reach its living target.
    fn spare(&mut self, target: Target, signal: Signal, outcomes: &mut Vec<Entry>) {
        let is_it = |victim: &&Victim| victim.target == target && !victim.simulated && victim.gone_at.is_none();
        let Some(mut victim) = self.ledger.victims.iter().find(is_it).cloned() else {
            return;
        };
        victim.signals.retain(|sent| *sent != signal as i32);
        victim.unsent = None;
        let entry = if victim.signals.is_empty() {
            Entry::VictimSpared { target }
        } else {
            Entry::Victim(victim)
        };
        self.keep(entry, outcomes);
    }

    /// Records a sent fatal signal. After the last one, the time for its effect is known.
    fn await_effect(&mut self, context: &ActionContext, signal: Signal, outcomes: &mut Vec<Entry>) {
        let target = context.candidate.target();
        let victims = &self.ledger.victims;
        let Some(mut victim) = victims.iter().find(|victim| victim.lives_as(target, false)).cloned() else {
            return;
        };
        victim.unsent = None;
        let now = self.host.now().boot;
        self.patience_after(
            &mut victim,
            effect::is_last(&context.rule, context.step_index, signal),
            now,
        );
        self.keep(Entry::Victim(victim), outcomes);
    }

    fn climb_of(&mut self, context: &ActionContext) -> Option<(EpisodeKey, &mut TargetProgress)> {
        let key = key_of(context);
        let target = context.candidate.target();
        let targets = &mut self.ledger.episodes.get_mut(&key)?.targets;
        targets
            .iter_mut()
            .find(|progress| progress.target == target)
            .map(|progress| (key, progress))
    }

    fn keep_episode(&mut self, key: &EpisodeKey, outcomes: &mut Vec<Entry>) {
        let Some(episode) = self.ledger.episodes.get(key) else {
            return;
        };
        // The newest record is enough, because each one names all targets.
        outcomes.retain(|entry| !matches!(entry, Entry::Episode(older) if older.key == *key));
        outcomes.push(Entry::Episode(episode.clone()));
    }

    /// Sets a target back whose step was not applied, because it stopped matching between plan and action or another program
    /// stopped it. Otherwise SIGKILL would follow without a SIGTERM.
    fn set_back(
        &mut self,
        context: &ActionContext,
        effected: &StepResult,
        transaction: &Transaction,
        outcomes: &mut Vec<Entry>,
    ) {
        if !matches!(effected.outcome, Outcome::ChangedIdentity | Outcome::Cancelled) {
            return;
        }
        // The members of a cgroup may change soon.
        let again = match context.candidate {
            Candidate::Process(_) => ROUND,
            Candidate::Cgroup(_) => RETRY,
        };
        if let Some((key, progress)) = self.climb_of(context) {
            (progress.step_index, progress.due) = (context.step_index, transaction.boot_now() + again);
            self.keep_episode(&key, outcomes);
        }
    }

    /// Whether a step must be skipped, because the same delivery resolved its alert or an earlier step of this transaction did not
    /// find its target.
    fn is_called_off(&mut self, context: &ActionContext) -> bool {
        !self.ledger.episodes.contains_key(&key_of(context))
            || self
                .climb_of(context)
                .is_some_and(|(_, progress)| progress.step_index <= context.step_index)
    }

    /// Counts a wait from the action, because the commit before it may take long on an overloaded host.
    fn wait_from_now(&mut self, context: &ActionContext, transaction: &Transaction, outcomes: &mut Vec<Entry>) {
        let late = self.host.now().boot.saturating_sub(transaction.boot_now());
        if late.is_zero() {
            return;
        }
        if let Some((key, progress)) = self.climb_of(context) {
            progress.due = progress.due.saturating_add(late);
            self.keep_episode(&key, outcomes);
        }
    }

    /// Checks right before a step that the process is still the planned one.
    pub(super) fn verify(&mut self, context: &ActionContext) -> Result<(), StepResult> {
        let (rule, selector) = (&context.rule, &context.selector);
        let mut why = String::new();
        let (holds, is_alive) = match &context.candidate {
            Candidate::Process(process) => {
                let protection = Protection {
                    own_ancestors: &self.processes.own_ancestors,
                    protect: &self.policy.protect,
                };
                let holds = still_holds(&mut self.host, process, rule, selector, &protection);
                (holds, holds || self.host.is_alive(process.identity))
            }
            Candidate::Cgroup(cgroup) => {
                let checked = self.cgroup_still_holds(cgroup, rule, selector);
                let holds = checked.is_ok();
                why = checked.err().map(|reason| format!(": {reason}")).unwrap_or_default();
                (holds, holds || self.is_cgroup_there(cgroup.identity, &cgroup.path))
            }
        };
        if holds {
            return Ok(());
        }
        let what = if context.candidate.process().is_some() {
            "process"
        } else {
            "cgroup"
        };
        let (outcome, reason) = if is_alive {
            (
                Outcome::ChangedIdentity,
                format!("the {what} no longer matches the rule{why}"),
            )
        } else {
            (Outcome::Gone, format!("the {what} was gone before the step"))
        };
        Err(StepResult {
            outcome,
            before: None,
            after: None,
            reason,
        })
    }

    /// Applies an entry to the ledger's state and stages it for the commit of the outcomes.
    pub(super) fn keep(&mut self, entry: Entry, outcomes: &mut Vec<Entry>) {
        self.ledger.record(&entry);
        outcomes.push(entry);
    }

    fn report(
        &mut self,
        context: &ActionContext,
        effected: StepResult,
        done_at: Instant,
        transaction: &Transaction,
        outcomes: &mut Vec<Entry>,
    ) {
        if let (Outcome::Applied, Some(arrival)) = (effected.outcome, transaction.arrival) {
            let reaction = done_at.saturating_duration_since(arrival.received_at);
            self.telemetry.reaction_seconds(reaction.as_secs_f64());
            let pid = context.candidate.target().pid();
            transaction.latency.tell(arrival, done_at, &context.about.rule, pid);
        }
        self.show_decisions(transaction);
        self.telemetry
            .action(&context.about.rule, context.action, effected.outcome.as_str());
        let (pid, name) = (context.candidate.target().pid(), context.candidate.name());
        tracing::info!(
            rule = context.about.rule.as_str(),
            alert = context.about.alertname.as_str(),
            pid,
            process = name,
            step = context.step,
            outcome = effected.outcome.as_str(),
            before = effected.before.as_deref().unwrap_or(""),
            reason = effected.reason,
            "step"
        );
        let mut record = context.about.record(transaction.now);
        (record.target, record.step) = (shown(&context.candidate), Some(context.step.clone()));
        record.outcome = Some(effected.outcome);
        (record.before, record.after, record.reason) = (effected.before, effected.after, effected.reason);
        outcomes.push(Entry::Record(record));
    }
}

/// The episode of a step that is applied. Dry-run steps have none.
fn key_of(context: &ActionContext) -> EpisodeKey {
    EpisodeKey {
        rule: context.about.rule.clone(),
        fingerprint: context.about.fingerprint.clone(),
        simulated: false,
    }
}
