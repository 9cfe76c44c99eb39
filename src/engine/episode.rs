//! What a delivery means for an episode: first firing, repeat, resolve, or news from the past. Pure.

use crate::alert::{Alert, Status};
use crate::ledger::Episode;
use jiff::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Open,
    Repeat,
    Close {
        ended_at: Timestamp,
    },
    /// Remember the end of an episode that was never seen, so that its firing is stale when it comes late.
    Remember {
        ended_at: Timestamp,
    },
    Stale(&'static str),
    Duplicate(&'static str),
}

/// `open` is the open episode of this alert for the rule; `closed` is when the last closed one ended, by the alert's
/// own account; `now` stands in where a resolve does not say when.
pub fn admit(alert: &Alert, open: Option<&Episode>, closed: Option<Timestamp>, now: Timestamp) -> Admission {
    match (alert.status, open) {
        (Status::Firing, Some(_)) => Admission::Repeat,
        (Status::Firing, None) => match closed {
            Some(ended_at) if alert.starts_at <= ended_at => {
                Admission::Stale("it began no later than the last episode ended")
            }
            _ => Admission::Open,
        },
        (Status::Resolved, Some(episode)) if alert.starts_at < episode.starts_at => {
            Admission::Stale("it resolves an earlier episode")
        }
        (Status::Resolved, open) => {
            // An end in the future would call stale what begins before it.
            let ended_at = alert.ends_at.unwrap_or(now).min(now).max(alert.starts_at);
            match (open, closed) {
                (Some(_), _) => Admission::Close { ended_at },
                (None, Some(known)) if known >= ended_at => Admission::Duplicate("the episode is closed already"),
                (None, _) => Admission::Remember { ended_at },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Source;
    use crate::ledger::EpisodeKey;
    use crate::ledger::book::WireSource;
    use std::time::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn check(status: Status, starts: i64, open: Option<i64>, closed: Option<i64>) -> Admission {
        let alert = Alert {
            labels: Default::default(),
            annotations: Default::default(),
            status,
            starts_at: at(starts),
            ends_at: (status == Status::Resolved).then(|| at(starts + 10)),
            fingerprint: "f".into(),
            source: Source::Alertmanager,
        };
        let episode = open.map(|starts| Episode {
            key: EpisodeKey {
                rule: "calm".into(),
                fingerprint: "f".into(),
                simulated: false,
            },
            ladder: String::new(),
            source: WireSource::Alertmanager,
            labels: Default::default(),
            annotations: Default::default(),
            starts_at: at(starts),
            opened_at: Duration::ZERO,
            seen_at: Duration::ZERO,
            climbs: vec![],
            barred: vec![],
        });
        admit(&alert, episode.as_ref(), closed.map(at), at(1000))
    }

    #[test]
    fn deliveries_open_repeat_and_close() {
        use Status::{Firing, Resolved};
        assert_eq!(check(Firing, 100, None, None), Admission::Open);
        assert_eq!(check(Firing, 100, Some(100), None), Admission::Repeat);
        assert_eq!(check(Firing, 90, Some(100), None), Admission::Repeat);
        assert_eq!(
            check(Resolved, 100, Some(100), None),
            Admission::Close { ended_at: at(110) }
        );
        assert_eq!(
            check(Resolved, 120, Some(100), None),
            Admission::Close { ended_at: at(130) }
        );
    }

    #[test]
    fn news_from_the_past_is_stale() {
        use Status::{Firing, Resolved};
        assert!(matches!(check(Firing, 100, None, Some(110)), Admission::Stale(_)));
        assert!(matches!(check(Firing, 110, None, Some(110)), Admission::Stale(_)));
        assert_eq!(check(Firing, 111, None, Some(110)), Admission::Open);
        assert!(matches!(check(Resolved, 90, Some(100), Some(80)), Admission::Stale(_)));
        assert!(matches!(check(Resolved, 100, None, Some(110)), Admission::Duplicate(_)));
        assert_eq!(
            check(Resolved, 100, None, None),
            Admission::Remember { ended_at: at(110) }
        );
    }
}
