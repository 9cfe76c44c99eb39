//! The open episodes of one transaction: they open, are confirmed, and close, with their leases and victims. Only the
//! ledger's state changes here, nothing on the host.

use super::Policy;
use super::jobs_in_flight::JobsInFlight;
use super::late_delivery::{Statement, end_to_remember, end_without_resolve, is_recent};
use super::open_episodes::OpenEpisodes;
use super::pending_reverts::PendingReverts;
use super::share::{MAX_PER_ALERT, OpenCounts, ShareExceeded};
use super::timers::ROUND;
use super::transaction::{AlertRef, Transaction, shown};
use crate::act::guard::Denial;
use crate::alert::Alert;
use crate::ledger::{
    Closed, Decision, Effect, Entry, Episode, EpisodeKey, Evidence, EvidenceSource, Lease, LedgerState, Level, Outcome,
    Record, TargetProgress,
};
use crate::process::{Candidate, Target};
use crate::rule::{Rule, Step};
use crate::telemetry::Telemetry;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A repeat so soon after the last look changes nothing.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Number of targets with the same reason that one decision names in the history.
const MAX_NAMED: usize = 32;

/// The reason to evaluate an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    Opened,
    Repeat,
    Round,
}

/// The open episodes during a transaction. `rollback.rs` plans the reverts of their leases, `victims.rs` counts their
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

    /// Whether an alert is about this host, or the rule acts for any host. Alerts of own evaluation are always about this host.
    fn is_about_us(&mut self, rule: &Rule, statement: &Statement<'_>) -> bool {
        if statement.source == EvidenceSource::Own || rule.any_host {
            return true;
        }
        let Err(reason) = self.policy.host_identity.recognises(&statement.alert.labels) else {
            return true;
        };
        tracing::info!(
            rule = rule.name.as_str(),
            alert = statement.alert.name(),
            reason,
            "alert of another host ignored"
        );
        self.count(rule.name.clone(), Decision::OtherHost);
        false
    }

    /// Records a firing alert that matches a rule: it opens an episode, or confirms the open one. Returns the episode to
    /// evaluate now, if there is one.
    pub fn record_firing(&mut self, rule: &Rule, statement: &Statement<'_>) -> Option<(EpisodeKey, Trigger)> {
        if !self.is_about_us(rule, statement) {
            return None;
        }
        let alert = statement.alert;
        let simulated = self.policy.is_simulated(rule);
        let key = EpisodeKey::new(&rule.name, &alert.fingerprint, simulated);
        let ends = [
            self.ledger.closed.get(&key).copied(),
            self.open.recent_ends.of(&alert.fingerprint).copied(),
        ];
        if ends.iter().any(|end| statement.is_late_firing(end.as_ref())) {
            let reason = "the alert began before the last episode ended";
            self.ignore_stale(rule.name.clone(), alert, reason);
            return None;
        }
        if statement.source == EvidenceSource::Webhook {
            let starts = &mut self.open.recent_starts;
            starts.record(&alert.fingerprint, alert.starts_at, statement.at);
        }
        if statement.source != EvidenceSource::Own {
            self.open.missing_alerts.heard(&alert.fingerprint);
        }
        if self.ledger.episodes.contains_key(&key) {
            return self.record_repeat(rule, key, statement);
        }
        if let Err(reason) = self.check_share(&rule.name, alert.name()) {
            self.refuse(&rule.name, alert, reason);
            return None;
        }
        let mut episode = open_episode(rule, alert, self.now(), simulated);
        episode.evidence = evidence_of(rule, statement);
        for end in ends.iter().flatten().filter(|end| is_recent(end, statement.at)) {
            episode.evidence.note_end(end.ended_at);
        }
        self.stage(Entry::Episode(episode));
        if self.ledger.paused {
            // The episode stays open, so that it is evaluated when the pause ends, not only at the next repeat.
            let about = AlertRef::new(&rule.name, &alert.labels, &alert.fingerprint);
            let mut record = about.record(self.transaction.now);
            record.decision = Some(Decision::Paused);
            self.stage_record(record);
        }
        Some((key, Trigger::Opened))
    }

    /// Whether an alert may open an episode, and a place for it in this transaction.
    fn check_share(&mut self, rule: &SmolStr, alertname: &str) -> Result<(), ShareExceeded> {
        if self.ledger.episodes.len() < MAX_PER_ALERT {
            return Ok(());
        }
        let episodes = &self.ledger.episodes;
        let counts = self
            .transaction
            .open_counts
            .get_or_insert_with(|| OpenCounts::of(episodes));
        counts.check_share(rule, alertname)?;
        counts.add(rule, alertname);
        Ok(())
    }

    /// Refuses an alert, so that its sender tries again.
    fn refuse(&mut self, rule: &SmolStr, alert: &Alert, reason: ShareExceeded) {
        // A delivery may have thousands of them.
        if self.transaction.share_exceeded.is_none() {
            tracing::warn!(rule = rule.as_str(), alert = alert.name(), %reason, "alert refused");
        }
        self.transaction.share_exceeded = Some(reason);
        self.telemetry.alert_refused(rule);
        self.count(rule.clone(), Decision::Budget);
    }

    fn record_repeat(
        &mut self,
        rule: &Rule,
        key: EpisodeKey,
        statement: &Statement<'_>,
    ) -> Option<(EpisodeKey, Trigger)> {
        let is_confirmed = self.confirm(&key, rule.hold, statement);
        self.resume_victims(&key);
        if is_confirmed {
            self.resume_requests(&key);
        } else if !self.transaction.is_unledgered && self.was_just_evaluated(&key) {
            self.count(rule.name.clone(), Decision::Duplicate);
            return None;
        }
        Some((key, Trigger::Repeat))
    }

    /// Counts a stale delivery, which changes nothing.
    fn ignore_stale(&mut self, rule: SmolStr, alert: &Alert, reason: &'static str) {
        tracing::info!(rule = rule.as_str(), alert = alert.name(), reason, "stale delivery");
        self.count(rule, Decision::Stale);
    }

    /// Closes every open episode of a resolved alert, regardless of rules, identity and mode. Without an open episode the end is
    /// recorded for the matching rules, so that a late firing is recognised as stale.
    pub fn record_resolved<'r>(&mut self, statement: &Statement<'_>, matching: impl Iterator<Item = &'r Arc<Rule>>) {
        let alert = statement.alert;
        let ended_at = self.ended_at(statement);
        if statement.source == EvidenceSource::Webhook {
            self.open.recent_ends.record(&alert.fingerprint, ended_at, statement.at);
        }
        let is_its = |key: &&EpisodeKey| key.fingerprint == alert.fingerprint;
        let open: Vec<EpisodeKey> = self.ledger.episodes.keys().filter(is_its).cloned().collect();
        for key in &open {
            self.resolve_episode(key, statement);
        }
        for rule in matching {
            let key = EpisodeKey::new(&rule.name, &alert.fingerprint, self.policy.is_simulated(rule));
            if open.contains(&key) || !self.is_about_us(rule, statement) {
                continue;
            }
            let closed = Closed {
                ended_at,
                closed_at: Some(self.now()),
            };
            match self.ledger.closed.get(&key) {
                Some(known) if known.ended_at >= closed.ended_at => {
                    self.count(rule.name.clone(), Decision::Duplicate);
                }
                // Deliveries of own evaluation are never late.
                _ if statement.source == EvidenceSource::Own => {}
                _ => self.record_always(Entry::EpisodeClosed { key, closed }),
            }
        }
    }

    /// Records the recent ends of alerts that no rule answered then, because a rule may answer them from now on, and a crash would
    /// make a late duplicate look like news.
    pub fn record_recent_ends(&mut self) {
        for (fingerprint, closed) in self.open.recent_ends.recent(self.now()) {
            let key = EpisodeKey::new(&SmolStr::default(), &fingerprint, false);
            self.record_always(Entry::EpisodeClosed { key, closed });
        }
    }

    fn ended_at(&self, statement: &Statement<'_>) -> Timestamp {
        let latest_start = self.open.recent_starts.of(&statement.alert.fingerprint);
        statement.ended_at(self.transaction.now.wall, latest_start)
    }

    fn resolve_episode(&mut self, key: &EpisodeKey, statement: &Statement<'_>) {
        let Some(mut episode) = self.ledger.episodes.get(key).cloned() else {
            return;
        };
        if statement.is_late_resolve(&episode) {
            let reason = "the alert resolves an earlier episode";
            return self.ignore_stale(key.rule.clone(), statement.alert, reason);
        }
        episode.evidence.record_over(statement.source, statement.at);
        let mut ended_at = self.ended_at(statement);
        if statement.source == EvidenceSource::Own {
            ended_at = end_without_resolve(&episode);
        } else {
            episode.evidence.note_end(ended_at);
        }
        if self.level_of(&episode) == Level::Over {
            let about = AlertRef::new(&key.rule, &statement.alert.labels, &key.fingerprint);
            return self.close(key, &about, ended_at, "the alert ended");
        }
        tracing::info!(
            rule = key.rule.as_str(),
            alert = statement.alert.name(),
            "alert resolved in one source, still firing in another"
        );
        self.record_always(Entry::Episode(episode));
    }

    /// Whether a repeat can be skipped, because its episode was evaluated a moment ago. Many repeats must not read the process
    /// table each time.
    fn was_just_evaluated(&self, key: &EpisodeKey) -> bool {
        let waits_for_repeat = self
            .ledger
            .episodes
            .get(key)
            .is_some_and(|episode| episode.excluded.iter().any(|excluded| excluded.until_repeat));
        !waits_for_repeat
            && self
                .open
                .evaluated_at(key)
                .is_some_and(|at| at.saturating_add(JUST_NOW) > self.now())
    }

    /// Records that the alert of an open episode fires, and extends the deadlines of its leases. Repeats change memory only, and
    /// the ledger only after a quarter of the time or with new content, so that repeats cost no commit. Returns whether this
    /// confirms an unconfirmed episode.
    fn confirm(&mut self, key: &EpisodeKey, hold: Duration, statement: &Statement<'_>) -> bool {
        let now = self.now();
        let renewable = |lease: &&Lease| !self.is_reverting(lease);
        let renewed = Entry::Renewed {
            ids: self
                .ledger
                .leases_of(key)
                .filter(renewable)
                .map(|lease| lease.id)
                .collect(),
            deadline: now + hold,
        };
        // In memory first, because a ledger that cannot be written rolls the staged entry back, and the leases of an alert
        // that fires must not expire meanwhile.
        self.ledger.record(&renewed);
        let Some(episode) = self.ledger.episodes.get_mut(key) else {
            return false;
        };
        let was_doubted = episode.evidence.is_doubted();
        let is_new_source = episode.evidence.last_firing(statement.source).is_none();
        let fresh_for = statement.fresh_for.unwrap_or(hold);
        episode
            .evidence
            .record_firing(statement.source, statement.at, fresh_for);
        let is_confirmed = was_doubted && !episode.evidence.is_doubted();
        // Alertmanager merges the start times of two Prometheus servers into the earlier one.
        let is_earlier = statement.source != EvidenceSource::Own && statement.alert.starts_at < episode.starts_at;
        let is_old = now.saturating_sub(episode.seen_at) >= hold / 4;
        if !(is_old || is_earlier || is_confirmed || is_new_source) {
            return false;
        }
        let mut seen = episode.clone();
        seen.seen_at = now;
        if is_earlier {
            seen.starts_at = statement.alert.starts_at;
        }
        self.stage(Entry::Episode(seen));
        self.stage(renewed);
        is_confirmed
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
    fn is_reverting(&self, lease: &Lease) -> bool {
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

/// The episode that an alert opens for a rule. `now` is CLOCK_BOOTTIME.
pub fn open_episode(rule: &Rule, alert: &Alert, now: Duration, simulated: bool) -> Episode {
    Episode {
        key: EpisodeKey::new(&rule.name, &alert.fingerprint, simulated),
        steps_text: rule.steps_text(),
        source: alert.source,
        labels: alert.labels.clone(),
        annotations: alert.annotations.clone(),
        generator_url: alert.generator_url.clone(),
        starts_at: alert.starts_at,
        opened_at: now,
        seen_at: now,
        evidence: evidence_of(rule, &Statement::delivered(alert, now)),
        targets: Vec::new(),
        excluded: Vec::new(),
    }
}

fn evidence_of(rule: &Rule, statement: &Statement<'_>) -> Evidence {
    let fresh_for = statement.fresh_for.unwrap_or(rule.hold);
    Evidence::firing(statement.source, statement.at, fresh_for)
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
