//! What the engine knows of open episodes beside the ledger: it need not outlast a restart.

use super::late_delivery::{RecentEnds, RecentStarts};
use crate::alert::alertmanager::MissingAlerts;
use crate::ledger::{Episode, EpisodeKey};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of the matches the rule's bound keeps out of the plan.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Crowding {
    #[default]
    None,
    Some,
    All,
}

#[derive(Default)]
struct OpenEpisode {
    /// CLOCK_BOOTTIME of its last evaluation.
    evaluated_at: Option<Duration>,
    /// More processes match than the rule allows, which was recorded already.
    crowding: Crowding,
    /// The rule's `while` keeps new targets out, which was recorded already.
    is_refused_by_condition: bool,
}

#[derive(Default)]
pub(super) struct OpenEpisodes {
    by_key: BTreeMap<EpisodeKey, OpenEpisode>,
    pub missing_alerts: MissingAlerts,
    pub recent_ends: RecentEnds,
    pub recent_starts: RecentStarts,
}

impl OpenEpisodes {
    pub fn evaluated_at(&self, key: &EpisodeKey) -> Option<Duration> {
        self.by_key.get(key)?.evaluated_at
    }

    pub fn set_evaluated(&mut self, key: &EpisodeKey, now: Duration) {
        self.entry(key).evaluated_at = Some(now);
    }

    /// Notes whether more processes match than the rule allows. True where that is news.
    pub fn set_crowding(&mut self, key: &EpisodeKey, crowding: Crowding) -> bool {
        std::mem::replace(&mut self.entry(key).crowding, crowding) != crowding
    }

    /// Notes whether the rule's `while` keeps new targets out. True where that is news.
    pub fn set_refused_by_condition(&mut self, key: &EpisodeKey, is_refused: bool) -> bool {
        std::mem::replace(&mut self.entry(key).is_refused_by_condition, is_refused) != is_refused
    }

    pub fn remove(&mut self, key: &EpisodeKey) {
        self.by_key.remove(key);
    }

    /// Forgets episodes that are not open any more.
    pub fn retain(&mut self, open: &BTreeMap<EpisodeKey, Episode>) {
        self.by_key.retain(|key, _| open.contains_key(key));
    }

    fn entry(&mut self, key: &EpisodeKey) -> &mut OpenEpisode {
        self.by_key.entry(key.clone()).or_default()
    }
}
