//! The reconciliation with complete sets of alerts: the lists of Alertmanagers, and the firing alerts of own
//! evaluation. Unknown alerts open episodes, known ones are confirmed, and episodes whose alert is absent close.

use super::Engine;
use super::batch::SourceReport;
use super::late_delivery::end_without_resolve;
use super::status::{MAX_SHOWN, other_labels};
use super::transaction::{AlertRef, Transaction};
use crate::alert::alertmanager::PollResult;
use crate::alert::{Alert, FiringSet, Source};
use crate::host::Host;
use crate::ledger::{Entry, Episode, EvidenceSource, Level};
use crate::rule::RuleIndex;
use crate::telemetry::UnansweredAlert;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

impl<H: Host> Engine<H> {
    /// Reconciles the episodes with the lists of the Alertmanagers.
    pub fn reconcile(&mut self, poll: &PollResult) {
        self.take_report(SourceReport::PollResult(poll.clone()));
    }

    /// Reconciles the episodes with own evaluation, now.
    pub fn take_firing_set(&mut self, set: &FiringSet) {
        self.take_report(SourceReport::FiringSet(set.clone(), self.boot_now()));
    }

    fn take_report(&mut self, report: SourceReport) {
        if let Err(reason) = self.process_reports(&[report], Instant::now().into(), usize::MAX) {
            tracing::warn!(reason, "could not process the alerts, waiting for the next report");
        }
    }

    /// The alerts to process of a poll; none of other reports.
    pub(super) fn listed(&self, report: &SourceReport) -> Vec<Alert> {
        let SourceReport::PollResult(poll) = report else {
            return Vec::new();
        };
        let mut alerts = poll.firing();
        alerts.retain(|alert| self.is_for_us(alert));
        let open = self.ledger.episodes.keys();
        let open: BTreeSet<&str> = open.map(|key| key.fingerprint.as_str()).collect();
        let is_known = |alert: &Alert| open.contains(alert.fingerprint.as_str());
        // While paused, each unknown one would leave a record at every poll.
        alerts.retain(|alert| !self.ledger.paused || is_known(alert));
        for alert in alerts.iter().filter(|alert| !is_known(alert)) {
            tracing::info!(
                alert = alert.name(),
                fingerprint = alert.fingerprint.as_str(),
                "alert without an open episode listed by Alertmanager"
            );
        }
        alerts
    }

    /// Shows the firing alerts of a complete report that no rule matches, so that a person sees them as well.
    pub(super) fn show_unanswered(&self, report: &SourceReport, index: &RuleIndex<'_>) {
        let (source, firing) = match report {
            SourceReport::Alerts(..) => return,
            // No Alertmanager answered.
            SourceReport::PollResult(poll) if poll.views.is_empty() => return,
            SourceReport::FiringSet(set, _) => (Source::Local, Cow::Borrowed(&set.firing)),
            SourceReport::PollResult(poll) => (Source::Alertmanager, Cow::Owned(poll.firing())),
        };
        let identity = &self.policy.host_identity;
        let is_ours = |alert: &&Alert| source == Source::Local || identity.recognises(&alert.labels).is_ok();
        let is_unanswered = |alert: &&Alert| index.matching(&alert.labels).next().is_none();
        let alerts = firing.iter().filter(is_ours).filter(is_unanswered).take(MAX_SHOWN);
        let alerts = alerts.map(|alert| UnansweredAlert {
            alertname: alert.name().into(),
            labels: other_labels(&alert.labels),
            source: SmolStr::new_static(source.as_str()),
            since: alert.starts_at,
        });
        self.telemetry.set_unanswered(source.as_str(), alerts.collect());
    }

    /// Records which alerts a complete report does not name. Returns whether it may be one.
    pub(super) fn record_absences(&mut self, report: &SourceReport, transaction: &mut Transaction) -> bool {
        match report {
            SourceReport::Alerts(..) => return false,
            SourceReport::FiringSet(set, at) => self.record_absent_from(set, *at, transaction),
            SourceReport::PollResult(poll) => self.record_unlisted(poll, transaction),
        }
        true
    }

    fn record_absent_from(&mut self, set: &FiringSet, at: Duration, transaction: &mut Transaction) {
        if !set.is_complete {
            return;
        }
        let firing: BTreeSet<&str> = set.firing.iter().map(|alert| &*alert.fingerprint).collect();
        let is_absent = |episode: &Episode| {
            let name = episode.labels.get("alertname").unwrap_or_default();
            !firing.contains(&*episode.key.fingerprint) && !set.unevaluated.contains(name)
        };
        let why = "own evaluation no longer has the alert";
        self.record_absent((EvidenceSource::Own, at), is_absent, why, transaction);
    }

    fn record_unlisted(&mut self, poll: &PollResult, transaction: &mut Transaction) {
        let episodes = self.ledger.episodes.values();
        let from_alertmanager = episodes.filter(|episode| episode.evidence.is_from_alertmanager());
        let open: BTreeSet<&str> = from_alertmanager.map(|episode| &*episode.key.fingerprint).collect();
        let over = self.open.missing_alerts.judge(&open, poll, poll.asked_at);
        let over: BTreeSet<SmolStr> = over.into_iter().map(SmolStr::from).collect();
        let is_over = |episode: &Episode| over.contains(&episode.key.fingerprint);
        let why = "Alertmanager no longer lists the alert";
        self.record_absent((EvidenceSource::Polled, poll.asked_at), is_over, why, transaction);
    }

    /// Records that a source no longer reports these alerts. Episodes without another source close.
    fn record_absent(
        &mut self,
        (source, at): (EvidenceSource, Duration),
        is_absent: impl Fn(&Episode) -> bool,
        why: &str,
        transaction: &mut Transaction,
    ) {
        let now = transaction.boot_now();
        let said_so = |episode: &Episode| match source {
            EvidenceSource::Own => episode.evidence.last_firing(source).is_some(),
            EvidenceSource::Webhook | EvidenceSource::Polled => episode.evidence.is_from_alertmanager(),
        };
        let episodes = self.ledger.episodes.values();
        let absent = episodes.filter(|episode| said_so(episode) && is_absent(episode));
        for mut episode in absent.cloned().collect::<Vec<_>>() {
            episode.evidence.record_over(source, at);
            if self.policy.level_of(&episode, now) != Level::Over {
                transaction.record_always(&mut self.ledger, Entry::Episode(episode));
                continue;
            }
            let key = &episode.key;
            let about = AlertRef::new(&key.rule, &episode.labels, &key.fingerprint);
            tracing::info!(
                rule = about.rule.as_str(),
                alert = about.alertname.as_str(),
                fingerprint = about.fingerprint.as_str(),
                why,
                "alert closed"
            );
            let ended_at = end_without_resolve(&episode);
            self.episodes(transaction).close(key, &about, ended_at, why);
        }
    }

    /// Whether a rule would act on the alert. Alerts about other hosts are not worth a log line at every poll.
    fn is_for_us(&self, alert: &Alert) -> bool {
        let mut rules = self.policy.rules.rules.iter();
        rules.any(|rule| {
            rule.matches(&alert.labels)
                && (rule.any_host || self.policy.host_identity.recognises(&alert.labels).is_ok())
        })
    }
}
