//! The check that limits of units stay in place during a lease. systemd may drop one when it reloads its files, and
//! an operator may change one.

use super::Engine;
use super::rollback::cgroup_of;
use super::transaction::{AlertRef, Transaction};
use crate::act::guard::Protection;
use crate::act::{guard, limit};
use crate::host::{Host, Knob, Standing};
use crate::ledger::{Effect, Entry, Episode, EpisodeKey, Lease, Level, Outcome};
use crate::process::{Cgroup, Target};
use crate::rule::Rule;
use std::collections::{BTreeMap, BTreeSet};

impl<H: Host> Engine<H> {
    /// Reapplies limits that systemd dropped, and ends leases whose value another program changed.
    pub(super) fn check_limits_of_units(&mut self, transaction: &mut Transaction) {
        let undone: BTreeSet<u64> = transaction.undone().collect();
        for lease in self.newest_of_units() {
            // Reverts have their own retries.
            if lease.is_undoing || self.is_waiting_for_room(&lease) {
                continue;
            }
            let Effect::Value { value, saved } = &lease.effect else {
                continue;
            };
            let unit = saved.first().and_then(|saved| saved.unit.as_ref());
            let (Some(cgroup), Some(unit), false) = (cgroup_of(&lease), unit, undone.contains(&lease.id)) else {
                continue;
            };
            match self.host.standing(&cgroup, value, unit) {
                // The episode finds a removed cgroup, and the next round retries a failed request to systemd.
                Ok(Standing::Holds) | Err(_) => {}
                Ok(Standing::TakenBySystemd) => self.set_again(lease, &cgroup, transaction),
                Ok(Standing::Overwritten | Standing::Changed) => {
                    self.begin_undo(lease.id, Outcome::Superseded, transaction)
                }
            }
        }
    }

    /// The lease with the active value, for each file of each cgroup.
    fn newest_of_units(&self) -> Vec<Lease> {
        let mut newest: BTreeMap<(Target, Knob), &Lease> = BTreeMap::new();
        for lease in self.ledger.leases.values().filter(|lease| lease.settled) {
            if let (Some(_), Some(value)) = (lease.target.cgroup(), lease.effect.value()) {
                newest.insert((lease.target, value.knob()), lease);
            }
        }
        newest.into_values().cloned().collect()
    }

    fn set_again(&mut self, mut lease: Lease, cgroup: &Cgroup, transaction: &mut Transaction) {
        let key = EpisodeKey {
            rule: lease.rule.clone(),
            fingerprint: lease.fingerprint.clone(),
            simulated: false,
        };
        let episode = self.ledger.episodes.get(&key).filter(|_| !self.ledger.paused);
        // An unconfirmed alert gets no steps, so a dropped limit is reapplied after the confirmation.
        let is_firing = |episode: &&Episode| self.level_of(episode, transaction.boot_now()) == Level::Firing;
        let Some(episode) = episode.filter(is_firing) else {
            return;
        };
        let labels = episode.labels.clone();
        let Some(rule) = self.rule_of(episode) else { return };
        let (rule_name, knob) = (lease.rule.clone(), lease.knob());
        let is_allowed = self.may_set_again(&rule, &lease, cgroup);
        let Effect::Value { value, saved } = &mut lease.effect else {
            return;
        };
        let effected = match is_allowed {
            true => limit::set(&mut self.host, cgroup, value, saved),
            false => return self.begin_undo(lease.id, Outcome::Superseded, transaction),
        };
        tracing::info!(
            rule = rule_name.as_str(),
            cgroup = cgroup.path,
            knob,
            outcome = effected.outcome.as_str(),
            reason = effected.reason,
            "limit reapplied"
        );
        match effected.outcome {
            Outcome::Applied => {}
            Outcome::NoEffect => return self.begin_undo(lease.id, Outcome::Superseded, transaction),
            // The next round retries.
            _ => return,
        }
        let mut record = AlertRef::new(&rule_name, &labels, &lease.fingerprint).record(transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("{knob} {}", effected.after.as_deref().unwrap_or_default()));
        record.outcome = Some(effected.outcome);
        (record.before, record.after) = (effected.before, effected.after);
        record.reason = "reapplied, because systemd dropped it when it reloaded its files".to_owned();
        self.telemetry.action(&rule_name, knob, Outcome::Applied.as_str());
        transaction.close(&mut self.ledger, Entry::Lease(lease));
        transaction.close(&mut self.ledger, Entry::Record(record));
    }

    /// Checks again, because a protected process may be in the cgroup by now, or more memory than the limit in use.
    fn may_set_again(&mut self, rule: &Rule, lease: &Lease, cgroup: &Cgroup) -> bool {
        let Some(now) = self.host.cgroup(&cgroup.path) else {
            return false;
        };
        let Some(value) = lease.effect.value() else {
            return false;
        };
        let members = self.members_of(&now);
        let protection = Protection {
            own_ancestors: &self.processes.own_ancestors,
            protect: &self.policy.protect,
        };
        protection.screen_cgroup(rule, &now, &members).is_ok() && guard::limit(&now, value).is_ok()
    }
}
