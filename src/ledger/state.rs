//! The ledger in memory: open episodes, live leases, recent victims. Changed by entries only, the same that the
//! store makes durable.

use super::breaker::Breaker;
use super::entry::Entry;
use super::evidence::{Evidence, EvidenceSource};
use super::lease::{Effect, Lease};
use super::leases::Leases;
use crate::alert::{Labels, Source};
use crate::process::Target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::time::Duration;

/// Closed episodes are remembered for at least this long, to recognise late deliveries of them.
pub const REMEMBER_CLOSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Victims are remembered for at least this long.
pub const REMEMBER_VICTIMS: Duration = Duration::from_secs(24 * 3600);

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
    pub refused: Option<super::Decision>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Excluded {
    pub target: Target,
    /// A repeat lets it be taken again.
    pub until_repeat: bool,
}

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
    /// It lived on beyond that time: nobody waits for it any more.
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
