//! The rollback: after a resolve, a deadline, a reload, an exit or a restart it reverts leases. Mode, pause, budget
//! and an unwritable ledger never prevent that.

use super::episode::end_to_remember;
use super::process_view::read_tree;
use super::reconcile::before;
use super::timers::ROUND;
use super::transaction::{Action, AlertRef, Transaction};
use super::{Engine, Policy};
use crate::act::apply::StepResult;
use crate::act::descendants::Family;
use crate::act::{limit, restore, room};
use crate::host::Host;
use crate::ledger::episode::Excluded;
use crate::ledger::lease::{self, Undo};
use crate::ledger::leases::Leases;
use crate::ledger::{Entry, Episode, EpisodeKey, Lease, Level, Outcome, Victim};
use crate::process::{Cgroup, Identity, ProcessTree, Target};
use crate::rule::Step;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl<H: Host> Engine<H> {
    /// Closes an episode whose alert is over, and reverts its leases.
    pub(super) fn close(
        &mut self,
        key: &EpisodeKey,
        about: &AlertRef,
        ended_at: Timestamp,
        why: &str,
        transaction: &mut Transaction,
    ) {
        let Some(episode) = self.ledger.episodes.get(key).cloned() else {
            return;
        };
        let ladder = self.rule_of(&episode).map_or(0, |rule| rule.actions.len());
        self.open_episodes.remove(key);
        for progress in episode
            .targets
            .iter()
            .filter(|progress| progress.step_index < ladder && progress.due < Duration::MAX)
        {
            let mut record = about.record(transaction.now);
            record.target = Some((progress.target, progress.name.clone()));
            record.outcome = Some(Outcome::Cancelled);
            record.reason = format!("{why} before step {} of the ladder", progress.step_index + 1);
            self.telemetry.action(&about.rule, "wait", Outcome::Cancelled.as_str());
            transaction.close(&mut self.ledger, Entry::Record(record));
        }
        transaction
            .closed
            .insert(key.fingerprint.clone(), about.alertname.clone());
        self.release_all(key, Outcome::Restored, transaction);
        self.cancel_unsent_signals(key, transaction);
        if key.simulated {
            // The imagined victims of a dry-run would block every later one.
            let is_its =
                |victim: &&Victim| victim.simulated && victim.rule == key.rule && victim.fingerprint == key.fingerprint;
            let imagined = self.ledger.victims.iter().filter(is_its);
            for target in imagined.map(|victim| victim.target).collect::<Vec<_>>() {
                let (at, simulated) = (transaction.now.boot, true);
                transaction.close(&mut self.ledger, Entry::VictimGone { target, at, simulated });
            }
        }
        let key = key.clone();
        let closed = end_to_remember(self.ledger.closed.get(&key), ended_at, transaction.boot_now());
        transaction.close(&mut self.ledger, Entry::EpisodeClosed { key, closed });
        self.bound_interrupted(transaction);
    }

    /// The leases, newest first, so that a stack of leases is reverted from the top.
    fn release_all(&mut self, key: &EpisodeKey, word: Outcome, transaction: &mut Transaction) {
        let mut ids: Vec<u64> = self.ledger.leases_of(key).map(|lease| lease.id).collect();
        ids.reverse();
        transaction
            .work
            .extend(ids.into_iter().map(|lease| Action::Undo { lease, word }));
    }

    /// Reverts leases past their deadline. Only a repeat applies their steps again.
    pub(super) fn expire(&mut self, transaction: &mut Transaction) {
        let now = transaction.boot_now();
        let mut expired: Vec<Lease> = self
            .ledger
            .leases
            .values()
            .filter(|lease| lease.runs_out_at().is_some_and(|at| at <= now) && !self.is_waiting_for_room(lease))
            .cloned()
            .collect();
        expired.reverse();
        // A failed revert is retried. Its target may take part in the episode that is open now.
        let (failed, expired): (Vec<Lease>, Vec<Lease>) = expired.into_iter().partition(|lease| lease.is_undoing);
        for lease in &failed {
            self.begin_undo(lease.id, Outcome::Restored, transaction);
        }
        self.take_out(&expired, Outcome::Expired, true, transaction);
        self.retry_waiting(transaction);
    }

    /// Releases one lease or all for an operator, and returns their number. A second request drops a lease whose job fails.
    pub fn release(&mut self, id: Option<u64>) -> usize {
        let mut transaction = Transaction::new(self.host.now(), None);
        let mut chosen: Vec<Lease> = self
            .ledger
            .leases
            .values()
            .filter(|lease| id.is_none_or(|id| lease.id == id))
            .cloned()
            .collect();
        chosen.reverse();
        let count = chosen.len();
        chosen.retain(|lease| !self.note_release_by_hand(lease, id.is_some(), &mut transaction));
        self.take_out(&chosen, Outcome::Restored, false, &mut transaction);
        self.finish(transaction);
        count
    }

    /// Reverts leases, and excludes their targets from their episodes.
    fn take_out(&mut self, leases: &[Lease], word: Outcome, until_repeat: bool, transaction: &mut Transaction) {
        let mut by_episode = BTreeMap::<EpisodeKey, BTreeSet<Target>>::new();
        for lease in leases {
            self.begin_undo(lease.id, word, transaction);
            let key = EpisodeKey {
                rule: lease.rule.clone(),
                fingerprint: lease.fingerprint.clone(),
                simulated: false,
            };
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
            transaction.close(&mut self.ledger, Entry::Episode(episode));
        }
        self.bound_interrupted(transaction);
    }

    /// Reverts a lease of an episode that stays open. The mark becomes durable first, because after a crash only the mark says that
    /// the lease must go.
    pub(super) fn begin_undo(&mut self, id: u64, word: Outcome, transaction: &mut Transaction) {
        transaction.work.push(Action::Undo { lease: id, word });
        let Some(lease) = self.ledger.leases.get(&id).filter(|lease| !lease.is_undoing) else {
            return;
        };
        if lease.retry().is_none() {
            let is_undoing = true;
            let lease = lease.clone();
            transaction.close(&mut self.ledger, Entry::Lease(Lease { is_undoing, ..lease }));
        }
    }

    /// Pauses or resumes new steps. Durable, so that a restart does not end a pause.
    pub fn pause(&mut self, paused: bool) {
        let mut transaction = Transaction::new(self.host.now(), None);
        transaction.close(&mut self.ledger, Entry::Paused(paused));
        self.finish(transaction);
    }

    /// Handles the exit of a watched process, after which the next victim may be due.
    pub fn exited(&mut self, target: Identity) {
        self.processes.forget_table();
        if self.host.is_alive(target) {
            // A failed watch is no evidence; a living victim must still count.
            return;
        }
        let mut transaction = Transaction::new(self.host.now(), None);
        let target = Target::from(target);
        self.note_death(target, &mut transaction);
        let waiting: Vec<EpisodeKey> = self
            .ledger
            .episodes
            .values()
            .filter(|episode| episode.targets.iter().any(|progress| progress.target == target))
            .map(|episode| episode.key.clone())
            .collect();
        for key in &waiting {
            let Some(mut episode) = self.ledger.episodes.get(key).cloned() else {
                continue;
            };
            self.drop_targets(&mut episode, &[target], &mut transaction);
            for progress in episode.targets.iter_mut().filter(|progress| progress.refused.is_some()) {
                progress.due = transaction.boot_now();
            }
            transaction.close(&mut self.ledger, Entry::Episode(episode));
        }
        self.finish(transaction);
    }

    /// Victims that exited while evenkeel did not run.
    pub(super) fn check_victims(&mut self, transaction: &mut Transaction) {
        let alive = self.ledger.victims.iter().filter(|victim| victim.gone_at.is_none());
        for target in alive.map(|victim| victim.target).collect::<Vec<_>>() {
            if self.has_ended(target) {
                self.note_death(target, transaction);
            }
        }
    }

    /// Whether a target that should exit has exited.
    pub(super) fn has_ended(&mut self, target: Target) -> bool {
        match target {
            Target::Process(process) => !self.host.is_alive(process),
            Target::Cgroup(cgroup) => self.is_cgroup_empty(cgroup),
            Target::Host => false,
        }
    }

    pub(super) fn note_death(&mut self, target: Target, transaction: &mut Transaction) {
        for entry in self.end_of(target, transaction.now) {
            transaction.close(&mut self.ledger, entry);
        }
    }

    /// Removes targets that exited from an episode, and settles their leases.
    pub(super) fn drop_gone_targets(&mut self, episode: &mut Episode, transaction: &mut Transaction) {
        let mut known: BTreeMap<Target, String> = BTreeMap::new();
        let targets = episode.targets.iter().map(|progress| (progress.target, &progress.name));
        let leases = self
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
                    let listed = transaction.table.as_ref().and_then(|table| table.get(process));
                    let listed = listed.is_some_and(|process| !process.is_dead());
                    !listed && !self.host.is_alive(process)
                }
                Target::Cgroup(cgroup) => !self.is_cgroup_there(cgroup, &name),
                Target::Host => false,
            };
            is_gone.then_some(target)
        };
        let gone: Vec<Target> = known.into_iter().filter_map(is_gone).collect();
        if !gone.is_empty() {
            self.drop_targets(episode, &gone, transaction);
        }
    }

    fn drop_targets(&mut self, episode: &mut Episode, gone: &[Target], transaction: &mut Transaction) {
        episode.targets.retain(|progress| !gone.contains(&progress.target));
        for target in gone {
            self.note_death(*target, transaction);
        }
        let leases = self.ledger.leases_of(&episode.key);
        let leases: Vec<u64> = leases
            .filter(|lease| gone.contains(&lease.target))
            .map(|lease| lease.id)
            .collect();
        transaction.work.extend(leases.into_iter().map(|lease| Action::Undo {
            lease,
            word: Outcome::Gone,
        }));
    }

    /// Reverts leases without an open episode, and those of a rule that no longer handles their alert.
    pub(super) fn release_orphans(&mut self, transaction: &mut Transaction) {
        let is_over = |episode: &&Episode| !self.is_in_force(episode);
        for episode in self
            .ledger
            .episodes
            .values()
            .filter(is_over)
            .cloned()
            .collect::<Vec<_>>()
        {
            let key = &episode.key;
            let about = AlertRef::new(&key.rule, &episode.labels, &key.fingerprint);
            tracing::info!(
                rule = key.rule.as_str(),
                alert = about.alertname.as_str(),
                "rule no longer in force, its leases are reverted"
            );
            // The alert may still fire: if the rule returns, the next repeat opens another episode.
            let why = "the rule went out of force";
            self.close(key, &about, before(episode.starts_at), why, transaction);
        }
        let planned: BTreeSet<u64> = transaction.undone().collect();
        let is_orphan = |lease: &&Lease| {
            let key = EpisodeKey {
                rule: lease.rule.clone(),
                fingerprint: lease.fingerprint.clone(),
                simulated: false,
            };
            !planned.contains(&lease.id) && (lease.is_undoing || !self.ledger.episodes.contains_key(&key))
        };
        let orphans = self.ledger.leases.values().rev().filter(is_orphan);
        transaction.work.extend(orphans.map(|lease| Action::Undo {
            lease: lease.id,
            word: Outcome::Restored,
        }));
    }

    /// Handles a rule whose steps changed while the daemon was down. Its targets keep their values and get no further steps,
    /// because it is unknown which of the new steps they already had.
    pub(super) fn leave_changed_ladders(&mut self, transaction: &mut Transaction) {
        for mut episode in self.ledger.episodes.values().cloned().collect::<Vec<_>>() {
            let Some(rule) = self.rule_of(&episode) else { continue };
            if episode.ladder == rule.ladder() {
                continue;
            }
            tracing::info!(
                rule = rule.name.as_str(),
                "steps of the rule changed, its targets keep their values"
            );
            episode.ladder = rule.ladder();
            for progress in &mut episode.targets {
                (progress.step_index, progress.due) = (rule.actions.len(), Duration::MAX);
            }
            transaction.close(&mut self.ledger, Entry::Episode(episode));
        }
    }

    /// Reverts leases whose outcome was lost in a crash: the value may be set or not, and no source has confirmed the alert yet.
    /// Their target returns to that step, which is applied once the alert is confirmed. A signal that may have been sent counts
    /// as sent.
    pub(super) fn revert_unsettled(&mut self, transaction: &mut Transaction) {
        let undone: BTreeSet<u64> = transaction.undone().collect();
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
                transaction.close(&mut self.ledger, Entry::Lease(lease));
                continue;
            }
            self.set_back_to_step(&lease, transaction);
            self.begin_undo(lease.id, Outcome::Cancelled, transaction);
        }
    }

    /// Sets the target of a lease back to the step of the lease.
    fn set_back_to_step(&mut self, lease: &Lease, transaction: &mut Transaction) {
        let key = EpisodeKey {
            rule: lease.rule.clone(),
            fingerprint: lease.fingerprint.clone(),
            simulated: false,
        };
        let Some(mut episode) = self.ledger.episodes.get(&key).cloned() else {
            return;
        };
        let Some(rule) = self.rule_of(&episode).filter(|rule| rule.ladder() == episode.ladder) else {
            return;
        };
        let Some(progress) = episode
            .targets
            .iter_mut()
            .find(|progress| progress.target == lease.target)
        else {
            return;
        };
        let is_it = |step: &Step| matches!(step, Step::Set(change) if change.knob().as_str() == lease.knob());
        let Some(step_index) = rule.actions.iter().take(progress.step_index).rposition(is_it) else {
            return;
        };
        (progress.step_index, progress.due, progress.refused) = (step_index, transaction.boot_now(), None);
        transaction.close(&mut self.ledger, Entry::Episode(episode));
    }

    /// Whether the episode of a lease is open and unconfirmed.
    pub(super) fn is_in_doubt(&self, lease: &Lease) -> bool {
        let key = EpisodeKey {
            rule: lease.rule.clone(),
            fingerprint: lease.fingerprint.clone(),
            simulated: false,
        };
        let episode = self.ledger.episodes.get(&key);
        episode.is_some_and(|episode| self.level_of(episode, self.host.now().boot) == Level::Unconfirmed)
    }

    /// Watches the victims of a former daemon.
    pub(super) fn watch_victims(&mut self) {
        let is_awaited = |victim: &&Victim| victim.gone_at.is_none() && !victim.simulated;
        for victim in self.ledger.victims.iter().filter(is_awaited) {
            victim
                .target
                .process()
                .into_iter()
                .for_each(|process| self.host.watch_exit(process));
        }
    }

    /// Reverts one lease and settles it. A revert that fails for lack of a permission is retried later.
    pub(super) fn undo(&mut self, id: u64, word: Outcome, transaction: &Transaction, outcomes: &mut Vec<Entry>) {
        let Some(lease) = self.ledger.leases.get(&id).cloned() else {
            return;
        };
        if lease.retry().is_some() {
            return self.begin_release(lease, word, transaction, outcomes);
        }
        let successor = self.successor_of(&lease);
        let what = lease::undo(&lease, self.ledger.leases.on(lease.target));
        if let Undo::HandOver { heir, inherited, .. } = &what {
            self.keep(
                Entry::LeasePrior {
                    id: *heir,
                    saved: inherited.clone(),
                },
                outcomes,
            );
        }
        let no_processes = ProcessTree::default();
        let leases = &self.ledger.leases;
        let family = Family {
            tree: transaction.table.as_deref().unwrap_or(&no_processes),
            descendants: &self.processes.descendants,
            is_holder: &|process| holds(leases, process, &lease),
        };
        let cgroup = cgroup_of(&lease);
        let shortage = cgroup
            .as_ref()
            .filter(|_| successor.is_none())
            .and_then(|cgroup| room::make(&mut self.host, cgroup, &lease, &what).err());
        let mut effected = match (shortage, &cgroup) {
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
            (None, Some(cgroup)) => limit::undo(&mut self.host, cgroup, &lease, &what),
            (None, None) => restore::undo(&mut self.host, &lease, &what, &family),
        };
        let word = self.waits.get(&id).map_or(word, |wait| wait.word);
        match shortage {
            Some(shortage) if !self.wait_for_room(&lease, word, shortage) => return,
            Some(_) => {}
            None => drop(self.waits.remove(&id)),
        }
        if word == Outcome::Superseded && effected.reason.is_empty() {
            effected.reason = "systemd or another program changed the value meanwhile".to_owned();
        }
        if matches!(effected.outcome, Outcome::Restored) {
            self.undone.push((lease.clone(), what));
        }
        let outcome = match effected.outcome {
            Outcome::Restored if word != Outcome::Gone => word,
            // A crash came before the value was set.
            Outcome::Superseded if !lease.settled => Outcome::Cancelled,
            outcome => outcome,
        };
        self.show_decisions(transaction);
        self.telemetry.action(&lease.rule, lease.knob(), outcome.as_str());
        tracing::info!(
            rule = lease.rule.as_str(),
            pid = lease.target.pid(),
            process = lease.name,
            knob = lease.knob(),
            outcome = outcome.as_str(),
            after = effected.after.as_deref().unwrap_or(""),
            reason = effected.reason,
            "undo"
        );
        let mut record = AlertRef {
            rule: lease.rule.clone(),
            alertname: self.alertname_of(&lease, transaction),
            fingerprint: lease.fingerprint.clone(),
        }
        .record(transaction.now);
        record.target = Some((lease.target, lease.name.clone()));
        record.step = Some(format!("undo {}", lease.knob()));
        record.outcome = Some(outcome);
        (record.before, record.after, record.reason) = (effected.before, effected.after, effected.reason);
        outcomes.push(Entry::Record(record));
        if shortage.is_some() {
            return;
        }
        if matches!(outcome, Outcome::Denied | Outcome::Failed) {
            if !lease.is_undoing {
                // A new episode of the same alert must not adopt the lease.
                let is_undoing = true;
                self.keep(Entry::Lease(Lease { is_undoing, ..lease }), outcomes);
            }
            let again = Entry::Renewed {
                ids: vec![id],
                deadline: transaction.boot_now() + ROUND,
            };
            return self.ledger.record(&again);
        }
        self.keep(Entry::LeaseEnded { id, outcome }, outcomes);
    }

    /// Restores children that started between the reading of the table and the revert. Later children inherit the restored
    /// value, so one more reading finds all of them.
    pub(super) fn sweep(&mut self) {
        let undone = std::mem::take(&mut self.undone);
        if undone.is_empty() {
            return;
        }
        let tree = read_tree(&mut self.host);
        for (lease, what) in undone {
            let leases = &self.ledger.leases;
            let family = Family {
                tree: &tree,
                descendants: &self.processes.descendants,
                is_holder: &|process| holds(leases, process, &lease),
            };
            restore::sweep(&mut self.host, &lease, &what, &family);
        }
    }

    fn alertname_of(&self, lease: &Lease, transaction: &Transaction) -> SmolStr {
        if let Some(name) = transaction.closed.get(&lease.fingerprint) {
            return name.clone();
        }
        let key = EpisodeKey {
            rule: lease.rule.clone(),
            fingerprint: lease.fingerprint.clone(),
            simulated: false,
        };
        let episode = self.ledger.episodes.get(&key);
        let name = episode.and_then(|episode| episode.labels.get("alertname"));
        name.unwrap_or_default().into()
    }

    /// Activates a checked configuration. Open episodes keep their rule; the leases of a removed rule are reverted.
    pub fn reload(&mut self, policy: Policy) {
        // Episodes from before a restart belong to the replaced rule as well.
        for key in self.ledger.episodes.keys() {
            if let Some(rule) = self.policy.rules.get(&key.rule) {
                self.open_episodes.keep_rule(key, rule);
            }
        }
        let former = std::mem::replace(&mut self.policy, policy);
        self.doubt_changed_rules(&former);
        self.retain_history();
        self.measure_cpu();
        self.show_rules();
        self.warn_of_privileges();
        let mut transaction = Transaction::new(self.host.now(), None);
        self.release_orphans(&mut transaction);
        self.finish(transaction);
    }

    /// Marks the episodes of a changed rule as unconfirmed, as after a start.
    fn doubt_changed_rules(&mut self, former: &Policy) {
        let now = self.host.now().boot;
        for episode in self.ledger.episodes.values_mut() {
            let name = &episode.key.rule;
            let (old, new) = (former.rules.get(name), self.policy.rules.get(name));
            if !matches!((old, new), (Some(old), Some(new)) if old.is_same_as(new)) {
                episode.doubt(now);
            }
        }
    }

    /// Prepares the daemon's exit. With `on_exit: restore` it reverts all leases; episodes stay open, so that they continue after a
    /// restart.
    pub fn shut_down(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        if self.policy.restore_on_exit {
            let ids: Vec<u64> = self.ledger.leases.keys().rev().copied().collect();
            let held: Vec<Target> = self.ledger.leases.values().map(|lease| lease.target).collect();
            for id in ids {
                self.begin_undo(id, Outcome::Restored, &mut transaction);
            }
            let open: Vec<Episode> = self.ledger.episodes.values().cloned().collect();
            for mut episode in open.into_iter().filter(|episode| !episode.key.simulated) {
                // After a restart every target begins with the first step again. Only victims go on where they are, in
                // episodes that may have ended them.
                let ends_targets = self.rule_of(&episode).is_some_and(|rule| rule.has_final_steps());
                let is_victim = |target| {
                    let is_its = |victim: &&Victim| {
                        victim.rule == episode.key.rule && victim.fingerprint == episode.key.fingerprint
                    };
                    let real = self.ledger.victims.iter().filter(|victim| !victim.simulated);
                    let mut its = real.filter(|victim| victim.target == target);
                    its.any(|victim| is_its(&victim) || (ends_targets && target != Target::Host))
                };
                episode
                    .targets
                    .retain(|progress| !held.contains(&progress.target) || is_victim(progress.target));
                transaction.close(&mut self.ledger, Entry::Episode(episode));
            }
        }
        self.finish(transaction);
    }

    /// Tries to write the ledger again, and loads the state of one that opens.
    pub(super) fn recover(&mut self) {
        if let Some(ledger) = self.journal.recover(&self.ledger) {
            // No lease exists from the time without a ledger, because no intent could be made durable.
            self.ledger = ledger;
            self.resume();
        }
    }

    pub(super) fn finish(&mut self, transaction: Transaction) {
        if let Err(reason) = self.commit_and_apply_or(transaction, |_, _| ()) {
            tracing::warn!(reason, "ledger unavailable, outcomes kept in memory");
        }
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
