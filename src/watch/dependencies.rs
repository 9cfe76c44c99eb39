//! The dependencies of an expression: the recording rules and alerts behind the series that it reads, down to the
//! sampled metrics.

use super::alerting::{ALERTS, ALERTS_FOR_STATE};
use super::labels::Text;
use super::read_set::ReadSet;
use super::rule_file::Rule;
use std::collections::BTreeSet;

/// The dependencies between the rules of all groups. A rule's number is its position in the order of evaluation.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    /// The read set of each rule, and its `for`.
    rules: Vec<(ReadSet, i64)>,
    /// The metrics that rules write, each with the number of the rule.
    written: Vec<(Text, usize)>,
}

impl Dependencies {
    /// Of rules, each with its read set.
    pub fn new<'r>(rules: impl Iterator<Item = (&'r Rule, ReadSet)>) -> Self {
        let mut dependencies = Dependencies::default();
        for (number, (rule, read_set)) in rules.enumerate() {
            let for_ms = match rule {
                Rule::Recording(rule) => {
                    dependencies.written.push((rule.record.clone(), number));
                    0
                }
                Rule::Alerting(rule) => {
                    dependencies.written.push((ALERTS.into(), number));
                    dependencies.written.push((ALERTS_FOR_STATE.into(), number));
                    rule.for_ms
                }
            };
            dependencies.rules.push((read_set, for_ms));
        }
        dependencies
    }

    /// The rules that write the metrics of `read_set`, directly or through other rules.
    pub fn behind(&self, read_set: &ReadSet) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = self.writers(read_set).collect();
        while let Some(rule) = open.pop() {
            if found.insert(rule) {
                open.extend(self.writers(&self.rules[rule].0));
            }
        }
        found
    }

    /// The sampled metrics that `read_set` and the rules behind it read.
    pub fn sampled(&self, read_set: &ReadSet, behind: &BTreeSet<usize>) -> ReadSet {
        let mut all = read_set.clone();
        behind.iter().for_each(|rule| all.include(&self.rules[*rule].0));
        all.retain_names(|name| !self.is_written(name));
        all
    }

    fn is_written(&self, metric: &str) -> bool {
        is_of_alerts(metric) || self.written.iter().any(|(name, _)| &**name == metric)
    }

    /// For each rule, how long evenkeel must have sampled until its expression has all samples, in milliseconds.
    pub fn needed_ms(&self) -> Vec<i64> {
        // Alerts that read alerts may read each other, so the wait for the others is counted once.
        let needed = self.needed_with(0);
        let alerting = self.written.iter().filter(|(name, _)| &**name == ALERTS);
        let alerts_ms = alerting.map(|(_, rule)| needed[*rule] + self.rules[*rule].1).max();
        self.needed_with(alerts_ms.unwrap_or(0))
    }

    fn needed_with(&self, alerts_ms: i64) -> Vec<i64> {
        let mut known = vec![None; self.rules.len()];
        (0..self.rules.len())
            .map(|rule| self.needed_by(rule, alerts_ms, &mut known))
            .collect()
    }

    fn needed_by(&self, rule: usize, alerts_ms: i64, known: &mut [Option<i64>]) -> i64 {
        if let Some(needed_ms) = known[rule] {
            return needed_ms;
        }
        // Cuts a cycle of rules that read each other.
        known[rule] = Some(0);
        let read_set = &self.rules[rule].0;
        let mut needed_ms = read_set.longest_ms();
        for (name, writer) in &self.written {
            let Some(keep_ms) = read_set.keep_ms(name) else {
                continue;
            };
            let before_ms = if is_of_alerts(name) {
                alerts_ms
            } else {
                self.needed_by(*writer, alerts_ms, known)
            };
            needed_ms = needed_ms.max(keep_ms + before_ms);
        }
        known[rule] = Some(needed_ms);
        needed_ms
    }

    /// The rules that write the metrics of `read_set`.
    fn writers<'l>(&'l self, read_set: &'l ReadSet) -> impl Iterator<Item = usize> + 'l {
        let read = self.written.iter().filter(|(name, _)| read_set.keep_ms(name).is_some());
        read.map(|(_, rule)| *rule)
    }
}

fn is_of_alerts(metric: &str) -> bool {
    [ALERTS, ALERTS_FOR_STATE].contains(&metric)
}

#[cfg(test)]
mod tests {
    use super::super::rule_file::parse;
    use super::*;

    fn dependencies(rules: &str) -> Dependencies {
        let file = parse("x.yml", &format!("groups: [{{name: g, rules: [{rules}]}}]")).unwrap();
        let rules = file.groups[0].rules.iter().map(|rule| {
            let mut read_set = ReadSet::default();
            rule.query().add_to_read_set(&mut read_set);
            (rule, read_set)
        });
        Dependencies::new(rules)
    }

    #[test]
    fn alerts_that_read_alerts_wait_once() {
        let rules: Vec<String> = (0..200)
            .map(|number| format!("{{alert: A{number}, expr: ALERTS, for: 1m}}"))
            .collect();
        let needed = dependencies(&rules.join(", ")).needed_ms();
        assert!(needed.iter().all(|ms| *ms == 60_000), "{needed:?}");
    }

    #[test]
    fn needed_time_adds_up_along_recording_rules() {
        let dependencies = dependencies(
            "{record: r, expr: 'rate(a[1m])'}, {record: s, expr: 'max_over_time(r[2m]) + b'}, \
             {alert: A, expr: 's > 1', for: 3m}, {alert: B, expr: 'ALERTS{alertname=\"A\"}'}, {record: t, expr: 't + 1'}, \
             {alert: C, expr: '{__name__=~\"[rs]\"}'}",
        );
        let needed: Vec<i64> = dependencies.needed_ms().iter().map(|ms| ms / 60_000).collect();
        // The fourth rule waits for the `for` of all alerts, including its own.
        assert_eq!(needed, [1, 3, 3, 6, 0, 3]);
        let mut read_set = ReadSet::default();
        super::super::promql::parse("s / c")
            .unwrap()
            .add_to_read_set(&mut read_set);
        let behind = dependencies.behind(&read_set);
        assert_eq!(behind, BTreeSet::from([0, 1]));
        let sampled = dependencies.sampled(&read_set, &behind);
        let mut names: Vec<&str> = sampled.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
