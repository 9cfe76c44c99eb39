//! What can be written into the ledger.

use super::breaker::Breaker;
use super::episode::{Closed, Episode, EpisodeKey};
use super::lease::{Lease, SavedValue};
use super::outcome::{Decision, Outcome};
use super::victim::Victim;
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of the audit trail: a decision, or the outcome of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    pub fingerprint: String,
    /// Who it was done to, and its name: `comm` of a process, path of a cgroup, `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<(Target, String)>,
    /// As in the rule: `nice 15`, `signal SIGTERM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Exactly one of `decision` and `outcome` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The first bytes of what a server answered or a command wrote, where that matters. Not for the page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
    /// Why, in words.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// What a final step that was told already has come to.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_effect: bool,
}

/// One change of the ledger. Durable and in-memory state are both made by applying these.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// An episode was opened or has changed.
    Episode(Episode),
    EpisodeClosed {
        key: EpisodeKey,
        closed: Closed,
    },
    /// A lease was taken (intended or held), or what it must restore has changed.
    Lease(Lease),
    /// What this lease must restore, inherited from a lower one that was released.
    LeasePrior {
        id: u64,
        saved: Vec<SavedValue>,
    },
    /// New deadline (CLOCK_BOOTTIME) for these leases.
    Renewed {
        ids: Vec<u64>,
        deadline: Duration,
    },
    LeaseEnded {
        id: u64,
        outcome: Outcome,
    },
    /// A process is about to receive, or would receive, a final step. Replaces what was known of it while it lived.
    Victim(Victim),
    /// The step did not reach it after all, and it lives on.
    VictimSpared {
        target: Target,
    },
    VictimGone {
        target: Target,
        at: Duration,
        /// Only imagined, for a dry-run that goes on as if it were gone.
        simulated: bool,
    },
    /// What is known of the effect of a rule's final steps.
    Breaker {
        rule: String,
        breaker: Breaker,
    },
    Record(Record),
    Paused(bool),
}
