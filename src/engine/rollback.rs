//! The plan of reverts: after a resolve, a deadline, a reload, an exit or a restart. Mode, pause, budget and an
//! unwritable ledger never prevent a revert. `undo.rs` carries it out.

use super::episodes::Episodes;
use super::late_delivery::end_without_resolve;
use super::transaction::{Action, AlertRef};
use crate::ledger::episode::Excluded;
use crate::ledger::{Entry, Episode, EpisodeKey, Lease, Level, Outcome, Victim};
use crate::process::Target;
use crate::rule::Step;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Episodes<'_> {
    /// The leases, newest first, so that a stack of leases is reverted from the top.
    pub fn release_all(&mut self, key: &EpisodeKey, outcome: Outcome) {
        let mut ids: Vec<u64> = self.ledger.leases_of(key).map(|lease| lease.id).collect();
        ids.reverse();
        self.transaction
            .actions
            .extend(ids.into_iter().map(|lease| Action::Undo { lease, outcome }));
    }

    /// Reverts a lease of an episode that stays open. The mark becomes durable first, because after a crash only the mark says that
    /// the lease must go.
    pub fn begin_undo(&mut self, id: u64, outcome: Outcome) {
        self.transaction.actions.push(Action::Undo { lease: id, outcome });
        let Some(lease) = self.ledger.leases.get(&id).filter(|lease| !lease.is_undoing) else {
            return;
        };
        if lease.retry().is_none() {
            let is_undoing = true;
            let lease = lease.clone();
            self.record_always(Entry::Lease(Lease { is_undoing, ..lease }));
        }
    }

    /// Reverts leases past their deadline. Only a repeat applies their steps again.
    pub fn expire(&mut self) {
        let now = self.now();
        let mut expired: Vec<Lease> = self
            .ledger
            .leases
            .values()
            .filter(|lease| lease.runs_out_at().is_some_and(|at| at <= now) && !self.reverts.is_waiting(lease))
            .cloned()
            .collect();
        expired.reverse();
        // A failed revert is retried. Its target may take part in the episode that is open now.
        let (failed, expired): (Vec<Lease>, Vec<Lease>) = expired.into_iter().partition(|lease| lease.is_undoing);
        for lease in &failed {
            self.begin_undo(lease.id, Outcome::Restored);
        }
        self.take_out(&expired, Outcome::Expired, true);
        let retries = self.reverts.due_retries(&self.ledger.leases, now);
        self.transaction.actions.extend(retries);
    }

    /// Reverts leases, and excludes their targets from their episodes.
    pub fn take_out(&mut self, leases: &[Lease], outcome: Outcome, until_repeat: bool) {
        let mut by_episode = BTreeMap::<EpisodeKey, BTreeSet<Target>>::new();
        for lease in leases {
            self.begin_undo(lease.id, outcome);
            let key = lease.episode();
            by_episode.entry(key).or_default().insert(lease.target);
        }
        for (key, mut targets) in by_episode {
            let Some(mut episode) = self.ledger.episodes.get(&key).cloned() else {
                continue;
            };
            episode.targets.retain(|progress| !targets.contains(&progress.target));
            for excluded in &mut episode.excluded {
                if targets.remove(&excluded.target) {
                    excluded.until_repeat &= until_repeat;
                }
            }
            let new = targets.into_iter().map(|target| Excluded { target, until_repeat });
            episode.excluded.extend(new);
            self.record_always(Entry::Episode(episode));
        }
        self.bound_interrupted();
    }

    /// Closes all episodes after a run that was killed before it could write its outcomes, because it is unknown which
    /// alerts were over and which leases reverted. Reverting a value again changes nothing, and an alert that fires opens
    /// another episode, for which the victims of an alert with the same start count.
    pub fn close_after_lost_outcomes(&mut self) {
        if !std::mem::take(&mut self.ledger.is_behind) {
            return;
        }
        let open: Vec<Episode> = self.ledger.episodes.values().cloned().collect();
        tracing::warn!(
            episodes = open.len(),
            leases = self.ledger.leases.len(),
            "the former run could not write all outcomes, every lease is reverted"
        );
        for episode in open {
            let about = AlertRef::new(&episode.key.rule, &episode.labels, &episode.key.fingerprint);
            let why = "evenkeel was killed before it could write all outcomes";
            self.close(&episode.key, &about, end_without_resolve(&episode), why);
        }
    }

    /// Reverts leases without an open episode, and those of a rule that no longer handles their alert.
    pub fn release_orphans(&mut self) {
        let is_over = |episode: &&Episode| !self.policy.is_in_force(episode);
        let episodes = self.ledger.episodes.values().filter(is_over);
        for episode in episodes.cloned().collect::<Vec<_>>() {
            let key = &episode.key;
            let about = AlertRef::new(&key.rule, &episode.labels, &key.fingerprint);
            tracing::info!(
                rule = key.rule.as_str(),
                alert = about.alertname.as_str(),
                "rule no longer in force, its leases are reverted"
            );
            // The alert may still fire: if the rule returns, the next repeat opens another episode.
            let why = "the rule went out of force";
            self.close(key, &about, end_without_resolve(&episode), why);
        }
        let planned: BTreeSet<u64> = self.transaction.undone().collect();
        let is_orphan = |lease: &&Lease| {
            let key = lease.episode();
            !planned.contains(&lease.id) && (lease.is_undoing || !self.ledger.episodes.contains_key(&key))
        };
        let orphans = self.ledger.leases.values().rev().filter(is_orphan);
        self.transaction.actions.extend(orphans.map(|lease| Action::Undo {
            lease: lease.id,
            outcome: Outcome::Restored,
        }));
    }

    /// Handles rules whose steps changed, by a reload or while the daemon was down. Their targets keep their values and get no
    /// further steps, because it is unknown which of the new steps they already had. New targets get the new steps.
    pub fn leave_changed_steps(&mut self) {
        for mut episode in self.ledger.episodes.values().cloned().collect::<Vec<_>>() {
            let Some(rule) = self.rule_of(&episode) else { continue };
            if episode.steps_text == rule.steps_text() {
                continue;
            }
            tracing::info!(
                rule = rule.name.as_str(),
                "steps of the rule changed, its targets keep their values"
            );
            episode.steps_text = rule.steps_text();
            for progress in &mut episode.targets {
                progress.step_index = rule.actions.len();
                progress.due = Duration::MAX;
                progress.refused = None;
            }
            self.record_always(Entry::Episode(episode));
        }
    }

    /// Reverts all leases at the daemon's exit. After a restart every target begins with the first step again; only victims
    /// go on where they are, in episodes that may have ended them.
    pub fn release_at_exit(&mut self) {
        let ids: Vec<u64> = self.ledger.leases.keys().rev().copied().collect();
        let held: Vec<Target> = self.ledger.leases.values().map(|lease| lease.target).collect();
        for id in ids {
            self.begin_undo(id, Outcome::Restored);
        }
        let open: Vec<Episode> = self.ledger.episodes.values().cloned().collect();
        for mut episode in open.into_iter().filter(|episode| !episode.key.simulated) {
            let ends_targets = self.rule_of(&episode).is_some_and(|rule| rule.has_final_steps());
            let is_victim = |target| {
                let is_its =
                    |victim: &&Victim| victim.rule == episode.key.rule && victim.fingerprint == episode.key.fingerprint;
                let real = self.ledger.victims.iter().filter(|victim| !victim.simulated);
                let mut its = real.filter(|victim| victim.target == target);
                its.any(|victim| is_its(&victim) || (ends_targets && target != Target::Host))
            };
            episode
                .targets
                .retain(|progress| !held.contains(&progress.target) || is_victim(progress.target));
            self.record_always(Entry::Episode(episode));
        }
    }

    /// Reverts leases whose outcome was lost in a crash: the value may be set or not, and no source has confirmed the alert yet.
    /// Their target returns to that step, which is applied once the alert is confirmed. A signal that may have been sent counts
    /// as sent.
    pub fn revert_unsettled(&mut self) {
        let undone: BTreeSet<u64> = self.transaction.undone().collect();
        let is_open = |lease: &&Lease| !lease.settled && lease.retry().is_none() && !undone.contains(&lease.id);
        // Newest first, so that a stack of leases is reverted from the top.
        for mut lease in self
            .ledger
            .leases
            .values()
            .rev()
            .filter(is_open)
            .cloned()
            .collect::<Vec<_>>()
        {
            if lease.effect.value().is_none() {
                lease.settled = true;
                self.record_always(Entry::Lease(lease));
                continue;
            }
            let is_it = |step: &Step| matches!(step, Step::Set(change) if change.knob().as_str() == lease.knob());
            self.return_to_step(&lease.episode(), lease.target, is_it);
            self.begin_undo(lease.id, Outcome::Cancelled);
        }
    }

    /// Whether the episode of a lease is open and unconfirmed.
    pub fn is_in_doubt(&self, lease: &Lease) -> bool {
        let key = lease.episode();
        let episode = self.ledger.episodes.get(&key);
        episode.is_some_and(|episode| self.level_of(episode) == Level::Unconfirmed)
    }
}
