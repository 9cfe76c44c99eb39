//! A victim: a target of an irreversible action.

use super::episode::{Episode, EpisodeKey};
use crate::alert::Source;
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
    /// Whether its command failed or never started, so that the budget does not count it. Only for the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_uncounted: bool,
    /// The start of the alert as its sender reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_starts_at: Option<Timestamp>,
    /// The sender; `None` in rows of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_source: Option<Source>,
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
            is_uncounted: false,
            alert_starts_at: None,
            alert_source: None,
        }
    }

    /// Whether it counts for this episode: rule and alert are the same, and the alert has fired without an end since the last
    /// irreversible step.
    pub fn counts_for(&self, episode: &Episode) -> bool {
        let last_struck_at = self.last_struck_at.unwrap_or(self.struck_at);
        self.episode() == episode.key && (last_struck_at >= episode.opened_at || self.is_of_alert(episode))
    }

    /// Whether the alert of an episode is the one of an earlier episode in which this victim was struck: it goes on after that
    /// episode closed for silence, or after Alertmanager took it for over while Prometheus was cut off.
    fn is_of_alert(&self, episode: &Episode) -> bool {
        let Some(starts_at) = self.alert_starts_at else {
            return false;
        };
        // Alertmanager merges the starts of two Prometheus servers into the earlier one. Starts of own alerts are not ordered,
        // because the clock of this host may have been set back in between.
        let is_merged = self.alert_source == Some(Source::Alertmanager)
            && episode.source == Source::Alertmanager
            && starts_at > episode.starts_at;
        starts_at == episode.starts_at || is_merged
    }

    /// Makes it a victim of this episode.
    pub fn assign(&mut self, episode: &Episode) {
        self.rule.clone_from(&episode.key.rule);
        self.fingerprint.clone_from(&episode.key.fingerprint);
        self.alert_starts_at = Some(episode.starts_at);
        self.alert_source = Some(episode.source);
    }

    /// The episode of the victim.
    pub fn episode(&self) -> EpisodeKey {
        EpisodeKey::new(&self.rule, &self.fingerprint, self.simulated)
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
