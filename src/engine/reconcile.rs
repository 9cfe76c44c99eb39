//! What follows from asking the Alertmanagers: alerts that fire there and are unknown here are delivered, known ones are
//! repeated, and episodes whose alert is absent for long are closed.

use super::Engine;
use super::turn::{About, Turn};
use crate::alert::alertmanager::Survey;
use crate::alert::{Alert, Source, Status};
use crate::host::Host;
use crate::ledger::Episode;
use crate::ledger::book::WireSource;
use jiff::{SignedDuration, Timestamp};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::time::Instant;

impl<H: Host> Engine<H> {
    /// Brings episodes into line with a survey.
    pub fn reconcile(&mut self, survey: &Survey) {
        self.close_absent(survey);
        let mut alerts = survey.firing();
        alerts.retain(|alert| self.is_for_us(alert));
        let known = self.open_fingerprints();
        let unknown: BTreeSet<SmolStr> = alerts
            .iter()
            .map(|alert| &alert.fingerprint)
            .filter(|fingerprint| !known.contains(fingerprint.as_str()))
            .cloned()
            .collect();
        if self.book.paused {
            // Each would leave a durable line, every half minute.
            alerts.retain(|alert| !unknown.contains(&alert.fingerprint));
        }
        for alert in alerts.iter().filter(|alert| unknown.contains(&alert.fingerprint)) {
            tracing::info!(
                alert = alert.name(),
                fingerprint = alert.fingerprint.as_str(),
                "Alertmanager lists an alert that is not open here"
            );
        }
        if alerts.is_empty() {
            return;
        }
        if let Err(reason) = self.take(&alerts, Instant::now()) {
            tracing::warn!(reason, "what Alertmanager lists was not taken; it is asked again");
        }
    }

    /// Notes that an Alertmanager told of an alert that fires.
    pub(super) fn hear(&mut self, alert: &Alert) {
        if alert.source == Source::Alertmanager && alert.status == Status::Firing {
            self.absences.heard(&alert.fingerprint);
        }
    }

    fn close_absent(&mut self, survey: &Survey) {
        let mut turn = Turn::new(self.host.now(), None);
        let episodes: Vec<Episode> = self
            .book
            .episodes
            .values()
            .filter(|episode| episode.source == WireSource::Alertmanager)
            .cloned()
            .collect();
        let open = episodes.iter().map(|episode| &*episode.key.fingerprint).collect();
        let over = self.absences.judge(&open, survey, turn.boot_now());
        for episode in episodes.iter().filter(|e| over.contains(&*e.key.fingerprint)) {
            let about = About::new(&episode.key.rule, &episode.labels, &episode.key.fingerprint);
            tracing::info!(
                rule = about.rule.as_str(),
                alert = about.alertname.as_str(),
                fingerprint = about.fingerprint.as_str(),
                patience_seconds = survey.patience.as_secs(),
                "no Alertmanager lists the alert any more: resolved without word, silenced or inhibited"
            );
            let why = "Alertmanager listed the alert no more";
            self.close(&episode.key, &about, before(episode.starts_at), why, &mut turn);
        }
        self.finish(turn);
    }

    fn open_fingerprints(&self) -> BTreeSet<&str> {
        self.book.episodes.keys().map(|key| key.fingerprint.as_str()).collect()
    }

    /// Whether some rule would take it. Alerts about other hosts are no news every half minute.
    fn is_for_us(&self, alert: &Alert) -> bool {
        let mut rules = self.policy.rules.rules.iter();
        rules.any(|rule| {
            rule.matches(&alert.labels) && (rule.any_host || self.policy.here.recognises(&alert.labels).is_ok())
        })
    }
}

/// The end that is noted for an episode that was closed by absence. Its alert may never have ended: when the silence is
/// over it comes back with the same start, which must not pass for news from the past.
fn before(starts_at: Timestamp) -> Timestamp {
    starts_at
        .checked_sub(SignedDuration::from_millis(1))
        .unwrap_or(Timestamp::MIN)
}
