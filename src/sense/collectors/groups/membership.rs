//! The groups of processes after process-exporter's rules: the first matching entry names a process once, and a process
//! that no entry matches joins the group of its parent.

use super::group::ExporterGroups;
use super::name_matcher::{NameReader, Naming};
use crate::process::{Identity, Process};
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of ancestors that are asked. The kernel allows longer chains, but no tree has them.
const MAX_ANCESTORS: usize = 1000;

/// The group of a process: its name, if it has one.
type Name = Option<Arc<str>>;

/// The decision about one process.
#[derive(Debug)]
struct Decision {
    /// `comm` at the decision; a process that has another one is matched again, because it runs another program.
    comm: String,
    name: Name,
    /// The read that saw the process last.
    seen_in: u64,
}

/// Where a process belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Membership {
    Group(Arc<str>),
    None,
    /// The parent is not known yet; [`Memberships::resolve`] knows.
    Later,
    /// The name of the user was not looked up in time; the next read tries again.
    Unknown,
}

/// A process whose parent has not been read yet.
struct Waiting {
    identity: Identity,
    parent: i32,
    comm: String,
}

/// The decisions about all processes.
#[derive(Default)]
pub struct Memberships {
    decided: HashMap<Identity, Decision>,
    /// The processes of the current read.
    by_pid: HashMap<i32, Identity>,
    waiting: HashMap<i32, Waiting>,
    read: u64,
}

impl Memberships {
    pub fn begin(&mut self) {
        self.read += 1;
        self.by_pid.clear();
        self.waiting.clear();
    }

    /// Decides about a process of the current read.
    pub fn decide(&mut self, process: &mut Process, groups: &ExporterGroups, reader: &mut NameReader) -> Membership {
        let identity = process.identity;
        self.by_pid.insert(identity.pid, identity);
        let known = self.decided.get_mut(&identity);
        let is_rechecked = groups.options.recheck.is_some_and(|limit| process.age < limit);
        let mut former = None;
        if let Some(known) = known {
            known.seen_in = self.read;
            if known.comm == process.name && (known.name.is_some() || !is_rechecked) {
                return known.name.clone().map_or(Membership::None, Membership::Group);
            }
            former.clone_from(&known.name);
        }
        match (reader.first_name(&groups.matchers, process), former) {
            (Naming::Named(name), _) => {
                let name: Arc<str> = name.into();
                self.note(identity, &process.name, Some(name.clone()));
                Membership::Group(name)
            }
            (Naming::Unknown, _) => Membership::Unknown,
            (Naming::NoMatch, Some(former)) => {
                self.note(identity, &process.name, Some(former.clone()));
                Membership::Group(former)
            }
            (Naming::NoMatch, None) if !groups.options.children || process.parent <= 0 => {
                self.note(identity, &process.name, None);
                Membership::None
            }
            (Naming::NoMatch, None) => {
                let Some(name) = self.of_parent(process.parent) else {
                    let waiting = Waiting {
                        identity,
                        parent: process.parent,
                        comm: process.name.clone(),
                    };
                    self.waiting.insert(identity.pid, waiting);
                    return Membership::Later;
                };
                self.note(identity, &process.name, name.clone());
                name.map_or(Membership::None, Membership::Group)
            }
        }
    }

    /// Ends a read: decides about the processes that wait for their parents, and returns those with a group. Forgets
    /// the processes that have ended.
    pub fn resolve(&mut self) -> Vec<(Identity, Arc<str>)> {
        let mut pids: Vec<i32> = self.waiting.keys().copied().collect();
        pids.sort_unstable();
        let mut found = Vec::new();
        for pid in pids {
            let Some(waiting) = self.waiting.get(&pid) else {
                continue;
            };
            // Without a decision about an ancestor, the next read tries again.
            let Some(name) = self.of_ancestors(waiting.parent) else {
                continue;
            };
            found.extend(name.clone().map(|name| (waiting.identity, name)));
            let (identity, comm) = (waiting.identity, waiting.comm.clone());
            self.note(identity, &comm, name);
        }
        self.waiting.clear();
        self.decided.retain(|_, decision| decision.seen_in == self.read);
        found
    }

    /// The decision about a parent; `None` if there is none yet.
    fn of_parent(&self, parent: i32) -> Option<Name> {
        if self.waiting.contains_key(&parent) {
            return None;
        }
        let identity = self.by_pid.get(&parent)?;
        self.decided.get(identity).map(|decision| decision.name.clone())
    }

    /// The group of the nearest ancestor that does not wait.
    fn of_ancestors(&self, mut parent: i32) -> Option<Name> {
        for _ in 0..MAX_ANCESTORS {
            match self.waiting.get(&parent) {
                Some(waiting) => parent = waiting.parent,
                // Without a visible parent there is no group to join.
                None if !self.by_pid.contains_key(&parent) => return Some(None),
                None => return self.of_parent(parent),
            }
        }
        None
    }

    fn note(&mut self, identity: Identity, comm: &str, name: Name) {
        let decision = Decision {
            comm: comm.to_owned(),
            name,
            seen_in: self.read,
        };
        self.decided.insert(identity, decision);
    }
}
