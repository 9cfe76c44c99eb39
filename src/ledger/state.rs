//! The ledger in memory: open episodes, live leases, recent victims. Changed by entries only, the same that the
//! store makes durable.

use super::breaker::Breaker;
use super::entry::Entry;
use super::episode::{Closed, Episode, EpisodeKey};
use super::lease::{Effect, Lease};
use super::leases::Leases;
use super::victim::Victim;
use std::collections::BTreeMap;
use std::time::Duration;

/// Closed episodes are remembered for at least this long, to recognise late deliveries of them.
pub const REMEMBER_CLOSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Victims are remembered for at least this long.
pub const REMEMBER_VICTIMS: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerState {
    pub episodes: BTreeMap<EpisodeKey, Episode>,
    pub leases: Leases,
    pub victims: Vec<Victim>,
    pub closed: BTreeMap<EpisodeKey, Closed>,
    /// By rule; one that never failed is not listed.
    pub breakers: BTreeMap<String, Breaker>,
    pub paused: bool,
    pub last_lease_id: u64,
}

/// What one entry changes, as it was before it.
#[derive(Debug)]
pub enum PreviousState {
    Nothing,
    Episode(EpisodeKey, Option<Box<Episode>>, Option<Closed>),
    Leases(Vec<(u64, Option<Lease>)>, u64),
    Victims(Vec<Victim>),
    Breaker(String, Option<Breaker>),
    Paused(bool),
}

impl LedgerState {
    /// What this entry would change. Kept instead of a copy of the book, which thousands of episodes make dear.
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
            Entry::Victim(_) | Entry::VictimSpared { .. } | Entry::VictimGone { .. } => {
                PreviousState::Victims(self.victims.clone())
            }
            Entry::Breaker { rule, .. } => PreviousState::Breaker(rule.clone(), self.breakers.get(rule).copied()),
            Entry::Paused(_) => PreviousState::Paused(self.paused),
            Entry::Record(_) => PreviousState::Nothing,
        }
    }

    /// Takes an entry back. Of several the newest goes first.
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
        }
    }

    /// Takes over what another reading knows and this one does not.
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
            Entry::Breaker { rule, breaker } => {
                let kept = Some(*breaker).filter(|breaker| *breaker != Breaker::default());
                put(&mut self.breakers, rule.clone(), kept);
            }
            Entry::Paused(paused) => self.paused = *paused,
            Entry::Record(_) => {}
        }
    }

    /// Whether a rule takes no final steps because its last ones had no effect.
    pub fn is_breaker_open(&self, rule: &str) -> bool {
        self.breakers.get(rule).is_some_and(Breaker::is_open)
    }

    /// The live leases of an episode, oldest first; dry-run holds none.
    pub fn leases_of(&self, key: &EpisodeKey) -> impl DoubleEndedIterator<Item = &Lease> {
        let leases = (!key.simulated).then(|| self.leases.of(&key.rule, &key.fingerprint));
        leases.into_iter().flatten()
    }

    /// Forgets closed episodes and victims that can no longer matter: `keep` before now, and of no open episode, whose
    /// `limit` counts them.
    pub fn forget(&mut self, now: Duration, keep: Duration) {
        let episodes = &self.episodes;
        self.victims.retain(|victim| {
            victim.gone_at.is_none()
                || victim.struck_at.saturating_add(keep) > now
                || episodes.contains_key(&victim.episode())
        });
        // By the time since boot: the alert's own account may be by a clock that is years off.
        let is_recent = |at: Duration| at.saturating_add(REMEMBER_CLOSED) > now;
        self.closed.retain(|_, closed| closed.closed_at.is_none_or(is_recent));
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
