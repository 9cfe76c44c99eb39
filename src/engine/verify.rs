//! The check, in each round, that what was done has its effect and stays: victims have exited, targets still exist, and
//! the limits of units are in place. systemd may drop a limit when it reloads its files, and an operator may change one.

use super::episodes::Episodes;
use super::process_view::ProcessView;
use super::recheck::{is_cgroup_empty, is_cgroup_there, may_favour};
use super::transaction::{Action, AlertRef};
use super::undo::cgroup_of;
use super::victims::{count_effect, effect_record, exit_entries};
use crate::act::{cgroup_limit, effect, guard};
use crate::host::{Host, Knob, LimitState};
use crate::ledger::{Effect, Entry, Episode, Lease, Level, Outcome, Victim};
use crate::process::{Cgroup, Target};
use crate::rule::Rule;
use std::collections::{BTreeMap, BTreeSet};

/// Checks leases and victims against the host.
pub(super) struct Verifier<'a, H: Host> {
    pub host: &'a mut H,
    pub processes: &'a ProcessView,
    pub episodes: Episodes<'a>,
}

impl<H: Host> Verifier<'_, H> {
    /// Victims that exited while evenkeel did not run.
    pub fn check_victims(&mut self) {
        let alive = self
            .episodes
            .ledger
            .victims
            .iter()
            .filter(|victim| victim.gone_at.is_none());
        for target in alive.map(|victim| victim.target).collect::<Vec<_>>() {
            if self.has_ended(target) {
                self.record_exit(target);
            }
        }
    }

    /// Whether a target that should exit has exited.
    pub fn has_ended(&mut self, target: Target) -> bool {
        match target {
            Target::Process(process) => !self.host.is_alive(process),
            Target::Cgroup(cgroup) => is_cgroup_empty(self.host, cgroup),
            Target::Host => false,
        }
    }

    pub fn record_exit(&mut self, target: Target) {
        let now = self.episodes.transaction.now;
        for entry in exit_entries(self.host, self.episodes.ledger, self.episodes.telemetry, target, now) {
            self.episodes.record_always(entry);
        }
    }

    /// Removes targets that exited from an episode, and settles their leases.
    pub fn drop_gone_targets(&mut self, episode: &mut Episode) {
        let mut known: BTreeMap<Target, String> = BTreeMap::new();
        let targets = episode.targets.iter().map(|progress| (progress.target, &progress.name));
        let leases = self
            .episodes
            .ledger
            .leases_of(&episode.key)
            .map(|lease| (lease.target, &lease.name));
        for (target, name) in targets.chain(leases) {
            known.entry(target).or_insert_with(|| name.clone());
        }
        let is_gone = |(target, name): (Target, String)| {
            let is_gone = match target {
                Target::Process(process) => {
                    // Most are in the table; only missing ones need a check of their own.
                    let listed = self
                        .episodes
                        .transaction
                        .table
                        .as_ref()
                        .and_then(|table| table.get(process));
                    let listed = listed.is_some_and(|process| !process.is_dead());
                    !listed && !self.host.is_alive(process)
                }
                Target::Cgroup(cgroup) => !is_cgroup_there(self.host, cgroup, &name),
                Target::Host => false,
            };
            is_gone.then_some(target)
        };
        let gone: Vec<Target> = known.into_iter().filter_map(is_gone).collect();
        if !gone.is_empty() {
            self.drop_targets(episode, &gone);
        }
    }

    /// Keeps the leases of an unconfirmed episode, and removes targets that exited.
    pub fn wait_for_confirmation(&mut self, mut episode: Episode) {
        let held = episode.targets.len();
        self.drop_gone_targets(&mut episode);
        if episode.targets.len() != held {
            self.episodes.record_always(Entry::Episode(episode.clone()));
        }
        // Due steps run as soon as the alert is confirmed. An unconfirmed episode expires, so another round must check it.
        if !episode.evidence.is_doubted() {
            self.episodes.postpone(&episode.key);
        }
    }

    /// Removes targets from an episode, and settles their leases.
    pub fn drop_targets(&mut self, episode: &mut Episode, gone: &[Target]) {
        episode.targets.retain(|progress| !gone.contains(&progress.target));
        for target in gone {
            self.record_exit(*target);
        }
        let leases = self.episodes.ledger.leases_of(&episode.key);
        let leases: Vec<u64> = leases
            .filter(|lease| gone.contains(&lease.target))
            .map(|lease| lease.id)
            .collect();
        self.episodes
            .transaction
            .actions
            .extend(leases.into_iter().map(|lease| Action::Undo {
                lease,
                outcome: Outcome::Gone,
            }));
    }

    /// Watches the victims of a former daemon.
    pub fn watch_victims(&mut self) {
        let is_awaited = |victim: &&Victim| victim.gone_at.is_none() && !victim.simulated;
        for victim in self.episodes.ledger.victims.iter().filter(is_awaited) {
            victim
                .target
                .process()
                .into_iter()
                .for_each(|process| self.host.watch_exit(process));
        }
    }

    /// Victims that still run after their last step.
    pub fn give_up_survivors(&mut self) {
        let (at, now) = (self.episodes.transaction.now, self.episodes.now());
        let is_due = |victim: &&Victim| victim.is_awaited() && victim.gone_by.is_some_and(|at| at <= now);
        for mut victim in self
            .episodes
            .ledger
            .victims
            .iter()
            .filter(is_due)
            .cloned()
            .collect::<Vec<_>>()
        {
            if self.has_ended(victim.target) {
                self.record_exit(victim.target);
                continue;
            }
            let process = victim.target.pid().and_then(|pid| self.host.process(pid));
            let state = process.map(|process| process.state);
            let reason = effect::of_survivor(state, victim.is_interrupted);
            let outcome = match victim.is_interrupted {
                true => Outcome::Cancelled,
                false => Outcome::NoEffect,
            };
            let record = effect_record(
                self.episodes.ledger,
                self.episodes.telemetry,
                &victim,
                outcome,
                reason,
                at,
            );
            let counted = match victim.is_interrupted {
                true => None,
                false => count_effect(self.episodes.ledger, &victim.rule, false, at),
            };
            victim.gone_by = None;
            victim.outlived = true;
            for entry in [Entry::Victim(victim), Entry::Record(record)]
                .into_iter()
                .chain(counted)
            {
                self.episodes.record_always(entry);
            }
        }
    }

    /// Reapplies limits that systemd dropped, and ends leases whose value another program changed.
    pub fn check_limits_of_units(&mut self) {
        let undone: BTreeSet<u64> = self.episodes.transaction.undone().collect();
        for lease in self.newest_of_units() {
            // Reverts have their own retries.
            if lease.is_undoing || self.episodes.reverts.is_waiting(&lease) {
                continue;
            }
            let Effect::Value { value, saved } = &lease.effect else {
                continue;
            };
            let unit = saved.first().and_then(|saved| saved.unit.as_ref());
            let (Some(cgroup), Some(unit), false) = (cgroup_of(&lease), unit, undone.contains(&lease.id)) else {
                continue;
            };
            match self.host.limit_state(&cgroup, value, unit) {
                // The episode finds a removed cgroup, and the next round retries a failed request to systemd.
                Ok(LimitState::Holds) | Err(_) => {}
                Ok(LimitState::ResetBySystemd) => self.set_again(lease, &cgroup),
                Ok(LimitState::Overwritten | LimitState::Changed) => {
                    self.episodes.begin_undo(lease.id, Outcome::Superseded)
                }
            }
        }
    }

    /// The lease with the active value, for each file of each cgroup.
    fn newest_of_units(&self) -> Vec<Lease> {
        let mut newest: BTreeMap<(Target, Knob), &Lease> = BTreeMap::new();
        for lease in self.episodes.ledger.leases.values().filter(|lease| lease.settled) {
            if let (Some(_), Some(value)) = (lease.target.cgroup(), lease.effect.value()) {
                newest.insert((lease.target, value.knob()), lease);
            }
        }
        newest.into_values().cloned().collect()
    }

    fn set_again(&mut self, mut lease: Lease, cgroup: &Cgroup) {
        let key = lease.episode();
        let episode = self
            .episodes
            .ledger
            .episodes
            .get(&key)
            .filter(|_| !self.episodes.ledger.is_paused(&lease.rule));
        // An unconfirmed alert gets no steps, so a dropped limit is reapplied after the confirmation.
        let is_firing = |episode: &&Episode| self.episodes.level_of(episode) == Level::Firing;
        let Some(episode) = episode.filter(is_firing) else {
            return;
        };
        let labels = episode.labels.clone();
        let Some(rule) = self.episodes.rule_of(episode) else {
            return;
        };
        let (rule_name, knob) = (lease.rule.clone(), lease.knob());
        let is_allowed = self.may_set_again(&rule, &lease, cgroup);
        let Effect::Value { value, saved } = &mut lease.effect else {
            return;
        };
        let result = match is_allowed {
            true => cgroup_limit::set(self.host, cgroup, value, saved),
            false => return self.episodes.begin_undo(lease.id, Outcome::Superseded),
        };
        tracing::info!(
            rule = rule_name.as_str(),
            cgroup = cgroup.path,
            knob,
            outcome = result.outcome.as_str(),
            reason = result.reason,
            "limit reapplied"
        );
        match result.outcome {
            Outcome::Applied => {}
            Outcome::NoEffect => return self.episodes.begin_undo(lease.id, Outcome::Superseded),
            // The next round retries.
            _ => return,
        }
        let mut record = AlertRef::new(&rule_name, &labels, &lease.fingerprint).record(self.episodes.transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("{knob} {}", result.after.as_deref().unwrap_or_default()));
        record.outcome = Some(result.outcome);
        record.before = result.before;
        record.after = result.after;
        record.reason = "reapplied, because systemd dropped it when it reloaded its files".to_owned();
        self.episodes
            .telemetry
            .action(&rule_name, knob, Outcome::Applied.as_str());
        self.episodes.record_always(Entry::Lease(lease));
        self.episodes.record_always(Entry::Record(record));
    }

    /// Checks again, because a protected process may be in the cgroup by now, or more memory than the limit in use.
    fn may_set_again(&mut self, rule: &Rule, lease: &Lease, cgroup: &Cgroup) -> bool {
        let Some(now) = self.host.cgroup(&cgroup.path) else {
            return false;
        };
        let Some(value) = lease.effect.value() else {
            return false;
        };
        let members = self.processes.members(self.episodes.policy);
        let is_favour = lease.effect.saved().iter().any(|saved| value.favours(&saved.value));
        let is_allowed = guard::limit(&now, value).is_ok() && members.screen_now(self.host, rule, &now).is_ok();
        is_allowed && (!is_favour || may_favour(self.host, self.processes, self.episodes.policy, &now).is_ok())
    }
}
