//! The open leases, indexed by number, target and episode, so that a revert does not scan all of them.

use super::job::RetryState;
use super::lease::Lease;
use crate::process::Target;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;

/// The leases by number, with indices. Target and episode of a lease never change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Leases {
    by_id: BTreeMap<u64, Lease>,
    by_target: BTreeMap<Target, BTreeSet<u64>>,
    /// Rule, then fingerprint.
    by_episode: HashMap<SmolStr, HashMap<SmolStr, BTreeSet<u64>>>,
}

impl Deref for Leases {
    type Target = BTreeMap<u64, Lease>;

    fn deref(&self) -> &BTreeMap<u64, Lease> {
        &self.by_id
    }
}

impl Leases {
    /// The open leases on a target, oldest first.
    pub fn on(&self, target: Target) -> impl DoubleEndedIterator<Item = &Lease> {
        let ids = self.by_target.get(&target).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// The open leases of an episode, oldest first.
    pub fn of(&self, rule: &str, fingerprint: &str) -> impl DoubleEndedIterator<Item = &Lease> {
        let ids = self.by_episode.get(rule).and_then(|rule| rule.get(fingerprint));
        ids.into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    /// All targets with a lease.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.by_target.keys().copied()
    }

    /// The retry state of each allocation and command.
    pub fn retries_mut(&mut self) -> impl Iterator<Item = &mut RetryState> {
        self.by_id.values_mut().filter_map(Lease::retry_mut)
    }

    pub(super) fn insert(&mut self, lease: Lease) {
        self.by_target.entry(lease.target).or_default().insert(lease.id);
        let of_rule = self.by_episode.entry(lease.rule.clone()).or_default();
        of_rule.entry(lease.fingerprint.clone()).or_default().insert(lease.id);
        self.by_id.insert(lease.id, lease);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        if let Some(ids) = self.by_target.get_mut(&lease.target) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_target.remove(&lease.target);
            }
        }
        if let Some(of_rule) = self.by_episode.get_mut(&lease.rule) {
            if let Some(ids) = of_rule.get_mut(&lease.fingerprint) {
                ids.remove(&id);
                if ids.is_empty() {
                    of_rule.remove(&lease.fingerprint);
                }
            }
            if of_rule.is_empty() {
                self.by_episode.remove(&lease.rule);
            }
        }
        Some(lease)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Lease> {
        self.by_id.get_mut(&id)
    }

    pub fn into_values(self) -> impl Iterator<Item = Lease> {
        self.by_id.into_values()
    }
}
