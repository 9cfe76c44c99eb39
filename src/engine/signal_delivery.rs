//! The delivery of signals. A fatal signal to a stopped or frozen process would stay pending and kill the process
//! when it continues, perhaps long after the alert. So evenkeel first continues the processes that it stopped itself,
//! and sends no such signal to processes that another program stopped.

use super::executor::Executor;
use super::recheck::verify;
use super::transaction::ActionContext;
use crate::act::apply::{self, StepResult};
use crate::act::guard::Denial;
use crate::host::{Host, Suspension, Value};
use crate::ledger::{Decision, Lease, LedgerState, Outcome, Victim, stacked_leases};
use crate::process::{Candidate, Identity, ProcessFields, Target};
use nix::sys::signal::Signal;

impl<H: Host> Executor<'_, H> {
    /// Sends a signal to the process of a step, right after the last check.
    ///
    /// # Errors
    /// With the outcome, if it was not sent.
    pub fn deliver(
        &mut self,
        signal: Signal,
        held: Option<&Lease>,
        context: &ActionContext,
    ) -> Result<StepResult, StepResult> {
        let gone = || StepResult::only(Outcome::Gone, "only processes get signals");
        let target = context.candidate.process().ok_or_else(gone)?.identity;
        verify(self.host, self.processes, self.policy, context)?;
        match held {
            Some(lease) => {
                apply::catches(self.host, target, signal)?;
                if let Some(other) = self.sender_of(lease) {
                    let reason = format!("lease {other} sent it; the last of them reverts it");
                    return Ok(StepResult::only(Outcome::AlreadySet, reason));
                }
            }
            None if context.is_final() => self.let_continue(target, signal)?,
            None => apply::catches(self.host, target, signal)?,
        }
        self.host.signal(target, signal)?;
        Ok(StepResult::only(Outcome::Applied, ""))
    }

    /// Reverts evenkeel's own stops of a process, so that it receives a signal.
    ///
    /// # Errors
    /// When the signal would stay pending anyway.
    fn let_continue(&mut self, process: Identity, signal: Signal) -> Result<(), StepResult> {
        for held in holding_back(self.host, process, signal) {
            for lease in own_stops(self.ledger, process, &held) {
                self.undo(lease, Outcome::Restored);
            }
        }
        match holding_back(self.host, process, signal).first() {
            None => Ok(()),
            Some(held) => Err(StepResult::only(Outcome::Cancelled, pending(process, held, signal))),
        }
    }

    /// Another lease on the target that has sent the same signal and is not reverted.
    fn sender_of(&self, lease: &Lease) -> Option<u64> {
        let mut others = self.ledger.leases.on(lease.target);
        let is_sender = |other: &&Lease| other.id != lease.id && other.settled && other.shares_knob(lease);
        others.find(is_sender).map(|other| other.id)
    }
}

/// # Errors
/// When a fatal signal would stay pending, and evenkeel cannot change that.
pub(super) fn may_deliver(
    host: &mut impl Host,
    ledger: &LedgerState,
    signal: Signal,
    candidate: &Candidate,
) -> Result<(), Denial> {
    let processes = match candidate {
        Candidate::Process(process) => vec![process.identity],
        Candidate::Cgroup(cgroup) => {
            let members = host.members(cgroup).unwrap_or_default();
            let identities = members.into_iter().filter_map(|pid| host.process(pid));
            identities.map(|process| process.identity).collect()
        }
    };
    for process in processes {
        let suspensions = holding_back(host, process, signal);
        let foreign = suspensions
            .iter()
            .find(|held| own_stops(ledger, process, held).is_empty());
        if let Some(held) = foreign {
            return Err(Denial {
                decision: Decision::Protected,
                reason: pending(process, held, signal),
            });
        }
    }
    Ok(())
}

/// # Errors
/// When the step would stop a process with a pending fatal signal, which could not exit then.
pub(super) fn may_freeze(host: &mut impl Host, ledger: &LedgerState, candidate: &Candidate) -> Result<(), Denial> {
    let is_ending = |victim: &&Victim| victim.is_awaited() && !victim.outlived && !victim.signals.is_empty();
    let ending = ledger.victims.iter().filter(is_ending);
    for process in ending.filter_map(|victim| victim.target.process()).collect::<Vec<_>>() {
        if is_within(host, process, candidate) {
            return Err(Denial {
                decision: Decision::AwaitingEffect,
                reason: format!("process {} must exit, and a stopped process cannot", process.pid),
            });
        }
    }
    Ok(())
}

fn is_within(host: &mut impl Host, process: Identity, candidate: &Candidate) -> bool {
    let cgroup = match candidate {
        Candidate::Process(_) => return candidate.target() == Target::from(process),
        Candidate::Cgroup(cgroup) => cgroup,
    };
    let Some(mut now) = host.process(process.pid).filter(|now| now.identity == process) else {
        return false;
    };
    host.read_details(&mut now, ProcessFields::CGROUP)
        && now.details.cgroup.as_deref().is_some_and(|path| cgroup.holds(path))
}

fn holding_back(host: &mut impl Host, process: Identity, signal: Signal) -> Vec<Suspension> {
    let mut suspensions = host.suspensions(process);
    suspensions.retain(|held| held.holds_back(signal));
    suspensions
}

/// The leases that stop a process in this way, newest first. Empty if another program stopped it before.
fn own_stops(ledger: &LedgerState, process: Identity, held: &Suspension) -> Vec<u64> {
    let is_stop = |lease: &&Lease| lease.effect.value() == Some(&Value::Freeze(true));
    let stops: Vec<&Lease> = match held {
        Suspension::Stopped => ledger.leases.on(process.into()).filter(is_stop).collect(),
        Suspension::Cgroup(path) => {
            let is_its = |lease: &&Lease| lease.target.cgroup().is_some() && lease.name == *path;
            ledger.leases.values().filter(is_stop).filter(is_its).collect()
        }
        Suspension::Traced | Suspension::Freezer(_) => Vec::new(),
    };
    let first = stacked_leases::beneath(stops.iter().copied()).map(|saved| saved.value);
    if first == Some(Value::Freeze(true)) {
        return Vec::new();
    }
    stops.iter().rev().map(|lease| lease.id).collect()
}

fn pending(process: Identity, held: &Suspension, signal: Signal) -> String {
    let pid = process.pid;
    format!("process {pid} would receive {signal} only when it continues, perhaps after the alert: {held}")
}
