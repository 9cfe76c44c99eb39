//! The state of one alerting rule over time: pending, firing, kept firing, resolved. Pure; the evaluator calls it.

use super::labels::{LabelSet, METRIC_NAME};
use super::promql::Element;
use super::remembered::{Remembered, begun};
use super::rule_file::AlertingRule;
use super::template::Facts;
use crate::alert::alert::fingerprint;
use crate::alert::{Alert, Labels, Source, Status};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the series of pending and firing alerts.
pub const ALERTS: &str = "ALERTS";
/// The name of the series with the start of each alert.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

/// The effect of an evaluation on an alert that fires or fired before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Began,
    Continues,
    Ended,
}

/// An alert and its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub alert: Alert,
    pub change: Change,
}

/// The reason why a rule has no alerts although its expression has results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertingError {
    #[error("two alerts have the same labels after the rule's labels were applied: {0}")]
    SameLabels(LabelSet),
    #[error("{count} alerts exceed the group's limit of {limit}")]
    Limit { count: usize, limit: usize },
}

/// The kind of evaluation, which decides whether alerts may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationKind {
    Regular,
    /// An evaluation between two regular ones, on a part of the series. It starts alerts and ends none.
    Early,
}

#[derive(Debug, Clone)]
struct Active {
    annotations: Vec<(String, String)>,
    value: f64,
    active_at_ms: i64,
    fired_at_ms: Option<i64>,
    /// The time since which only `keep_firing_for` keeps the alert firing.
    kept_since_ms: Option<i64>,
    /// The alert was active before a restart and has not been reported as firing since.
    is_carried_over: bool,
    /// It fired by a former expression of its rule, and the present one has not yielded it with enough samples.
    is_doubted: bool,
}

/// The alerts of one rule, by their labels.
#[derive(Debug, Clone, Default)]
pub struct AlertState {
    active: BTreeMap<LabelSet, Active>,
    /// Alerts that were active before a restart. Too few samples have been taken since to decide about them.
    remembered: BTreeMap<LabelSet, Remembered>,
    /// Whether samples since the start reach back as far as the rule's expression reads.
    has_samples: bool,
}

/// An active alert, for tests and the status page.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveAlert<'a> {
    pub labels: &'a LabelSet,
    pub annotations: &'a [(String, String)],
    pub value: f64,
    /// Unix time in milliseconds of the first evaluation with this alert.
    pub active_at_ms: i64,
    /// Unix time in milliseconds at which the alert began to fire; `None` while it is pending.
    pub fired_at_ms: Option<i64>,
    /// Unix time in milliseconds since which only `keep_firing_for` keeps the alert firing.
    pub kept_since_ms: Option<i64>,
}

impl AlertState {
    /// Applies the result of the rule's expression at `now_ms`, and appends to `output` the alerts that fire and
    /// those that ended.
    ///
    /// # Errors
    /// When two alerts have the same labels, which changes no alert. When there are too many alerts, which ends all, as
    /// in Prometheus.
    pub fn advance(
        &mut self,
        rule: &AlertingRule,
        limit: usize,
        elements: Vec<Element>,
        external: (&LabelSet, &str),
        (now_ms, kind): (i64, EvaluationKind),
        output: &mut Vec<Transition>,
    ) -> Result<(), AlertingError> {
        let mut yielded = BTreeSet::new();
        let mut current = Vec::with_capacity(elements.len());
        for element in &elements {
            let facts = Facts {
                labels: &element.labels,
                value: element.value,
                external_labels: external.0,
                external_url: external.1,
            };
            let labels = alert_labels(rule, facts);
            if !yielded.insert(labels.clone()) {
                return Err(AlertingError::SameLabels(labels));
            }
            let annotations = rule.annotations.iter();
            let annotations = annotations
                .map(|(name, template)| (name.clone(), template.expand(facts)))
                .collect();
            current.push((labels, annotations, element.value));
        }
        for (labels, annotations, value) in current {
            if let Some(before) = self.remembered.get_mut(&labels)
                && !self.has_samples
                && before.fired_at_ms.is_some()
                && before.is_recent(now_ms)
            {
                // Enough samples must exist to decide whether the alert continues or is over.
                (before.seen_at_ms, before.kept_since_ms) = (now_ms, None);
                continue;
            }
            let remembered = &mut self.remembered;
            let active = self.active.entry(labels).or_insert_with_key(|labels| {
                let before = remembered.remove(labels).filter(|before| before.is_recent(now_ms));
                let (active_at_ms, fired_at_ms) = begun(before, now_ms);
                Active {
                    annotations: Vec::new(),
                    value,
                    active_at_ms,
                    fired_at_ms,
                    kept_since_ms: None,
                    is_carried_over: before.is_some(),
                    is_doubted: false,
                }
            });
            (active.annotations, active.value) = (annotations, value);
        }
        let is_decided = self.has_samples && kind == EvaluationKind::Regular;
        if is_decided && rule.keep_firing_for_ms > 0 {
            self.keep_remembered(rule, now_ms);
        }
        let mut transitions = self.step(rule, &yielded, now_ms, kind);
        if is_decided {
            transitions.extend(self.end_remembered(now_ms));
        }
        let count = self.active.len();
        if limit > 0 && count > limit {
            // An alert that has just begun was not reported, and needs no end.
            self.active.retain(|_, active| active.fired_at_ms != Some(now_ms));
            transitions.retain(|transition| transition.change == Change::Ended);
            output.extend(transitions);
            output.extend(self.end_all(now_ms));
            return Err(AlertingError::Limit { count, limit });
        }
        output.extend(transitions);
        Ok(())
    }

    fn step(
        &mut self,
        rule: &AlertingRule,
        yielded: &BTreeSet<LabelSet>,
        now_ms: i64,
        kind: EvaluationKind,
    ) -> Vec<Transition> {
        let mut transitions = Vec::new();
        let has_samples = self.has_samples;
        self.active.retain(|labels, active| {
            if yielded.contains(labels) {
                active.kept_since_ms = None;
                active.is_doubted &= !has_samples;
            } else if kind == EvaluationKind::Early {
                return true;
            } else {
                let Some(fired_at_ms) = active.fired_at_ms else {
                    return false;
                };
                let kept_since_ms = *active.kept_since_ms.get_or_insert(now_ms);
                if now_ms - kept_since_ms >= rule.keep_firing_for_ms {
                    transitions.push(end(labels, &active.annotations, fired_at_ms, now_ms));
                    return false;
                }
            }
            let is_carried_over = active.is_carried_over;
            let change = match active.fired_at_ms {
                // The engine has not received the alert since the restart.
                Some(_) if is_carried_over => Change::Began,
                Some(_) => Change::Continues,
                None if now_ms - active.active_at_ms >= rule.for_ms && (has_samples || !is_carried_over) => {
                    active.fired_at_ms = Some(now_ms);
                    Change::Began
                }
                None => return true,
            };
            active.is_carried_over = false;
            let fired_at_ms = active.fired_at_ms.unwrap_or(now_ms);
            let alert = to_alert(labels, &active.annotations, fired_at_ms, None);
            transitions.push(Transition { alert, change });
            true
        });
        transitions
    }

    /// Adds an alert that was active before a restart. It continues if the expression yields it again.
    pub fn remember(&mut self, labels: LabelSet, remembered: Remembered) {
        self.remembered.insert(labels, remembered);
    }

    /// The undecided alerts of before a restart.
    pub fn remembered(&self) -> impl Iterator<Item = (&LabelSet, Remembered)> {
        self.remembered.iter().map(|(labels, remembered)| (labels, *remembered))
    }

    /// Sets whether samples since the start reach back as far as the rule's expression reads.
    pub fn set_has_samples(&mut self, has_samples: bool) {
        self.has_samples = has_samples;
    }

    pub fn has_samples(&self) -> bool {
        self.has_samples
    }

    /// Shifts all times after a step of the wall clock, so that the ages of alerts stay.
    pub fn shift(&mut self, by_ms: i64) {
        let move_by = |at_ms: &mut i64| *at_ms += by_ms;
        for active in self.active.values_mut() {
            move_by(&mut active.active_at_ms);
            active.fired_at_ms.iter_mut().for_each(move_by);
            active.kept_since_ms.iter_mut().for_each(move_by);
        }
        for remembered in self.remembered.values_mut() {
            move_by(&mut remembered.active_at_ms);
            remembered.fired_at_ms.iter_mut().for_each(move_by);
            remembered.kept_since_ms.iter_mut().for_each(move_by);
            move_by(&mut remembered.seen_at_ms);
        }
    }

    /// Moves the beginning of what is pending, because time without samples does not count for `for`.
    pub fn skip(&mut self, gap_ms: i64) {
        let pending = self.active.values_mut().filter(|active| active.fired_at_ms.is_none());
        pending.for_each(|active| active.active_at_ms += gap_ms);
    }

    /// Goes on with another expression, which has to confirm with enough samples what fires by the former one.
    pub fn doubt(&mut self) {
        self.has_samples = false;
        let firing = self.active.values_mut().filter(|active| active.fired_at_ms.is_some());
        firing.for_each(|active| active.is_doubted = true);
    }

    /// Whether an alert that fires is doubted.
    pub fn has_doubted(&self) -> bool {
        self.active.values().any(|active| active.is_doubted)
    }

    /// The alerts that fire by the present expression, as they would be sent.
    pub fn firing(&self) -> impl Iterator<Item = Alert> {
        let active = self.active.iter().filter(|(_, active)| !active.is_doubted);
        active.filter_map(|(labels, active)| Some(to_alert(labels, &active.annotations, active.fired_at_ms?, None)))
    }

    /// Makes alerts active again that fired before a restart and that the expression yields no more, so that
    /// `keep_firing_for` decides about them.
    fn keep_remembered(&mut self, rule: &AlertingRule, now_ms: i64) {
        let firing = self.remembered.extract_if(.., |_, before| before.fired_at_ms.is_some());
        self.active.extend(firing.map(|(labels, before)| {
            let active = Active {
                annotations: rule.fixed_annotations(),
                value: f64::NAN,
                active_at_ms: before.active_at_ms,
                fired_at_ms: before.fired_at_ms,
                kept_since_ms: Some(before.kept_since_ms(now_ms)),
                is_carried_over: true,
                is_doubted: false,
            };
            (labels, active)
        }));
    }

    /// Ends alerts that fired before a restart and not since, and drops those that were pending.
    fn end_remembered(&mut self, now_ms: i64) -> Vec<Transition> {
        let ended = std::mem::take(&mut self.remembered).into_iter();
        let ended = ended.filter_map(|(labels, before)| Some(end(&labels, &[], before.fired_at_ms?, now_ms)));
        ended.collect()
    }

    /// Ends all alerts, because the rule was removed or exceeds its limit.
    pub fn end_all(&mut self, now_ms: i64) -> Vec<Transition> {
        let remembered = self.end_remembered(now_ms);
        let ended = std::mem::take(&mut self.active).into_iter();
        let ended =
            ended.filter_map(|(labels, active)| Some(end(&labels, &active.annotations, active.fired_at_ms?, now_ms)));
        ended.chain(remembered).collect()
    }

    /// All alerts including pending ones, sorted by labels.
    pub fn active(&self) -> impl Iterator<Item = ActiveAlert<'_>> {
        self.active.iter().map(|(labels, active)| ActiveAlert {
            labels,
            annotations: &active.annotations,
            value: active.value,
            active_at_ms: active.active_at_ms,
            fired_at_ms: active.fired_at_ms,
            kept_since_ms: active.kept_since_ms,
        })
    }

    /// The series `ALERTS` and `ALERTS_FOR_STATE`, as Prometheus writes them.
    pub fn series(&self) -> Vec<Element> {
        let mut series = Vec::with_capacity(self.active.len() * 2);
        for alert in self.active() {
            let state = alert.fired_at_ms.map_or("pending", |_| "firing");
            let named = |name: &str| (METRIC_NAME.into(), name.into());
            let labels = alert.labels.with([named(ALERTS), ("alertstate".into(), state.into())]);
            series.push(Element { labels, value: 1.0 });
            let labels = alert.labels.with([named(ALERTS_FOR_STATE)]);
            series.push(Element {
                labels,
                value: alert.active_at_ms.div_euclid(1000) as f64,
            });
        }
        series
    }
}

fn alert_labels(rule: &AlertingRule, facts: Facts<'_>) -> LabelSet {
    let own = rule
        .labels
        .iter()
        .map(|(name, template)| (name.clone(), template.expand(facts).into()));
    let without_name = [(METRIC_NAME.into(), "".into())];
    let alertname = [("alertname".into(), rule.alert.clone())];
    facts.labels.with(without_name.into_iter().chain(own).chain(alertname))
}

fn end(labels: &LabelSet, annotations: &[(String, String)], fired_at_ms: i64, now_ms: i64) -> Transition {
    Transition {
        alert: to_alert(labels, annotations, fired_at_ms, Some(now_ms)),
        change: Change::Ended,
    }
}

/// Converts an alert. It starts when it fires, not when it becomes pending, as in Prometheus.
fn to_alert(labels: &LabelSet, annotations: &[(String, String)], fired_at_ms: i64, ended_at_ms: Option<i64>) -> Alert {
    let labels: Labels = labels.iter().collect();
    Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: annotations.iter().cloned().collect(),
        generator_url: None,
        status: if ended_at_ms.is_some() {
            Status::Resolved
        } else {
            Status::Firing
        },
        starts_at: timestamp(fired_at_ms),
        ends_at: ended_at_ms.map(timestamp),
        source: Source::Local,
    }
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(if at_ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests;
