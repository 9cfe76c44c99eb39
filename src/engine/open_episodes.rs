//! What the engine knows of open episodes beside the ledger: it need not outlast a restart.

use crate::ledger::{Episode, EpisodeKey};
use crate::rule::Rule;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct OpenEpisode {
    /// The rule that it came from, which may have been replaced since. `None` after a restart.
    rule: Option<Arc<Rule>>,
    /// CLOCK_BOOTTIME of its last evaluation.
    evaluated_at: Option<Duration>,
    /// More processes match than the rule allows, which was recorded already.
    is_crowded: bool,
}

/// Open episodes by key.
#[derive(Default)]
pub(super) struct OpenEpisodes(BTreeMap<EpisodeKey, OpenEpisode>);

impl OpenEpisodes {
    pub fn rule(&self, key: &EpisodeKey) -> Option<&Arc<Rule>> {
        self.0.get(key)?.rule.as_ref()
    }

    /// The rules that open episodes came from.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.0.values().filter_map(|open| open.rule.as_ref())
    }

    pub fn set_rule(&mut self, key: &EpisodeKey, rule: &Arc<Rule>) {
        self.entry(key).rule = Some(Arc::clone(rule));
    }

    /// The same where no rule is known yet, as after a restart.
    pub fn keep_rule(&mut self, key: &EpisodeKey, rule: &Arc<Rule>) {
        self.entry(key).rule.get_or_insert_with(|| Arc::clone(rule));
    }

    pub fn evaluated_at(&self, key: &EpisodeKey) -> Option<Duration> {
        self.0.get(key)?.evaluated_at
    }

    pub fn set_evaluated(&mut self, key: &EpisodeKey, now: Duration) {
        self.entry(key).evaluated_at = Some(now);
    }

    /// Notes whether more processes match than the rule allows. True where that is news.
    pub fn set_crowded(&mut self, key: &EpisodeKey, is_crowded: bool) -> bool {
        std::mem::replace(&mut self.entry(key).is_crowded, is_crowded) != is_crowded
    }

    pub fn remove(&mut self, key: &EpisodeKey) {
        self.0.remove(key);
    }

    /// Forgets episodes that are not open any more.
    pub fn retain(&mut self, open: &BTreeMap<EpisodeKey, Episode>) {
        self.0.retain(|key, _| open.contains_key(key));
    }

    fn entry(&mut self, key: &EpisodeKey) -> &mut OpenEpisode {
        self.0.entry(key.clone()).or_default()
    }
}
