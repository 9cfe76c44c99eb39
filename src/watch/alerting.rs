//! The state of one alerting rule over time: pending, firing, kept firing, resolved. Pure; the evaluator calls it.

use super::labels::{LabelSet, METRIC_NAME};
use super::promql::Element;
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

/// The last known state of an alert before a restart. Times are Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pub active_at_ms: i64,
    pub fired_at_ms: Option<i64>,
    /// The time since which only `keep_firing_for` kept the alert firing.
    pub kept_since_ms: Option<i64>,
    pub seen_at_ms: i64,
}

/// Maximum age of the state of an alert before a restart.
const MAX_UNSEEN_MS: i64 = 10 * 60 * 1000;

impl Remembered {
    fn is_recent(&self, now_ms: i64) -> bool {
        (0..=MAX_UNSEEN_MS).contains(&(now_ms - self.seen_at_ms))
    }

    /// The time from which on `keep_firing_for` counts, where the expression does not yield the alert at `now_ms`.
    fn kept_since_ms(&self, now_ms: i64) -> i64 {
        let ended_ms = if self.is_recent(now_ms) {
            now_ms
        } else {
            self.seen_at_ms
        };
        self.kept_since_ms.unwrap_or(ended_ms)
    }
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

/// The times since which an alert is active and fires. After a restart a firing alert continues, and time without
/// evaluation does not count for the `for` of a pending one.
fn begun(remembered: Option<Remembered>, now_ms: i64) -> (i64, Option<i64>) {
    match remembered {
        None => (now_ms, None),
        Some(before) if before.fired_at_ms.is_some() => (before.active_at_ms, before.fired_at_ms),
        Some(before) => (before.active_at_ms + (now_ms - before.seen_at_ms), None),
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
mod tests {
    use super::super::rule_file::{Rule, parse};
    use super::*;

    /// Evaluates once per second, with a result for each `1` in `yields`; expects `b`egan, `c`ontinues, `e`nded or
    /// nothing.
    fn check(rule: &str, yields: &str, expected: &str) {
        let text = format!("groups: [{{name: g, rules: [{{alert: A, expr: a, {rule}}}]}}]");
        let mut file = parse("x.yml", &text).unwrap();
        let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
            panic!()
        };
        let mut state = AlertState::default();
        let labels = LabelSet::from_pairs([(METRIC_NAME, "a"), ("l", "x")]);
        let changes = (0..).zip(yields.chars()).map(|(second, yields)| {
            let elements = (yields == '1').then(|| Element {
                labels: labels.clone(),
                value: 1.0,
            });
            let external = LabelSet::default();
            let elements = elements.into_iter().collect();
            let mut transitions = Vec::new();
            state
                .advance(
                    &rule,
                    0,
                    elements,
                    (&external, ""),
                    (second * 1000, EvaluationKind::Regular),
                    &mut transitions,
                )
                .unwrap();
            match transitions.first().map(|transition| transition.change) {
                Some(Change::Began) => 'b',
                Some(Change::Continues) => 'c',
                Some(Change::Ended) => 'e',
                None => '.',
            }
        });
        assert_eq!(changes.collect::<String>(), expected, "{text}");
    }

    #[test]
    fn alerts_fire_after_for_and_end_after_keep_firing_for() {
        check("for: 0s", "1100101", "bce.beb");
        check("for: 2s", "11101110110", "..be..be...");
        check("for: 1s, keep_firing_for: 2s", "1100011", ".bcce.b");
        check("for: 1s, keep_firing_for: 2s", "110110000", ".bccccce.");
        check("keep_firing_for: 2s", "101010000", "bcccccce.");
    }

    #[test]
    fn restart_continues_firing_alerts_and_pending_waits() {
        let text = "groups: [{name: g, rules: [{alert: A, expr: a, for: 10s}]}]";
        let mut file = parse("x.yml", text).unwrap();
        let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
            panic!()
        };
        let external = LabelSet::default();
        let yielded = || {
            vec![Element {
                labels: LabelSet::from_pairs([("l", "x")]),
                value: 1.0,
            }]
        };
        let second = |second: i64| (second * 1000, EvaluationKind::Regular);
        // The alert was last seen at 100 s and comes back at `back`. Expects when it fires, and since when.
        for (fired_at_ms, back, expected) in [
            (None, 130, Some((136, 136_000))),
            (Some(95_000), 130, Some((130, 95_000))),
            (Some(95_000), 100 + 601, Some((711, 711_000))),
            // The wall clock was set back.
            (Some(95_000), 99, Some((109, 109_000))),
        ] {
            let mut state = AlertState::default();
            let labels = LabelSet::from_pairs([("alertname", "A"), ("l", "x")]);
            let remembered = Remembered {
                active_at_ms: 96_000,
                fired_at_ms,
                kept_since_ms: None,
                seen_at_ms: 100_000,
            };
            state.remember(labels, remembered);
            state.set_has_samples(true);
            let mut fired = None;
            for now in back..back + 20 {
                let mut output = Vec::new();
                state
                    .advance(&rule, 0, yielded(), (&external, ""), second(now), &mut output)
                    .unwrap();
                fired = fired.or(output
                    .first()
                    .map(|transition| (now, transition.alert.starts_at.as_millisecond())));
            }
            assert_eq!(fired, expected, "{fired_at_ms:?} {back}");
        }
    }

    #[test]
    fn keep_firing_for_counts_over_a_restart() {
        let text = "groups: [{name: g, rules: [{alert: A, expr: a, keep_firing_for: 60s, \
                    annotations: {fixed: f, of_value: '{{ $value }}'}}]}]";
        let mut file = parse("x.yml", text).unwrap();
        let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
            panic!()
        };
        let external = LabelSet::default();
        // The alert was last evaluated at 100 s. Samples suffice from `decided` on, and the expression yields nothing.
        for (kept_since_ms, decided, expected) in [
            (Some(80_000), 110, "bcce"),
            (Some(80_000), 140, "e...."),
            (Some(80_000), 900, "e...."),
            // Its condition still held before the restart.
            (None, 110, "bccccc"),
            (None, 900, "e...."),
        ] {
            let mut state = AlertState::default();
            let before = Remembered {
                active_at_ms: 50_000,
                fired_at_ms: Some(50_000),
                kept_since_ms,
                seen_at_ms: 100_000,
            };
            state.remember(LabelSet::from_pairs([("alertname", "A")]), before);
            let mut changes = String::new();
            for second in (decided - 20..decided + 60).step_by(10).take(2 + expected.len()) {
                state.set_has_samples(second >= decided);
                let mut output = Vec::new();
                let at = (second * 1000, EvaluationKind::Regular);
                state
                    .advance(&rule, 0, Vec::new(), (&external, ""), at, &mut output)
                    .unwrap();
                assert!(second >= decided || output.is_empty());
                for Transition { alert, change } in &output {
                    assert_eq!(alert.starts_at.as_millisecond(), 50_000);
                    let annotations: Vec<_> = alert.annotations.iter().collect();
                    assert!(
                        expected == "e...." || annotations == [("fixed", "f")],
                        "{annotations:?}"
                    );
                    changes.push(match change {
                        Change::Began => 'b',
                        Change::Continues => 'c',
                        Change::Ended => 'e',
                    });
                }
                if output.is_empty() && second >= decided {
                    changes.push('.');
                }
            }
            assert_eq!(changes, expected, "{kept_since_ms:?} {decided}");
        }
    }

    #[test]
    fn alert_has_labels_of_series_and_rule_and_its_name() {
        let text = "groups: [{name: g, rules: [{alert: A, expr: a, labels: {sev: '{{ $labels.l }}!', gone: ''}, \
                    annotations: {s: 'v={{ $value }}'}}]}]";
        let mut file = parse("x.yml", text).unwrap();
        let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
            panic!()
        };
        let labels = LabelSet::from_pairs([(METRIC_NAME, "a"), ("l", "x"), ("gone", "y"), ("alertname", "other")]);
        let mut state = AlertState::default();
        let elements = vec![Element { labels, value: 2.5 }];
        let mut transitions = Vec::new();
        state
            .advance(
                &rule,
                0,
                elements,
                (&LabelSet::default(), ""),
                (1500, EvaluationKind::Regular),
                &mut transitions,
            )
            .unwrap();
        let alert = &transitions[0].alert;
        let expected = [("alertname", "A"), ("l", "x"), ("sev", "x!")];
        assert_eq!(
            alert.labels,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        assert_eq!(alert.annotations.get("s"), Some("v=2.5"));
        assert_eq!((alert.starts_at.as_millisecond(), alert.source), (1500, Source::Local));
        let series: Vec<String> = state
            .series()
            .iter()
            .map(|s| format!("{} {}", s.labels, s.value))
            .collect();
        let labels = "alertname=\"A\"";
        assert_eq!(
            series,
            [
                format!("ALERTS{{{labels}, alertstate=\"firing\", l=\"x\", sev=\"x!\"}} 1"),
                format!("ALERTS_FOR_STATE{{{labels}, l=\"x\", sev=\"x!\"}} 1"),
            ]
        );
    }

    #[test]
    fn alerts_with_equal_labels_are_an_error() {
        let text = "groups: [{name: g, rules: [{alert: A, expr: a, labels: {l: same}}]}]";
        let mut file = parse("x.yml", text).unwrap();
        let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
            panic!()
        };
        let element = |l: &str| Element {
            labels: LabelSet::from_pairs([("l", l)]),
            value: 1.0,
        };
        let mut state = AlertState::default();
        let both = vec![element("x"), element("y")];
        let result = state.advance(
            &rule,
            0,
            both,
            (&LabelSet::default(), ""),
            (0, EvaluationKind::Regular),
            &mut Vec::new(),
        );
        assert!(matches!(result, Err(AlertingError::SameLabels(_))));
        assert_eq!(state.active().count(), 0);
    }
}
