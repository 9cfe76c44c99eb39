//! One report of a source about an alert: it opens or confirms an episode, or ends it. Late and repeated reports change
//! nothing.

use super::episodes::{Episodes, Trigger};
use super::late_delivery::{Statement, end_without_resolve, is_recent};
use super::share::{MAX_PER_ALERT, OpenCounts, ShareExceeded};
use super::transaction::AlertRef;
use crate::alert::Alert;
use crate::ledger::{Closed, Decision, Entry, Episode, EpisodeKey, Evidence, EvidenceSource, Lease, Level};
use crate::rule::Rule;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::sync::Arc;
use std::time::Duration;

/// A repeat so soon after the last look changes nothing.
const JUST_NOW: Duration = Duration::from_secs(1);

/// A report and the episodes that it may change.
pub(super) struct ReportedAlert<'a, 's> {
    pub episodes: Episodes<'a>,
    pub statement: Statement<'s>,
}

impl ReportedAlert<'_, '_> {
    /// Whether an alert is about this host, or the rule acts for any host. Alerts of own evaluation are always about this host.
    fn is_about_us(&mut self, rule: &Rule) -> bool {
        let statement = self.statement;
        if statement.source == EvidenceSource::Own || rule.any_host {
            return true;
        }
        let Err(reason) = self.episodes.policy.host_identity.recognises(&statement.alert.labels) else {
            return true;
        };
        tracing::info!(
            rule = rule.name.as_str(),
            alert = statement.alert.name(),
            reason,
            "alert of another host ignored"
        );
        self.episodes.count(rule.name.clone(), Decision::OtherHost);
        false
    }

    /// Records a firing alert that matches a rule: it opens an episode, or confirms the open one. Returns the episode to
    /// evaluate now, if there is one.
    pub fn record_firing(mut self, rule: &Rule) -> Option<(EpisodeKey, Trigger)> {
        let statement = self.statement;
        if !self.is_about_us(rule) {
            return None;
        }
        let alert = statement.alert;
        let simulated = self.episodes.policy.is_simulated(rule);
        let key = EpisodeKey::new(&rule.name, &alert.fingerprint, simulated);
        let ends = [
            self.episodes.ledger.closed.get(&key).copied(),
            self.episodes.open.recent_ends.of(&alert.fingerprint).copied(),
        ];
        if ends.iter().any(|end| statement.is_late_firing(end.as_ref())) {
            let reason = "the alert began before the last episode ended";
            self.ignore_stale(rule.name.clone(), reason);
            return None;
        }
        if statement.source == EvidenceSource::Webhook {
            let starts = &mut self.episodes.open.recent_starts;
            starts.record(&alert.fingerprint, alert.starts_at, statement.at);
        }
        if statement.source != EvidenceSource::Own {
            self.episodes.open.missing_alerts.heard(&alert.fingerprint);
        }
        if self.episodes.ledger.episodes.contains_key(&key) {
            return self.record_repeat(rule, key);
        }
        if let Err(reason) = self.check_share(&rule.name) {
            self.refuse(&rule.name, reason);
            return None;
        }
        let mut episode = open_episode(rule, alert, self.episodes.now(), simulated);
        episode.evidence = evidence_of(rule, &statement);
        for end in ends.iter().flatten().filter(|end| is_recent(end, statement.at)) {
            episode.evidence.note_end(end.ended_at);
        }
        self.episodes.stage(Entry::Episode(episode));
        if self.episodes.ledger.is_paused(&rule.name) {
            // The episode stays open, so that it is evaluated when the pause ends, not only at the next repeat.
            let about = AlertRef::new(&rule.name, &alert.labels, &alert.fingerprint);
            let mut record = about.record(self.episodes.transaction.now);
            record.decision = Some(Decision::Paused);
            self.episodes.stage_record(record);
        }
        Some((key, Trigger::Opened))
    }

    /// Whether an alert may open an episode, and a place for it in this transaction.
    fn check_share(&mut self, rule: &SmolStr) -> Result<(), ShareExceeded> {
        if self.episodes.ledger.episodes.len() < MAX_PER_ALERT {
            return Ok(());
        }
        let episodes = &self.episodes.ledger.episodes;
        let counts = self
            .episodes
            .transaction
            .open_counts
            .get_or_insert_with(|| OpenCounts::of(episodes));
        let alertname = self.statement.alert.name();
        counts.check_share(rule, alertname)?;
        counts.add(rule, alertname);
        Ok(())
    }

    /// Refuses an alert, so that its sender tries again.
    fn refuse(&mut self, rule: &SmolStr, reason: ShareExceeded) {
        // A delivery may have thousands of them.
        if self.episodes.transaction.share_exceeded.is_none() {
            tracing::warn!(rule = rule.as_str(), alert = self.statement.alert.name(), %reason, "alert refused");
        }
        self.episodes.transaction.share_exceeded = Some(reason);
        self.episodes.telemetry.alert_refused(rule);
        self.episodes.count(rule.clone(), Decision::Budget);
    }

    fn record_repeat(&mut self, rule: &Rule, key: EpisodeKey) -> Option<(EpisodeKey, Trigger)> {
        let is_confirmed = self.confirm(&key, rule.hold);
        self.episodes.resume_victims(&key);
        if is_confirmed {
            self.episodes.resume_requests(&key);
        } else if !self.episodes.transaction.is_unledgered && self.was_just_evaluated(&key) {
            self.episodes.count(rule.name.clone(), Decision::Duplicate);
            return None;
        }
        Some((key, Trigger::Repeat))
    }

    /// Counts a stale delivery, which changes nothing.
    fn ignore_stale(&mut self, rule: SmolStr, reason: &'static str) {
        tracing::info!(
            rule = rule.as_str(),
            alert = self.statement.alert.name(),
            reason,
            "stale delivery"
        );
        self.episodes.count(rule, Decision::Stale);
    }

    /// Closes every open episode of a resolved alert, regardless of rules, identity and mode. Without an open episode the end is
    /// recorded for the matching rules, so that a late firing is recognised as stale.
    pub fn record_resolved<'r>(mut self, matching: impl Iterator<Item = &'r Arc<Rule>>) {
        let statement = self.statement;
        let alert = statement.alert;
        let ended_at = self.ended_at();
        if statement.source == EvidenceSource::Webhook {
            self.episodes
                .open
                .recent_ends
                .record(&alert.fingerprint, ended_at, statement.at);
        }
        let is_its = |key: &&EpisodeKey| key.fingerprint == alert.fingerprint;
        let open: Vec<EpisodeKey> = self.episodes.ledger.episodes.keys().filter(is_its).cloned().collect();
        for key in &open {
            self.resolve_episode(key);
        }
        for rule in matching {
            let key = EpisodeKey::new(&rule.name, &alert.fingerprint, self.episodes.policy.is_simulated(rule));
            if open.contains(&key) || !self.is_about_us(rule) {
                continue;
            }
            let closed = Closed {
                ended_at,
                closed_at: Some(self.episodes.now()),
            };
            match self.episodes.ledger.closed.get(&key) {
                Some(known) if known.ended_at >= closed.ended_at => {
                    self.episodes.count(rule.name.clone(), Decision::Duplicate);
                }
                // Deliveries of own evaluation are never late.
                _ if statement.source == EvidenceSource::Own => {}
                _ => self.episodes.record_always(Entry::EpisodeClosed { key, closed }),
            }
        }
    }

    fn ended_at(&self) -> Timestamp {
        let statement = self.statement;
        let latest_start = self.episodes.open.recent_starts.of(&statement.alert.fingerprint);
        statement.ended_at(self.episodes.transaction.now.wall, latest_start)
    }

    fn resolve_episode(&mut self, key: &EpisodeKey) {
        let statement = self.statement;
        let Some(mut episode) = self.episodes.ledger.episodes.get(key).cloned() else {
            return;
        };
        if statement.is_late_resolve(&episode) {
            let reason = "the alert resolves an earlier episode";
            return self.ignore_stale(key.rule.clone(), reason);
        }
        episode.evidence.record_over(statement.source, statement.at);
        let mut ended_at = self.ended_at();
        if statement.source == EvidenceSource::Own {
            ended_at = end_without_resolve(&episode);
        } else {
            episode.evidence.note_end(ended_at);
        }
        if self.episodes.level_of(&episode) == Level::Over {
            let about = AlertRef::new(&key.rule, &statement.alert.labels, &key.fingerprint);
            return self.episodes.close(key, &about, ended_at, "the alert ended");
        }
        tracing::info!(
            rule = key.rule.as_str(),
            alert = statement.alert.name(),
            "alert resolved in one source, still firing in another"
        );
        self.episodes.record_always(Entry::Episode(episode));
    }

    /// Whether a repeat can be skipped, because its episode was evaluated a moment ago. Many repeats must not read the process
    /// table each time.
    fn was_just_evaluated(&self, key: &EpisodeKey) -> bool {
        let waits_for_repeat = self
            .episodes
            .ledger
            .episodes
            .get(key)
            .is_some_and(|episode| episode.excluded.iter().any(|excluded| excluded.until_repeat));
        !waits_for_repeat
            && self
                .episodes
                .open
                .evaluated_at(key)
                .is_some_and(|at| at.saturating_add(JUST_NOW) > self.episodes.now())
    }

    /// Records that the alert of an open episode fires, and extends the deadlines of its leases. Repeats change memory only, and
    /// the ledger only after a quarter of the time or with new content, so that repeats cost no commit. Returns whether this
    /// confirms an unconfirmed episode.
    fn confirm(&mut self, key: &EpisodeKey, hold: Duration) -> bool {
        let statement = self.statement;
        let now = self.episodes.now();
        let renewable = |lease: &&Lease| !self.episodes.is_reverting(lease);
        let renewed = Entry::Renewed {
            ids: self
                .episodes
                .ledger
                .leases_of(key)
                .filter(renewable)
                .map(|lease| lease.id)
                .collect(),
            deadline: now + hold,
        };
        // In memory first, because a ledger that cannot be written rolls the staged entry back, and the leases of an alert
        // that fires must not expire meanwhile.
        self.episodes.ledger.record(&renewed);
        let Some(episode) = self.episodes.ledger.episodes.get_mut(key) else {
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
        self.episodes.stage(Entry::Episode(seen));
        self.episodes.stage(renewed);
        is_confirmed
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
