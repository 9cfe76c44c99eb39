//! The ledger's state in memory: open episodes, leases and recent victims. Only entries change it, the same that the
//! store makes durable.

use super::breaker::Breaker;
use super::entry::Entry;
use super::episode::{Closed, Episode, EpisodeKey};
use super::lease::{Effect, Lease};
use super::leases::Leases;
use super::victim::Victim;
use crate::process::Target;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Closed episodes are remembered for at least this long, to recognise late deliveries of them.
pub const REMEMBER_CLOSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Victims are remembered for at least this long, and as long as an episode of their rule and alert is open or remembered.
pub const REMEMBER_VICTIMS: Duration = REMEMBER_CLOSED;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerState {
    pub episodes: BTreeMap<EpisodeKey, Episode>,
    pub leases: Leases,
    pub victims: Vec<Victim>,
    pub closed: BTreeMap<EpisodeKey, Closed>,
    /// Breakers by rule, without those that never failed.
    pub breakers: BTreeMap<String, Breaker>,
    /// Whether all rules are paused.
    pub paused: bool,
    /// The rules that are paused by themselves.
    pub paused_rules: BTreeSet<String>,
    pub last_lease_id: u64,
    /// Whether a former run could not write outcomes before it was killed. Some episodes may be over and some leases
    /// reverted that are open here.
    pub is_behind: bool,
}

/// The former values of what one entry changes.
#[derive(Debug)]
pub enum PreviousState {
    Nothing,
    Episode(EpisodeKey, Option<Box<Episode>>, Option<Closed>),
    Leases(Vec<(u64, Option<Lease>)>, u64),
    Victims(Vec<Victim>),
    Breaker(String, Option<Breaker>),
    Paused(bool),
    RulePaused(String, bool),
}

impl LedgerState {
    /// The values that this entry would change. A copy of the whole state would be expensive with thousands of
    /// episodes.
    pub fn former(&self, entry: &Entry) -> PreviousState {
        let episode = |key: &EpisodeKey| {
            let (episode, closed) = (self.episodes.get(key), self.closed.get(key));
            PreviousState::Episode(key.clone(), episode.cloned().map(Box::new), closed.copied())
        };
        let leases = |ids: &[u64]| {
            let leases = ids.iter().map(|id| (*id, self.leases.get(id).cloned()));
            PreviousState::Leases(leases.collect(), self.last_lease_id)
        };
        match entry {
            Entry::Episode(opened) => episode(&opened.key),
            Entry::EpisodeClosed { key, .. } => episode(key),
            Entry::Lease(lease) => leases(&[lease.id]),
            Entry::LeasePrior { id, .. } | Entry::LeaseEnded { id, .. } => leases(&[*id]),
            Entry::Renewed { ids, .. } => leases(ids),
            Entry::Victim(_)
            | Entry::VictimSpared { .. }
            | Entry::VictimGone { .. }
            | Entry::CommandUncounted { .. } => PreviousState::Victims(self.victims.clone()),
            Entry::Breaker { rule, .. } => PreviousState::Breaker(rule.clone(), self.breakers.get(rule).copied()),
            Entry::Paused(_) => PreviousState::Paused(self.paused),
            Entry::RulePaused { rule, .. } => PreviousState::RulePaused(rule.clone(), self.paused_rules.contains(rule)),
            Entry::Record(_) => PreviousState::Nothing,
        }
    }

    /// Postpones steps and jobs that are due at `now` until `until` (CLOCK_BOOTTIME), because a full disk must not make the
    /// engine spin.
    pub fn postpone_due(&mut self, now: Duration, until: Duration) {
        let targets = self.episodes.values_mut().flat_map(|episode| &mut episode.targets);
        for progress in targets.filter(|progress| progress.due <= now) {
            progress.due = until;
        }
        for retry in self.leases.retries_mut().filter(|retry| retry.next <= now) {
            retry.next = until;
        }
    }

    /// Rolls back an entry. Of several, the newest must be first.
    pub fn roll_back(&mut self, former: PreviousState) {
        match former {
            PreviousState::Nothing => {}
            PreviousState::Episode(key, episode, closed) => {
                put(&mut self.closed, key.clone(), closed);
                put(&mut self.episodes, key, episode.map(|episode| *episode));
            }
            PreviousState::Leases(leases, last_lease_id) => {
                for (id, lease) in leases {
                    match lease {
                        Some(lease) => self.leases.insert(lease),
                        None => drop(self.leases.remove(id)),
                    }
                }
                self.last_lease_id = last_lease_id;
            }
            PreviousState::Victims(victims) => self.victims = victims,
            PreviousState::Breaker(rule, breaker) => put(&mut self.breakers, rule, breaker),
            PreviousState::Paused(paused) => self.paused = paused,
            PreviousState::RulePaused(rule, paused) => self.set_rule_paused(rule, paused),
        }
    }

    /// Adds the entries that only another reading has.
    pub fn adopt(&mut self, other: LedgerState) {
        for (key, episode) in other.episodes {
            self.episodes.entry(key).or_insert(episode);
        }
        for lease in other.leases.into_values() {
            if !self.leases.contains_key(&lease.id) {
                self.record(&Entry::Lease(lease));
            }
        }
        for victim in other.victims {
            if !self.victims.contains(&victim) {
                self.victims.push(victim);
            }
        }
        for (key, closed) in other.closed {
            self.closed.entry(key).or_insert(closed);
        }
        for (rule, breaker) in other.breakers {
            self.breakers.entry(rule).or_insert(breaker);
        }
        self.paused_rules.extend(other.paused_rules);
    }

    pub fn record(&mut self, entry: &Entry) {
        match entry {
            Entry::Episode(episode) => {
                self.episodes.insert(episode.key.clone(), episode.clone());
            }
            Entry::EpisodeClosed { key, closed } => {
                self.episodes.remove(key);
                self.closed.insert(key.clone(), *closed);
            }
            Entry::Lease(lease) => {
                self.last_lease_id = self.last_lease_id.max(lease.id);
                self.leases.insert(lease.clone());
            }
            Entry::LeasePrior { id, saved } => {
                if let Some(Lease {
                    effect: Effect::Value { saved: theirs, .. },
                    ..
                }) = self.leases.get_mut(*id)
                {
                    theirs.clone_from(saved);
                }
            }
            Entry::Renewed { ids, deadline } => {
                for id in ids {
                    if let Some(lease) = self.leases.get_mut(*id) {
                        lease.deadline = *deadline;
                    }
                }
            }
            Entry::LeaseEnded { id, .. } => {
                self.leases.remove(*id);
            }
            Entry::Victim(victim) => {
                self.victims
                    .retain(|known| !known.lives_as(victim.target, victim.simulated));
                self.victims.push(victim.clone());
            }
            Entry::VictimSpared { target } => self.victims.retain(|known| !known.lives_as(*target, false)),
            Entry::VictimGone { target, at, simulated } => {
                let is_it = |victim: &&mut Victim| victim.target == *target && (victim.simulated || !simulated);
                for victim in self.victims.iter_mut().filter(is_it) {
                    victim.gone_at.get_or_insert(*at);
                }
            }
            Entry::CommandUncounted { key, struck_at } => {
                let is_it = |victim: &&mut Victim| {
                    victim.target == Target::Host && victim.struck_at == *struck_at && victim.episode() == *key
                };
                let victims = self.victims.iter_mut().filter(is_it);
                victims.for_each(|victim| victim.is_uncounted = true);
            }
            Entry::Breaker { rule, breaker } => {
                let kept = Some(*breaker).filter(|breaker| *breaker != Breaker::default());
                put(&mut self.breakers, rule.clone(), kept);
            }
            Entry::Paused(paused) => self.paused = *paused,
            Entry::RulePaused { rule, paused } => self.set_rule_paused(rule.clone(), *paused),
            Entry::Record(_) => {}
        }
    }

    fn set_rule_paused(&mut self, rule: String, paused: bool) {
        match paused {
            true => drop(self.paused_rules.insert(rule)),
            false => drop(self.paused_rules.remove(&rule)),
        }
    }

    /// Whether a rule applies no new steps, because it is paused or all rules are.
    pub fn is_paused(&self, rule: &str) -> bool {
        self.paused || self.paused_rules.contains(rule)
    }

    /// Whether the breaker of a rule is open.
    pub fn is_breaker_open(&self, rule: &str) -> bool {
        self.breakers.get(rule).is_some_and(Breaker::is_open)
    }

    /// The open leases of an episode, oldest first; a dry-run has none.
    pub fn leases_of(&self, key: &EpisodeKey) -> impl DoubleEndedIterator<Item = &Lease> {
        let leases = (!key.simulated).then(|| self.leases.of(&key.rule, &key.fingerprint));
        leases.into_iter().flatten()
    }

    /// Forgets closed episodes, and victims that are older than `keep`, except those that count against the `limit` of an episode
    /// that is open, or that would go on if its alert fired again.
    pub fn forget(&mut self, now: Duration, keep: Duration) {
        // By the time since boot, because the clock of the alert's sender may be years off.
        let is_recent = |at: Duration| at.saturating_add(REMEMBER_CLOSED) > now;
        self.closed.retain(|_, closed| closed.closed_at.is_none_or(is_recent));
        let (episodes, closed) = (&self.episodes, &self.closed);
        let is_known = |key: &EpisodeKey| episodes.contains_key(key) || closed.contains_key(key);
        self.victims.retain(|victim| {
            victim.gone_at.is_none() || victim.struck_at.saturating_add(keep) > now || is_known(&victim.episode())
        });
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
