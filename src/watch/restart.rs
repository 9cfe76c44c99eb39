//! The state of active alerts that survives a restart of evenkeel, like ALERTS_FOR_STATE of Prometheus.

use super::evaluator::Evaluator;
use super::labels::LabelSet;
use super::remembered::Remembered;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// All pending and firing alerts at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveAlerts {
    /// Unix time of the last evaluation in milliseconds.
    pub seen_at_ms: i64,
    pub alerts: Vec<Kept>,
}

/// One pending or firing alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The key of its rule, the same across restarts.
    pub rule: String,
    pub labels: BTreeMap<String, String>,
    pub active_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at_ms: Option<i64>,
    /// The time since which only `keep_firing_for` keeps it firing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_since_ms: Option<i64>,
    /// The time of the last evaluation if earlier than for the others, because its rule has too few samples since a
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at_ms: Option<i64>,
}

impl ActiveAlerts {
    /// The alerts to store at `now_ms`.
    pub fn of(evaluator: &Evaluator, now_ms: i64) -> ActiveAlerts {
        let texts = |labels: &LabelSet| {
            let labels = labels.iter();
            labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let active = evaluator.active_by_rule().map(|(rule, alert)| Kept {
            rule: rule.to_owned(),
            labels: texts(alert.labels),
            active_at_ms: alert.active_at_ms,
            fired_at_ms: alert.fired_at_ms,
            kept_since_ms: alert.kept_since_ms,
            seen_at_ms: None,
        });
        let remembered = evaluator.remembered_by_rule();
        let remembered = remembered.map(|(rule, labels, before, is_seen)| Kept {
            rule: rule.to_owned(),
            labels: texts(labels),
            active_at_ms: before.active_at_ms,
            fired_at_ms: before.fired_at_ms,
            kept_since_ms: before.kept_since_ms,
            seen_at_ms: (!is_seen).then_some(before.seen_at_ms),
        });
        ActiveAlerts {
            seen_at_ms: now_ms,
            alerts: active.chain(remembered).collect(),
        }
    }

    /// Passes each alert to its rule, if that still exists.
    pub fn restore(&self, evaluator: &mut Evaluator) {
        let mut by_rule: HashMap<&str, Vec<(LabelSet, Remembered)>> = HashMap::new();
        for kept in &self.alerts {
            let pairs = kept.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let remembered = Remembered {
                active_at_ms: kept.active_at_ms,
                fired_at_ms: kept.fired_at_ms,
                kept_since_ms: kept.kept_since_ms,
                seen_at_ms: kept.seen_at_ms.unwrap_or(self.seen_at_ms),
            };
            let alerts = by_rule.entry(&kept.rule).or_default();
            alerts.push((LabelSet::from_pairs(pairs), remembered));
        }
        evaluator.remember(|rule| by_rule.remove(rule).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluator::EvaluatorSettings;
    use super::super::history::History;
    use super::super::rule_file::parse;
    use super::*;

    #[test]
    fn alerts_survive_a_restart_in_their_rule() {
        let evaluator = |text: &str| {
            let file = parse("x.yml", text).unwrap();
            Evaluator::new(EvaluatorSettings::default(), vec![file])
        };
        let rules =
            "groups: [{name: g, rules: [{alert: Fires, expr: vector(1)}, {alert: Waits, expr: vector(1), for: 1m}]}]";
        let mut before = evaluator(rules);
        before.evaluate_all(&mut History::default(), 5000);
        let kept = ActiveAlerts::of(&before, 7000);
        let written = serde_json::to_string(&kept).unwrap();

        let mut after = evaluator(rules);
        serde_json::from_str::<ActiveAlerts>(&written)
            .unwrap()
            .restore(&mut after);
        after.evaluate_all(&mut History::default(), 9000);
        let mut since = Vec::new();
        since.extend(after.active().map(|alert| (alert.active_at_ms, alert.fired_at_ms)));
        assert_eq!(since, [(5000, Some(5000)), (7000, None)]);

        let mut other = evaluator("groups: [{name: g, rules: [{alert: Fires, expr: vector(1), labels: {a: b}}]}]");
        kept.restore(&mut other);
        other.evaluate_all(&mut History::default(), 9000);
        let mut since = Vec::new();
        since.extend(other.active().map(|alert| alert.active_at_ms));
        assert_eq!(since, [9000]);
    }
}
