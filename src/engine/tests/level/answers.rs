//! Invariant (c): what the engine must be doing while a source says that an alert fires.

use super::invariants::{Checked, Release};
use super::policies::{BOTH, OF_A_PID, OWN, OWN2, first_knobs};
use super::processes::first_value;
use super::simulation::Simulation;
use super::*;
use crate::host::Value;
use crate::knob::Knob;
use crate::ledger::Lease;
use crate::process::{BootId, CgroupIdentity, Process, Target};
use crate::rule::{Rule, TargetSelector};
use jiff::SignedDuration;
use std::collections::BTreeSet;

impl Simulation {
    /// What is held for an alert that fires is not given up.
    pub fn check_given_up(&mut self) -> Checked {
        let leases = self.engine.ledger().leases.values();
        let held = leases
            .filter(|lease| !lease.is_undoing)
            .map(|lease| (lease.id, lease.clone()));
        let before = std::mem::replace(&mut self.memory.leases, held.collect());
        for lease in before
            .values()
            .filter(|lease| !self.memory.leases.contains_key(&lease.id))
        {
            if self.must_be_held(lease) {
                return Err(format!("(c) {lease:?} was given up although its alert fires"));
            }
        }
        Ok(())
    }

    fn must_be_held(&self, lease: &Lease) -> bool {
        let Some(alert) = self.fingerprints.iter().position(|known| *known == lease.fingerprint) else {
            return false;
        };
        let mut rules = self.configuration().enforced();
        // What Alertmanager said is not about this host any more where it has another identity.
        let is_about_us =
            |rule: &Rule| rule.any_host || self.configuration().is_recognised[alert] || matches!(alert, OWN | OWN2);
        rules.any(|(rule, meant)| rule.name == lease.rule && meant.contains(&alert) && is_about_us(rule))
            && self.is_backed(&lease.rule, &lease.fingerprint)
            && self.evidence[alert].supports_throughout(self.memory.checked_at, self.now)
            && self.evidence[alert].first_said.is_some()
            && self.evidence[alert]
                .last_over
                .is_none_or(|over| over < self.memory.checked_at)
            && self.is_there(lease.target)
            && !self.memory.is_denied
            && !self.memory.released.iter().any(|release| release.lease.id == lease.id)
    }

    fn is_there(&self, target: Target) -> bool {
        match target {
            Target::Process(identity) => self.processes.alive.contains(&identity),
            Target::Cgroup(cgroup) => self.unit_inode == cgroup.inode,
            Target::Host => true,
        }
    }

    pub fn check_answers(&mut self) -> Checked {
        let now = self.now;
        for (rule, meant) in self.configuration().enforced() {
            for &alert in meant {
                let is_demanded = self.is_demanded(rule, alert);
                let key = (rule.name.clone(), alert);
                let missing = is_demanded.then(|| self.missing(rule, alert)).flatten();
                let since = self.memory.unanswered_since.entry(key.clone()).or_insert(now);
                match missing {
                    None => *since = now,
                    Some(what) if now > *since + ANSWER_MARGIN => {
                        return Err(format!(
                            "(c) {} does not answer {}: {what}",
                            rule.name,
                            policies::ALERT_NAMES[alert]
                        ));
                    }
                    Some(_) => {}
                }
                let is_unended = is_demanded && rule.has_final_steps() && self.is_unended(rule, alert);
                let since = self.memory.unended_since.entry(key).or_insert(now);
                if !is_unended {
                    *since = now;
                } else if now > *since + KILL_MARGIN {
                    return Err(format!(
                        "(c) {} ends nothing for {}",
                        rule.name,
                        policies::ALERT_NAMES[alert]
                    ));
                }
            }
        }
        Ok(())
    }

    fn is_demanded(&self, rule: &Rule, alert: usize) -> bool {
        let has_own_rule = match alert {
            OWN | OWN2 | BOTH => self.configuration().own_names.contains(&policies::ALERT_NAMES[alert]),
            _ => false,
        };
        let is_recognised = rule.any_host || self.configuration().is_recognised[alert];
        let since = self.memory.since(&rule.name);
        let evidence = &self.evidence[alert];
        !self.memory.is_paused
            && !self.memory.is_denied
            && evidence.demands(self.now, since, has_own_rule, is_recognised)
    }

    /// The targets that a rule should choose from for an alert by now.
    fn eligible(&self, rule: &Rule, alert: usize) -> BTreeSet<Target> {
        if let TargetSelector::Cgroups(_) = rule.target_selector {
            let unit = CgroupIdentity {
                boot: BootId(1),
                inode: self.unit_inode,
            };
            let unit = Some(Target::Cgroup(unit));
            return unit
                .into_iter()
                .filter(|target| !self.is_released(rule, alert, *target))
                .collect();
        }
        let processes = self.engine.host.processes.values().map(|found| &found.process);
        let starts = self.evidence[alert].earliest_start.unwrap_or_default();
        let began_at = Duration::from_secs(starts.unsigned_abs());
        // A clock that is ahead of the sender's makes an alert look older than its process: it is then not taken.
        let is_ahead = self.engine.host.now.wall > self.senders_time() + SignedDuration::from_secs(2);
        let is_old = |process: &&Process| {
            let born = self.processes.born.get(&process.identity);
            alert != OF_A_PID || (!is_ahead && born.is_some_and(|born| *born < began_at))
        };
        let eligible = processes.filter(|process| {
            self.selects(rule, alert, process)
                && is_old(process)
                && self.processes.is_settled(process.identity.pid, self.now, NOTICE_MARGIN)
                && !self.is_released(rule, alert, process.identity.into())
        });
        eligible.map(|process| process.identity.into()).collect()
    }

    /// Released by hand in the episode that is open.
    fn is_released(&self, rule: &Rule, alert: usize, target: Target) -> bool {
        let over = self.evidence[alert].ended_at;
        let mut released = self.memory.released.iter();
        released.any(|Release { at, lease, .. }| {
            lease.rule == rule.name
                && lease.fingerprint == self.fingerprints[alert]
                && lease.target == target
                && over.is_none_or(|over| over <= *at)
        })
    }

    /// Whether it gets no further steps in the episode that is open.
    fn is_left(&self, rule: &Rule, alert: usize, target: Target) -> bool {
        let over = self.evidence[alert].ended_at;
        self.memory.left.iter().any(|left| {
            left.rule == rule.name
                && left.fingerprint == self.fingerprints[alert]
                && left.target == target
                && over.is_none_or(|over| over <= left.at)
        })
    }

    /// What is missing of the answer of a rule to an alert.
    fn missing(&self, rule: &Rule, alert: usize) -> Option<String> {
        let knobs = first_knobs(rule);
        if knobs.is_empty() && !policies::has_undone_signal(rule) {
            return None;
        }
        let mut eligible = self.eligible(rule, alert);
        let leases = &self.engine.ledger().leases;
        let held: BTreeSet<Target> = leases
            .of(&rule.name, &self.fingerprints[alert])
            .map(|lease| lease.target)
            .filter(|target| self.is_there(*target))
            .collect();
        let mut places = rule.limit;
        if rule.has_final_steps() {
            // One that was to end and outlived it is not taken again, and keeps its place in the episode, also where another alert
            // of the rule was to end it.
            eligible.retain(|target| !self.was_to_end(*target));
            let targets = self.targets_of(rule, alert);
            let outlived = targets.filter(|target| self.was_to_end(*target) && !held.contains(target));
            places = places.saturating_sub(self.ended_by(rule, alert).max(outlived.count()));
        }
        let wanted = places.min(eligible.union(&held).count());
        if held.len() < wanted {
            return Some(format!("{held:?} of {eligible:?} are held"));
        }
        // A step that was refused is not taken again in an episode.
        if self.memory.allowed_at > self.evidence[alert].ended_at.unwrap_or_default() {
            return None;
        }
        for target in held {
            if self.is_released(rule, alert, target) {
                continue;
            }
            for knob in &knobs {
                let value = self.newest_value(target, *knob);
                let found = first_value(&self.engine.host, target, *knob);
                if value.is_none() || (found.is_some() && value != found) {
                    return Some(format!("{target} has {found:?} where a lease says {value:?}"));
                }
            }
        }
        None
    }

    /// The targets of the open episode.
    fn targets_of(&self, rule: &Rule, alert: usize) -> impl Iterator<Item = Target> {
        let fingerprint = &self.fingerprints[alert];
        let episodes = self.engine.ledger().episodes.iter();
        let its =
            episodes.filter(move |(key, _)| key.rule == rule.name && key.fingerprint == *fingerprint && !key.simulated);
        its.flat_map(|(_, episode)| &episode.targets)
            .map(|progress| progress.target)
    }

    fn was_to_end(&self, target: Target) -> bool {
        let mut ended = self.memory.ended.iter();
        ended.any(|(_, identity, _)| target == (*identity).into())
    }

    fn newest_value(&self, target: Target, knob: Knob) -> Option<Value> {
        let leases = &self.engine.ledger().leases;
        let mut on = leases.on(target).filter_map(|lease| lease.effect.value());
        on.rfind(|value| value.knob() == knob).cloned()
    }

    /// How many processes a rule has ended in the episode that is open, or in another one since its alert began.
    fn ended_by(&self, rule: &Rule, alert: usize) -> usize {
        let (over, starts) = (self.evidence[alert].ended_at, self.evidence[alert].earliest_start);
        let begun = starts.map(|starts| Duration::from_secs(starts.unsigned_abs()));
        let is_since = |at: Duration| Some(at) > over || begun.is_some_and(|begun| at >= begun);
        let ended = self.memory.ended.iter();
        ended
            .filter(|(at, _, by)| is_since(*at) && by.contains(&rule.name))
            .count()
    }

    /// Whether a rule could end a process by now, and has ended none in this episode.
    fn is_unended(&self, rule: &Rule, alert: usize) -> bool {
        if self.ended_by(rule, alert) > 0 || self.engine.ledger().is_breaker_open(&rule.name) {
            return false;
        }
        let evidence = &self.evidence[alert];
        // A death between the intent and the signal: the process counts as a victim without a signal.
        if self.memory.died_at.is_some_and(|at| Some(at) >= evidence.began_at) {
            return false;
        }
        if self.memory.has_left_steps(&rule.name, evidence.began_at)
            || self
                .memory
                .has_answered_before_change(&rule.name, evidence.earliest_start)
        {
            return false;
        }
        let mut eligible = self.eligible(rule, alert);
        eligible.retain(|target| !self.was_to_end(*target) && !self.is_left(rule, alert, *target));
        let taken = self.targets_of(rule, alert).filter(|target| !eligible.contains(target));
        let taken = taken.count();
        !eligible.is_empty() && taken < rule.limit
    }
}
