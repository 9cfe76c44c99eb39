//! The descendants that inherited a value: children that started during a lease of an ancestor. Pure.

use crate::host::Value;
use crate::ledger::Lease;
use crate::ledger::leases::Leases;
use crate::process::{Identity, Process, ProcessTree};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Start times are known to a clock tick of 10 ms (USER_HZ is 100 on every Linux port).
const TICK: Duration = Duration::from_millis(10);

/// Descendants of targets from earlier readings of the table, which stay known when their parent exits and the kernel assigns
/// another. Kept in memory: after a restart they are only reported as possible orphans.
#[derive(Debug, Default)]
pub struct Descendants(BTreeMap<Identity, BTreeSet<Identity>>);

impl Descendants {
    /// Records the descendants of leased targets in this reading, and forgets exited ones.
    pub fn note(&mut self, tree: &ProcessTree, leases: &Leases) {
        self.0.retain(|target, children| {
            children.retain(|child| tree.get(*child).is_some());
            !children.is_empty() && leases.on((*target).into()).next().is_some()
        });
        for target in leases.targets().filter_map(|target| target.process()) {
            let Some(first) = leases.on(target.into()).map(|lease| lease.taken_at).min() else {
                continue;
            };
            let below = tree.descendants(target, |process| is_born_since(process, first));
            if !below.is_empty() {
                let children = self.0.entry(target).or_default();
                children.extend(below.iter().map(|process| process.identity));
            }
        }
    }

    /// The processes in this reading that certainly started below the target since the lease.
    pub fn born(&self, target: Identity, lease: &Lease, tree: &ProcessTree) -> Vec<Identity> {
        let is_young = |process: &Process| is_born_since(process, lease.taken_at);
        let below = |root: Identity| {
            tree.descendants(root, is_young)
                .into_iter()
                .map(|process| process.identity)
        };
        let mut found: BTreeSet<Identity> = below(target).collect();
        let remembered = self.0.get(&target).into_iter().flatten();
        for child in remembered.filter(|child| tree.get(**child).is_some_and(is_young)) {
            found.insert(*child);
            found.extend(below(*child));
        }
        // Only descendants of a session's leader are in it, whichever process is their parent now (setsid(2)).
        let leads = |process: &&Process| process.session == process.identity.pid;
        let leaders = found.iter().chain([&target]).filter_map(|member| tree.get(*member));
        let led: BTreeSet<i32> = leaders.filter(leads).map(|leader| leader.session).collect();
        if !led.is_empty() {
            let orphans = tree.children(1).take_while(|process| is_young(process));
            let members = orphans.filter(|process| led.contains(&process.session));
            found.extend(members.map(|process| process.identity));
        }
        found.remove(&target);
        found.into_iter().collect()
    }
}

/// Whether a process started after a time of CLOCK_BOOTTIME, within the precision of start times.
pub fn is_born_since(process: &Process, moment: Duration) -> bool {
    process.born_at + TICK >= moment
}

/// The value of a process without the leases of its ancestors, if it inherited `found` from one.
pub fn before_birth(process: &Process, found: &Value, leases: &Leases, tree: &ProcessTree) -> Option<Value> {
    let mut source: Option<(&Lease, Identity)> = None;
    let mut below = process;
    for ancestor in tree.ancestors(process) {
        for lease in leases.on(ancestor.identity.into()) {
            // The nearest descendant is the oldest of the line.
            if lease.effect.value() == Some(found)
                && is_born_since(below, lease.taken_at)
                && source.is_none_or(|(known, _)| lease.id < known.id)
            {
                source = Some((lease, ancestor.identity));
            }
        }
        below = ancestor;
    }
    let (_, target) = source?;
    let is_of_knob = |value: &Value| value.knob() == found.knob();
    let first = leases
        .on(target.into())
        .find(|lease| lease.effect.value().is_some_and(is_of_knob))?;
    first.effect.saved().first().map(|saved| saved.value.clone())
}

/// The data that identifies the processes that inherited the value of a lease.
pub struct Family<'a> {
    pub tree: &'a ProcessTree,
    pub descendants: &'a Descendants,
    /// Whether a process has a lease of its own on the same knob, which takes precedence.
    pub is_holder: &'a dyn Fn(Identity) -> bool,
}

impl Family<'_> {
    /// The processes that certainly started below the target since the lease.
    pub fn born(&self, target: Identity, lease: &Lease) -> Vec<Identity> {
        let mut born = self.descendants.born(target, lease, self.tree);
        born.retain(|child| !(self.is_holder)(*child));
        born
    }

    /// Processes that init adopted and that started since the lease. They may be children of the target whose parent exited
    /// between two readings.
    pub fn possible_orphans(&self, lease: &Lease) -> impl Iterator<Item = &Process> {
        let born = lease
            .target
            .process()
            .map(|target| self.descendants.born(target, lease, self.tree));
        let born = born.unwrap_or_default();
        let orphans = self.tree.children(1);
        let young = orphans.take_while(|process| is_born_since(process, lease.taken_at));
        young.filter(move |process| {
            !process.is_dead()
                && lease.target != process.identity.into()
                && !born.contains(&process.identity)
                && !(self.is_holder)(process.identity)
        })
    }
}
