//! The open episodes of one transaction, with their leases and victims, until they close. Only the ledger's state changes
//! here, nothing on the host.

use super::Policy;
use super::jobs_in_flight::JobsInFlight;
use super::late_delivery::{end_to_remember, end_without_resolve};
use super::open_episodes::OpenEpisodes;
use super::pending_reverts::PendingReverts;
use super::timers::ROUND;
use super::transaction::{AlertRef, Transaction, shown};
use crate::act::guard::Denial;
use crate::ledger::{
    Decision, Effect, Entry, Episode, EpisodeKey, Lease, LedgerState, Level, Outcome, Record, TargetProgress,
};
use crate::process::{Candidate, Target};
use crate::rule::{Rule, Step};
use crate::telemetry::Telemetry;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Number of targets with the same reason that one decision names in the history.
const MAX_NAMED: usize = 32;
/// Number of matches beyond `limit` that the history names.
const MAX_NAMED_BEYOND: usize = 8;

/// The reason to evaluate an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Opened,
    Repeat,
    Round,
}

/// The open episodes during a transaction. `reported_alert.rs` opens and confirms them, `rollback.rs` plans the reverts of their leases, `victims.rs` counts their
/// victims, and `job_results.rs` processes the results of their jobs.
pub(super) struct Episodes<'a> {
    pub ledger: &'a mut LedgerState,
    pub policy: &'a Policy,
    pub open: &'a mut OpenEpisodes,
    pub telemetry: &'a Telemetry,
    pub reverts: &'a mut PendingReverts,
    pub jobs: &'a JobsInFlight,
    pub transaction: &'a mut Transaction,
}

impl Episodes<'_> {
    /// CLOCK_BOOTTIME of the transaction.
    pub fn now(&self) -> Duration {
        self.transaction.boot_now()
    }

    /// Stages an entry, which is rolled back if the commit fails.
    pub fn stage(&mut self, entry: Entry) {
        self.transaction.stage(self.ledger, entry);
    }

    /// Stages an entry that stays even if the commit fails.
    pub fn record_always(&mut self, entry: Entry) {
        self.transaction.record_always(self.ledger, entry);
    }

    pub fn stage_record(&mut self, record: Record) {
        self.stage(Entry::Record(record));
    }

    /// Counts a decision that is not recorded.
    pub fn count(&mut self, rule: SmolStr, decision: Decision) {
        self.transaction.counted.push((rule, decision));
    }

    pub fn rule_of(&self, episode: &Episode) -> Option<Arc<Rule>> {
        self.policy.rule_of(episode).cloned()
    }

    pub fn level_of(&self, episode: &Episode) -> Level {
        self.policy.level_of(episode, self.now())
    }

    /// Records the recent ends of alerts that no rule answered then, because a rule may answer them from now on, and a crash would
    /// make a late duplicate look like news.
    pub fn record_recent_ends(&mut self) {
        for (fingerprint, closed) in self.open.recent_ends.recent(self.now()) {
            let key = EpisodeKey::new(&SmolStr::default(), &fingerprint, false);
            self.record_always(Entry::EpisodeClosed { key, closed });
        }
    }

    /// Closes an episode whose alert is over, and reverts its leases.
    pub fn close(&mut self, key: &EpisodeKey, about: &AlertRef, ended_at: Timestamp, why: &str) {
        let Some(episode) = self.ledger.episodes.get(key).cloned() else {
            return;
        };
        self.open.remove(key);
        let step_count = self.rule_of(&episode).map_or(usize::MAX, |rule| rule.actions.len());
        for progress in episode
            .targets
            .iter()
            .filter(|progress| progress.step_index < step_count && progress.due < Duration::MAX)
        {
            let mut record = about.record(self.transaction.now);
            record.target = Some((progress.target, progress.name.clone()));
            record.outcome = Some(Outcome::Cancelled);
            record.reason = format!("{why} before step {} of the rule", progress.step_index + 1);
            self.telemetry.action(&about.rule, "wait", Outcome::Cancelled.as_str());
            self.record_always(Entry::Record(record));
        }
        self.transaction
            .closed
            .insert(key.fingerprint.clone(), about.alertname.clone());
        self.release_all(key, Outcome::Restored);
        self.cancel_unsent_signals(key);
        if key.simulated {
            // The imagined victims of a dry-run would block every later one.
            let imagined = self.ledger.victims.iter().filter(|victim| victim.episode() == *key);
            for target in imagined.map(|victim| victim.target).collect::<Vec<_>>() {
                let (at, simulated) = (self.now(), true);
                self.record_always(Entry::VictimGone { target, at, simulated });
            }
        }
        let key = key.clone();
        let closed = end_to_remember(self.ledger.closed.get(&key), ended_at, self.now());
        self.record_always(Entry::EpisodeClosed { key, closed });
        self.bound_interrupted();
    }

    /// A lease that is neither staged nor applied yet.
    pub fn new_lease(&self, rule: &Rule, about: &AlertRef, target: (Target, &str), effect: Effect) -> Lease {
        let (target, name) = target;
        Lease {
            id: self.ledger.last_lease_id + 1,
            rule: rule.name.clone(),
            fingerprint: about.fingerprint.clone(),
            target,
            name: name.to_owned(),
            effect,
            taken_at: self.now(),
            deadline: self.now() + rule.hold,
            settled: false,
            is_undoing: false,
            released: None,
        }
    }

    /// Returns a target of an open episode to the last step before its present one for which `is_it` holds. False if the
    /// episode is over, or the steps of its rule are others by now.
    pub fn return_to_step(&mut self, key: &EpisodeKey, target: Target, is_it: impl Fn(&Step) -> bool) -> bool {
        let Some(mut episode) = self.ledger.episodes.get(key).cloned() else {
            return false;
        };
        let Some(rule) = self
            .rule_of(&episode)
            .filter(|rule| rule.steps_text() == episode.steps_text)
        else {
            return false;
        };
        let now = self.now();
        let mut targets = episode.targets.iter_mut();
        let Some(progress) = targets.find(|progress| progress.target == target) else {
            return false;
        };
        let Some(step_index) = rule.actions.iter().take(progress.step_index).rposition(is_it) else {
            return false;
        };
        progress.step_index = step_index;
        progress.due = now;
        progress.refused = None;
        self.record_always(Entry::Episode(episode));
        true
    }

    /// Closes an episode that stayed unconfirmed for too long.
    pub fn close_silent(&mut self, episode: &Episode, about: &AlertRef) {
        tracing::info!(
            rule = about.rule.as_str(),
            alert = about.alertname.as_str(),
            fingerprint = about.fingerprint.as_str(),
            "alert no longer confirmed by a source"
        );
        let why = "no source confirmed the alert";
        self.close(&episode.key, about, end_without_resolve(episode), why);
    }

    /// Postpones the waiting targets of an episode until the next round.
    pub fn postpone(&mut self, key: &EpisodeKey) {
        let now = self.now();
        let Some(episode) = self.ledger.episodes.get_mut(key) else {
            return;
        };
        for progress in episode.targets.iter_mut().filter(|progress| progress.due <= now) {
            progress.due = now + ROUND;
        }
    }

    /// Whether the revert of a lease has begun and has not succeeded yet.
    pub fn is_reverting(&self, lease: &Lease) -> bool {
        lease.is_ending() || lease.is_undoing || self.reverts.is_waiting(lease)
    }

    /// Whether a target is free for the next firing of an alert, although a lease of an earlier one is still being reverted. The new
    /// lease stands above the earlier one, or is another resource. A command waits, because undoing the earlier run would undo the
    /// next one as well.
    fn is_left_over(&self, lease: &Lease, episode: &Episode) -> bool {
        let is_command = matches!(lease.effect, Effect::Command(_));
        lease.taken_at < episode.opened_at && self.is_reverting(lease) && !is_command
    }

    /// The episode as it counts against `limit`: a target with a lease counts even if it left the episode because another of its
    /// leases ended. A target that is gone does not count, so that a restarted unit is selected again at once.
    pub fn with_leased_targets(&self, episode: &Episode) -> Episode {
        let of_the_gone: BTreeSet<u64> = self.transaction.undone_as(Outcome::Gone).collect();
        let mut held = episode.clone();
        let mut seen: BTreeSet<Target> = held.targets.iter().map(|progress| progress.target).collect();
        let leases = self.ledger.leases_of(&episode.key);
        let counts = |lease: &&Lease| !of_the_gone.contains(&lease.id) && !self.is_left_over(lease, episode);
        for lease in leases.filter(counts) {
            if seen.insert(lease.target) {
                held.targets.push(TargetProgress {
                    target: lease.target,
                    name: lease.name.clone(),
                    step_index: usize::MAX,
                    due: Duration::MAX,
                    refused: None,
                });
            }
        }
        held
    }

    pub fn record_denial(&mut self, about: &AlertRef, denial: &Denial) {
        let mut record = about.record(self.transaction.now);
        record.decision = Some(denial.decision);
        record.reason = denial.reason.clone();
        self.stage_record(record);
    }

    /// Records the matches beyond the rule's `limit`, in one record that names some of them.
    pub fn record_beyond_limit(&mut self, rule: &Rule, about: &AlertRef, others: &[&Candidate]) {
        if others.is_empty() {
            return;
        }
        let names = others
            .iter()
            .take(MAX_NAMED_BEYOND)
            .map(|candidate| match candidate.target().pid() {
                Some(pid) => format!("{pid} {}", candidate.name()),
                None => candidate.name().to_owned(),
            });
        let names = names.collect::<Vec<_>>().join(", ");
        let more = if others.len() > MAX_NAMED_BEYOND { ", …" } else { "" };
        let reason = format!("limit {}: {} more match: {names}{more}", rule.limit, others.len());
        let decision = Decision::BeyondLimit;
        self.record_denial(about, &Denial { decision, reason });
    }

    /// Records excluded targets. Of many with one reason it names some and counts the others, so that a user with
    /// thousands of processes does not fill the history.
    pub fn record_denials(&mut self, about: &AlertRef, refused: Vec<(Candidate, Denial)>) {
        let mut by_reason: BTreeMap<String, (Decision, usize)> = BTreeMap::new();
        for (candidate, denial) in refused {
            let (_, size) = by_reason.entry(denial.reason.clone()).or_insert((denial.decision, 0));
            *size += 1;
            if *size > MAX_NAMED {
                continue;
            }
            let mut record = about.record(self.transaction.now);
            record.target = shown(&candidate);
            record.decision = Some(denial.decision);
            record.reason = denial.reason;
            self.stage_record(record);
        }
        for (reason, (decision, size)) in by_reason {
            let Some(others) = size.checked_sub(MAX_NAMED).filter(|others| *others > 0) else {
                continue;
            };
            let reason = format!("{others} more: {reason}");
            self.record_denial(about, &Denial { decision, reason });
            // The metric counts each of them; the record counts as one.
            (1..others).for_each(|_| self.count(about.rule.clone(), decision));
        }
    }
}

/// Whether an episode got a new step or a new reason, which is worth a commit.
pub(super) fn differs_durably(before: Option<&Episode>, after: &Episode) -> bool {
    let Some(before) = before else {
        return true;
    };
    let progress = |episode: &Episode| {
        let mut progress: Vec<_> = episode
            .targets
            .iter()
            .map(|progress| (progress.target, progress.step_index, progress.refused))
            .collect();
        progress.sort_unstable_by_key(|(target, ..)| *target);
        progress
    };
    progress(before) != progress(after) || before.excluded != after.excluded
}
