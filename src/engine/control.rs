//! What the engine does apart from alerts and requests of operators: it processes due work, starts, reloads, processes
//! exits and results of jobs, and shuts down.

use super::episodes::Trigger;
use super::jobs_in_flight::JobKind;
use super::privileges::warn_of_privileges;
use super::status::show_rules;
use super::timers::{BASELINE, RETRY, ROUND};
use super::transaction::Transaction;
use super::{Engine, Policy};
use crate::host::{Host, Report};
use crate::ledger::{Effect, Entry, Episode, EpisodeKey, Lease};
use crate::process::{Identity, Target};
use crate::step::allocate::lifecycle as allocate;
use std::time::Duration;

impl<H: Host> Engine<H> {
    /// Processes due work: waits that are over, deadlines, rounds and retries.
    pub fn tick(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        let now = transaction.boot_now();
        if self.timers.baseline_at.is_some_and(|at| at + BASELINE <= now) {
            self.measure_cpu();
        }
        if self.timers.last_retry.is_some_and(|at| at + RETRY <= now) {
            self.recover();
        }
        self.record_counted_reloads(now, &mut transaction);
        let mut episodes = self.episodes(&mut transaction);
        episodes.expire();
        episodes.bound_interrupted();
        self.verifier(&mut transaction).give_up_survivors();
        let is_round = self.timers.last_round + ROUND <= now;
        if is_round {
            self.timers.last_round = now;
            self.open.retain(&self.ledger.episodes);
            let mut verifier = self.verifier(&mut transaction);
            verifier.check_victims();
            verifier.check_limits_of_units();
        }
        self.episodes(&mut transaction).run_due_jobs();
        let is_due = |episode: &&Episode| {
            let mut targets = episode.targets.iter();
            is_round || (!episode.evidence.is_doubted() && targets.any(|progress| progress.due <= now))
        };
        let due = self.ledger.episodes.values().filter(is_due);
        let due: Vec<EpisodeKey> = due.map(|episode| episode.key.clone()).collect();
        for key in &due {
            self.evaluate_episode(key, Trigger::Round, &mut transaction);
        }
        self.ledger.forget(now, self.victim_age());
        let again = |engine: &mut Self, transaction: &mut Transaction| {
            for key in &due {
                if engine.acts_without_ledger(key) {
                    engine.evaluate_episode(key, Trigger::Round, transaction);
                }
            }
        };
        if let Err(reason) = self.commit_and_apply_or(transaction, again) {
            tracing::warn!(reason, "ledger unavailable, due work postponed");
        }
    }

    /// Resumes after a restart: reverts leases without an open episode. Every open episode is unconfirmed, and gets no new steps
    /// until a source confirms that its alert fires.
    pub fn resume(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        let now = transaction.boot_now();
        for (key, episode) in &mut self.ledger.episodes {
            episode.doubt(now);
            if let Some(ended_at) = episode.evidence.reported_end() {
                self.open.recent_ends.record(&key.fingerprint, ended_at, now);
            }
        }
        for (key, closed) in &mut self.ledger.closed {
            let closed_at = *closed.closed_at.get_or_insert(now);
            self.open
                .recent_ends
                .record(&key.fingerprint, closed.ended_at, closed_at);
        }
        let mut verifier = self.verifier(&mut transaction);
        verifier.check_victims();
        verifier.watch_victims();
        let mut episodes = verifier.episodes;
        episodes.close_after_lost_outcomes();
        episodes.release_orphans();
        episodes.leave_changed_steps();
        episodes.resend_unsettled();
        episodes.bound_interrupted();
        episodes.revert_unsettled();
        episodes.resume_jobs();
        if let Err(reason) = self.commit_and_apply_or(transaction, |_, _| ()) {
            tracing::error!(reason, "could not resume the open episodes");
        }
    }

    /// Tries to write the ledger again, and loads the state of one that opens.
    pub(super) fn recover(&mut self) {
        if let Some(ledger) = self.journal.recover(&self.ledger) {
            // No lease exists from the time without a ledger, because no intent could be made durable.
            self.ledger = ledger;
            self.resume();
        }
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
        let mut verifier = self.verifier(&mut transaction);
        verifier.record_exit(target);
        let waits = |episode: &&Episode| episode.targets.iter().any(|progress| progress.target == target);
        let waiting = verifier.episodes.ledger.episodes.values().filter(waits);
        for mut episode in waiting.cloned().collect::<Vec<_>>() {
            verifier.drop_targets(&mut episode, &[target]);
            let now = verifier.episodes.now();
            for progress in episode.targets.iter_mut().filter(|progress| progress.refused.is_some()) {
                progress.due = now;
            }
            verifier.episodes.record_always(Entry::Episode(episode));
        }
        self.finish(transaction);
    }

    /// Handles the result of a job.
    pub fn reported(&mut self, ticket: u64, report: &Report) {
        let Some(in_flight) = self.jobs.remove(ticket) else {
            return;
        };
        let Some(lease) = self.ledger.leases.get(&in_flight.lease).cloned() else {
            return;
        };
        let mut transaction = Transaction::new(self.host.now(), None);
        let mut episodes = self.episodes(&mut transaction);
        match (&lease.effect, in_flight.kind) {
            (Effect::Allocation(allocation), JobKind::Request(job)) => {
                let update = allocation.after_report(job, in_flight.was_in_doubt, report, episodes.now());
                let step = match job {
                    allocate::AllocatorCall::Ask => allocation.step.clone(),
                    allocate::AllocatorCall::GiveBack => "undo allocate".to_owned(),
                };
                episodes.record_response(&lease, update, step);
            }
            (Effect::Command(command), JobKind::Command) => {
                let update = command.after_report(report, episodes.now());
                let step = if update.was_undo {
                    "undo exec".to_owned()
                } else {
                    command.step.clone()
                };
                episodes.record_command_exit(&lease, update, step);
            }
            _ => {}
        }
        episodes.run_due_jobs();
        self.finish(transaction);
    }

    /// Whether a release is still pending.
    pub fn is_giving_back(&self) -> bool {
        self.ledger.leases.values().any(Lease::is_ending)
    }

    /// Retries failed releases at the daemon's exit.
    pub fn go_on_giving_back(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        self.episodes(&mut transaction).run_due_jobs();
        self.finish(transaction);
    }

    /// Activates a checked configuration. Its rules apply to open episodes as well, as after a restart: leases stay, except those of
    /// a removed rule, and targets of a rule with other steps get no further ones.
    pub fn reload(&mut self, policy: Policy) {
        let former = std::mem::replace(&mut self.policy, policy);
        self.host.prepare_users(&self.policy.users());
        self.doubt_changed_rules(&former);
        self.retain_history();
        self.measure_cpu();
        show_rules(&self.telemetry, &self.policy);
        // Other rules may answer them, and other sources report them.
        self.telemetry.forget_unanswered();
        warn_of_privileges(&self.host, &self.policy);
        let mut transaction = Transaction::new(self.host.now(), None);
        let mut episodes = self.episodes(&mut transaction);
        episodes.record_recent_ends();
        episodes.release_orphans();
        episodes.leave_changed_steps();
        episodes.bound_interrupted();
        self.finish(transaction);
    }

    /// Marks the episodes of a changed rule as unconfirmed, as after a start. A changed identity changes which alerts every
    /// rule answers.
    fn doubt_changed_rules(&mut self, former: &Policy) {
        let now = self.host.now().boot;
        let is_other_host = former.host_identity != self.policy.host_identity;
        for episode in self.ledger.episodes.values_mut() {
            let name = &episode.key.rule;
            let (old, new) = (former.rules.get(name), self.policy.rules.get(name));
            if is_other_host || !matches!((old, new), (Some(old), Some(new)) if old.is_same_as(new)) {
                episode.doubt(now);
            }
        }
    }

    /// Prepares the daemon's exit. With `on_exit: restore` it reverts all leases; episodes stay open, so that they continue after a
    /// restart.
    pub fn shut_down(&mut self) {
        self.exit(self.policy.restore_on_exit);
    }

    /// Prepares an exit after which another evenkeel takes over the leases, as in an upgrade.
    pub fn hand_over(&mut self) {
        self.exit(false);
    }

    fn exit(&mut self, restores: bool) {
        let mut transaction = Transaction::new(self.host.now(), None);
        self.record_counted_reloads(Duration::MAX, &mut transaction);
        if restores {
            self.episodes(&mut transaction).release_at_exit();
        }
        self.finish(transaction);
    }

    pub(super) fn finish(&mut self, transaction: Transaction) {
        if let Err(reason) = self.commit_and_apply_or(transaction, |_, _| ()) {
            tracing::warn!(reason, "ledger unavailable, outcomes kept in memory");
        }
    }
}
