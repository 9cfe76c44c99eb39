//! An episode: from the first firing of an alert for a rule to its resolve, and how far its targets have come. Data only.

use super::evidence::{Evidence, EvidenceSource};
use super::outcome::Decision;
use crate::alert::{Labels, Source};
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EpisodeKey {
    pub rule: SmolStr,
    pub fingerprint: SmolStr,
    /// Dry-run has its own episodes, so that a change of mode neither forgets nor inherits.
    pub simulated: bool,
}

/// From the first firing of an alert for a rule to its resolve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    pub key: EpisodeKey,
    /// The steps in words, to which the rungs of the climbs refer.
    #[serde(default)]
    pub ladder: String,
    pub source: WireSource,
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
    pub starts_at: Timestamp,
    /// CLOCK_BOOTTIME.
    pub opened_at: Duration,
    /// Whether the alert may go on from an episode that closed for want of a confirmation: then victims of that episode
    /// count for this one. False where the alert had ended by its own account.
    #[serde(default)]
    pub may_continue: bool,
    /// CLOCK_BOOTTIME of the last confirmation that was made durable; at most a quarter of `hold` behind `evidence`.
    pub seen_at: Duration,
    /// What each source last said about the alert. Empty in rows of a version that did not know it.
    #[serde(default)]
    pub evidence: Evidence,
    #[serde(rename = "climbs")]
    pub targets: Vec<TargetProgress>,
    /// Targets that are not taken again: released by hand (until the end), or expired (until a repeat).
    #[serde(rename = "barred")]
    pub excluded: Vec<Excluded>,
}

impl Episode {
    /// From `now` on (CLOCK_BOOTTIME) nothing that was said before counts as a confirmation.
    pub fn doubt(&mut self, now: Duration) {
        if self.evidence == Evidence::default() {
            let source = match self.source {
                WireSource::Alertmanager => EvidenceSource::Webhook,
                WireSource::Local => EvidenceSource::Own,
            };
            self.evidence = Evidence::firing(source, self.seen_at, Duration::ZERO);
        }
        self.evidence.doubt(now);
    }
}

/// The end of the last closed episode of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// By the alert's own account.
    pub ended_at: Timestamp,
    /// CLOCK_BOOTTIME of the closing; `None` where it was read from the file, which does not hold it.
    pub closed_at: Option<Duration>,
}

/// [`Source`] as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireSource {
    Alertmanager,
    Local,
}

impl From<Source> for WireSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Alertmanager => WireSource::Alertmanager,
            Source::Local => WireSource::Local,
        }
    }
}

impl From<WireSource> for Source {
    fn from(source: WireSource) -> Self {
        match source {
            WireSource::Alertmanager => Source::Alertmanager,
            WireSource::Local => Source::Local,
        }
    }
}

/// Where one target stands on the ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetProgress {
    pub target: Target,
    pub name: String,
    /// Index of the next step; the length of the ladder when it is done.
    #[serde(rename = "rung")]
    pub step_index: usize,
    /// CLOCK_BOOTTIME before which the next step is not taken.
    pub due: Duration,
    /// The last refusal at this rung, so that each is told once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<Decision>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Excluded {
    pub target: Target,
    /// A repeat lets it be taken again.
    pub until_repeat: bool,
}
