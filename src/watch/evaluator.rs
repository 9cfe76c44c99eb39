//! The evaluator of rule groups: which groups are due, what stays across reloads and restarts, and which alerts fire.
//! The caller passes time and samples; the evaluator uses no clock and no file.

use super::alerting::{ActiveAlert, EvaluationKind, Transition};
use super::dependencies::Dependencies;
use super::history::{History, ReadSet};
use super::labels::{LabelSet, Text};
use super::promql::{Query, QueryValue, Semantics};
use super::remembered::Remembered;
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
mod tests;
