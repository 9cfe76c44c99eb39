//! The evidence for an alert: what each source last reported, and the level that follows from it: firing, unconfirmed
//! or over. Pure.
//!
//! An episode does not follow deliveries one by one. It remembers per source when the alert was last reported as
//! firing and as over, on CLOCK_BOOTTIME, and [`Evidence::level`] derives the level from that. So a lost, repeated or
//! late delivery can delay a level, but never lead to another one.

use crate::alert::alert::FIRING_SET_INTERVAL;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a report of own evaluation counts: four of its complete sets.
pub const OWN_IS_FRESH: Duration = Duration::from_secs(4 * FIRING_SET_INTERVAL.as_secs());

/// A source of evidence about an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceSource {
    /// Alertmanager's deliveries. They repeat rarely (`repeat_interval`), so one counts for the rule's `hold`.
    Webhook,
    /// The lists of the polled Alertmanagers.
    #[serde(rename = "asked")]
    Polled,
    /// evenkeel's own evaluation of alerting rules.
    Own,
}

impl EvidenceSource {
    /// Whether a resolve of one source counts for the other as well, because deliveries and lists come from the same
    /// Alertmanagers.
    fn shares_end_with(self, other: EvidenceSource) -> bool {
        (self == EvidenceSource::Own) == (other == EvidenceSource::Own)
    }
}

/// The level of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A source reported it recently enough. Steps are applied.
    Firing,
    /// A source reported it once, but not since a start or a reload, or not for long. Leases stay, and no new steps are
    /// applied.
    Unconfirmed,
    /// All leases are reverted, and the episode closes.
    Over,
}

impl Level {
    /// The value of `state` in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Firing => "firing",
            Level::Unconfirmed => "unconfirmed",
            Level::Over => "over",
        }
    }
}

/// The last reports of one source. All times are CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct SourceReport {
    source: EvidenceSource,
    /// When it last reported the alert as firing.
    firing_at: Duration,
    /// How long that counts.
    fresh_for: Duration,
    /// When it, or a source that shares its resolves, last reported the alert as over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over_at: Option<Duration>,
    /// Whether that report came after the last start, or reload that changed the rule.
    #[serde(default)]
    confirms: bool,
}

impl SourceReport {
    fn is_firing(&self) -> bool {
        self.over_at.is_none_or(|over_at| over_at < self.firing_at)
    }

    fn fresh_until(&self) -> Duration {
        self.firing_at.saturating_add(self.fresh_for)
    }
}

/// The last reports of all sources about one alert.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evidence {
    #[serde(rename = "words")]
    reports: Vec<SourceReport>,
    /// CLOCK_BOOTTIME of the last start, or reload that changed the rule. Earlier reports do not confirm the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubted_at: Option<Duration>,
    /// The latest end that a delivery of Alertmanager reported, by the sender's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
}

impl Evidence {
    /// Evidence with one report at `at` that the alert fires.
    pub fn firing(source: EvidenceSource, at: Duration, fresh_for: Duration) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.record_firing(source, at, fresh_for);
        evidence
    }

    /// Records a report at `at` that the alert fires, which counts for `fresh_for`.
    pub fn record_firing(&mut self, source: EvidenceSource, at: Duration, fresh_for: Duration) {
        let confirms = self.doubted_at.is_none_or(|doubted_at| at >= doubted_at);
        let is_shared = |report: &&SourceReport| report.source.shares_end_with(source);
        let over_at = self
            .reports
            .iter()
            .filter(is_shared)
            .filter_map(|report| report.over_at)
            .max();
        match self.reports.iter_mut().find(|report| report.source == source) {
            Some(report) if report.firing_at > at => {}
            Some(report) => (report.firing_at, report.fresh_for, report.confirms) = (at, fresh_for, confirms),
            None => self.reports.push(SourceReport {
                source,
                firing_at: at,
                fresh_for,
                over_at,
                confirms,
            }),
        }
    }

    /// Records a report at `at` that the alert is over.
    pub fn record_over(&mut self, source: EvidenceSource, at: Duration) {
        for report in self
            .reports
            .iter_mut()
            .filter(|report| report.source.shares_end_with(source))
        {
            report.over_at = report.over_at.max(Some(at));
        }
    }

    /// Records the end that a delivery of Alertmanager reported. Another source may still report the alert as firing.
    pub fn note_end(&mut self, ended_at: Timestamp) {
        self.ended_at = self.ended_at.max(Some(ended_at));
    }

    /// The latest end that a delivery of Alertmanager reported.
    pub fn reported_end(&self) -> Option<Timestamp> {
        self.ended_at
    }

    /// Makes the alert unconfirmed: reports from before `at` no longer confirm it.
    pub fn doubt(&mut self, at: Duration) {
        self.doubted_at = self.doubted_at.max(Some(at));
        self.reports.iter_mut().for_each(|report| report.confirms = false);
    }

    /// Whether the alert is unconfirmed since a start or a reload.
    pub fn is_doubted(&self) -> bool {
        self.doubted_at.is_some() && self.confirming().next().is_none()
    }

    /// The reports since the last start or reload that the alert fires.
    fn confirming(&self) -> impl Iterator<Item = &SourceReport> {
        self.reports
            .iter()
            .filter(|report| report.is_firing() && report.confirms)
    }

    /// CLOCK_BOOTTIME at which `source` last reported the alert as firing, unless it reported it as over later.
    pub fn last_firing(&self, source: EvidenceSource) -> Option<Duration> {
        let mut reports = self.reports.iter();
        let report = reports.find(|report| report.source == source && report.is_firing());
        report.map(|report| report.firing_at)
    }

    /// Whether an Alertmanager, by webhook or list, reported the alert as firing and not as over.
    pub fn is_from_alertmanager(&self) -> bool {
        let sources = [EvidenceSource::Webhook, EvidenceSource::Polled];
        sources.iter().any(|source| self.last_firing(*source).is_some())
    }

    /// The level at `now`. `hold` is the rule's: without a report for that time the alert is over, and an unconfirmed
    /// alert is over after [`unconfirmed_bound`].
    pub fn level(&self, now: Duration, hold: Duration) -> Level {
        let firing = self.reports.iter().filter(|report| report.is_firing());
        let Some(last) = firing.map(|report| report.firing_at).max() else {
            return Level::Over;
        };
        if now >= last.saturating_add(hold) {
            return Level::Over;
        }
        let fresh_until = self.confirming().map(SourceReport::fresh_until).max();
        if fresh_until.is_some_and(|until| now < until) {
            return Level::Firing;
        }
        let unconfirmed_since = fresh_until.max(self.doubted_at).unwrap_or_default();
        if now >= unconfirmed_since.saturating_add(unconfirmed_bound(hold)) {
            return Level::Over;
        }
        Level::Unconfirmed
    }
}

/// Longest time of an episode without confirmation: nine tenths of the rule's `hold`. With the defaults that is
/// 4 h 30 min, above Alertmanager's `repeat_interval` of 4 h and a `group_interval` of 5 min.
pub fn unconfirmed_bound(hold: Duration) -> Duration {
    hold / 10 * 9
}

#[cfg(test)]
mod tests {
    use super::EvidenceSource::{Own, Polled, Webhook};
    use super::Level::{Firing, Over, Unconfirmed};
    use super::*;

    const HOLD: Duration = Duration::from_secs(1000);
    const PATIENCE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fresh_for(source: EvidenceSource) -> Duration {
        match source {
            Webhook => HOLD,
            Polled => PATIENCE,
            Own => OWN_IS_FRESH,
        }
    }

    /// A report: time, source, and whether the alert fires; without a source, a start of the daemon.
    type Said = (u64, Option<(EvidenceSource, bool)>);

    fn check(said: &[Said], expected: &[(u64, Level)]) {
        let mut evidence = Evidence::default();
        for (seconds, what) in said {
            match what {
                Some((source, true)) => evidence.record_firing(*source, at(*seconds), fresh_for(*source)),
                Some((source, false)) => evidence.record_over(*source, at(*seconds)),
                None => evidence.doubt(at(*seconds)),
            }
        }
        for (seconds, level) in expected {
            assert_eq!(evidence.level(at(*seconds), HOLD), *level, "{said:?} at {seconds}");
        }
    }

    #[test]
    fn a_webhook_counts_for_hold() {
        check(&[], &[(0, Over)]);
        check(&[(0, Some((Webhook, true)))], &[(999, Firing), (1000, Over)]);
        check(&[(0, Some((Webhook, true))), (5, Some((Webhook, false)))], &[(5, Over)]);
    }

    #[test]
    fn silent_source_leaves_the_alert_unconfirmed() {
        check(
            &[(0, Some((Own, true)))],
            &[(59, Firing), (60, Unconfirmed), (959, Unconfirmed), (960, Over)],
        );
        check(
            &[(0, Some((Polled, true)))],
            &[(299, Firing), (300, Unconfirmed), (1000, Over)],
        );
    }

    #[test]
    fn start_needs_a_confirmation_from_any_source() {
        let before = [(0, Some((Webhook, true))), (10, None)];
        check(&before, &[(10, Unconfirmed), (909, Unconfirmed), (910, Over)]);
        for source in [Webhook, Polled, Own] {
            let mut said = before.to_vec();
            said.push((20, Some((source, true))));
            check(&said, &[(20, Firing)]);
        }
        check(&[(20, None), (10, Some((Polled, true)))], &[(21, Unconfirmed)]);
        // The confirming source reports the end; the other has not reported since the start.
        let mut said = before.to_vec();
        said.extend([(20, Some((Own, true))), (30, Some((Own, false)))]);
        check(&said, &[(30, Unconfirmed), (909, Unconfirmed), (910, Over)]);
    }

    #[test]
    fn end_counts_for_every_alertmanager_not_own_evaluation() {
        let both = [
            (0, Some((Webhook, true))),
            (0, Some((Polled, true))),
            (0, Some((Own, true))),
        ];
        let mut said = both.to_vec();
        said.push((5, Some((Webhook, false))));
        check(&said, &[(5, Firing)]);
        said.push((6, Some((Own, false))));
        check(&said, &[(6, Over)]);
        // A list that was requested before the end does not contradict it.
        said.push((4, Some((Polled, true))));
        check(&said, &[(6, Over)]);
        said.push((7, Some((Polled, true))));
        check(&said, &[(7, Firing)]);
    }
}
