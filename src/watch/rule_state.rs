//! A rule of a group with its state: evaluates its expression, writes its series into the history, and advances its
//! alerts. Also the settings of all rules, and what an evaluation gives.

use super::alerting::{ALERTS, ALERTS_FOR_STATE, AlertState, AlertingError, EvaluationKind, Transition};
use super::history::{History, ReadSet, stale};
use super::labels::{LabelSet, METRIC_NAME, Text};
use super::promql::{Element, EvaluationError, Semantics};
use super::rule_file::{AlertingRule, RecordingRule, Rule};
use std::collections::HashSet;

/// How long to wait for a metric without samples, whose collector may be slow or absent.
pub const UNSEEN_METRIC_WAIT_MS: i64 = 60_000;

/// The settings of all rules.
#[derive(Debug, Clone)]
pub struct EvaluatorSettings {
    /// The interval of groups that set none.
    pub interval_ms: i64,
    pub external_labels: LabelSet,
    pub external_url: String,
    pub semantics: Semantics,
}

impl Default for EvaluatorSettings {
    fn default() -> Self {
        EvaluatorSettings {
            interval_ms: 60_000,
            external_labels: LabelSet::default(),
            external_url: String::new(),
            semantics: Semantics::default(),
        }
    }
}

/// The result of evaluating some groups.
#[derive(Debug, Default)]
pub struct EvaluationRound {
    /// The alerts of the evaluated groups that fire, and those that ended.
    pub transitions: Vec<Transition>,
    pub failures: Vec<EvaluationFailure>,
    /// Number of evaluated rules.
    pub rules: usize,
}

/// A rule whose evaluation failed. Its former results stay.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{file}: group {group:?}, rule {rule:?}: {error}")]
pub struct EvaluationFailure {
    pub file: String,
    pub group: String,
    pub rule: String,
    pub error: RuleFailure,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleFailure {
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Alerting(#[from] AlertingError),
    #[error("two series have the same labels after the rule's labels were applied: {0}")]
    SameLabels(LabelSet),
    #[error("{count} series exceed the group's limit of {limit}")]
    Limit { count: usize, limit: usize },
}

/// A rule with its alerts, its series and what its expression reads.
#[derive(Debug)]
pub(super) struct RuleState {
    pub(super) rule: Rule,
    /// The rule's identity across reloads and restarts.
    pub(super) key: String,
    pub(super) alerts: AlertState,
    /// The series of the last evaluation that some rule reads.
    pub(super) written: HashSet<LabelSet>,
    /// The `query_offset` of its group.
    pub(super) query_offset_ms: i64,
    /// The metrics that its expression reads.
    pub(super) read_set: ReadSet,
    /// The sampled metrics that it reads, directly or through recording rules.
    pub(super) sampled: ReadSet,
    /// How long evenkeel must have sampled until the expression has all its samples.
    pub(super) needed_ms: i64,
    /// A hash of its expression and of those of the rules behind it.
    pub(super) origin: u64,
    /// The first regular evaluation of this expression.
    pub(super) since_ms: Option<i64>,
    /// The newest regular evaluation that succeeded.
    pub(super) evaluated_ms: Option<i64>,
}

impl RuleState {
    /// A rule of a group. What depends on other rules is not known yet.
    pub(super) fn new(file: &str, group: &str, query_offset_ms: i64, rule: Rule) -> Self {
        let mut read_set = ReadSet::default();
        rule.query().add_to_read_set_before(query_offset_ms, &mut read_set);
        RuleState {
            key: rule_key(file, group, &rule),
            query_offset_ms,
            rule,
            alerts: AlertState::default(),
            written: HashSet::new(),
            read_set,
            sampled: ReadSet::default(),
            needed_ms: 0,
            origin: 0,
            since_ms: None,
            evaluated_ms: None,
        }
    }

    /// `group` is the group's file, name and limit.
    pub(super) fn evaluate_into(
        &mut self,
        group: (&str, &str, usize),
        settings: &EvaluatorSettings,
        history: &mut History,
        at: (i64, EvaluationKind),
        round: &mut EvaluationRound,
    ) {
        let (file, name, limit) = group;
        round.rules += 1;
        if let Err(error) = self.evaluate(settings, limit, history, at, &mut round.transitions) {
            round.failures.push(EvaluationFailure {
                file: file.to_owned(),
                group: name.to_owned(),
                rule: self.rule.name().into(),
                error,
            });
        }
    }

    fn evaluate(
        &mut self,
        settings: &EvaluatorSettings,
        limit: usize,
        history: &mut History,
        (now_ms, kind): (i64, EvaluationKind),
        output: &mut Vec<Transition>,
    ) -> Result<(), RuleFailure> {
        if kind == EvaluationKind::Regular && !self.alerts.has_samples() {
            let has_samples = self.has_all_samples(history, now_ms);
            self.alerts.set_has_samples(has_samples);
        }
        let read_ms = now_ms - self.query_offset_ms;
        let elements = self
            .rule
            .query()
            .evaluate(history, read_ms, settings.semantics)?
            .into_vector();
        let series = match &self.rule {
            Rule::Recording(rule) => recorded(rule, limit, elements)?,
            Rule::Alerting(rule) => {
                let external = (&settings.external_labels, settings.external_url.as_str());
                self.alerts
                    .advance(rule, limit, elements, external, (now_ms, kind), output)?;
                let is_read = history.remembers(ALERTS) || history.remembers(ALERTS_FOR_STATE);
                if is_read { self.alerts.series() } else { Vec::new() }
            }
        };
        self.write(series, history, read_ms, kind);
        if kind == EvaluationKind::Regular {
            self.evaluated_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Whether samples reach back as far as the expression reads. Waits for metrics that come late.
    fn has_all_samples(&mut self, history: &History, now_ms: i64) -> bool {
        let elapsed_ms = now_ms - *self.since_ms.get_or_insert(now_ms);
        let is_covered = |name: &str| {
            let keep_ms = self.sampled.keep_ms(name).unwrap_or(0);
            history
                .first_ms(name)
                .is_some_and(|first_ms| now_ms - first_ms >= keep_ms)
        };
        elapsed_ms >= self.needed_ms
            && (elapsed_ms >= self.needed_ms + UNSEEN_METRIC_WAIT_MS || self.sampled.names().all(is_covered))
    }

    /// Writes the series of an evaluation, and ends series that are missing since the last one, as Prometheus does.
    fn write(&mut self, series: Vec<Element>, history: &mut History, at_ms: i64, kind: EvaluationKind) {
        let mut written = HashSet::with_capacity(series.len());
        for element in series {
            if history.remembers(element.labels.metric_name()) {
                history.record(at_ms, &element.labels, element.value);
                self.written.remove(&element.labels);
                written.insert(element.labels);
            }
        }
        match kind {
            EvaluationKind::Early => self.written.extend(written),
            EvaluationKind::Regular => {
                let ended = std::mem::replace(&mut self.written, written);
                ended.iter().for_each(|labels| history.record(at_ms, labels, stale()));
            }
        }
    }

    /// Ends the series and alerts of a rule that is removed.
    pub(super) fn end(mut self, history: &mut History, now_ms: i64) -> Vec<Transition> {
        let at_ms = now_ms - self.query_offset_ms;
        let written = self.written.iter();
        written.for_each(|labels| history.record(at_ms, labels, stale()));
        self.alerts.end_all(now_ms)
    }
}

fn recorded(rule: &RecordingRule, limit: usize, elements: Vec<Element>) -> Result<Vec<Element>, RuleFailure> {
    if limit > 0 && elements.len() > limit {
        return Err(RuleFailure::Limit {
            count: elements.len(),
            limit,
        });
    }
    let mut seen = HashSet::with_capacity(elements.len());
    let mut series = Vec::with_capacity(elements.len());
    for element in elements {
        let name: (Text, Text) = (METRIC_NAME.into(), rule.record.clone());
        let labels = element
            .labels
            .with([name].into_iter().chain(rule.labels.iter().cloned()));
        if !seen.insert(labels.clone()) {
            return Err(RuleFailure::SameLabels(labels));
        }
        series.push(Element {
            labels,
            value: element.value,
        });
    }
    Ok(series)
}

/// The key of a rule, the same across reloads. It excludes its expression and its position in the group.
fn rule_key(file: &str, group: &str, rule: &Rule) -> String {
    let label = |name: &Text, value: &str| format!("{name:?}={value:?}");
    let (kind, labels): (&str, Vec<String>) = match rule {
        Rule::Recording(RecordingRule { labels, .. }) => (
            "record",
            labels.iter().map(|(name, value)| label(name, value)).collect(),
        ),
        Rule::Alerting(AlertingRule { labels, .. }) => {
            let labels = labels.iter().map(|(name, template)| label(name, template.source()));
            ("alert", labels.collect())
        }
    };
    format!("{file:?} {group:?} {kind} {:?} {labels:?}", rule.name())
}
