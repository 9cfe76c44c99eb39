//! The activity that the status page shows: open alerts, rules, leases and recent events. It holds names, labels and
//! pids, never command lines, annotations or environment. Bounded. Data only.

use crate::labels::Labels;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How many decisions, and how many actions, are kept.
const MAX_RECENT: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Activity {
    pub alerts: Vec<OpenAlert>,
    /// In the order of the configuration.
    pub rules: Vec<RuleStatus>,
    #[serde(skip)]
    places: HashMap<String, usize>,
    pub leases: Vec<LeaseStatus>,
    /// Outcomes of actions and requests of operators, newest first.
    pub actions: VecDeque<Event>,
    /// Decisions, newest first.
    pub decisions: VecDeque<Event>,
}

/// An open alert and the rule that matches it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenAlert {
    pub alertname: String,
    /// The labels except `alertname`.
    pub labels: Labels,
    pub rule: String,
    pub source: &'static str,
    pub since: Timestamp,
    /// `firing`, or `unconfirmed` while no source confirms it and no new action is taken.
    pub state: &'static str,
    pub dry_run: bool,
    /// Processes that the rule targets, or would target.
    pub targets: usize,
}

/// A rule in force with its last decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleStatus {
    pub rule: String,
    /// As in `nice 10`, `wait 10s`, `signal SIGTERM`.
    pub steps: Vec<String>,
    /// The keys of steps that count as actions, as in `nice`.
    #[serde(skip)]
    pub actions: BTreeSet<&'static str>,
    /// Whether its steps are applied, or only logged (dry-run).
    pub acts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<Event>,
}

/// A lease: a change that will be undone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeaseStatus {
    pub id: u64,
    pub rule: String,
    /// Left out where the target is not a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// `comm` of the process, path of the cgroup, or `host`.
    pub process: String,
    /// As in `nice 0 -> 10`.
    pub what: String,
    /// Who released it by hand, and why: `by root (uid 0): a reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
    /// The deadline of the undo; left out while the undo is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The kind of an event: a decision, an outcome, or the request of an operator, with its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Decision(&'static str),
    Outcome(&'static str),
    Operation(&'static str),
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Decision(word) | EventKind::Outcome(word) | EventKind::Operation(word) => word,
        }
    }
}

/// One decision, outcome or request of an operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    #[serde(flatten)]
    pub kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Activity {
    /// Replaces the rules in force. A rule that stays keeps its last decision.
    pub(super) fn set_rules(&mut self, mut rules: Vec<RuleStatus>) {
        for rule_status in &mut rules {
            let before = self.places.get(&rule_status.rule);
            let last = before.and_then(|place| self.rules[*place].last_decision.take());
            let earlier = || {
                self.decisions
                    .iter()
                    .find(|event| event.rule == rule_status.rule)
                    .cloned()
            };
            rule_status.last_decision = last.or_else(earlier);
        }
        let names = rules.iter().map(|rule_status| rule_status.rule.clone());
        self.places = names.enumerate().map(|(place, name)| (name, place)).collect();
        self.rules = rules;
    }

    pub(super) fn record_event(&mut self, event: Event) {
        let lines = match event.kind {
            EventKind::Decision(_) => &mut self.decisions,
            EventKind::Outcome(_) | EventKind::Operation(_) => &mut self.actions,
        };
        if let EventKind::Decision(_) = event.kind
            && let Some(place) = self.places.get(&event.rule)
        {
            self.rules[*place].last_decision = Some(event.clone());
        }
        lines.push_front(event);
        lines.truncate(MAX_RECENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rule: &str, kind: EventKind) -> Event {
        Event {
            at: Timestamp::UNIX_EPOCH,
            rule: rule.to_owned(),
            alertname: "A".to_owned(),
            kind,
            pid: None,
            process: None,
            step: None,
            before: None,
            after: None,
            reason: String::new(),
        }
    }

    fn rule_status(rule: &str) -> RuleStatus {
        RuleStatus {
            rule: rule.to_owned(),
            steps: Vec::new(),
            actions: BTreeSet::new(),
            acts: false,
            last_decision: None,
        }
    }

    #[test]
    fn rule_keeps_last_decision_across_reloads() {
        let mut activity = Activity::default();
        activity.record_event(event("b", EventKind::Decision("paused")));
        activity.set_rules(vec![rule_status("a")]);
        activity.record_event(event("a", EventKind::Decision("no_target")));
        activity.record_event(event("a", EventKind::Outcome("restored")));
        activity.record_event(event("gone", EventKind::Decision("planned")));
        activity.set_rules(vec![rule_status("b"), rule_status("a"), rule_status("c")]);
        let last = |at: usize| Some(activity.rules[at].last_decision.as_ref()?.kind.as_str());
        assert_eq!([last(0), last(1), last(2)], [Some("paused"), Some("no_target"), None]);
        assert_eq!((activity.actions.len(), activity.decisions.len()), (1, 3));
    }

    #[test]
    fn decisions_do_not_evict_actions() {
        let mut activity = Activity::default();
        activity.record_event(event("a", EventKind::Outcome("applied")));
        for _ in 0..1000 {
            activity.record_event(event("a", EventKind::Decision("planned")));
        }
        assert_eq!((activity.actions.len(), activity.decisions.len()), (1, MAX_RECENT));
    }
}
