//! The execution of actions whose intent is durable, and the record of their outcomes. Right before a step it reads
//! and checks the target once more.

use super::Policy;
use super::jobs_in_flight::JobsInFlight;
use super::pending_reverts::PendingReverts;
use super::process_view::{ProcessView, read_tree};
use super::recheck::{is_cgroup_there, verify};
use super::status::{log_outcome, show_decisions};
use super::timers::{RETRY, ROUND};
use super::transaction::{Action, ActionContext, Transaction, shown};
use super::victims::{exit_entries, set_patience};
use crate::act::apply::{self, StepResult};
use crate::act::{cgroup_limit, effect};
use crate::host::Host;
use crate::ledger::stacked_leases::{self, Undo};
use crate::ledger::{Effect, Entry, EpisodeKey, Lease, LedgerState, Outcome, TargetProgress, Victim};
use crate::process::{Candidate, Target};
use crate::step::{kill, reclaim};
use crate::telemetry::Telemetry;
use nix::sys::signal::Signal;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Executes the actions of one committed transaction. `undo.rs` reverts, `signal_delivery.rs` sends signals, and
/// `start_job.rs` starts jobs.
pub(super) struct Executor<'a, H: Host> {
    pub host: &'a mut H,
    pub ledger: &'a mut LedgerState,
    pub policy: &'a Policy,
    pub processes: &'a ProcessView,
    pub telemetry: &'a Telemetry,
    pub reverts: &'a mut PendingReverts,
    pub jobs: &'a mut JobsInFlight,
    pub transaction: &'a mut Transaction,
    /// The entries for the commit of the outcomes.
    pub outcomes: Vec<Entry>,
}

impl<H: Host> Executor<'_, H> {
    /// Executes actions in their order. But a revert that would hand over to a lease whose value is not set yet comes last: if that
    /// step fails, or was lost in a crash, the older lease still restores what it set.
    pub fn execute_all(&mut self, actions: Vec<Action>) {
        let mut last = Vec::new();
        for action in actions {
            if self.has_unsettled_heir(&action) {
                last.push(action);
            } else {
                self.execute(action);
            }
        }
        last.into_iter().for_each(|action| self.execute(action));
    }

    fn has_unsettled_heir(&self, action: &Action) -> bool {
        let Action::Undo { lease, .. } = action else {
            return false;
        };
        let leases = &self.ledger.leases;
        let undo = leases
            .get(lease)
            .map(|lease| stacked_leases::undo(lease, leases.on(lease.target)));
        let Some(Undo::HandOver { heir, .. }) = undo else {
            return false;
        };
        leases.get(&heir).is_some_and(|heir| !heir.settled)
    }

    /// Executes one action. A step is skipped if its alert was resolved, or its target lost, in the same transaction.
    fn execute(&mut self, action: Action) {
        match action {
            Action::Undo { lease, outcome } => match self.read_table_for(lease) {
                Ok(()) => self.undo(lease, outcome),
                Err(error) => self.postpone_undo(lease, &error),
            },
            Action::Send { lease, was_in_doubt } => self.send(lease, was_in_doubt),
            Action::Set { lease, context } if self.is_called_off(&context) => {
                self.cancel_lease(lease, Outcome::Cancelled);
            }
            Action::Set { lease, context } => self.set(lease, &context),
            Action::Signal {
                signal, lease, context, ..
            } if self.is_called_off(&context) => {
                let outcome = Outcome::Cancelled;
                if let Some(id) = lease {
                    self.settle(Entry::LeaseEnded { id, outcome });
                }
                self.record_not_sent(context.candidate.target(), signal);
            }
            Action::Signal {
                signal,
                lease,
                is_final,
                context,
            } => self.signal(signal, lease, is_final, &context),
            Action::Kill { context } if self.is_called_off(&context) => {
                self.record_not_sent(context.candidate.target(), Signal::SIGKILL);
            }
            Action::Kill { context } => self.kill(&context),
            Action::Reclaim { context, .. } if self.is_called_off(&context) => {}
            Action::Reclaim { bytes, context } => self.reclaim(bytes, &context),
        }
    }

    /// Reads the process table for the revert of a lease, which covers the children of its target.
    ///
    /// # Errors
    /// When the table cannot be read, so that children would keep the value.
    fn read_table_for(&mut self, lease: u64) -> io::Result<()> {
        // evenkeel itself is in each table that could be read.
        if self.transaction.table.as_ref().is_some_and(|table| !table.is_empty()) {
            return Ok(());
        }
        let is_inherited = |lease: &Lease| {
            let value = lease.effect.value().filter(|_| lease.target.process().is_some());
            value.is_some_and(|value| value.knob().is_inherited())
        };
        match read_tree(self.host) {
            Ok(tree) => self.transaction.table = Some(Arc::new(tree)),
            Err(error) if self.ledger.leases.get(&lease).is_some_and(is_inherited) => return Err(error),
            // Nothing else needs it.
            Err(_) => {}
        }
        Ok(())
    }

    /// Sets the value of a lease.
    fn set(&mut self, lease: u64, context: &ActionContext) {
        let Some(mut held) = self.ledger.leases.get(&lease).cloned() else {
            return;
        };
        let Effect::Value { value, saved } = &mut held.effect else {
            return;
        };
        let verified = verify(self.host, self.processes, self.policy, context);
        let was_unit_set = verified.is_ok() && saved.iter().any(|saved| saved.unit.is_some());
        let result = match verified {
            Ok(()) => match &context.candidate {
                Candidate::Process(process) => apply::set(self.host, process.identity, value, saved),
                Candidate::Cgroup(cgroup) => cgroup_limit::set(self.host, cgroup, value, saved),
            },
            Err(result) => result,
        };
        let done_at = Instant::now();
        match result.outcome {
            Outcome::Gone | Outcome::ChangedIdentity if was_unit_set => self.undo_for_unit(lease),
            Outcome::Gone | Outcome::ChangedIdentity => self.cancel_lease(lease, result.outcome),
            _ => {
                held.settled = true;
                self.settle(Entry::Lease(held));
            }
        }
        let is_halfway = matches!(result.outcome, Outcome::Denied | Outcome::Failed);
        self.set_back(context, &result);
        self.report(context, result, done_at);
        if is_halfway {
            self.undo(lease, Outcome::Cancelled);
        }
    }

    /// Sends a signal to a process; other targets have none.
    fn signal(&mut self, signal: Signal, lease: Option<u64>, is_final: bool, context: &ActionContext) {
        let Some(target) = context.candidate.process().map(|process| process.identity) else {
            return;
        };
        let held = lease.and_then(|id| self.ledger.leases.get(&id)).cloned();
        let sent = self.deliver(signal, held.as_ref(), context);
        let done_at = Instant::now();
        let result = sent.unwrap_or_else(|result| result);
        let is_sent = result.outcome == Outcome::Applied;
        if let Some(mut held) = held {
            held.settled = true;
            let id = held.id;
            let outcome = result.outcome;
            let entry = if matches!(outcome, Outcome::Applied | Outcome::AlreadySet) {
                Entry::Lease(held)
            } else {
                Entry::LeaseEnded { id, outcome }
            };
            self.settle(entry);
        }
        if is_final && is_sent {
            self.host.watch_exit(target);
            self.await_effect(context, signal);
            self.wait_from_now(context);
        } else if is_final && self.host.is_alive(target) {
            self.record_not_sent(target.into(), signal);
        } else if is_final {
            self.record_exit(target.into());
        }
        self.set_back(context, &result);
        self.report(context, result, done_at);
    }

    /// Makes the kernel reclaim memory of a target.
    fn reclaim(&mut self, bytes: u64, context: &ActionContext) {
        let verified = verify(self.host, self.processes, self.policy, context);
        let result = verified.map_or_else(
            |result| result,
            |()| reclaim::apply(self.host, &context.candidate, bytes),
        );
        let done_at = Instant::now();
        self.set_back(context, &result);
        self.report(context, result, done_at);
    }

    /// Records the exit of a target, if it is a victim.
    fn record_exit(&mut self, target: Target) {
        let now = self.transaction.now;
        for entry in exit_entries(self.host, self.ledger, self.telemetry, target, now) {
            self.settle(entry);
        }
    }

    /// Kills every process in a cgroup, which counts as gone once it is empty.
    fn kill(&mut self, context: &ActionContext) {
        let Some(cgroup) = context.candidate.cgroup() else {
            return;
        };
        let result = verify(self.host, self.processes, self.policy, context)
            .map_or_else(|result| result, |()| kill::apply(self.host, cgroup));
        let done_at = Instant::now();
        let target = context.candidate.target();
        if result.outcome == Outcome::Applied {
            self.await_effect(context, Signal::SIGKILL);
            self.wait_from_now(context);
        } else if is_cgroup_there(self.host, cgroup.identity, &cgroup.path) {
            self.record_not_sent(target, Signal::SIGKILL);
        } else {
            self.record_exit(target);
        }
        self.set_back(context, &result);
        self.report(context, result, done_at);
    }

    /// Ends a lease that was never applied, and the leases above it from the same transaction.
    fn cancel_lease(&mut self, id: u64, outcome: Outcome) {
        let undo = self
            .ledger
            .leases
            .get(&id)
            .map(|lease| stacked_leases::undo(lease, self.ledger.leases.on(lease.target)));
        if let Some(Undo::HandOver { heir, inherited, .. }) = undo {
            let (id, saved) = (heir, inherited);
            self.settle(Entry::LeasePrior { id, saved });
        }
        self.settle(Entry::LeaseEnded { id, outcome });
    }

    /// Reverts a lease whose cgroup was replaced during the step, because systemd applies the property to the unit's next cgroup.
    /// Leases above it were never applied and end first, because the unit has the value of this one.
    fn undo_for_unit(&mut self, id: u64) {
        let Some(lease) = self.ledger.leases.get(&id) else {
            return;
        };
        let on_target = self.ledger.leases.on(lease.target);
        let stack = on_target.filter(|other| other.id >= id && (other.id == id || other.shares_knob(lease)));
        let ids: Vec<u64> = stack.map(|lease| lease.id).rev().collect();
        for id in ids {
            self.undo(id, Outcome::Gone);
        }
    }

    /// Does not count a fatal signal that did not reach its living target.
    fn record_not_sent(&mut self, target: Target, signal: Signal) {
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
        self.settle(entry);
    }

    /// Records a sent fatal signal. After the last one, the time for its effect is known.
    fn await_effect(&mut self, context: &ActionContext, signal: Signal) {
        let target = context.candidate.target();
        let victims = &self.ledger.victims;
        let Some(mut victim) = victims.iter().find(|victim| victim.lives_as(target, false)).cloned() else {
            return;
        };
        victim.unsent = None;
        let now = self.host.now().boot;
        let is_last = effect::is_last(&context.rule, context.step_index, signal);
        set_patience(self.ledger, self.policy, &mut victim, is_last, now);
        self.settle(Entry::Victim(victim));
    }

    fn progress_of(&mut self, context: &ActionContext) -> Option<(EpisodeKey, &mut TargetProgress)> {
        let key = context.episode();
        let target = context.candidate.target();
        let targets = &mut self.ledger.episodes.get_mut(&key)?.targets;
        targets
            .iter_mut()
            .find(|progress| progress.target == target)
            .map(|progress| (key, progress))
    }

    fn settle_episode(&mut self, key: &EpisodeKey) {
        let Some(episode) = self.ledger.episodes.get(key) else {
            return;
        };
        // The newest record is enough, because each one names all targets.
        self.outcomes
            .retain(|entry| !matches!(entry, Entry::Episode(older) if older.key == *key));
        self.outcomes.push(Entry::Episode(episode.clone()));
    }

    /// Sets a target back whose step was not applied, because it stopped matching between plan and action or another program
    /// stopped it. Otherwise SIGKILL would follow without a SIGTERM.
    fn set_back(&mut self, context: &ActionContext, result: &StepResult) {
        if !matches!(result.outcome, Outcome::ChangedIdentity | Outcome::Cancelled) {
            return;
        }
        // The members of a cgroup may change soon.
        let again = match context.candidate {
            Candidate::Process(_) => ROUND,
            Candidate::Cgroup(_) => RETRY,
        };
        let due = self.transaction.boot_now() + again;
        if let Some((key, progress)) = self.progress_of(context) {
            progress.step_index = context.step_index;
            progress.due = due;
            self.settle_episode(&key);
        }
    }

    /// Whether a step must be skipped, because the same delivery resolved its alert or an earlier step of this transaction did not
    /// find its target.
    fn is_called_off(&mut self, context: &ActionContext) -> bool {
        !self.ledger.episodes.contains_key(&context.episode())
            || self
                .progress_of(context)
                .is_some_and(|(_, progress)| progress.step_index <= context.step_index)
    }

    /// Counts a wait from the action, because the commit before it may take long on an overloaded host.
    fn wait_from_now(&mut self, context: &ActionContext) {
        let late = self.host.now().boot.saturating_sub(self.transaction.boot_now());
        if late.is_zero() {
            return;
        }
        if let Some((key, progress)) = self.progress_of(context) {
            progress.due = progress.due.saturating_add(late);
            self.settle_episode(&key);
        }
    }

    /// Applies an entry to the ledger's state and stages it for the commit of the outcomes.
    pub fn settle(&mut self, entry: Entry) {
        self.ledger.record(&entry);
        self.outcomes.push(entry);
    }

    fn report(&mut self, context: &ActionContext, result: StepResult, done_at: Instant) {
        if let (Outcome::Applied, Some(arrival)) = (result.outcome, self.transaction.arrival) {
            let reaction = done_at.saturating_duration_since(arrival.received_at);
            self.telemetry.reaction_seconds(reaction.as_secs_f64());
            let pid = context.candidate.target().pid();
            self.transaction.latency.log(arrival, done_at, &context.about.rule, pid);
        }
        show_decisions(self.telemetry, self.transaction);
        self.telemetry
            .action(&context.about.rule, context.action, result.outcome.as_str());
        let (pid, name) = (context.candidate.target().pid(), context.candidate.name());
        log_outcome!(
            result.outcome,
            rule = context.about.rule.as_str(),
            alert = context.about.alertname.as_str(),
            pid,
            process = name,
            step = context.step,
            outcome = result.outcome.as_str(),
            before = result.before.as_deref().unwrap_or(""),
            reason = result.reason,
            "step"
        );
        // The time of the action, not that of the decision before it.
        let mut record = context.about.record(self.host.now());
        record.target = shown(&context.candidate);
        record.step = Some(context.step.clone());
        record.outcome = Some(result.outcome);
        record.before = result.before;
        record.after = result.after;
        record.reason = result.reason;
        self.outcomes.push(Entry::Record(record));
    }
}
