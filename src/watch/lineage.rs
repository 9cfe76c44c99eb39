//! The lineage of an expression: the recording rules and alerts behind the series that it reads, down to the sampled
//! metrics.

use super::alerting::{ALERTS, ALERTS_FOR_STATE};
use super::interest::Interest;
use super::labels::Text;
use super::rule_file::Rule;
use std::collections::BTreeSet;

/// The rules of all groups by their number, in the order of evaluation.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// What each rule reads, and its `for`.
    rules: Vec<(Interest, i64)>,
    /// Names of series that rules write, each with the number of the rule.
    written: Vec<(Text, usize)>,
}

impl Lineage {
    pub fn new<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let mut lineage = Lineage::default();
        for (number, rule) in rules.enumerate() {
            let mut interest = Interest::default();
            rule.query().add_interest(&mut interest);
            let for_ms = match rule {
                Rule::Recording(rule) => {
                    lineage.written.push((rule.record.clone(), number));
                    0
                }
                Rule::Alerting(rule) => {
                    lineage.written.push((ALERTS.into(), number));
                    lineage.written.push((ALERTS_FOR_STATE.into(), number));
                    rule.for_ms
                }
            };
            lineage.rules.push((interest, for_ms));
        }
        lineage
    }

    /// The rules that write what is read, directly or through others.
    pub fn behind(&self, interest: &Interest) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = self.writers(interest).collect();
        while let Some(rule) = open.pop() {
            if found.insert(rule) {
                open.extend(self.writers(&self.rules[rule].0));
            }
        }
        found
    }

    /// What `interest` and the rules behind it read of what no rule writes.
    pub fn sampled(&self, interest: &Interest, behind: &BTreeSet<usize>) -> Interest {
        let mut all = interest.clone();
        behind.iter().for_each(|rule| all.include(&self.rules[*rule].0));
        all.retain_names(|name| !self.is_written(name));
        all
    }

    fn is_written(&self, metric: &str) -> bool {
        is_of_alerts(metric) || self.written.iter().any(|(name, _)| &**name == metric)
    }

    /// How long samples must have been taken until each rule sees all that its expression reads, in milliseconds.
    pub fn needed_ms(&self) -> Vec<i64> {
        // Alerts that read alerts may read each other; the wait for those that read none is counted once.
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
        // What reads itself, directly or through others, has no beginning: there the chain is cut.
        known[rule] = Some(0);
        let interest = &self.rules[rule].0;
        let mut needed_ms = interest.longest_ms();
        for (name, writer) in &self.written {
            let Some(keep_ms) = interest.keep_ms(name) else {
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

    /// The rules that write what is read.
    fn writers<'l>(&'l self, interest: &'l Interest) -> impl Iterator<Item = usize> + 'l {
        let read = self.written.iter().filter(|(name, _)| interest.keep_ms(name).is_some());
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

    fn lineage(rules: &str) -> Lineage {
        let file = parse("x.yml", &format!("groups: [{{name: g, rules: [{rules}]}}]")).unwrap();
        Lineage::new(file.groups[0].rules.iter())
    }

    #[test]
    fn alerts_that_read_alerts_wait_once() {
        let rules: Vec<String> = (0..200)
            .map(|number| format!("{{alert: A{number}, expr: ALERTS, for: 1m}}"))
            .collect();
        let needed = lineage(&rules.join(", ")).needed_ms();
        assert!(needed.iter().all(|ms| *ms == 60_000), "{needed:?}");
    }

    #[test]
    fn needed_time_adds_up_along_recording_rules() {
        let lineage = lineage(
            "{record: r, expr: 'rate(a[1m])'}, {record: s, expr: 'max_over_time(r[2m]) + b'}, \
             {alert: A, expr: 's > 1', for: 3m}, {alert: B, expr: 'ALERTS{alertname=\"A\"}'}, {record: t, expr: 't + 1'}, \
             {alert: C, expr: '{__name__=~\"[rs]\"}'}",
        );
        let needed: Vec<i64> = lineage.needed_ms().iter().map(|ms| ms / 60_000).collect();
        // The fourth waits for the `for` of the alerts that it reads, its own among them.
        assert_eq!(needed, [1, 3, 3, 6, 0, 3]);
        let mut interest = Interest::default();
        super::super::promql::parse("s / c")
            .unwrap()
            .add_interest(&mut interest);
        let behind = lineage.behind(&interest);
        assert_eq!(behind, BTreeSet::from([0, 1]));
        let sampled = lineage.sampled(&interest, &behind);
        let mut names: Vec<&str> = sampled.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
