//! What is held for the host as a whole: an allocation of a resource, a command that can be taken back. Everything that
//! giving it back needs is in here, so that neither a restart nor a rule that is gone makes it leak. Data only.

use super::outcome::Outcome;
use crate::host::job::{Request, Run, Server};
use crate::template::{JsonTemplate, Segment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Something that was asked of a resource allocator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// As in the rule.
    pub step: String,
    /// Sent again with the same key until it is answered, and to renew it.
    pub ask: Request,
    pub server: Server,
    /// Where the answer names what was granted: a JSON pointer (RFC 6901).
    pub resource_at: String,
    /// Where it says for how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_at: Option<String>,
    /// `None`: it is not given back, but runs out by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    pub stage: Stage,
    /// The last answer that granted something and did not name it, until one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnamed: Option<UnnamedGrant>,
    #[serde(rename = "course")]
    pub retry: RetryState,
}

/// A grant without a name: the rule's `resource` may point to the wrong place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnnamedGrant {
    /// How many answers in all were of this kind.
    pub answers: u32,
    /// What is wrong with the last one.
    pub problem: String,
    /// Its first bytes.
    pub body: String,
}

/// How an allocation is given back. The labels are filled in, the resource is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub method: String,
    pub url: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<JsonTemplate>,
}

/// How far an allocation has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// `in_doubt`: a request went out, or may have, whose answer was not a clear no; it may have been granted.
    Requested { in_doubt: bool },
    Granted {
        resource: String,
        /// CLOCK_BOOTTIME at which it runs out.
        until: Option<Duration>,
        /// It ran out and could not be renewed in time.
        lapsed: bool,
    },
}

/// A command that was run, and what takes it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// As in the rule.
    pub step: String,
    pub run: Run,
    /// `None`: it cannot be taken back, and is held only while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Run>,
    /// Whether it has ended, and is waiting to be taken back.
    pub has_ended: bool,
    #[serde(rename = "course")]
    pub retry: RetryState,
}

/// What comes next for an allocation or a command.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RetryState {
    /// CLOCK_BOOTTIME of the next try; `Duration::MAX` where nothing is due, or while one is under way.
    pub next: Duration,
    /// Tries in a row that failed.
    pub failures: u32,
    /// It is to be given back, and this will be the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Outcome>,
    /// It was released by hand once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_by_hand: bool,
}

impl Allocation {
    /// The closed label value of `evenkeel_allocations{state}`.
    pub fn state(&self) -> &'static str {
        match (&self.stage, self.retry.ending) {
            (_, Some(_)) => "releasing",
            (Stage::Requested { .. }, None) => "requested",
            (Stage::Granted { lapsed: true, .. }, None) => "expired",
            (Stage::Granted { .. }, None) => "granted",
        }
    }

    pub fn resource(&self) -> Option<&str> {
        match &self.stage {
            Stage::Granted { resource, .. } => Some(resource),
            Stage::Requested { .. } => None,
        }
    }
}

/// All values of `evenkeel_allocations{state}`.
pub const ALLOCATION_STATES: [&str; 4] = ["requested", "granted", "expired", "releasing"];

/// As in `allocate granted r-17`.
impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocate {}", self.state())?;
        match self.resource() {
            Some(resource) => write!(f, " {}", resource.escape_debug()),
            None => Ok(()),
        }
    }
}

/// As in `exec /usr/local/bin/drain, undone by /usr/local/bin/undrain`. Arguments may hold what is nobody's business.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = |run: &Run| run.argv.first().map(|path| path.escape_debug().to_string());
        write!(f, "exec {}", program(&self.run).unwrap_or_default())?;
        match self.undo.as_ref().and_then(program) {
            Some(undo) => write!(f, ", undone by {undo}"),
            None => Ok(()),
        }
    }
}
