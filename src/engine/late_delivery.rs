//! The order of the statements of one source about one alert, which shows late deliveries. Pure.
//!
//! Wall-clock times order only deliveries of Alertmanager, only against each other, and only within [`LATE`], because
//! no clock is trusted for longer.

use crate::alert::{Alert, Source};
use crate::ledger::{Closed, Episode, EvidenceSource};
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a delivery of Alertmanager may be out of order: a notification is retried for the
/// `group_interval`, 5 min by default, and members of a cluster wait 15 s for each other.
pub const LATE: Duration = Duration::from_secs(300);

/// By how much the starts differ that two Prometheus servers report for one alert: an evaluation and a scrape later, both
/// each minute by default.
const START_SPREAD: Duration = Duration::from_secs(120);

/// Whether deliveries from before an end may still arrive at `now` (CLOCK_BOOTTIME).
pub fn is_recent(end: &Closed, now: Duration) -> bool {
    end.closed_at.is_none_or(|at| now.saturating_sub(at) < LATE)
}

/// A report of a source about an alert.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'a> {
    pub alert: &'a Alert,
    pub source: EvidenceSource,
    /// CLOCK_BOOTTIME of the report.
    pub at: Duration,
    /// How long a report of a firing alert counts; `None` for the rule's `hold`.
    pub fresh_for: Option<Duration>,
}

impl<'a> Statement<'a> {
    /// A report at `at`, by webhook or own evaluation.
    pub fn delivered(alert: &'a Alert, at: Duration) -> Statement<'a> {
        let (source, fresh_for) = match alert.source {
            Source::Alertmanager => (EvidenceSource::Webhook, None),
            Source::Local => (EvidenceSource::Own, Some(crate::ledger::evidence::OWN_IS_FRESH)),
        };
        Statement {
            alert,
            source,
            at,
            fresh_for,
        }
    }

    /// Whether it reports a firing alert whose end, recorded as `closed`, is later.
    pub fn is_late_firing(&self, closed: Option<&Closed>) -> bool {
        let Some(closed) = closed else { return false };
        match self.source {
            EvidenceSource::Own => false,
            EvidenceSource::Polled => self.at < closed.closed_at.unwrap_or(self.at),
            EvidenceSource::Webhook => self.alert.starts_at <= closed.ended_at && is_recent(closed, self.at),
        }
    }

    /// Whether it resolves an alert that had ended before this episode began. A resolve with another start that ends
    /// after the beginning is the same alert: Alertmanager merges the starts that two Prometheus servers send.
    pub fn is_late_resolve(&self, episode: &Episode) -> bool {
        let last_firing = episode.evidence.last_firing(EvidenceSource::Webhook);
        self.source == EvidenceSource::Webhook
            && self.alert.starts_at != episode.starts_at
            && self.alert.ends_at.is_some_and(|ended_at| ended_at < episode.starts_at)
            && last_firing.is_some_and(|at| self.at.saturating_sub(at) < LATE)
    }

    /// The end as reported by the alert, or `now` if a resolve has none. It is compared with starts from the same sender.
    /// An end in the future would make the next firing stale, so it is no later than [`START_SPREAD`] after `now` or after
    /// the latest start that the sender reported. Where this host's clock is behind, that still covers the late firing of
    /// another Prometheus server.
    pub fn ended_at(&self, now: Timestamp, latest_start: Option<Timestamp>) -> Timestamp {
        let starts_at = self.alert.starts_at;
        let latest = latest_start.unwrap_or(starts_at).max(starts_at).max(now);
        let latest = latest.saturating_add(START_SPREAD).unwrap_or(Timestamp::MAX);
        self.alert.ends_at.unwrap_or(now).max(starts_at).min(latest)
    }
}

/// The ends that Alertmanager reported recently, by fingerprint. The ledger has the ends of episodes, by rule: a late
/// duplicate may match a rule that had no episode, or find the episode open because another source keeps it so.
#[derive(Debug, Default)]
pub struct RecentEnds {
    ends: BTreeMap<SmolStr, Closed>,
    /// CLOCK_BOOTTIME at which old ends were removed last.
    cleaned_at: Duration,
}

impl RecentEnds {
    /// Records an end that was reported at `now` (CLOCK_BOOTTIME).
    pub fn record(&mut self, fingerprint: &SmolStr, ended_at: Timestamp, now: Duration) {
        if now.saturating_sub(self.cleaned_at) >= LATE {
            self.ends.retain(|_, end| is_recent(end, now));
            self.cleaned_at = now;
        }
        let known = self.ends.get(fingerprint).filter(|end| is_recent(end, now));
        let end = Closed {
            ended_at: known.map_or(ended_at, |known| known.ended_at.max(ended_at)),
            closed_at: known.and_then(|known| known.closed_at).max(Some(now)),
        };
        self.ends.insert(fingerprint.clone(), end);
    }

    pub fn of(&self, fingerprint: &str) -> Option<&Closed> {
        self.ends.get(fingerprint)
    }

    /// The ends for which late deliveries may still arrive at `now` (CLOCK_BOOTTIME).
    pub fn recent(&self, now: Duration) -> Vec<(SmolStr, Closed)> {
        let recent = self.ends.iter().filter(|(_, end)| is_recent(end, now));
        recent.map(|(fingerprint, end)| (fingerprint.clone(), *end)).collect()
    }
}

/// The latest start that Alertmanager reported recently, by fingerprint.
#[derive(Debug, Default)]
pub struct RecentStarts {
    /// With CLOCK_BOOTTIME of the report.
    starts: BTreeMap<SmolStr, (Timestamp, Duration)>,
    /// CLOCK_BOOTTIME at which old starts were removed last.
    cleaned_at: Duration,
}

impl RecentStarts {
    /// Records a start that was reported at `now` (CLOCK_BOOTTIME).
    pub fn record(&mut self, fingerprint: &SmolStr, starts_at: Timestamp, now: Duration) {
        if now.saturating_sub(self.cleaned_at) >= LATE {
            self.starts.retain(|_, (_, at)| now.saturating_sub(*at) < LATE);
            self.cleaned_at = now;
        }
        let start = self.starts.entry(fingerprint.clone()).or_insert((starts_at, now));
        *start = (start.0.max(starts_at), now);
    }

    pub fn of(&self, fingerprint: &str) -> Option<Timestamp> {
        self.starts.get(fingerprint).map(|(starts_at, _)| *starts_at)
    }
}

/// The end to record for an episode that closes without a resolve of Alertmanager: the last one that a delivery reported.
/// The alert may still fire, and then arrives again with the same start or an earlier one, which must not count as stale.
/// An end by this host's clock orders no deliveries, and an alert of Prometheus may have the labels of an own alert.
pub fn end_without_resolve(episode: &Episode) -> Timestamp {
    episode.evidence.reported_end().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The end to record for an episode that closes at `now` (CLOCK_BOOTTIME). A recently reported end is kept if the alert was listed
/// once more and then no longer, because duplicates from before that end may still arrive.
pub fn end_to_remember(known: Option<&Closed>, ended_at: Timestamp, now: Duration) -> Closed {
    let recent = known.filter(|known| is_recent(known, now));
    Closed {
        ended_at: recent.map_or(ended_at, |known| known.ended_at.max(ended_at)),
        closed_at: Some(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Status;
    use crate::ledger::{EpisodeKey, Evidence};

    const CLOSED_AT: Duration = Duration::from_secs(5000);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn alert(status: Status, starts: i64, ends: i64) -> Alert {
        Alert {
            labels: Default::default(),
            annotations: Default::default(),
            generator_url: None,
            status,
            starts_at: at(starts),
            ends_at: (status == Status::Resolved).then(|| at(ends)),
            fingerprint: "f".into(),
            source: Source::Alertmanager,
        }
    }

    fn is_late_firing(source: EvidenceSource, starts: i64, seconds_after: u64) -> bool {
        let now = CLOSED_AT + Duration::from_secs(seconds_after);
        let alert = alert(Status::Firing, starts, 0);
        let statement = Statement {
            source,
            ..Statement::delivered(&alert, now)
        };
        let closed = Closed {
            ended_at: at(110),
            closed_at: Some(CLOSED_AT),
        };
        statement.is_late_firing(Some(&closed))
    }

    #[test]
    fn recent_ends_are_kept_for_as_long_as_deliveries_are_late() {
        let mut ends = RecentEnds::default();
        let (one, other) = (SmolStr::new("one"), SmolStr::new("other"));
        ends.record(&one, at(110), CLOSED_AT);
        ends.record(&one, at(105), CLOSED_AT - Duration::from_secs(1));
        let expected = Closed {
            ended_at: at(110),
            closed_at: Some(CLOSED_AT),
        };
        assert_eq!(ends.of("one"), Some(&expected));
        ends.record(&other, at(120), CLOSED_AT + LATE - Duration::from_secs(1));
        assert!(ends.of("one").is_some());
        ends.record(&other, at(130), CLOSED_AT + LATE);
        assert_eq!(ends.of("one"), None);
        assert_eq!(ends.of("other").map(|end| end.ended_at), Some(at(130)));
    }

    #[test]
    fn a_firing_from_before_the_end_is_late_for_a_while() {
        use EvidenceSource::{Own, Polled, Webhook};
        assert!(is_late_firing(Webhook, 100, 0));
        assert!(is_late_firing(Webhook, 110, 299));
        assert!(!is_late_firing(Webhook, 111, 0));
        assert!(!is_late_firing(Webhook, 100, 300), "the alert fires by now");
        assert!(!is_late_firing(Polled, 100, 1), "a list says what fires now");
        assert!(!is_late_firing(Own, 100, 0));
        let alert = alert(Status::Firing, 100, 0);
        let earlier = Statement {
            source: Polled,
            ..Statement::delivered(&alert, CLOSED_AT - Duration::from_secs(1))
        };
        let closed = Closed {
            ended_at: at(110),
            closed_at: Some(CLOSED_AT),
        };
        assert!(earlier.is_late_firing(Some(&closed)), "asked before the end");
    }

    #[test]
    fn a_reported_end_outlives_a_later_close_for_a_while() {
        let known = Closed {
            ended_at: at(110),
            closed_at: Some(CLOSED_AT),
        };
        let check = |known: Option<&Closed>, ended_at: i64, seconds_after: u64, expected: i64| {
            let now = CLOSED_AT + Duration::from_secs(seconds_after);
            let closed = end_to_remember(known, at(ended_at), now);
            assert_eq!((closed.ended_at, closed.closed_at), (at(expected), Some(now)));
        };
        check(None, 99, 0, 99);
        check(Some(&known), 99, 299, 110);
        check(Some(&known), 99, 300, 99);
        check(Some(&known), 120, 1, 120);
    }

    #[test]
    fn a_resolve_of_an_earlier_alert_is_late_for_a_while() {
        let check = |starts: i64, ends: i64, seconds_after: u64| {
            let episode = Episode {
                key: EpisodeKey {
                    rule: "calm".into(),
                    fingerprint: "f".into(),
                    simulated: false,
                },
                steps_text: String::new(),
                source: Source::Alertmanager,
                labels: Default::default(),
                annotations: Default::default(),
                generator_url: None,
                starts_at: at(100),
                opened_at: Duration::ZERO,
                seen_at: Duration::ZERO,
                evidence: Evidence::firing(EvidenceSource::Webhook, CLOSED_AT, Duration::from_secs(3600)),
                targets: vec![],
                excluded: vec![],
            };
            let now = CLOSED_AT + Duration::from_secs(seconds_after);
            let alert = alert(Status::Resolved, starts, ends);
            Statement::delivered(&alert, now).is_late_resolve(&episode)
        };
        assert!(check(80, 90, 0));
        assert!(!check(80, 90, 300), "the alert has ended by now");
        assert!(!check(80, 150, 0), "merged with an earlier start");
        assert!(!check(100, 90, 0), "the very start, whatever the clock shows");
        assert!(!check(120, 130, 0), "a later start, whose firing was lost");
    }
}
