//! A victim: a target of an irreversible action.

use super::episode::{Episode, EpisodeKey};
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::time::Duration;

/// The target of an irreversible action: a process, or the host for which a command ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Victim {
    pub rule: SmolStr,
    pub fingerprint: SmolStr,
    pub target: Target,
    pub simulated: bool,
    /// CLOCK_BOOTTIME.
    pub struck_at: Duration,
    /// CLOCK_BOOTTIME of the last irreversible action; `None` in rows of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_struck_at: Option<Duration>,
    /// CLOCK_BOOTTIME of its exit; `None` while it is alive.
    pub gone_at: Option<Duration>,
    /// Numbers of the signals that it received, because none is sent twice.
    #[serde(default)]
    pub signals: Vec<i32>,
    /// The intended signal, which may or may not have been sent before a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsent: Option<i32>,
    /// CLOCK_BOOTTIME by which it must exit; `None` while further irreversible actions are due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_by: Option<Duration>,
    /// Whether it survived that time, so that later victims no longer wait for it.
    #[serde(default)]
    pub outlived: bool,
    /// Whether its steps ended before the last irreversible action, as at a resolve. Its survival is then no failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_interrupted: bool,
    /// The memory before the last irreversible action, for a rule that is about memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBefore>,
    /// The start of the alert, as its source reported it. An alert that continues with this start after its episode
    /// closed without confirmation does not get another victim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_starts_at: Option<Timestamp>,
}

/// The memory before an irreversible action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBefore {
    /// Resident memory of the victim.
    pub resident_bytes: u64,
    /// `MemAvailable` of the host (proc(5)).
    pub available_bytes: u64,
}

impl Victim {
    /// A victim before its first signal.
    pub fn new(target: Target, simulated: bool, struck_at: Duration) -> Victim {
        Victim {
            rule: SmolStr::default(),
            fingerprint: SmolStr::default(),
            target,
            simulated,
            struck_at,
            last_struck_at: None,
            gone_at: None,
            signals: Vec::new(),
            unsent: None,
            gone_by: None,
            outlived: false,
            is_interrupted: false,
            memory: None,
            alert_starts_at: None,
        }
    }

    /// Whether it counts for this episode: the alert is the same, and the action happened in this episode or since the
    /// present start of the alert.
    pub fn counts_for(&self, episode: &Episode) -> bool {
        let last_struck_at = self.last_struck_at.unwrap_or(self.struck_at);
        self.episode() == episode.key
            && (last_struck_at >= episode.opened_at
                || (episode.may_continue && self.alert_starts_at == Some(episode.starts_at)))
    }

    /// The episode of the victim.
    pub fn episode(&self) -> EpisodeKey {
        EpisodeKey {
            rule: self.rule.clone(),
            fingerprint: self.fingerprint.clone(),
            simulated: self.simulated,
        }
    }

    pub fn lives_as(&self, target: Target, simulated: bool) -> bool {
        self.target == target && self.simulated == simulated && self.gone_at.is_none()
    }

    /// Whether it survived interrupted steps, so that a later episode may start with it again.
    pub fn is_free_again(&self) -> bool {
        self.outlived && self.is_interrupted
    }

    /// Whether the action was real and the victim has not exited yet.
    pub fn is_awaited(&self) -> bool {
        !self.simulated && self.gone_at.is_none()
    }
}
