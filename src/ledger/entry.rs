//! The entries of the ledger.

use super::breaker::Breaker;
use super::episode::{Closed, Episode, EpisodeKey};
use super::lease::{Lease, SavedValue};
use super::operation::Requester;
use super::outcome::{Decision, Operation, Outcome};
use super::victim::Victim;
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of the audit trail: a decision, the outcome of a step, or what an operator did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    pub fingerprint: String,
    /// The target and its name: `comm` of a process, path of a cgroup, `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<(Target, String)>,
    /// As in the rule: `nice 15`, `signal SIGTERM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// At most one of `decision` and `outcome` is set; without `operation`, exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The first bytes of a response, or the end of a command's output, where they matter. Not shown on the status page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
    /// The reason, for people.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// What an operator did; rule and alert are empty where it was not about them. A failed one has an `outcome`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operation: Option<Operation>,
    /// Who asked for the operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<Requester>,
    /// Whether the record is the effect of an irreversible action that has a record already.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_effect: bool,
}

/// One change of the ledger, which is applied to the file and to the state in memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// An episode was opened or has changed.
    Episode(Episode),
    EpisodeClosed {
        key: EpisodeKey,
        closed: Closed,
    },
    /// A lease was created (intended or applied), or its saved value has changed.
    Lease(Lease),
    /// The saved value of this lease, inherited from a lower one that was released.
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
    /// An irreversible action on a process is intended, or simulated. Replaces the former entry of a living victim.
    Victim(Victim),
    /// The action did not reach the victim, which still runs.
    VictimSpared {
        target: Target,
    },
    VictimGone {
        target: Target,
        at: Duration,
        /// A simulated exit, for a dry-run that continues after it.
        simulated: bool,
    },
    /// The command that counted the host as a victim at `struck_at` failed or never started.
    CommandUncounted {
        key: EpisodeKey,
        struck_at: Duration,
    },
    /// The breaker of a rule.
    Breaker {
        rule: String,
        breaker: Breaker,
    },
    Record(Record),
    Paused(bool),
    RulePaused {
        rule: String,
        paused: bool,
    },
}
