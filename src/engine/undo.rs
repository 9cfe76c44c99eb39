//! The revert of one lease: its value is put back, handed over to a newer lease, or waits for room.

use super::executor::Executor;
use super::job_results::record_of;
use super::process_view::{ProcessView, read_tree};
use super::recheck::is_cgroup_there;
use super::status::{log_outcome, show_decisions};
use super::timers::ROUND;
use crate::act::apply::StepResult;
use crate::act::descendants::Family;
use crate::act::memory_headroom::{self, Shortage};
use crate::act::{cgroup_limit, restore};
use crate::host::Host;
use crate::ledger::leases::Leases;
use crate::ledger::stacked_leases::{self, Undo};
use crate::ledger::{Entry, Lease, Outcome};
use crate::process::{Cgroup, Identity, ProcessTree, Target};
use std::collections::BTreeSet;
use std::io;

/// Maximum number of readings of the process table for the children that hold a favour.
const MAX_SWEEPS: usize = 16;

impl<H: Host> Executor<'_, H> {
    /// Reverts one lease and settles it. A revert that fails for lack of a permission is retried later.
    pub fn undo(&mut self, id: u64, on_success: Outcome) {
        let Some(lease) = self.ledger.leases.get(&id).cloned() else {
            return;
        };
        if lease.retry().is_some() {
            return self.begin_release(lease, on_success);
        }
        let successor = self.successor_of(&lease);
        let what = stacked_leases::undo(&lease, self.ledger.leases.on(lease.target));
        if let Undo::HandOver { heir, inherited, .. } = &what {
            self.settle(Entry::LeasePrior {
                id: *heir,
                saved: inherited.clone(),
            });
        }
        let no_processes = ProcessTree::default();
        let leases = &self.ledger.leases;
        let family = Family {
            tree: self.transaction.table.as_deref().unwrap_or(&no_processes),
            descendants: &self.processes.descendants,
            is_holder: &|process| holds(leases, process, &lease),
        };
        let cgroup = cgroup_of(&lease);
        let shortage = cgroup
            .as_ref()
            .filter(|_| successor.is_none())
            .and_then(|cgroup| memory_headroom::make(self.host, cgroup, &lease, &what).err());
        let mut result = match (shortage, &cgroup) {
            _ if let Some(successor) = successor => StepResult::only(
                Outcome::Gone,
                format!("lease {successor} holds the knob on the unit's next cgroup"),
            ),
            (Some(shortage), _) => StepResult {
                outcome: Outcome::Failed,
                before: lease.effect.value().map(ToString::to_string),
                after: None,
                reason: shortage.to_string(),
            },
            (None, Some(cgroup)) => cgroup_limit::undo(self.host, cgroup, &lease, &what),
            (None, None) => restore::undo(self.host, &lease, &what, &family),
        };
        let on_success = self.reverts.outcome_of(id).unwrap_or(on_success);
        if let Some(shortage) = shortage
            && !self.wait_for_room(&lease, on_success, shortage)
        {
            return;
        }
        if on_success == Outcome::Superseded && result.reason.is_empty() {
            result.reason = "systemd or another program changed the value meanwhile".to_owned();
        }
        result.reason = lease.reason_of_revert(result.reason);
        if matches!(result.outcome, Outcome::Restored) {
            self.reverts.undone.push((lease.clone(), what));
        }
        let outcome = match result.outcome {
            Outcome::Restored if on_success != Outcome::Gone => on_success,
            // A crash came before the value was set.
            Outcome::Superseded if !lease.settled => Outcome::Cancelled,
            outcome => outcome,
        };
        show_decisions(self.telemetry, self.transaction);
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        log_outcome!(
            outcome,
            rule = lease.rule.as_str(),
            pid = lease.target.pid(),
            process = lease.name,
            knob = lease.knob(),
            outcome = outcome.as_str(),
            after = result.after.as_deref().unwrap_or(""),
            reason = result.reason,
            "undo"
        );
        let mut record = record_of(self.ledger, &lease, self.transaction.now);
        if let Some(alertname) = self.transaction.closed.get(&lease.fingerprint) {
            record.alertname = alertname.to_string();
        }
        record.step = Some(format!("undo {}", lease.knob()));
        record.outcome = Some(outcome);
        record.before = result.before;
        record.after = result.after;
        record.reason = result.reason;
        self.outcomes.push(Entry::Record(record));
        if shortage.is_some() {
            return;
        }
        if matches!(outcome, Outcome::Denied | Outcome::Failed) {
            return self.retry_undo(&lease);
        }
        self.settle(Entry::LeaseEnded { id, outcome });
    }

    /// Leaves a lease as it is until the next round, because the process table cannot be read.
    pub fn postpone_undo(&mut self, id: u64, error: &io::Error) {
        let Some(lease) = self.ledger.leases.get(&id).cloned() else {
            return;
        };
        tracing::warn!(rule = lease.rule.as_str(), pid = lease.target.pid(), %error, "revert postponed, no process table");
        self.retry_undo(&lease);
    }

    fn retry_undo(&mut self, lease: &Lease) {
        if !lease.is_undoing {
            self.mark_undoing(lease);
        }
        let again = Entry::Renewed {
            ids: vec![lease.id],
            deadline: self.transaction.boot_now() + ROUND,
        };
        self.ledger.record(&again);
    }

    /// Marks a lease whose revert did not succeed, because a new episode of the same alert must not adopt it.
    fn mark_undoing(&mut self, lease: &Lease) {
        let is_undoing = true;
        let lease = lease.clone();
        self.settle(Entry::Lease(Lease { is_undoing, ..lease }));
    }

    /// Postpones the revert of a lease. True the first time, for the record.
    fn wait_for_room(&mut self, lease: &Lease, outcome: Outcome, shortage: Shortage) -> bool {
        // Reclaiming takes time, so the clock is read again.
        let now = self.host.now().boot;
        let (is_first, deadline) = self.reverts.postpone(lease.id, outcome, shortage, now);
        if !lease.is_undoing {
            self.mark_undoing(lease);
        }
        let ids = vec![lease.id];
        self.ledger.record(&Entry::Renewed { ids, deadline });
        is_first
    }

    /// The lease on the unit's next cgroup that continues `lease` on a replaced one. It restores the value before both.
    fn successor_of(&mut self, lease: &Lease) -> Option<u64> {
        let identity = lease.target.cgroup()?;
        if is_cgroup_there(self.host, identity, &lease.name) {
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
}

/// Whether another process has a lease of its own on the knob.
fn holds(leases: &Leases, process: Identity, lease: &Lease) -> bool {
    let target = Target::from(process);
    target != lease.target && leases.on(target).any(|other| other.knob() == lease.knob())
}

/// The cgroup of a lease.
pub(super) fn cgroup_of(lease: &Lease) -> Option<Cgroup> {
    let identity = lease.target.cgroup()?;
    Some(Cgroup::at(identity, lease.name.clone()))
}

/// Restores children that started between the reading of the table and the revert. Later children inherit the restored
/// value, so one more reading finds all of them.
pub(super) fn sweep_children(
    host: &mut impl Host,
    leases: &Leases,
    processes: &ProcessView,
    undone: Vec<(Lease, Undo)>,
) {
    if undone.is_empty() {
        return;
    }
    let is_favour = |lease: &Lease| lease.effect.saved().iter().any(|saved| saved.favour.is_some());
    let mut seen = BTreeSet::new();
    // A process that forks all the time must not carry a favour past a reading.
    for _ in 0..MAX_SWEEPS {
        let tree = match read_tree(host) {
            Ok(tree) => tree,
            Err(error) => return tracing::warn!(%error, "could not look for late children of reverted processes"),
        };
        let mut is_news = false;
        for (lease, what) in &undone {
            let family = Family {
                tree: &tree,
                descendants: &processes.descendants,
                is_holder: &|process| holds(leases, process, lease),
            };
            let swept = restore::sweep(host, lease, what, &family);
            let new = swept.into_iter().filter(|process| seen.insert(*process)).count();
            is_news |= new > 0 && is_favour(lease);
        }
        if !is_news {
            return;
        }
    }
}
