//! The evaluator of rule groups: it evaluates the groups that are due, writes recorded series into the history, and
//! returns alerts. The caller passes time and samples; the evaluator uses no clock and no file.

use super::alerting::{ActiveAlert, AlertState, AlertingError, Look, Remembered, Transition};
use super::history::{History, Interest, stale};
use super::labels::{LabelSet, METRIC_NAME, Text};
use super::lineage::Lineage;
use super::promql::{Element, EvaluationError, Query, Semantics, Value};
use super::rule_file::{Group, RecordingRule, Rule, RuleFile};
use crate::alert::Alert;
use std::collections::{HashMap, HashSet, VecDeque};

/// What holds for all rules.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For groups that set none.
    pub interval_ms: i64,
    pub external_labels: LabelSet,
    pub external_url: String,
    pub semantics: Semantics,
}

impl Default for Settings {
    fn default() -> Self {
        let semantics = Semantics::default();
        Settings {
            interval_ms: 60_000,
            external_labels: LabelSet::default(),
            external_url: String::new(),
            semantics,
        }
    }
}

/// What one call of [`Evaluator::evaluate`] has found.
#[derive(Debug, Default)]
pub struct Round {
    /// Every alert that fires in a group that was due, and every one that has ceased to.
    pub transitions: Vec<Transition>,
    pub failures: Vec<Failure>,
    /// How many rules were evaluated.
    pub rules: usize,
}

/// A rule that could not be evaluated; what it said before stands.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{file}: group {group:?}, rule {rule:?}: {error}")]
pub struct Failure {
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
    alerts: AlertState,
    /// The series that the last evaluation has written and that some rule reads.
    written: HashSet<LabelSet>,
    /// What its expression reads.
    interest: Interest,
    /// What it reads of samples, directly or through recording rules.
    sampled: Interest,
    /// How long samples must have been taken until its expression sees all that it reads.
    needed_ms: i64,
    /// The first regular evaluation of this expression.
    since_ms: Option<i64>,
    /// The newest regular one that did not fail.
    evaluated_ms: Option<i64>,
}

/// How long a metric that no sample had yet is waited for: its collector may be slow, or there is none.
pub const UNSEEN_PATIENCE_MS: i64 = 60_000;

/// What the answer to a query rests on.
#[derive(Debug)]
pub struct Basis {
    /// The sampled metrics that it reads, directly or through rules.
    pub sampled: Interest,
    /// Of each of the rules, when it was evaluated last and how often it is, in milliseconds.
    pub evaluations: Vec<(Option<i64>, i64)>,
    /// Whether it names a metric that no sample had yet.
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
    settings: Settings,
    groups: Vec<GroupState>,
    lineage: Lineage,
}

impl Evaluator {
    pub fn new(settings: Settings, files: Vec<RuleFile>) -> Self {
        let mut groups: Vec<GroupState> = files
            .into_iter()
            .flat_map(|file| file.groups)
            .map(GroupState::new)
            .collect();
        let rules = groups.iter().flat_map(|group| &group.rules);
        let lineage = Lineage::new(rules.map(|state| &state.rule));
        let rules = groups.iter_mut().flat_map(|group| &mut group.rules);
        for (state, needed_ms) in rules.zip(lineage.needed_ms()) {
            state.needed_ms = needed_ms;
            state.sampled = lineage.sampled(&state.interest, &lineage.behind(&state.interest));
        }
        Evaluator {
            settings,
            groups,
            lineage,
        }
    }

    /// Moves all times: the wall clock was stepped, and what is due or has begun is as far away as before.
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

    /// What the answer to a query rests on.
    pub fn basis(&self, query: &Query, history: &History) -> Basis {
        let mut asked = Interest::default();
        query.add_interest(&mut asked);
        let behind = self.lineage.behind(&asked);
        let sampled = self.lineage.sampled(&asked, &behind);
        let has_unseen = sampled.names().any(|name| history.first_ms(name).is_none());
        let evaluations = self.groups.iter().flat_map(|group| {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms);
            group.rules.iter().map(move |state| (state.evaluated_ms, interval_ms))
        });
        let evaluations = evaluations.enumerate().filter(|(number, _)| behind.contains(number));
        Basis {
            evaluations: evaluations.map(|(_, evaluation)| evaluation).collect(),
            sampled,
            has_unseen,
        }
    }

    /// Every alert that fires, as it would be sent. What fired before a restart is among them once it is confirmed.
    pub fn firing(&self) -> impl Iterator<Item = Alert> {
        self.rules().flat_map(|state| state.alerts.firing())
    }

    /// Whether an alert that fired before a restart may go on or be over, for want of samples.
    pub fn has_undecided(&self) -> bool {
        let mut undecided = self.rules().filter(|state| !state.alerts.has_samples());
        undecided.any(|state| {
            state
                .alerts
                .remembered()
                .any(|(_, before)| before.fired_at_ms.is_some())
        })
    }

    /// What the rules read, for [`History::new`].
    pub fn interest(&self) -> Interest {
        let mut interest = Interest::default();
        self.rules()
            .for_each(|state| state.rule.query().add_interest(&mut interest));
        interest
    }

    /// The earliest moment at which a group is due; `None` if that is now, or if there are no groups.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.groups.iter().map(|group| group.due_ms).min().flatten()
    }

    /// Evaluates the groups that are due at `now_ms`, Unix time in milliseconds, in the order of their files.
    pub fn evaluate(&mut self, history: &mut History, now_ms: i64) -> Round {
        let mut round = Round::default();
        for group in &mut self.groups {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms).max(1);
            if group.due_ms.is_none_or(|due_ms| due_ms <= now_ms) {
                group.evaluate(&self.settings, history, now_ms, &mut round);
                // In step with the first evaluation; what was missed is not made up for.
                let due_ms = group.due_ms.unwrap_or(now_ms);
                group.due_ms = Some(due_ms + ((now_ms - due_ms) / interval_ms + 1) * interval_ms);
            }
        }
        round
    }

    /// Evaluates between two regular samples, whatever is due, the rules that read one of the metrics in `seen`, and those
    /// that read what such a rule records. An alert may begin, and none ends: that takes a regular sample.
    pub fn evaluate_early(&mut self, history: &mut History, now_ms: i64, seen: &HashSet<&str>) -> Round {
        let mut round = Round::default();
        let mut recorded: HashSet<Text> = HashSet::new();
        history.set_early(true);
        for group in &mut self.groups {
            let (file, name) = (&group.file, &group.name);
            for state in &mut group.rules {
                if !state
                    .interest
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
                    (now_ms, Look::Early),
                    &mut round,
                );
            }
        }
        history.set_early(false);
        round
    }

    /// Evaluates every group at `now_ms`, due or not, as unit tests want it.
    pub fn evaluate_all(&mut self, history: &mut History, now_ms: i64) -> Round {
        let mut round = Round::default();
        for group in &mut self.groups {
            group.evaluate(&self.settings, history, now_ms, &mut round);
        }
        round
    }

    /// Goes on with other rules. A rule that keeps file, group, name and labels keeps its alerts; those of rules that are
    /// gone are returned as ended. The caller sets the history's interest again.
    pub fn replace(
        &mut self,
        settings: Settings,
        files: Vec<RuleFile>,
        history: &mut History,
        now_ms: i64,
    ) -> Vec<Transition> {
        let mut known: HashMap<String, VecDeque<RuleState>> = HashMap::new();
        for group in std::mem::take(&mut self.groups) {
            for state in group.rules {
                known
                    .entry(identity(&group.file, &group.name, &state.rule))
                    .or_default()
                    .push_back(state);
            }
        }
        *self = Evaluator::new(settings, files);
        for group in &mut self.groups {
            for state in &mut group.rules {
                let same = known.get_mut(&identity(&group.file, &group.name, &state.rule));
                if let Some(before) = same.and_then(VecDeque::pop_front) {
                    let is_same =
                        before.rule.query().text == state.rule.query().text && before.needed_ms == state.needed_ms;
                    (state.alerts, state.written) = (before.alerts, before.written);
                    if is_same {
                        state.since_ms = before.since_ms;
                    } else {
                        state.alerts.set_has_samples(false);
                    }
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

    /// Every active alert of every alerting rule, pending ones too.
    pub fn active(&self) -> impl Iterator<Item = ActiveAlert<'_>> {
        self.rules().flat_map(|state| state.alerts.active())
    }

    /// The same with what makes each one's rule the same after a restart.
    pub fn each_active(&self, mut see: impl FnMut(&str, ActiveAlert<'_>)) {
        for group in &self.groups {
            for state in &group.rules {
                let mut active = state.alerts.active().peekable();
                if active.peek().is_some() {
                    let rule = identity(&group.file, &group.name, &state.rule);
                    active.for_each(|alert| see(&rule, alert));
                }
            }
        }
    }

    /// What was active before a restart and is not decided yet, each with its rule and whether the last evaluation yielded it.
    pub fn each_remembered(&self, mut see: impl FnMut(&str, &LabelSet, Remembered, bool)) {
        for group in &self.groups {
            for state in &group.rules {
                let mut remembered = state.alerts.remembered().peekable();
                if remembered.peek().is_some() {
                    let rule = identity(&group.file, &group.name, &state.rule);
                    remembered.for_each(|(labels, before)| {
                        see(&rule, labels, before, Some(before.seen_at_ms) == state.evaluated_ms);
                    });
                }
            }
        }
    }

    /// Tells each rule which alerts it had before a restart.
    pub fn remember(&mut self, mut before: impl FnMut(&str) -> Vec<(LabelSet, Remembered)>) {
        for group in &mut self.groups {
            for state in &mut group.rules {
                for (labels, remembered) in before(&identity(&group.file, &group.name, &state.rule)) {
                    state.alerts.remember(labels, remembered);
                }
            }
        }
    }

    fn rules(&self) -> impl Iterator<Item = &RuleState> {
        self.groups.iter().flat_map(|group| &group.rules)
    }
}

impl GroupState {
    fn new(group: Group) -> Self {
        let rules = group.rules.into_iter();
        let rules = rules
            .map(|rule| {
                let mut interest = Interest::default();
                rule.query().add_interest(&mut interest);
                RuleState {
                    rule,
                    alerts: AlertState::default(),
                    written: HashSet::new(),
                    interest,
                    sampled: Interest::default(),
                    needed_ms: 0,
                    since_ms: None,
                    evaluated_ms: None,
                }
            })
            .collect();
        let Group {
            file,
            name,
            interval_ms,
            limit,
            ..
        } = group;
        GroupState {
            file,
            name,
            interval_ms,
            limit,
            due_ms: None,
            rules,
        }
    }

    fn evaluate(&mut self, settings: &Settings, history: &mut History, now_ms: i64, round: &mut Round) {
        let group = (self.file.as_str(), self.name.as_str(), self.limit);
        for state in &mut self.rules {
            state.evaluate_into(group, settings, history, (now_ms, Look::Regular), round);
        }
    }
}

impl RuleState {
    /// `group` is its file, its name and its limit.
    fn evaluate_into(
        &mut self,
        group: (&str, &str, usize),
        settings: &Settings,
        history: &mut History,
        at: (i64, Look),
        round: &mut Round,
    ) {
        let (file, name, limit) = group;
        round.rules += 1;
        if let Err(error) = self.evaluate(settings, limit, history, at, &mut round.transitions) {
            round.failures.push(Failure {
                file: file.to_owned(),
                group: name.to_owned(),
                rule: self.rule.name().into(),
                error,
            });
        }
    }

    fn evaluate(
        &mut self,
        settings: &Settings,
        limit: usize,
        history: &mut History,
        (now_ms, look): (i64, Look),
        told: &mut Vec<Transition>,
    ) -> Result<(), RuleFailure> {
        if look == Look::Regular && !self.alerts.has_samples() {
            let has_samples = self.sees_all_it_reads(history, now_ms);
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
                    .advance(rule, limit, elements, external, (now_ms, look), told)?;
                let is_read =
                    history.remembers(super::alerting::ALERTS) || history.remembers(super::alerting::ALERTS_FOR_STATE);
                if is_read { self.alerts.series() } else { Vec::new() }
            }
        };
        self.write(series, history, now_ms, look);
        if look == Look::Regular {
            self.evaluated_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Whether samples reach as far back as the expression reads. A metric that comes late is waited for.
    fn sees_all_it_reads(&mut self, history: &History, now_ms: i64) -> bool {
        let elapsed_ms = now_ms - *self.since_ms.get_or_insert(now_ms);
        let is_covered = |name: &str| {
            let keep_ms = self.sampled.keep_ms(name).unwrap_or(0);
            history
                .first_ms(name)
                .is_some_and(|first_ms| now_ms - first_ms >= keep_ms)
        };
        elapsed_ms >= self.needed_ms
            && (elapsed_ms >= self.needed_ms + UNSEEN_PATIENCE_MS || self.sampled.names().all(is_covered))
    }

    /// Series that were written before and are no longer are ended, as Prometheus does.
    fn write(&mut self, series: Vec<Element>, history: &mut History, now_ms: i64, look: Look) {
        let mut written = HashSet::with_capacity(series.len());
        for element in series {
            if history.remembers(element.labels.metric_name()) {
                history.record(now_ms, &element.labels, element.value);
                self.written.remove(&element.labels);
                written.insert(element.labels);
            }
        }
        match look {
            Look::Early => self.written.extend(written),
            Look::Regular => {
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

/// What makes a rule the same after a reload: neither its expression nor its place in the group.
fn identity(file: &str, group: &str, rule: &Rule) -> String {
    let labels: Vec<String> = match rule {
        Rule::Recording(rule) => rule
            .labels
            .iter()
            .map(|(name, value)| format!("{name:?}={value:?}"))
            .collect(),
        Rule::Alerting(rule) => rule
            .labels
            .iter()
            .map(|(name, template)| format!("{name:?}={:?}", template.source()))
            .collect(),
    };
    let kind = if matches!(rule, Rule::Recording(_)) {
        "record"
    } else {
        "alert"
    };
    format!("{file:?} {group:?} {kind} {:?} {labels:?}", rule.name())
}

/// Whether a condition holds: a scalar other than zero and NaN, or any series at all. A condition that cannot be
/// evaluated does not hold.
pub fn holds(condition: &Query, history: &History, now_ms: i64, semantics: Semantics) -> bool {
    match condition.evaluate(history, now_ms, semantics) {
        Ok(Value::Scalar(value)) => value != 0.0 && !value.is_nan(),
        Ok(Value::Vector(elements)) => !elements.is_empty(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::alerting::Change;
    use super::super::history::Source;
    use super::super::{promql, rule_file};
    use super::*;
    use crate::family::Family;

    fn evaluator(groups: &str) -> (Evaluator, History) {
        let file = rule_file::parse("x.yml", &format!("groups: [{groups}]")).unwrap();
        let evaluator = Evaluator::new(
            Settings {
                interval_ms: 1000,
                ..Settings::default()
            },
            vec![file],
        );
        let history = History::new(evaluator.interest());
        (evaluator, history)
    }

    fn sample(history: &mut History, second: i64, value: f64) {
        let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
        history.append(
            Source(0),
            second * 1000,
            &[Family::gauge("a", "").value(value)],
            &target,
        );
    }

    fn changes(round: &Round) -> Vec<(&str, Change)> {
        round
            .transitions
            .iter()
            .map(|transition| (transition.alert.name(), transition.change))
            .collect()
    }

    #[test]
    fn recording_rules_feed_the_rules_after_them_and_end_with_their_input() {
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
    fn an_early_look_finds_what_begins_and_weighs_nothing() {
        let (mut evaluator, mut history) = evaluator(
            "{name: g, interval: 1m, rules: [{record: 'b:c', expr: 'a > 5'}, {alert: High, expr: 'b:c'}, {alert: Now, expr: '1'}, \
             {alert: Mean, expr: 'avg_over_time(a[10s]) > 4'}, {alert: Many, expr: 'count_over_time(a[10s]) > 3'}]}",
        );
        let early = |evaluator: &mut Evaluator, history: &mut History, at_ms: i64, value: f64| {
            history.set_early(true);
            let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
            history.append(Source(0), at_ms, &[Family::gauge("a", "").value(value)], &target);
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
        // A hundred looks are two regular samples and one more: neither many nor a mean of nine.
        for look in 1..100 {
            let changes = early(&mut evaluator, &mut history, 1000 + look, 9.0);
            let expected = if look == 1 {
                r#"[("High", Began)]"#
            } else {
                r#"[("High", Continues)]"#
            };
            assert_eq!(changes, expected, "look {look}");
        }
        // What is over for a moment is over when a regular sample says so.
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
        assert_eq!(evaluator.next_due_ms(), Some(13_000));
    }

    #[test]
    fn a_reload_keeps_alerts_of_rules_that_stay_and_ends_the_others() {
        let (mut evaluator, mut history) =
            evaluator("{name: g, rules: [{alert: Stays, expr: '1'}, {alert: Goes, expr: '1'}]}");
        evaluator.evaluate(&mut history, 0);
        let file = rule_file::parse("x.yml", "groups: [{name: g, rules: [{alert: Stays, expr: '2'}]}]").unwrap();
        let ended = evaluator.replace(Settings::default(), vec![file], &mut history, 1000);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].alert.name(), ended[0].change), ("Goes", Change::Ended));
        let round = evaluator.evaluate(&mut history, 1000);
        assert_eq!(changes(&round), [("Stays", Change::Continues)]);
        assert_eq!(round.transitions[0].alert.starts_at.as_millisecond(), 0);
    }

    #[test]
    fn a_failing_rule_is_told_and_the_others_go_on() {
        let (mut evaluator, mut history) = evaluator(
            "{name: g, rules: [{alert: Bad, expr: 'label_replace({__name__=~\"a|b\"}, \"__name__\", \"c\", \"\", \"\")'}, \
             {alert: Good, expr: a}]}",
        );
        history.append(
            Source(0),
            0,
            &[Family::gauge("a", "").value(1.0), Family::gauge("b", "").value(1.0)],
            &[],
        );
        let round = evaluator.evaluate(&mut history, 0);
        assert_eq!(changes(&round), [("Good", Change::Began)]);
        let failure = "x.yml: group \"g\", rule \"Bad\": vector cannot contain metrics with the same labelset: c";
        assert_eq!(
            round.failures.iter().map(Failure::to_string).collect::<Vec<_>>(),
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
        history.append(Source(0), 0, &[family(1)], &[]);
        assert_eq!(changes(&evaluator.evaluate(&mut history, 0)), [("A", Change::Began)]);
        history.append(Source(0), 1000, &[family(2)], &[]);
        let round = evaluator.evaluate(&mut history, 1000);
        assert_eq!((changes(&round), round.failures.len()), (vec![("A", Change::Ended)], 1));
    }

    #[test]
    fn conditions_hold_by_their_value() {
        let mut interest = Interest::default();
        let parsed = |text: &str| promql::parse(text).unwrap();
        parsed("a").add_interest(&mut interest);
        let mut history = History::new(interest);
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
