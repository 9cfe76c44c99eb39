//! What the status page shows beyond numbers: names of rules, alerts and processes, labels and pids; never command lines,
//! annotations or environment. Bounded. Data only.

use crate::labels::Labels;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Decisions and steps that are kept, of each.
const MAX_RECENT: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Activity {
    pub alerts: Vec<OpenAlert>,
    /// In the order of the configuration.
    pub rules: Vec<Standing>,
    #[serde(skip)]
    places: HashMap<String, usize>,
    pub leases: Vec<HeldLease>,
    /// What was done or tried, newest first.
    pub actions: VecDeque<Told>,
    /// What was decided, newest first.
    pub decisions: VecDeque<Told>,
}

/// An open alert, and the rule that answers it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenAlert {
    pub alertname: String,
    /// The others.
    pub labels: Labels,
    pub rule: String,
    pub source: &'static str,
    pub since: Timestamp,
    /// `firing`, or `unconfirmed` while nothing new is done because no source has confirmed it.
    pub state: &'static str,
    pub dry_run: bool,
    /// Processes that the rule has taken up, or would have.
    pub targets: usize,
}

/// A rule in force, and what it came to last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    pub rule: String,
    /// As in `nice 10`, `wait 10s`, `signal SIGTERM`.
    pub steps: Vec<String>,
    /// The keys of those that count as actions, as in `nice`.
    #[serde(skip)]
    pub actions: BTreeSet<&'static str>,
    /// Whether its steps are taken, or only told.
    pub acts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<Told>,
}

/// Something that will be undone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldLease {
    pub id: u64,
    pub rule: String,
    /// Left out where no process holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// `comm` of the process, path of the cgroup, or `host`.
    pub process: String,
    /// As in `nice 0 -> 10`.
    pub what: String,
    /// When it is undone at the latest; left out while it is being given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What a line of the audit trail says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Decision(&'static str),
    Outcome(&'static str),
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Decision(word) | Verdict::Outcome(word) => word,
        }
    }
}

/// One decision or outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    #[serde(flatten)]
    pub verdict: Verdict,
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
    /// Replaces the rules in force. One that was there before keeps what it decided last.
    pub(super) fn set_rules(&mut self, mut rules: Vec<Standing>) {
        for standing in &mut rules {
            let before = self.places.get(&standing.rule);
            let last = before.and_then(|place| self.rules[*place].last_decision.take());
            let earlier = || self.decisions.iter().find(|told| told.rule == standing.rule).cloned();
            standing.last_decision = last.or_else(earlier);
        }
        let names = rules.iter().map(|standing| standing.rule.clone());
        self.places = names.enumerate().map(|(place, name)| (name, place)).collect();
        self.rules = rules;
    }

    pub(super) fn tell(&mut self, told: Told) {
        let lines = match told.verdict {
            Verdict::Decision(_) => &mut self.decisions,
            Verdict::Outcome(_) => &mut self.actions,
        };
        if let Verdict::Decision(_) = told.verdict
            && let Some(place) = self.places.get(&told.rule)
        {
            self.rules[*place].last_decision = Some(told.clone());
        }
        lines.push_front(told);
        lines.truncate(MAX_RECENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rule: &str, verdict: Verdict) -> Told {
        Told {
            at: Timestamp::UNIX_EPOCH,
            rule: rule.to_owned(),
            alertname: "A".to_owned(),
            verdict,
            pid: None,
            process: None,
            step: None,
            before: None,
            after: None,
            reason: String::new(),
        }
    }

    fn standing(rule: &str) -> Standing {
        Standing {
            rule: rule.to_owned(),
            steps: Vec::new(),
            actions: BTreeSet::new(),
            acts: false,
            last_decision: None,
        }
    }

    #[test]
    fn a_rule_keeps_its_last_decision_while_it_is_in_force() {
        let mut activity = Activity::default();
        activity.tell(told("b", Verdict::Decision("paused")));
        activity.set_rules(vec![standing("a")]);
        activity.tell(told("a", Verdict::Decision("no_target")));
        activity.tell(told("a", Verdict::Outcome("restored")));
        activity.tell(told("gone", Verdict::Decision("planned")));
        activity.set_rules(vec![standing("b"), standing("a"), standing("c")]);
        let last = |at: usize| Some(activity.rules[at].last_decision.as_ref()?.verdict.as_str());
        assert_eq!([last(0), last(1), last(2)], [Some("paused"), Some("no_target"), None]);
        assert_eq!((activity.actions.len(), activity.decisions.len()), (1, 3));
    }

    #[test]
    fn many_decisions_do_not_push_actions_out() {
        let mut activity = Activity::default();
        activity.tell(told("a", Verdict::Outcome("applied")));
        for _ in 0..1000 {
            activity.tell(told("a", Verdict::Decision("planned")));
        }
        assert_eq!((activity.actions.len(), activity.decisions.len()), (1, MAX_RECENT));
    }
}
