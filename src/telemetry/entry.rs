//! The entries of the lists that the status page shows: alerts, rules, leases and events. Data only.

use crate::labels::Labels;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An open alert and the rule that matches it: an episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenAlert {
    /// As in the address of its page, `/episodes/0123456789abcdef`.
    pub episode: String,
    pub fingerprint: SmolStr,
    /// When evenkeel began to answer the alert.
    pub opened_at: Timestamp,
    pub alertname: String,
    /// The labels except `alertname`.
    pub labels: Labels,
    pub rule: String,
    pub source: SmolStr,
    pub since: Timestamp,
    /// `firing`, or `unconfirmed` while no source confirms it and no new action is taken.
    pub state: SmolStr,
    pub dry_run: bool,
    /// Processes that the rule targets, or would target.
    pub targets: usize,
    /// The annotation `runbook_url`, for clients that have authenticated.
    #[serde(skip)]
    pub runbook_url: Option<String>,
    /// The page of the expression that fires, for clients that have authenticated.
    #[serde(skip)]
    pub generator_url: Option<SmolStr>,
    /// The rule as it was when the episode began; the activity fills it in.
    #[serde(skip)]
    pub rule_text: Arc<str>,
}

/// A firing alert that no rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredAlert {
    pub alertname: SmolStr,
    /// The labels except `alertname`.
    pub labels: Labels,
    pub source: SmolStr,
    pub since: Timestamp,
}

/// The reason of a revert that finds the value of another program.
pub const LEFT_AS_IT_IS: &str = "another program changed the value meanwhile; left as it is";
/// The reason of a lease that ends with nothing sent, because its allocator has no `release`.
pub const GRANT_EXPIRES: &str = "no release; the grant expires";
/// The reason of a lease that ends with nothing run, because its command has no `undo`.
pub const NOT_REVERTIBLE: &str = "not revertible";

/// A rule in force with its last decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    pub rule: String,
    /// As in `nice 10`, `wait 10s`, `signal SIGTERM`.
    pub steps: Vec<String>,
    /// The rule as text, without secrets.
    #[serde(skip)]
    pub text: Arc<str>,
    /// The keys of steps that count as actions, as in `nice`.
    #[serde(skip)]
    pub actions: BTreeSet<&'static str>,
    /// Whether its steps are applied, or only logged (dry-run).
    pub acts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<Event>,
}

/// A lease: a change that will be undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseStatus {
    pub id: u64,
    pub rule: String,
    pub fingerprint: SmolStr,
    /// When the step was applied.
    pub since: Timestamp,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Decision(SmolStr),
    Outcome(SmolStr),
    Operation(SmolStr),
}

impl EventKind {
    pub fn decision(word: &'static str) -> EventKind {
        EventKind::Decision(SmolStr::new_static(word))
    }

    pub fn outcome(word: &'static str) -> EventKind {
        EventKind::Outcome(SmolStr::new_static(word))
    }

    pub fn operation(word: &'static str) -> EventKind {
        EventKind::Operation(SmolStr::new_static(word))
    }

    pub fn as_str(&self) -> &str {
        match self {
            EventKind::Decision(word) | EventKind::Outcome(word) | EventKind::Operation(word) => word,
        }
    }
}

/// One decision, outcome or request of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    /// That of the alert; empty where the event is not about one.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub fingerprint: SmolStr,
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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
