//! The leases of the host as a whole: an allocated resource, or a command that can be reverted. They contain
//! everything that the revert needs, so that neither a restart nor a removed rule leaks them. Data only.

use super::outcome::Outcome;
use crate::host::job::{Request, Run, Server};
use crate::template::{JsonTemplate, Segment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// An allocation by a resource allocator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// As in the rule.
    pub step: String,
    /// The request, which is repeated with the same key until there is a response, and for renewals.
    pub ask: Request,
    pub server: Server,
    /// JSON pointer (RFC 6901) to the name of the grant in the response.
    pub resource_at: String,
    /// JSON pointer to its duration in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_at: Option<String>,
    /// `None`: no release; the grant expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    #[serde(rename = "stage")]
    pub grant: GrantState,
    /// The last response with a grant without a name, until one has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnamed: Option<UnnamedGrant>,
    #[serde(rename = "course")]
    pub retry: RetryState,
}

/// A grant without a name: the rule's `resource` may point to the wrong place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnnamedGrant {
    /// Number of such responses.
    pub answers: u32,
    /// The error in the last one.
    pub problem: String,
    /// Its first bytes.
    pub body: String,
}

/// The release of an allocation, with the labels and without the resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub method: String,
    pub url: Vec<Segment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<JsonTemplate>,
}

/// Whether an allocation is requested or granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantState {
    /// `in_doubt`: a request may have been sent whose response was not a clear refusal, so it may have been granted.
    Requested { in_doubt: bool },
    Granted {
        resource: String,
        /// CLOCK_BOOTTIME at which it expires.
        until: Option<Duration>,
        /// It expired without a renewal.
        lapsed: bool,
    },
}

/// A command, and the one that reverts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// As in the rule.
    pub step: String,
    pub run: Run,
    /// `None`: not reversible; the lease lasts while the command runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Run>,
    /// Whether it has exited, and is to be reverted later.
    pub has_ended: bool,
    #[serde(rename = "course")]
    pub retry: RetryState,
}

/// The retry state of an allocation or a command.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RetryState {
    /// CLOCK_BOOTTIME of the next attempt; `Duration::MAX` if none is due, or while one is in flight.
    pub next: Duration,
    /// Number of failed attempts in a row.
    pub failures: u32,
    /// The outcome of the release, once it is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Outcome>,
    /// Whether an operator has released it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_by_hand: bool,
}

impl RetryState {
    /// The same with the next attempt at this time.
    pub fn at(self, next: Duration) -> RetryState {
        RetryState { next, ..self }
    }
}

impl Allocation {
    /// The closed label value of `evenkeel_allocations{state}`.
    pub fn state(&self) -> &'static str {
        match (&self.grant, self.retry.ending) {
            (_, Some(_)) => "releasing",
            (GrantState::Requested { .. }, None) => "requested",
            (GrantState::Granted { lapsed: true, .. }, None) => "expired",
            (GrantState::Granted { .. }, None) => "granted",
        }
    }

    pub fn resource(&self) -> Option<&str> {
        match &self.grant {
            GrantState::Granted { resource, .. } => Some(resource),
            GrantState::Requested { .. } => None,
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

/// As in `exec /usr/local/bin/drain, undone by /usr/local/bin/undrain`. Arguments may contain secrets.
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
