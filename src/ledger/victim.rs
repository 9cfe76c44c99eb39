//! A victim: what is known of a target that received a final step.

use super::episode::{Episode, EpisodeKey};
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::time::Duration;

/// Who received a final step: a process, or the host for which a command ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Victim {
    pub rule: SmolStr,
    pub fingerprint: SmolStr,
    pub target: Target,
    pub simulated: bool,
    /// CLOCK_BOOTTIME.
    pub struck_at: Duration,
    /// CLOCK_BOOTTIME of its last final signal; `None` in what an earlier version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_struck_at: Option<Duration>,
    /// CLOCK_BOOTTIME; `None` while it lives on.
    pub gone_at: Option<Duration>,
    /// The final signals it received, by number: none is sent twice.
    #[serde(default)]
    pub signals: Vec<i32>,
    /// The one of them that is intended, and of which a restart cannot say whether it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsent: Option<i32>,
    /// CLOCK_BOOTTIME by which it must be gone; `None` while its ladder has more final steps for it and goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_by: Option<Duration>,
    /// It lived on beyond that time: no later victim waits for it any more.
    #[serde(default)]
    pub outlived: bool,
    /// Its ladder ended before the last final step, as at a resolve. That it lives on is then no failure of the rule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_interrupted: bool,
    /// What there was before the last final step, for a rule that is about memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBefore>,
    /// The start of the alert, by its own account. An alert that goes on with this start after its episode closed for want
    /// of a confirmation does not get another victim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_starts_at: Option<Timestamp>,
}

/// Memory before a final step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBefore {
    /// Resident memory of the victim.
    pub resident_bytes: u64,
    /// `MemAvailable` of the host (proc(5)).
    pub available_bytes: u64,
}

impl Victim {
    /// One that has received nothing yet.
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

    /// Whether it counts for this episode: its alert is the same, and the step was taken in this episode or since the
    /// alert has the start that it has now.
    pub fn counts_for(&self, episode: &Episode) -> bool {
        let last_struck_at = self.last_struck_at.unwrap_or(self.struck_at);
        self.episode() == episode.key
            && (last_struck_at >= episode.opened_at
                || (episode.may_continue && self.alert_starts_at == Some(episode.starts_at)))
    }

    /// The episode that it is a victim of.
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

    /// Lives on beyond an interrupted ladder: a later episode may begin with it again.
    pub fn is_free_again(&self) -> bool {
        self.outlived && self.is_interrupted
    }

    /// Struck in earnest, and not gone yet.
    pub fn is_awaited(&self) -> bool {
        !self.simulated && self.gone_at.is_none()
    }
}
