//! Cgroups as targets: their selection, the check right before a step, and the intents of a step. Policy is in
//! `guard`; `act/limit.rs` applies.

use super::Engine;
use super::steps::StepContext;
use super::transaction::{Action, ActionContext, AlertRef, Transaction, shown};
use crate::act::apply::StepResult;
use crate::act::guard::{self, Denial, Protection};
use crate::act::{limit, plan};
use crate::host::{Host, Knob, Reading, Standing, Value, unit};
use crate::ledger::lease;
use crate::ledger::{Decision, Effect, Entry, Lease, Outcome, Record, SavedValue};
use crate::process::selector::Judgement;
use crate::process::{Candidate, Cgroup, CgroupIdentity, Members, Process, ProcessFields, Selector, Target};
use crate::rule::step::Change;
use crate::rule::{Rule, Step};
use std::collections::BTreeMap;

/// Attempts to read a member that changes meanwhile.
const MAX_LOOKS: usize = 3;

/// The cgroups that match every condition, each with the processes in and below it, in the order of the rule.
pub fn select_cgroups(
    host: &mut impl Host,
    table: &[Process],
    rule: &Rule,
    selector: &Selector,
    protection: &Protection,
) -> Result<Vec<(Cgroup, Members)>, String> {
    let listed = host.cgroups().map_err(|error| error.to_string())?;
    let by_pid: BTreeMap<i32, &Process> = table.iter().map(|process| (process.identity.pid, process)).collect();
    let mut matches = Vec::new();
    for mut cgroup in listed {
        if matches!(selector.judge_cgroup(&cgroup), Judgement::Fails(_)) {
            continue;
        }
        let members = members(host, &by_pid, &cgroup, protection);
        let cores = |processes: &Vec<Process>| processes.iter().filter_map(|process| process.cpu_cores).sum();
        cgroup.cpu_cores = members.as_ref().ok().map(cores);
        if selector.judge_cgroup(&cgroup) == Judgement::Holds {
            matches.push((cgroup, members));
        }
    }
    matches.sort_by(|(a, _), (b, _)| plan::order_cgroups(a, b, rule.order_by));
    Ok(matches)
}

/// The processes in a cgroup and below it, with the fields that the guard needs.
fn members(
    host: &mut impl Host,
    by_pid: &BTreeMap<i32, &Process>,
    cgroup: &Cgroup,
    protection: &Protection,
) -> Result<Vec<Process>, String> {
    let mut processes = Vec::new();
    for pid in host.members(cgroup).map_err(|error| error.to_string())? {
        if pid == 0 {
            return Err("a process of another pid namespace is in it".to_owned());
        }
        let known = by_pid.get(&pid).map(|process| (*process).clone());
        processes.extend(member(host, pid, known, protection.needs())?);
    }
    Ok(processes)
}

/// The process with this pid, with its details; `None` if it exited, or is within exit(2) and cannot be identified any more.
fn member(
    host: &mut impl Host,
    pid: i32,
    known: Option<Process>,
    needs: ProcessFields,
) -> Result<Option<Process>, String> {
    let mut known = known;
    for _ in 0..MAX_LOOKS {
        let Some(mut process) = known.take().or_else(|| host.process(pid)) else {
            return Ok(None);
        };
        // It may run another program by now, or another process may have its pid, so it must be identified again.
        if host.read_details(&mut process, needs) {
            let is_over = process.details.exe.is_none() && host.is_ending(process.identity);
            return Ok((!is_over).then_some(process));
        }
    }
    match host.process(pid) {
        Some(_) => Err(format!("process {pid} changes while it is read")),
        None => Ok(None),
    }
}

/// Whether the members of a cgroup could not be read, which may succeed soon.
fn is_unidentified(members: &Members) -> bool {
    let is_unknown = |process: &Process| process.details.exe.is_none() && !process.is_kernel_thread;
    members.as_ref().map_or(true, |members| members.iter().any(is_unknown))
}

impl<H: Host> Engine<H> {
    /// The selected cgroups that the guard allows, in the order of the rule. The excluded ones are recorded once.
    ///
    /// # Errors
    /// When more than `max_matches` cgroups match, or cgroups cannot be listed.
    pub(super) fn find_cgroups(
        &mut self,
        rule: &Rule,
        selector: &Selector,
        about: &AlertRef,
        is_first: bool,
        transaction: &mut Transaction,
    ) -> Result<Vec<Candidate>, Denial> {
        let protection = Protection {
            own_ancestors: &self.processes.own_ancestors,
            protect: &self.policy.protect,
        };
        let found = select_cgroups(&mut self.host, transaction.processes(), rule, selector, &protection);
        let found = found.map_err(|reason| Denial {
            decision: Decision::NoTarget,
            reason,
        })?;
        guard::bound_matches(rule, found.len())?;
        let (mut matches, mut refused) = (Vec::new(), Vec::new());
        let may_differ_soon = found.iter().any(|(_, members)| is_unidentified(members));
        for (cgroup, members) in found {
            match protection.screen_cgroup(rule, &cgroup, &members) {
                Ok(()) => matches.push(Candidate::Cgroup(cgroup)),
                Err(denial) => refused.push((Candidate::Cgroup(cgroup), denial)),
            }
        }
        if is_first {
            if may_differ_soon {
                self.hasten_round(transaction.boot_now());
            }
            let reason_for_none = match refused.len() {
                0 if selector.needs_unit() => {
                    "no cgroup matches the selector; a unit has one while it is active, and is named with its suffix"
                        .to_owned()
                }
                0 => "no cgroup matches the selector".to_owned(),
                found => format!("{found} cgroups match the selector, and none of them may be touched"),
            };
            self.record_denials(about, refused, transaction);
            if matches.is_empty() {
                let (decision, reason) = (Decision::NoTarget, reason_for_none);
                self.record_denial(about, &Denial { decision, reason }, transaction);
            }
        }
        Ok(matches)
    }

    /// Checks right before a step that the cgroup is still the planned one, and that no protected process is in it.
    ///
    /// # Errors
    /// When the cgroup has changed; the text says how.
    pub(super) fn cgroup_still_holds(&mut self, seen: &Cgroup, rule: &Rule, selector: &Selector) -> Result<(), String> {
        let Some(mut now) = self.host.cgroup(&seen.path).filter(|now| now.identity == seen.identity) else {
            return Err("the cgroup was removed or replaced".to_owned());
        };
        now.cpu_cores = seen.cpu_cores;
        let members = self.members_of(&now);
        let protection = Protection {
            own_ancestors: &self.processes.own_ancestors,
            protect: &self.policy.protect,
        };
        match selector.judge_cgroup(&now) {
            Judgement::Holds => protection
                .screen_cgroup(rule, &now, &members)
                .map_err(|denial| denial.reason),
            Judgement::Fails(why) | Judgement::Unknown(why) => Err(why.to_string()),
        }
    }

    /// The members of a cgroup, read now.
    pub(super) fn members_of(&mut self, cgroup: &Cgroup) -> Members {
        let protection = Protection {
            own_ancestors: &self.processes.own_ancestors,
            protect: &self.policy.protect,
        };
        members(&mut self.host, &BTreeMap::new(), cgroup, &protection)
    }

    pub(super) fn is_cgroup_there(&mut self, identity: CgroupIdentity, path: &str) -> bool {
        self.host.cgroup(path).is_some_and(|now| now.identity == identity)
    }

    /// The lease on the unit's next cgroup that continues `lease` on a replaced one. It restores the value before both.
    pub(super) fn successor_of(&mut self, lease: &Lease) -> Option<u64> {
        let identity = lease.target.cgroup()?;
        if self.is_cgroup_there(identity, &lease.name) {
            return None;
        }
        let knob = lease.effect.value()?.knob();
        let holds = |other: &&Lease| {
            other.settled
                && other.target != lease.target
                && other.target.cgroup().is_some()
                && other.name == lease.name
                && other.effect.value().is_some_and(|value| value.knob() == knob)
        };
        let mut newer = self.ledger.leases.values().filter(|other| other.id > lease.id);
        newer.find(holds).map(|other| other.id)
    }

    /// Whether a cgroup is gone or empty.
    pub(super) fn is_cgroup_empty(&mut self, identity: CgroupIdentity) -> bool {
        let listed = self.host.cgroups().unwrap_or_default();
        let Some(cgroup) = listed.into_iter().find(|cgroup| cgroup.identity == identity) else {
            return true;
        };
        // An unknown state does not count as empty.
        self.host.is_populated(&cgroup).is_ok_and(|populated| !populated)
    }

    /// The present value without evenkeel's own: systemd carries a limit of a unit over to the unit's next cgroup.
    fn read_own(&mut self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, StepResult> {
        let mut reading = self.host.read_cgroup(cgroup, knob)?;
        let target = Target::from(cgroup.identity);
        let of_knob = |lease: &&Lease| matches!(&lease.effect, Effect::Value { value, .. } if value.knob() == knob);
        let leases = || self.ledger.leases.values().filter(of_knob);
        // A lease of this transaction is not applied yet; ours will find its value.
        let newest = leases().rev().find(|lease| lease.target == target);
        if let Some(Lease {
            effect: Effect::Value { value, .. },
            settled: false,
            ..
        }) = newest
        {
            reading.value.clone_from(value);
        }
        // A limit of a cgroup without a unit is not carried over.
        if reading.unit.is_none() {
            return Ok(reading);
        }
        if let Some(lease) = newest {
            // The value in this cgroup comes from its lease, but systemd's record of the unit is evenkeel's own, unless another
            // program changed the unit.
            let is_settled = lease.settled;
            let ours = lease.effect.value().cloned();
            let first = lease::beneath(leases().filter(|lease| lease.target == target));
            if let (Some(ours), Some(SavedValue { unit: Some(unit), .. })) = (ours, first) {
                let standing = self.host.standing(cgroup, &ours, &unit);
                if !is_settled || !matches!(standing, Ok(Standing::Changed)) {
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
        if is_ours && let Some(first) = lease::beneath(leases().filter(is_former)) {
            // A value that an operator wrote into the former cgroup disappeared with it.
            let recorded = match (knob, &first.unit) {
                (Knob::Cgroup(file), Some(unit)) => self.host.recorded(file, unit).map(Value::Cgroup),
                _ => None,
            };
            (reading.value, reading.unit) = (recorded.unwrap_or(first.value), first.unit);
        }
        Ok(reading)
    }

    fn prepare_limit(
        &mut self,
        cgroup: &Cgroup,
        change: &Change,
        context: &StepContext<'_>,
    ) -> Result<limit::PreparedLimit, StepResult> {
        let knob = limit::knob(&self.host, change)?;
        let mut reading = self.read_own(cgroup, knob)?;
        if let (Knob::Io(..), Some(unit)) = (knob, &mut reading.unit) {
            self.forget_other_devices(cgroup, knob, unit);
        }
        let found = SavedValue {
            tid: 0,
            start_ticks: 0,
            value: reading.value.clone(),
            unit: None,
        };
        let base = self.base_of(context, knob, &[found]);
        let mut prepared = limit::prepare(&mut self.host, cgroup, change, &base, reading)?;
        if let (Some(_), Value::Cgroup(setting)) = (&prepared.saved.unit, &mut prepared.value) {
            *setting = unit::kept(setting);
        }
        Ok(prepared)
    }

    /// Records the intent for a cgroup, or the dry-run decision. False if the guard refuses it.
    pub(super) fn stage_on_cgroup(
        &mut self,
        step: &Step,
        mut record: Record,
        action_context: ActionContext,
        context: &StepContext<'_>,
        simulated: bool,
        transaction: &mut Transaction,
    ) {
        let Some(cgroup) = context.candidate.cgroup() else {
            return;
        };
        let prepared = match step {
            Step::Set(change) => match self.prepare_limit(cgroup, change, context) {
                Ok(prepared) => Some((change, prepared)),
                Err(effected) => {
                    transaction.stage_record(&mut self.ledger, record.clone());
                    record.decision = None;
                    (record.outcome, record.reason) = (Some(effected.outcome), effected.reason);
                    return self.note_outcome(record, step.action(), transaction);
                }
            },
            _ => None,
        };
        if let Some((_, prepared)) = &prepared {
            record.before = Some(prepared.saved.value.to_string());
            record.after = Some(prepared.value.to_string());
            if let Err(denial) = guard::limit(cgroup, &prepared.value) {
                (record.decision, record.reason) = (Some(denial.decision), denial.reason);
                return transaction.stage_record(&mut self.ledger, record);
            }
        }
        transaction.stage_record(&mut self.ledger, record.clone());
        record.decision = None;
        if simulated {
            record.outcome = Some(Outcome::DryRun);
            return self.note_outcome(record, step.action(), transaction);
        }
        match (step, prepared) {
            (Step::Set(_), Some((change, prepared))) => {
                self.stage_limit(change, prepared, record, action_context, context, transaction)
            }
            (Step::Kill, _) => transaction.work.push(Action::Kill {
                context: action_context,
            }),
            (Step::Reclaim(bytes), _) => {
                let bytes = *bytes;
                transaction.work.push(Action::Reclaim {
                    bytes,
                    context: action_context,
                });
            }
            _ => {}
        }
    }

    fn stage_limit(
        &mut self,
        change: &Change,
        prepared: limit::PreparedLimit,
        mut record: Record,
        action_context: ActionContext,
        context: &StepContext<'_>,
        transaction: &mut Transaction,
    ) {
        let effect = Effect::Value {
            value: prepared.value,
            saved: vec![prepared.saved],
        };
        let lease = self.new_lease(context, effect, transaction);
        let is_held = self.ledger.leases.values().any(|other| other.shares_knob(&lease));
        if prepared.is_set_already && !is_held && !change.is_relative() {
            record.outcome = Some(Outcome::AlreadySet);
            return self.note_outcome(record, action_context.action, transaction);
        }
        let id = lease.id;
        transaction.stage(&mut self.ledger, Entry::Lease(lease));
        transaction.work.push(Action::Take {
            lease: id,
            context: action_context,
        });
    }

    /// Records the excluded targets, and the reasons.
    pub(super) fn record_denials(
        &mut self,
        about: &AlertRef,
        refused: Vec<(Candidate, Denial)>,
        transaction: &mut Transaction,
    ) {
        for (candidate, denial) in refused {
            let mut record = about.record(transaction.now);
            record.target = shown(&candidate);
            (record.decision, record.reason) = (Some(denial.decision), denial.reason);
            transaction.stage_record(&mut self.ledger, record);
        }
    }
}
