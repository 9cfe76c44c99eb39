//! What the engine knows of open episodes beside the ledger: it need not outlast a restart.

use super::Policy;
use crate::alert::alertmanager::MissingAlerts;
use crate::ledger::{Episode, EpisodeKey, Level};
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

#[derive(Default)]
pub(super) struct OpenEpisodes {
    by_key: BTreeMap<EpisodeKey, OpenEpisode>,
    pub missing_alerts: MissingAlerts,
}

impl OpenEpisodes {
    /// The rule of an episode: the one it came from, or after a restart the one of that name.
    pub fn rule_of(&self, policy: &Policy, episode: &Episode) -> Option<Arc<Rule>> {
        let own = self.by_key.get(&episode.key).and_then(|open| open.rule.as_ref());
        own.or_else(|| policy.rules.get(&episode.key.rule)).cloned()
    }

    /// The level of an open episode at `now` (CLOCK_BOOTTIME). An episode without a rule is over.
    pub fn level_of(&self, policy: &Policy, episode: &Episode, now: Duration) -> Level {
        let rule = self.rule_of(policy, episode);
        rule.map_or(Level::Over, |rule| episode.evidence.level(now, rule.hold))
    }

    /// The rules that open episodes came from.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_key.values().filter_map(|open| open.rule.as_ref())
    }

    pub fn set_rule(&mut self, key: &EpisodeKey, rule: &Arc<Rule>) {
        self.entry(key).rule = Some(Arc::clone(rule));
    }

    /// The same where no rule is known yet, as after a restart.
    pub fn keep_rule(&mut self, key: &EpisodeKey, rule: &Arc<Rule>) {
        self.entry(key).rule.get_or_insert_with(|| Arc::clone(rule));
    }

    pub fn evaluated_at(&self, key: &EpisodeKey) -> Option<Duration> {
        self.by_key.get(key)?.evaluated_at
    }

    pub fn set_evaluated(&mut self, key: &EpisodeKey, now: Duration) {
        self.entry(key).evaluated_at = Some(now);
    }

    /// Notes whether more processes match than the rule allows. True where that is news.
    pub fn set_crowded(&mut self, key: &EpisodeKey, is_crowded: bool) -> bool {
        std::mem::replace(&mut self.entry(key).is_crowded, is_crowded) != is_crowded
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
