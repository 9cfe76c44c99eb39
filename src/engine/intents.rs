//! The intent of one allowed step: the values before and after, the lease, and the action.

use super::recheck::{may_favour, may_favour_process};
use super::status::log_not_begun;
use super::steps::{StepContext, StepPlanner};
use super::transaction::{Action, ActionContext, shown};
use super::underlying_value::{awaited_value, forget_other_devices, own_values, underlying_value};
use crate::act::apply::{self, Prepared, StepResult};
use crate::act::guard::Denial;
use crate::act::{cgroup_limit, descendants, favour, guard};
use crate::host::{Host, Knob, LimitState, Reading, Value};
use crate::ledger::{Decision, Effect, Entry, Lease, LedgerState, Outcome, Record, SavedValue, stacked_leases};
use crate::process::{Candidate, Cgroup, Process, Target};
use crate::rule::Step;
use crate::step::{Change, Send};
use std::sync::Arc;

/// The lease of a reversible step before it is taken.
struct Draft {
    prepared: Prepared,
    /// Whether the process inherited its present value from a parent with a lease.
    is_by_birth: bool,
    /// Whether the target gets more than it has of its own.
    is_favour: bool,
}

impl Draft {
    fn new(ledger: &LedgerState, target: Target, prepared: Prepared, is_by_birth: bool) -> Draft {
        let own = own_values(ledger, target, prepared.value.knob(), &prepared.saved);
        Draft {
            is_favour: own.iter().any(|own| prepared.value.favours(&own.value)),
            prepared,
            is_by_birth,
        }
    }
}

impl<H: Host> StepPlanner<'_, H> {
    /// Records the intent of an allowed step, or the dry-run decision.
    pub(super) fn stage_step(&mut self, step: &Step, step_index: usize, context: &StepContext<'_>, simulated: bool) {
        let mut record = context.about.record(self.episodes.transaction.now);
        record.target = shown(context.candidate);
        record.step = Some(step.to_string());
        record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
        let mut draft = match step {
            Step::Set(change) => match self.prepare(change, context) {
                Ok(draft) => Some(draft),
                Err(result) => {
                    self.episodes.stage_record(record.clone());
                    record.reason = result.reason;
                    return self.record_outcome(record, result.outcome, step.action());
                }
            },
            _ => None,
        };
        if let Some(draft) = &mut draft {
            if let Err(denial) = self.screen_favour(draft, context) {
                record.decision = Some(denial.decision);
                record.reason = denial.reason;
                return self.episodes.stage_record(record);
            }
            let prepared = &mut draft.prepared;
            record.before = prepared.saved.first().map(|saved| saved.value.to_string());
            record.after = Some(prepared.value.to_string());
            match context.candidate {
                Candidate::Process(process) => {
                    record.reason.clone_from(&prepared.hint);
                    let knob = prepared.value.knob();
                    let leases = self.episodes.ledger.leases.on(process.identity.into());
                    let mut held = leases.filter_map(|lease| lease.effect.value());
                    // The value of another lease is not the process's own.
                    if held.all(|value| value.knob() != knob) {
                        prepared.save_as_own(self.host, process.identity);
                    }
                }
                Candidate::Cgroup(cgroup) => {
                    if let Err(denial) = guard::limit(cgroup, &prepared.value) {
                        record.decision = Some(denial.decision);
                        record.reason = denial.reason;
                        return self.episodes.stage_record(record);
                    }
                }
            }
        }
        self.episodes.stage_record(record.clone());
        if simulated {
            return self.record_outcome(record, Outcome::DryRun, step.action());
        }
        let action_context = ActionContext {
            is_favour: draft.as_ref().is_some_and(|draft| draft.is_favour),
            about: context.about.clone(),
            candidate: context.candidate.clone(),
            rule: Arc::clone(context.rule),
            selector: Arc::clone(context.selector),
            step_index,
            step: step.to_string(),
            action: step.action(),
        };
        let action = match (step, draft) {
            (Step::Set(change), Some(draft)) => {
                return self.stage_lease(change, draft, record, action_context, context);
            }
            (Step::Signal(Send { signal, undo }), _) => Action::Signal {
                signal: *signal,
                lease: undo.map(|undo| self.stage_signal_lease(*signal as i32, undo as i32, context)),
                is_final: step.is_final(),
                context: action_context,
            },
            (Step::Reclaim(reclaim), _) => Action::Reclaim {
                bytes: reclaim.bytes,
                context: action_context,
            },
            (Step::Kill(_), _) => Action::Kill {
                context: action_context,
            },
            (Step::Set(_) | Step::Wait(_) | Step::Allocate(_) | Step::Exec(_), _) => return,
        };
        self.episodes.transaction.actions.push(action);
    }

    /// Stages the lease of a reversible step. A value that is set already needs none, unless another lease would revert it.
    fn stage_lease(
        &mut self,
        change: &Change,
        draft: Draft,
        record: Record,
        action_context: ActionContext,
        context: &StepContext<'_>,
    ) {
        let Draft {
            prepared, is_by_birth, ..
        } = draft;
        let effect = Effect::Value {
            value: prepared.value,
            saved: prepared.saved,
        };
        let lease = self.new_lease(context, effect);
        let leases = &self.episodes.ledger.leases;
        let is_held = match context.candidate {
            Candidate::Process(_) => leases.on(lease.target).any(|other| other.shares_knob(&lease)),
            // systemd carries a lease over to the unit's next cgroup.
            Candidate::Cgroup(_) => leases.values().any(|other| other.shares_knob(&lease)),
        };
        if prepared.is_set_already && !is_held && !is_by_birth && !change.is_relative() {
            return self.record_outcome(record, Outcome::AlreadySet, action_context.action);
        }
        let id = lease.id;
        self.episodes.stage(Entry::Lease(lease));
        self.episodes.transaction.actions.push(Action::Set {
            lease: id,
            context: action_context,
        });
    }

    fn stage_signal_lease(&mut self, sent: i32, undo: i32, context: &StepContext<'_>) -> u64 {
        let sent = Some(sent);
        let lease = self.new_lease(context, Effect::Signal { sent, undo });
        let id = lease.id;
        self.episodes.stage(Entry::Lease(lease));
        id
    }

    /// Reads the present value of a target, and computes the new one.
    ///
    /// # Errors
    /// With the outcome, when the target is gone or its value cannot be read.
    fn prepare(&mut self, change: &Change, context: &StepContext<'_>) -> Result<Draft, StepResult> {
        match context.candidate {
            Candidate::Process(process) => self.prepare_on_process(process, change, context),
            Candidate::Cgroup(cgroup) => self.prepare_on_cgroup(cgroup, change, context),
        }
    }

    fn prepare_on_process(
        &mut self,
        process: &Process,
        change: &Change,
        context: &StepContext<'_>,
    ) -> Result<Draft, StepResult> {
        let (target, knob) = (process.identity, change.knob());
        let ledger = &*self.episodes.ledger;
        let mut saved = apply::read(self.host, target, knob)?;
        let mut is_by_birth = false;
        for saved in &mut saved {
            let Some(tree) = self.episodes.transaction.choice() else {
                continue;
            };
            if let Some(own) = descendants::before_birth(process, &saved.value, &ledger.leases, tree) {
                saved.value = own;
                is_by_birth = true;
            }
        }
        // A lease of this transaction is not applied yet; ours will find its value.
        if let Some(value) = awaited_value(ledger, target.into(), knob) {
            saved.iter_mut().for_each(|saved| saved.value.clone_from(&value));
        }
        let underlying = underlying_value(ledger, context, knob, &saved);
        let prepared = apply::prepare(self.host, target, change, &underlying, saved)?;
        Ok(Draft::new(ledger, target.into(), prepared, is_by_birth))
    }

    fn prepare_on_cgroup(
        &mut self,
        cgroup: &Cgroup,
        change: &Change,
        context: &StepContext<'_>,
    ) -> Result<Draft, StepResult> {
        let knob = cgroup_limit::knob(self.host, change)?;
        let mut reading = self.read_own(cgroup, knob)?;
        let ledger = &*self.episodes.ledger;
        if let (Knob::Io(..), Some(unit)) = (knob, &mut reading.unit) {
            forget_other_devices(ledger, cgroup, knob, unit);
        }
        let found = SavedValue::of_cgroup(Reading {
            value: reading.value.clone(),
            unit: None,
        });
        let underlying = underlying_value(ledger, context, knob, &[found]);
        let mut prepared = cgroup_limit::prepare(self.host, cgroup, change, &underlying, reading)?;
        if let (Some(SavedValue { unit: Some(_), .. }), Value::Cgroup(setting)) =
            (prepared.saved.first(), &mut prepared.value)
        {
            *setting = setting.kept_in_drop_in();
        }
        Ok(Draft::new(ledger, cgroup.identity.into(), prepared, false))
    }

    /// Refuses a favour for a target that a user may have supplied, and notes in the lease what taking it back needs.
    fn screen_favour(&mut self, draft: &mut Draft, context: &StepContext<'_>) -> Result<(), Denial> {
        if !draft.is_favour {
            return Ok(());
        }
        match context.candidate {
            Candidate::Process(process) => {
                may_favour_process(self.host, process)?;
                let others: Vec<&Lease> = self.episodes.ledger.leases.on(process.identity.into()).collect();
                let Prepared { value, saved, .. } = &mut draft.prepared;
                favour::note(self.host, process, value, saved, &others);
                Ok(())
            }
            Candidate::Cgroup(cgroup) => may_favour(self.host, self.processes, self.episodes.policy, cgroup),
        }
    }

    /// The present value without evenkeel's own: systemd carries a limit of a unit over to the unit's next cgroup.
    fn read_own(&mut self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, StepResult> {
        let mut reading = self.host.read_cgroup(cgroup, knob)?;
        let target = Target::from(cgroup.identity);
        let of_knob = |lease: &&Lease| matches!(&lease.effect, Effect::Value { value, .. } if value.knob() == knob);
        let leases = || self.episodes.ledger.leases.values().filter(of_knob);
        // A lease of this transaction is not applied yet; ours will find its value.
        if let Some(value) = awaited_value(self.episodes.ledger, target, knob) {
            reading.value = value;
        }
        // A limit of a cgroup without a unit is not carried over.
        if reading.unit.is_none() {
            return Ok(reading);
        }
        if let Some(lease) = leases().rev().find(|lease| lease.target == target) {
            // The value in this cgroup comes from its lease, but systemd's record of the unit is evenkeel's own, unless another
            // program changed the unit.
            let is_settled = lease.settled;
            let ours = lease.effect.value().cloned();
            let first = stacked_leases::beneath(leases().filter(|lease| lease.target == target));
            if let (Some(ours), Some(SavedValue { unit: Some(unit), .. })) = (ours, first) {
                let limit_state = self.host.limit_state(cgroup, &ours, &unit);
                if !is_settled || !matches!(limit_state, Ok(LimitState::Changed)) {
                    reading.unit = Some(unit);
                }
            }
            return Ok(reading);
        }
        let is_former =
            |lease: &&Lease| lease.target != target && lease.target.cgroup().is_some() && lease.name == cgroup.path;
        let is_ours = leases()
            .filter(is_former)
            .any(|lease| matches!(&lease.effect, Effect::Value { value, .. } if *value == reading.value));
        if is_ours && let Some(first) = stacked_leases::beneath(leases().filter(is_former)) {
            // A value that an operator wrote into the former cgroup disappeared with it.
            let recorded = match (knob, &first.unit) {
                (Knob::Cgroup(file), Some(unit)) => self.host.recorded(file, unit).map(Value::Cgroup),
                _ => None,
            };
            reading.value = recorded.unwrap_or(first.value);
            reading.unit = first.unit;
        }
        Ok(reading)
    }

    fn new_lease(&self, context: &StepContext<'_>, effect: Effect) -> Lease {
        let target = (context.candidate.target(), context.candidate.name());
        self.episodes.new_lease(context.rule, context.about, target, effect)
    }

    /// Records what became of a step that needs no action.
    pub(super) fn record_outcome(&mut self, mut record: Record, outcome: Outcome, action: &'static str) {
        record.decision = None;
        record.outcome = Some(outcome);
        self.episodes.telemetry.action(&record.rule, action, outcome.as_str());
        log_not_begun(&record, outcome);
        self.episodes.stage_record(record);
    }
}
