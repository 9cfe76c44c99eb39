//! Own evaluation: the real state machine on samples of the model's conditions, with the clock of the fake host, and the
//! file that outlasts a restart as `app/kept_alerts.rs` writes it.

use super::policies::CONFIGURATIONS;
use super::*;
use crate::alert::{Alert, FiringSet, Status};
use crate::app::own_evaluation::{self, Messages, SETTLING};
use crate::app::policy::EvaluationConfig;
use crate::family::Family;
use crate::host::Moment;
use crate::sense::Sampling;
use crate::watch::LabelSet;
use crate::watch::restart::ActiveAlerts;
use std::collections::{BTreeMap, BTreeSet};

/// What the own alerts read, in their order.
pub const METRICS: [&str; 2] = ["condition_own", "condition_both"];
pub const INSTANCE: &str = "web1:9100";
/// As in `app/kept_alerts.rs`.
const REFRESH: Duration = Duration::from_secs(15);

/// What it tells the engine.
pub enum Report {
    Alerts(Vec<Alert>),
    Firing(FiringSet),
}

pub struct OwnEvaluation {
    evaluation: own_evaluation::OwnEvaluation,
    /// Names of the alerts that it said fire.
    firing: BTreeSet<String>,
    file: AlertsFile,
}

/// The file in which active alerts outlast a restart.
#[derive(Clone, Default)]
pub struct AlertsFile {
    written: ActiveAlerts,
    written_at: Option<Duration>,
}

fn orders(variant: usize) -> EvaluationConfig {
    EvaluationConfig {
        files: vec![CONFIGURATIONS[variant].own_rules.clone()],
        conditions: BTreeMap::new(),
        // Each sample is evaluated, also where a suspension has moved them.
        interval: Duration::from_secs(1),
        target: LabelSet::from_pairs([("instance", INSTANCE)]),
    }
}

impl OwnEvaluation {
    pub fn start(variant: usize, file: AlertsFile, now: Moment) -> OwnEvaluation {
        let sampling = Sampling {
            interval: SAMPLE_INTERVAL,
            slow_interval: SAMPLE_INTERVAL,
        };
        let (orders, before) = (orders(variant), &file.written);
        OwnEvaluation {
            evaluation: own_evaluation::OwnEvaluation::new(orders, sampling, before, now.boot, SETTLING),
            firing: BTreeSet::new(),
            file: AlertsFile {
                written_at: None,
                ..file
            },
        }
    }

    /// Takes a sample.
    pub fn sample(&mut self, now: Moment, conditions: [bool; 2]) -> Vec<Report> {
        let families = METRICS.into_iter().zip(conditions);
        let families = families.map(|(metric, is_true)| Family::gauge(metric, "").value(f64::from(u8::from(is_true))));
        let readings = vec![("conditions", now.boot, families.collect())];
        let sample = own_evaluation::tests::sample(now.wall, now.boot, readings);
        let messages = self.evaluation.take_sample(&sample);
        self.file.keep(self.evaluation.active_alerts(), now.boot);
        self.reports(messages)
    }

    fn reports(&mut self, messages: Messages) -> Vec<Report> {
        let mut reports = Vec::new();
        for alert in &messages.alerts {
            match alert.status {
                Status::Firing => self.firing.insert(alert.name().to_owned()),
                Status::Resolved => self.firing.remove(alert.name()),
            };
        }
        if !messages.alerts.is_empty() {
            reports.push(Report::Alerts(messages.alerts));
        }
        if let Some(set) = messages.firing {
            self.firing = set.firing.iter().map(|alert| alert.name().to_owned()).collect();
            reports.push(Report::Firing(set));
        }
        reports
    }

    /// Goes on with other rules.
    pub fn reload(&mut self, variant: usize, now: Duration) -> Vec<Report> {
        let messages = self.evaluation.replace(orders(variant), now);
        self.file.keep(self.evaluation.active_alerts(), now);
        self.reports(messages)
    }

    /// The names of the alerts that it said fire.
    pub fn firing(&self) -> BTreeSet<String> {
        self.firing.clone()
    }

    /// The daemon ends in order, and leaves this file.
    pub fn stop(&mut self) -> AlertsFile {
        let active = self.evaluation.active_alerts();
        if !(active.alerts.is_empty() && self.file.written.alerts.is_empty()) {
            self.file.written = active;
        }
        self.file.clone()
    }

    /// The daemon is killed, and leaves this file.
    pub fn crash(&self) -> AlertsFile {
        self.file.clone()
    }
}

impl AlertsFile {
    fn keep(&mut self, active: ActiveAlerts, now: Duration) {
        let is_due = !active.alerts.is_empty() && self.written_at.is_none_or(|at| now - at >= REFRESH);
        if is_due || active.alerts != self.written.alerts {
            (self.written, self.written_at) = (active, Some(now));
        }
    }
}
