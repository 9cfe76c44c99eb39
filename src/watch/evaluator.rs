//! The evaluator of rule groups: evaluates the groups that are due, writes recorded series into the history, and
//! returns alerts. The caller passes time and samples; the evaluator uses no clock and no file.

use super::alerting::{
    ALERTS, ALERTS_FOR_STATE, ActiveAlert, AlertState, AlertingError, EvaluationKind, Remembered, Transition,
};
use super::dependencies::Dependencies;
use super::history::{History, ReadSet, stale};
use super::labels::{LabelSet, METRIC_NAME, Text};
use super::promql::{Element, EvaluationError, Query, QueryValue, Semantics};
use super::rule_file::{AlertingRule, Group, RecordingRule, Rule, RuleFile};
use crate::alert::Alert;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

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

/// The result of [`Evaluator::evaluate`].
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

#[derive(Debug)]
struct RuleState {
    rule: Rule,
    /// The rule's identity across reloads and restarts.
    key: String,
    alerts: AlertState,
    /// The series of the last evaluation that some rule reads.
    written: HashSet<LabelSet>,
    /// The metrics that its expression reads.
    read_set: ReadSet,
    /// The sampled metrics that it reads, directly or through recording rules.
    sampled: ReadSet,
    /// How long evenkeel must have sampled until the expression has all its samples.
    needed_ms: i64,
    /// A hash of its expression and of those of the rules behind it.
    origin: u64,
    /// The first regular evaluation of this expression.
    since_ms: Option<i64>,
    /// The newest regular evaluation that succeeded.
    evaluated_ms: Option<i64>,
}

/// Number of intervals without a successful evaluation after which a rule confirms none of its alerts. Prometheus ends the
/// alerts that it stops sending after four intervals as well.
const MAX_MISSED: i64 = 4;

/// How long to wait for a metric without samples, whose collector may be slow or absent.
pub const UNSEEN_METRIC_WAIT_MS: i64 = 60_000;

/// The metrics and rules on which the result of a query depends.
#[derive(Debug)]
pub struct QueryInputs {
    /// The sampled metrics that the query reads, directly or through rules.
    pub sampled: ReadSet,
    /// Of each rule that it reads, the time of the last evaluation and the interval, in milliseconds.
    pub evaluations: Vec<(Option<i64>, i64)>,
    /// Whether it reads a metric by name that has had no sample yet.
    pub has_unseen: bool,
}

#[derive(Debug)]
struct GroupState {
    file: String,
    name: String,
    interval_ms: Option<i64>,
    limit: usize,
    due_ms: Option<i64>,
    rules: Vec<RuleState>,
}

/// All groups of all rule files, with the state of their alerts.
#[derive(Debug)]
pub struct Evaluator {
    settings: EvaluatorSettings,
    groups: Vec<GroupState>,
    dependencies: Dependencies,
}

impl Evaluator {
    pub fn new(settings: EvaluatorSettings, files: Vec<RuleFile>) -> Self {
        let mut groups: Vec<GroupState> = files
            .into_iter()
            .flat_map(|file| file.groups)
            .map(GroupState::new)
            .collect();
        let rules = groups.iter().flat_map(|group| &group.rules);
        let dependencies = Dependencies::new(rules.map(|state| &state.rule));
        let rules = groups.iter().flat_map(|group| &group.rules);
        let texts: Vec<String> = rules.map(|state| state.rule.query().text.to_string()).collect();
        let rules = groups.iter_mut().flat_map(|group| &mut group.rules);
        for (state, needed_ms) in rules.zip(dependencies.needed_ms()) {
            let behind = dependencies.behind(&state.read_set);
            state.needed_ms = needed_ms;
            state.sampled = dependencies.sampled(&state.read_set, &behind);
            state.origin = origin(&state.rule.query().text, behind.iter().map(|rule| &*texts[*rule]));
        }
        Evaluator {
            settings,
            groups,
            dependencies,
        }
    }

    /// Shifts all times after a step of the wall clock, so that ages and due times stay the same distance away.
    pub fn shift(&mut self, by_ms: i64) {
        for group in &mut self.groups {
            group.due_ms.iter_mut().for_each(|at_ms| *at_ms += by_ms);
            for state in &mut group.rules {
                state.alerts.shift(by_ms);
                let times = [&mut state.since_ms, &mut state.evaluated_ms];
                times.into_iter().flatten().for_each(|at_ms| *at_ms += by_ms);
            }
        }
    }

    /// Goes on after a time without samples, which does not count for `for`, like that of a restart.
    pub fn skip(&mut self, gap_ms: i64) {
        self.rules_mut().for_each(|state| state.alerts.skip(gap_ms));
    }

    /// The metrics and rules on which the result of a query depends.
    pub fn query_inputs(&self, query: &Query, history: &History) -> QueryInputs {
        let mut asked = ReadSet::default();
        query.add_to_read_set(&mut asked);
        let behind = self.dependencies.behind(&asked);
        let sampled = self.dependencies.sampled(&asked, &behind);
        let has_unseen = sampled.names().any(|name| history.first_ms(name).is_none());
        let evaluations = self.groups.iter().flat_map(|group| {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms);
            group.rules.iter().map(move |state| (state.evaluated_ms, interval_ms))
        });
        let evaluations = evaluations.enumerate().filter(|(number, _)| behind.contains(number));
        QueryInputs {
            evaluations: evaluations.map(|(_, evaluation)| evaluation).collect(),
            sampled,
            has_unseen,
        }
    }

    /// Every alert that fires at `now_ms`, as it would be sent, by a rule that was evaluated lately. What fired before a
    /// restart, or by a former expression, is among them once it is confirmed. `sample_ms` is the interval of samples.
    pub fn firing(&self, now_ms: i64, sample_ms: i64) -> impl Iterator<Item = Alert> {
        let recent = self
            .each_with_recency(now_ms, sample_ms)
            .filter(|(_, is_recent)| *is_recent);
        recent.flat_map(|(state, _)| state.alerts.firing())
    }

    /// The names of the alerts of which [`Evaluator::firing`] says nothing, because their rule fails, was not evaluated
    /// lately, or has another expression that has not confirmed them yet.
    pub fn unevaluated(&self, now_ms: i64, sample_ms: i64) -> impl Iterator<Item = &str> {
        let states = self.each_with_recency(now_ms, sample_ms);
        states.filter_map(|(state, is_recent)| match &state.rule {
            Rule::Alerting(rule) if !is_recent || state.alerts.has_doubted() => Some(&*rule.alert),
            _ => None,
        })
    }

    /// Every rule, and whether its last evaluation that did not fail is at most [`MAX_MISSED`] intervals old.
    fn each_with_recency(&self, now_ms: i64, sample_ms: i64) -> impl Iterator<Item = (&RuleState, bool)> {
        self.groups.iter().flat_map(move |group| {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms).max(sample_ms);
            let is_recent = move |at_ms: i64| now_ms - at_ms <= MAX_MISSED * interval_ms;
            let states = group.rules.iter();
            states.map(move |state| (state, state.evaluated_ms.is_some_and(is_recent)))
        })
    }

    /// Whether there is an alert from before a restart that too few samples cannot confirm or end.
    pub fn has_undecided(&self) -> bool {
        let mut undecided = self.rules().filter(|state| !state.alerts.has_samples());
        undecided.any(|state| {
            state
                .alerts
                .remembered()
                .any(|(_, before)| before.fired_at_ms.is_some())
        })
    }

    /// The read set of all rules, for [`History::new`].
    pub fn read_set(&self) -> ReadSet {
        let mut read_set = ReadSet::default();
        self.rules()
            .for_each(|state| state.rule.query().add_to_read_set(&mut read_set));
        read_set
    }

    /// Evaluates the groups that are due at `now_ms`, Unix time in milliseconds, in the order of their files.
    pub fn evaluate(&mut self, history: &mut History, now_ms: i64) -> EvaluationRound {
        let mut round = EvaluationRound::default();
        for group in &mut self.groups {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms).max(1);
            if group.due_ms.is_none_or(|due_ms| due_ms <= now_ms) {
                group.evaluate(&self.settings, history, now_ms, &mut round);
                // Keeps the phase of the first evaluation. Missed evaluations are skipped.
                let due_ms = group.due_ms.unwrap_or(now_ms);
                group.due_ms = Some(due_ms + ((now_ms - due_ms) / interval_ms + 1) * interval_ms);
            }
        }
        round
    }

    /// Evaluates between two regular samples the rules that read a metric in `seen`, directly or through recording
    /// rules, regardless of due times. Alerts may begin but not end, because an end needs a regular sample.
    pub fn evaluate_early(&mut self, history: &mut History, now_ms: i64, seen: &HashSet<&str>) -> EvaluationRound {
        let mut round = EvaluationRound::default();
        let mut recorded: HashSet<Text> = HashSet::new();
        history.set_early(true);
        for group in &mut self.groups {
            let (file, name) = (&group.file, &group.name);
            for state in &mut group.rules {
                if !state
                    .read_set
                    .names_any(|name| seen.contains(name) || recorded.contains(name))
                {
                    continue;
                }
                if let Rule::Recording(rule) = &state.rule {
                    recorded.insert(rule.record.clone());
                }
                state.evaluate_into(
                    (file, name, group.limit),
                    &self.settings,
                    history,
                    (now_ms, EvaluationKind::Early),
                    &mut round,
                );
            }
        }
        history.set_early(false);
        round
    }

    /// Evaluates every group at `now_ms`, due or not, as unit tests need it.
    pub fn evaluate_all(&mut self, history: &mut History, now_ms: i64) -> EvaluationRound {
        self.groups.iter_mut().for_each(|group| group.due_ms = None);
        self.evaluate(history, now_ms)
    }

    /// Replaces the rules. A rule with the same file, group, name and labels keeps its alerts; alerts of removed rules
    /// are returned as ended. The caller must set the history's read set afterwards.
    pub fn replace(
        &mut self,
        settings: EvaluatorSettings,
        files: Vec<RuleFile>,
        history: &mut History,
        now_ms: i64,
    ) -> Vec<Transition> {
        let mut known: HashMap<String, VecDeque<RuleState>> = HashMap::new();
        for state in std::mem::take(&mut self.groups)
            .into_iter()
            .flat_map(|group| group.rules)
        {
            known.entry(state.key.clone()).or_default().push_back(state);
        }
        *self = Evaluator::new(settings, files);
        for state in self.rules_mut() {
            let same = known.get_mut(&state.key);
            if let Some(before) = same.and_then(VecDeque::pop_front) {
                let is_same = before.origin == state.origin && before.needed_ms == state.needed_ms;
                (state.alerts, state.written) = (before.alerts, before.written);
                if is_same {
                    (state.since_ms, state.evaluated_ms) = (before.since_ms, before.evaluated_ms);
                } else {
                    state.alerts.doubt();
                }
            }
        }
        let mut ended = Vec::new();
        for mut state in known.into_values().flatten() {
            state
                .written
                .iter()
                .for_each(|labels| history.record(now_ms, labels, stale()));
            ended.extend(state.alerts.end_all(now_ms));
        }
        ended
    }

    /// The active alerts of all rules, including pending ones.
    pub fn active(&self) -> impl Iterator<Item = ActiveAlert<'_>> {
        self.rules().flat_map(|state| state.alerts.active())
    }

    /// The active alerts, each with the key of its rule.
    pub fn active_by_rule(&self) -> impl Iterator<Item = (&str, ActiveAlert<'_>)> {
        let rules = self.rules();
        rules.flat_map(|state| state.alerts.active().map(|alert| (&*state.key, alert)))
    }

    /// The undecided alerts of before a restart, each with the key of its rule and whether the last evaluation had it.
    pub fn remembered_by_rule(&self) -> impl Iterator<Item = (&str, &LabelSet, Remembered, bool)> {
        self.rules().flat_map(|state| {
            let is_seen = |before: &Remembered| Some(before.seen_at_ms) == state.evaluated_ms;
            let remembered = state.alerts.remembered();
            remembered.map(move |(labels, before)| (&*state.key, labels, before, is_seen(&before)))
        })
    }

    /// Passes to each rule its alerts of before a restart.
    pub fn remember(&mut self, mut before: impl FnMut(&str) -> Vec<(LabelSet, Remembered)>) {
        for state in self.rules_mut() {
            for (labels, remembered) in before(&state.key) {
                state.alerts.remember(labels, remembered);
            }
        }
    }

    fn rules_mut(&mut self) -> impl Iterator<Item = &mut RuleState> {
        self.groups.iter_mut().flat_map(|group| &mut group.rules)
    }

    fn rules(&self) -> impl Iterator<Item = &RuleState> {
        self.groups.iter().flat_map(|group| &group.rules)
    }
}

impl GroupState {
    fn new(group: Group) -> Self {
        let rules = group.rules.into_iter().map(|rule| {
            let mut read_set = ReadSet::default();
            rule.query().add_to_read_set(&mut read_set);
            RuleState {
                key: rule_key(&group.file, &group.name, &rule),
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
        });
        GroupState {
            rules: rules.collect(),
            file: group.file,
            name: group.name,
            interval_ms: group.interval_ms,
            limit: group.limit,
            due_ms: None,
        }
    }

    fn evaluate(
        &mut self,
        settings: &EvaluatorSettings,
        history: &mut History,
        now_ms: i64,
        round: &mut EvaluationRound,
    ) {
        let group = (self.file.as_str(), self.name.as_str(), self.limit);
        for state in &mut self.rules {
            state.evaluate_into(group, settings, history, (now_ms, EvaluationKind::Regular), round);
        }
    }
}

impl RuleState {
    /// `group` is the group's file, name and limit.
    fn evaluate_into(
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
        let elements = self
            .rule
            .query()
            .evaluate(history, now_ms, settings.semantics)?
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
        self.write(series, history, now_ms, kind);
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
    fn write(&mut self, series: Vec<Element>, history: &mut History, now_ms: i64, kind: EvaluationKind) {
        let mut written = HashSet::with_capacity(series.len());
        for element in series {
            if history.remembers(element.labels.metric_name()) {
                history.record(now_ms, &element.labels, element.value);
                self.written.remove(&element.labels);
                written.insert(element.labels);
            }
        }
        match kind {
            EvaluationKind::Early => self.written.extend(written),
            EvaluationKind::Regular => {
                let ended = std::mem::replace(&mut self.written, written);
                ended.iter().for_each(|labels| history.record(now_ms, labels, stale()));
            }
        }
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

/// A hash of an expression and of those of the rules behind it, in any order.
fn origin<'t>(text: &str, behind: impl Iterator<Item = &'t str>) -> u64 {
    let mut behind: Vec<&str> = behind.collect();
    behind.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (text, behind).hash(&mut hasher);
    hasher.finish()
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

/// Whether a condition holds: a scalar other than zero and NaN, or any series at all. A condition that cannot be
/// evaluated does not hold.
pub fn holds(condition: &Query, history: &History, now_ms: i64, semantics: Semantics) -> bool {
    match condition.evaluate(history, now_ms, semantics) {
        Ok(QueryValue::Scalar(value)) => value != 0.0 && !value.is_nan(),
        Ok(QueryValue::Vector(elements)) => !elements.is_empty(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::alerting::Change;
    use super::super::history::SnapshotSource;
    use super::super::{promql, rule_file};
    use super::*;
    use crate::family::Family;

    fn evaluator(groups: &str) -> (Evaluator, History) {
        let file = rule_file::parse("x.yml", &format!("groups: [{groups}]")).unwrap();
        let evaluator = Evaluator::new(
            EvaluatorSettings {
                interval_ms: 1000,
                ..EvaluatorSettings::default()
            },
            vec![file],
        );
        let history = History::new(evaluator.read_set());
        (evaluator, history)
    }

    fn sample(history: &mut History, second: i64, value: f64) {
        let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
        history.append(
            SnapshotSource(0),
            second * 1000,
            &[Family::gauge("a", "").value(value)],
            &target,
        );
    }

    fn changes(round: &EvaluationRound) -> Vec<(&str, Change)> {
        round
            .transitions
            .iter()
            .map(|transition| (transition.alert.name(), transition.change))
            .collect()
    }

    #[test]
    fn recording_rules_feed_later_rules_and_end_with_their_input() {
        let (mut evaluator, mut history) = evaluator(
            "{name: g, rules: [{record: 'b:c', expr: 'a > 5', labels: {extra: x}}, {alert: High, expr: 'b:c'}, \
             {alert: Chained, expr: 'ALERTS{alertstate=\"firing\", alertname=\"High\"}'}]}",
        );
        let mut seen = Vec::new();
        for (second, value) in [(0, 1.0), (1, 9.0), (2, 9.0), (3, 1.0)] {
            sample(&mut history, second, value);
            let round = evaluator.evaluate(&mut history, second * 1000);
            assert!(round.failures.is_empty(), "{:?}", round.failures);
            seen.push(format!("{:?}", changes(&round)));
        }
        let expected = [
            "[]",
            r#"[("High", Began), ("Chained", Began)]"#,
            r#"[("High", Continues), ("Chained", Continues)]"#,
            r#"[("High", Ended), ("Chained", Ended)]"#,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn early_evaluation_starts_alerts_and_has_no_weight() {
        let (mut evaluator, mut history) = evaluator(
            "{name: g, interval: 1m, rules: [{record: 'b:c', expr: 'a > 5'}, {alert: High, expr: 'b:c'}, {alert: Now, expr: '1'}, \
             {alert: Mean, expr: 'avg_over_time(a[10s]) > 4'}, {alert: Many, expr: 'count_over_time(a[10s]) > 3'}]}",
        );
        let early = |evaluator: &mut Evaluator, history: &mut History, at_ms: i64, value: f64| {
            history.set_early(true);
            let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
            history.append(
                SnapshotSource(0),
                at_ms,
                &[Family::gauge("a", "").value(value)],
                &target,
            );
            let round = evaluator.evaluate_early(history, at_ms, &HashSet::from(["a"]));
            history.set_early(false);
            format!("{:?}", changes(&round))
        };
        let mut seen = Vec::new();
        for second in [0, 1] {
            sample(&mut history, second, 1.0);
            let round = evaluator.evaluate(&mut history, second * 1000);
            seen.push(format!("{:?}", changes(&round)));
        }
        // A hundred early samples count as one beside the regular ones: neither in a count nor in a mean.
        for number in 1..100 {
            let changes = early(&mut evaluator, &mut history, 1000 + number, 9.0);
            let expected = if number == 1 {
                r#"[("High", Began)]"#
            } else {
                r#"[("High", Continues)]"#
            };
            assert_eq!(changes, expected, "early sample {number}");
        }
        // An alert ends only with a regular sample.
        assert_eq!(
            early(&mut evaluator, &mut history, 1500, 1.0),
            r#"[("High", Continues)]"#
        );
        sample(&mut history, 2, 1.0);
        let round = evaluator.evaluate_all(&mut history, 2000);
        seen.push(format!("{:?}", changes(&round)));
        let expected = [r#"[("Now", Began)]"#, "[]", r#"[("High", Ended), ("Now", Continues)]"#];
        assert_eq!(seen, expected);
        assert_eq!(history.series("a")[0].newest_until(1999), Some((1000, 1.0)));
    }

    #[test]
    fn own_alerts_carry_job_and_instance() {
        let (mut evaluator, mut history) = evaluator("{name: g, rules: [{alert: A, expr: a}]}");
        sample(&mut history, 0, 1.0);
        let round = evaluator.evaluate(&mut history, 0);
        let labels = &round.transitions[0].alert.labels;
        assert_eq!(
            (labels.get("job"), labels.get("instance")),
            (Some("node"), Some("here:1"))
        );
    }

    #[test]
    fn groups_keep_their_interval_and_skip_what_they_missed() {
        let (mut evaluator, mut history) = evaluator(
            "{name: slow, interval: 3s, rules: [{alert: S, expr: '1'}]}, {name: fast, rules: [{alert: F, expr: '1'}]}",
        );
        let evaluated = [0, 1000, 2900, 3000, 3500, 10_000, 11_000, 12_000].map(|now_ms| {
            let round = evaluator.evaluate(&mut history, now_ms);
            changes(&round).iter().map(|(name, _)| *name).collect::<String>()
        });
        assert_eq!(evaluated, ["SF", "F", "F", "SF", "", "SF", "F", "SF"]);
        let next_due_ms = evaluator.groups.iter().map(|group| group.due_ms).min().flatten();
        assert_eq!(next_due_ms, Some(13_000));
    }

    #[test]
    fn a_reload_keeps_alerts_of_rules_that_stay_and_ends_the_others() {
        let (mut evaluator, mut history) =
            evaluator("{name: g, rules: [{alert: Stays, expr: '1'}, {alert: Goes, expr: '1'}]}");
        evaluator.evaluate(&mut history, 0);
        let file = rule_file::parse("x.yml", "groups: [{name: g, rules: [{alert: Stays, expr: '2'}]}]").unwrap();
        let ended = evaluator.replace(EvaluatorSettings::default(), vec![file], &mut history, 1000);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].alert.name(), ended[0].change), ("Goes", Change::Ended));
        let round = evaluator.evaluate(&mut history, 1000);
        assert_eq!(changes(&round), [("Stays", Change::Continues)]);
        assert_eq!(round.transitions[0].alert.starts_at.as_millisecond(), 0);
    }

    #[test]
    fn failing_rule_is_reported_and_the_others_go_on() {
        let (mut evaluator, mut history) = evaluator(
            "{name: g, rules: [{alert: Bad, expr: 'label_replace({__name__=~\"a|b\"}, \"__name__\", \"c\", \"\", \"\")'}, \
             {alert: Good, expr: a}]}",
        );
        history.append(
            SnapshotSource(0),
            0,
            &[Family::gauge("a", "").value(1.0), Family::gauge("b", "").value(1.0)],
            &[],
        );
        let round = evaluator.evaluate(&mut history, 0);
        assert_eq!(changes(&round), [("Good", Change::Began)]);
        let failure = "x.yml: group \"g\", rule \"Bad\": vector cannot contain metrics with the same labelset: c";
        assert_eq!(
            round
                .failures
                .iter()
                .map(EvaluationFailure::to_string)
                .collect::<Vec<_>>(),
            [failure]
        );
    }

    #[test]
    fn the_groups_limit_ends_the_alerts_of_a_rule() {
        let (mut evaluator, mut history) = evaluator("{name: g, limit: 1, rules: [{alert: A, expr: 'a{l=~\".+\"}'}]}");
        let family = |count: usize| {
            let mut family = Family::gauge("a", "");
            (0..count).for_each(|index| family.push(vec![crate::family::label("l", index.to_string())], 1.0));
            family
        };
        history.append(SnapshotSource(0), 0, &[family(1)], &[]);
        assert_eq!(changes(&evaluator.evaluate(&mut history, 0)), [("A", Change::Began)]);
        history.append(SnapshotSource(0), 1000, &[family(2)], &[]);
        let round = evaluator.evaluate(&mut history, 1000);
        assert_eq!((changes(&round), round.failures.len()), (vec![("A", Change::Ended)], 1));
    }

    #[test]
    fn conditions_hold_by_their_value() {
        let mut read_set = ReadSet::default();
        let parsed = |text: &str| promql::parse(text).unwrap();
        parsed("a").add_to_read_set(&mut read_set);
        let mut history = History::new(read_set);
        sample(&mut history, 0, 3.0);
        for (text, expected) in [
            ("a > 2", true),
            ("a > 3", false),
            ("a", true),
            ("2 > bool 1", true),
            ("1 > bool 2", false),
            ("scalar(b)", false),
            ("absent(b)", true),
            ("hour() >= 1", false),
            ("hour() < 1", true),
        ] {
            assert_eq!(
                holds(&parsed(text), &history, 1000, Semantics::default()),
                expected,
                "{text}"
            );
        }
    }
}
