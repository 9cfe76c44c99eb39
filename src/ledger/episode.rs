//! An episode: the time from the first firing of an alert for a rule until it is over, with the progress of its
//! targets. Data only.

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

impl EpisodeKey {
    pub fn new(rule: &SmolStr, fingerprint: &SmolStr, simulated: bool) -> EpisodeKey {
        EpisodeKey {
            rule: rule.clone(),
            fingerprint: fingerprint.clone(),
            simulated,
        }
    }
}

/// An open episode of an alert and a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    pub key: EpisodeKey,
    /// The steps as text, to which the step indexes of the targets refer.
    #[serde(default, rename = "ladder")]
    pub steps_text: String,
    pub source: Source,
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
    /// As [`Alert::generator_url`](crate::alert::Alert::generator_url).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_url: Option<SmolStr>,
    pub starts_at: Timestamp,
    /// CLOCK_BOOTTIME.
    pub opened_at: Duration,
    /// CLOCK_BOOTTIME of the last durable confirmation, at most a quarter of `hold` older than `evidence`.
    pub seen_at: Duration,
    /// The last reports of each source. Empty in rows of versions before it existed.
    #[serde(default)]
    pub evidence: Evidence,
    #[serde(rename = "climbs")]
    pub targets: Vec<TargetProgress>,
    /// Excluded targets: released by hand (until the episode closes), or expired (until a repeat).
    #[serde(rename = "barred")]
    pub excluded: Vec<Excluded>,
}

impl Episode {
    /// Makes earlier reports no longer confirm the alert, from `now` (CLOCK_BOOTTIME) on.
    pub fn doubt(&mut self, now: Duration) {
        if self.evidence == Evidence::default() {
            let source = match self.source {
                Source::Alertmanager => EvidenceSource::Webhook,
                Source::Local => EvidenceSource::Own,
            };
            self.evidence = Evidence::firing(source, self.seen_at, Duration::ZERO);
        }
        self.evidence.doubt(now);
    }
}

/// The end of the last closed episode of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The end of the alert, as its source reported it.
    pub ended_at: Timestamp,
    /// CLOCK_BOOTTIME of the close; `None` if read from the file, which does not store it.
    pub closed_at: Option<Duration>,
}

/// The progress of one target through the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetProgress {
    pub target: Target,
    pub name: String,
    /// Index of the next step; the number of steps when all are done.
    #[serde(rename = "rung")]
    pub step_index: usize,
    /// CLOCK_BOOTTIME from which the next step is due.
    pub due: Duration,
    /// The last denial of this step, so that each is reported once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<Decision>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Excluded {
    pub target: Target,
    /// Whether a repeat ends the exclusion.
    pub until_repeat: bool,
}
