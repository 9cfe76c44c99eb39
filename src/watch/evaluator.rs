//! The evaluator of rule groups: which groups are due, what stays across reloads and restarts, and which alerts fire.
//! The caller passes time and samples; the evaluator uses no clock and no file.

use super::alerting::{ActiveAlert, EvaluationKind, Remembered, Transition};
use super::dependencies::Dependencies;
use super::history::{History, ReadSet};
use super::labels::{LabelSet, Text};
use super::promql::{Query, QueryValue, Semantics};
use super::rule_file::{Group, Rule, RuleFile};
use super::rule_state::RuleState;
use crate::alert::Alert;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

pub use super::rule_state::{EvaluationRound, EvaluatorSettings, UNSEEN_METRIC_WAIT_MS};

/// Number of intervals without a successful evaluation after which a rule confirms none of its alerts. Prometheus ends the
/// alerts that it stops sending after four intervals as well.
const MAX_MISSED: i64 = 4;

/// The metrics and rules on which the result of a query depends.
#[derive(Debug)]
pub struct QueryInputs {
    /// The sampled metrics that the query reads, directly or through rules.
    pub sampled: ReadSet,
    /// Of each rule that it reads, the time for which it was last evaluated and the interval, in milliseconds.
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
    /// Whether a `query_offset` keeps it from reading the newest samples.
    reads_late: bool,
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
        let dependencies = Dependencies::new(rules.map(|state| (&state.rule, state.read_set.clone())));
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
            let read_ms = |state: &RuleState| state.evaluated_ms.map(|at_ms| at_ms - state.query_offset_ms);
            group.rules.iter().map(move |state| (read_ms(state), interval_ms))
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
        self.rules().for_each(|state| read_set.include(&state.read_set));
        read_set
    }

    /// Evaluates the groups that are due at `now_ms`, Unix time in milliseconds, in the order of their files.
    pub fn evaluate(&mut self, history: &mut History, now_ms: i64) -> EvaluationRound {
        let mut round = EvaluationRound::default();
        for group in &mut self.groups {
            let interval_ms = group.interval_ms.unwrap_or(self.settings.interval_ms).max(1);
            if group.due_ms.is_none_or(|due_ms| due_ms <= now_ms) {
                let identity = (&*group.file, &*group.name, group.limit);
                let at = (now_ms, EvaluationKind::Regular);
                for state in &mut group.rules {
                    state.evaluate_into(identity, &self.settings, history, at, &mut round);
                }
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
        for group in self.groups.iter_mut().filter(|group| !group.reads_late) {
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
        for state in known.into_values().flatten() {
            ended.extend(state.end(history, now_ms));
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
        let states = group.rules.into_iter();
        let states = states.map(|rule| RuleState::new(&group.file, &group.name, group.query_offset_ms, rule));
        GroupState {
            rules: states.collect(),
            file: group.file,
            name: group.name,
            interval_ms: group.interval_ms,
            limit: group.limit,
            reads_late: group.query_offset_ms > 0,
            due_ms: None,
        }
    }
}

/// A hash of an expression and of those of the rules behind it, in any order.
fn origin<'t>(text: &str, behind: impl Iterator<Item = &'t str>) -> u64 {
    let mut behind: Vec<&str> = behind.collect();
    behind.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (text, behind).hash(&mut hasher);
    hasher.finish()
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
    use super::super::rule_state::EvaluationFailure;
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
    fn a_recording_rule_above_the_limit_writes_nothing() {
        let (mut evaluator, mut history) =
            evaluator("{name: g, limit: 1, rules: [{record: r, expr: a}, {alert: A, expr: r}]}");
        let family = |count: usize| {
            let mut family = Family::gauge("a", "");
            (0..count).for_each(|index| family.push(vec![crate::family::label("l", index.to_string())], 1.0));
            family
        };
        for (second, count) in [(0, 1), (1, 2)] {
            history.append(SnapshotSource(0), second * 1000, &[family(count)], &[]);
            let round = evaluator.evaluate(&mut history, second * 1000);
            let failures: Vec<String> = round.failures.iter().map(ToString::to_string).collect();
            if count == 1 {
                assert!(failures.is_empty(), "{failures:?}");
            } else {
                let expected = "x.yml: group \"g\", rule \"r\": 2 series exceed the group's limit of 1";
                assert_eq!(failures, [expected]);
            }
        }
        let series = history.series("r");
        // As in Prometheus, no staleness marker is written.
        assert_eq!((series.len(), series[0].newest_until(1000)), (1, Some((0, 1.0))));
    }

    #[test]
    fn query_offset_delays_what_a_group_reads_and_writes() {
        let (mut evaluator, mut history) = evaluator(
            "{name: late, query_offset: 2s, rules: [{record: 'b:c', expr: 'a + 0'}, {alert: High, expr: 'b:c > 5'}, \
             {alert: Whole, expr: 'max_over_time(a[1s] @ end()) > 5'}]}, {name: g, rules: [{alert: Now, expr: 'a > 5'}]}",
        );
        assert_eq!(evaluator.read_set().keep_ms("a"), Some(3000));
        let mut seen = Vec::new();
        for second in 0..6 {
            let value = if second == 1 { 9.0 } else { 1.0 };
            sample(&mut history, second, value);
            // The group reads no sample that has just arrived.
            let early = evaluator.evaluate_early(&mut history, second * 1000, &HashSet::from(["a", "b:c"]));
            assert!(
                early
                    .transitions
                    .iter()
                    .all(|transition| transition.alert.name() == "Now")
            );
            let round = evaluator.evaluate(&mut history, second * 1000);
            assert!(round.failures.is_empty(), "{:?}", round.failures);
            let changes = changes(&round)
                .into_iter()
                .filter(|(_, change)| *change != Change::Continues);
            seen.extend(changes.map(|(name, change)| format!("{second} {name} {change:?}")));
            assert!(
                round
                    .transitions
                    .iter()
                    .all(|t| t.alert.starts_at.as_millisecond() <= second * 1000)
            );
        }
        let expected = [
            "2 Now Ended",
            "3 High Began",
            "3 Whole Began",
            "4 High Ended",
            "4 Whole Ended",
        ];
        assert_eq!(seen, expected);
        assert_eq!(history.series("b:c")[0].newest_until(9000), Some((3000, 1.0)));
        // A series of a removed rule ends where it was last written.
        evaluator.replace(EvaluatorSettings::default(), Vec::new(), &mut history, 6000);
        let (ended_ms, value) = history.series("b:c")[0].newest_until(9000).unwrap();
        assert!(
            ended_ms == 4000 && super::super::history::is_stale(value),
            "{ended_ms} {value}"
        );
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
