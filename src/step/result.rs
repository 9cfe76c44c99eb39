//! The outcome of a step on its target, with the values before and after. Data.

use crate::host::{CgroupError, HostError};
use crate::ledger::Outcome;

/// The outcome of a step, with the values before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    pub outcome: Outcome,
    pub before: Option<String>,
    pub after: Option<String>,
    pub reason: String,
}

impl StepResult {
    pub fn only(outcome: Outcome, reason: impl Into<String>) -> StepResult {
        StepResult {
            outcome,
            before: None,
            after: None,
            reason: reason.into(),
        }
    }
}

impl From<HostError> for StepResult {
    fn from(error: HostError) -> StepResult {
        let outcome = match &error {
            HostError::Gone { .. } => Outcome::Gone,
            HostError::ChangedIdentity { .. } => Outcome::ChangedIdentity,
            HostError::Denied { .. } => Outcome::Denied,
            HostError::Failed { .. } => Outcome::Failed,
        };
        StepResult::only(outcome, error.to_string())
    }
}

impl From<CgroupError> for StepResult {
    fn from(error: CgroupError) -> StepResult {
        let outcome = match &error {
            CgroupError::Gone { .. } => Outcome::Gone,
            CgroupError::ChangedIdentity { .. } => Outcome::ChangedIdentity,
            CgroupError::Denied { .. } => Outcome::Denied,
            CgroupError::Missing { .. }
            | CgroupError::Failed { .. }
            | CgroupError::NoHierarchy
            | CgroupError::Systemd { .. } => Outcome::Failed,
        };
        StepResult::only(outcome, error.to_string())
    }
}
