//! The groups of one configuration with their sums and accounts. Bounds the number of names that templates and threads
//! make. Pure.

use super::account::{Account, COUNTERS, Counters};
use super::group::{EACH_THREAD, ExtraMetrics, OTHER};
use super::totals::{ExtraReading, GroupTotals, counters};
use crate::process::{Identity, Process, ProcessFields};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

type Members = HashMap<Identity, (Duration, Counters)>;

/// The bounds, and what happens to a group without members.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of groups whose names templates made.
    pub groups: usize,
    /// Of names of threads in all groups together.
    pub thread_names: usize,
    pub remove_empty: bool,
}

/// What the configuration says about a group.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'e> {
    /// The name as written. A group stays over a reload while an entry has its source.
    pub source: &'e str,
    pub metrics: ProcessFields,
    pub extra: ExtraMetrics,
}

/// The threads of one name in a group.
#[derive(Debug, Default)]
pub struct ThreadTally {
    pub count: u64,
    members: Members,
    account: Account,
}

impl ThreadTally {
    pub fn totals(&self) -> [u64; COUNTERS] {
        self.account.totals()
    }
}

/// One group.
#[derive(Debug)]
pub struct GroupTally {
    pub name: String,
    pub totals: GroupTotals,
    pub metrics: ProcessFields,
    pub extra: ExtraMetrics,
    pub threads: BTreeMap<String, ThreadTally>,
    source: String,
    is_made: bool,
    members: Members,
    account: Account,
    /// The context switches of all threads where they are read, else of the first ones. The first thread has the
    /// identity of its process, so that the sums go on when this changes.
    switch_members: Members,
    switches: Account,
}

impl GroupTally {
    fn new(name: &str, entry: Entry, is_made: bool, empty_since: Option<Duration>) -> GroupTally {
        GroupTally {
            name: name.to_owned(),
            totals: GroupTotals::default(),
            metrics: entry.metrics,
            extra: entry.extra,
            threads: BTreeMap::new(),
            source: entry.source.to_owned(),
            is_made,
            members: Members::new(),
            account: Account::empty_since(empty_since),
            switch_members: Members::new(),
            switches: Account::empty_since(empty_since),
        }
    }

    pub fn counters(&self) -> [u64; COUNTERS] {
        self.account.totals()
    }

    /// The counters with the context switches of all threads, where they are read.
    pub fn counters_of_threads(&self) -> [u64; COUNTERS] {
        let mut totals = self.account.totals();
        totals[4..=5].copy_from_slice(&self.switches.totals()[4..=5]);
        totals
    }
}

/// The groups in the order of the configuration, then those with names that templates made.
#[derive(Debug, Default)]
pub struct Tally {
    groups: Vec<GroupTally>,
    by_name: HashMap<String, usize>,
    /// CLOCK_BOOTTIME of the last read with the present configuration.
    read_at: Option<Duration>,
    /// Names that templates may make beyond the bound.
    reserved: HashSet<String>,
    /// The number of groups that count for the bound.
    made: usize,
    thread_names: usize,
    /// Members that count in `OTHER` for lack of a name.
    overflow: HashSet<Identity>,
    /// Whether the bound was reached in this read.
    is_full: bool,
    thread_overflow: u64,
    has_warned: bool,
    has_warned_of_name: bool,
}

impl Tally {
    /// A tally in which these names have groups even where the bound is reached.
    pub fn reserving(names: HashSet<String>) -> Tally {
        Tally {
            reserved: names,
            ..Tally::default()
        }
    }

    pub fn groups(&self) -> &[GroupTally] {
        &self.groups
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Members in the last read that count in the group `OTHER` for lack of a name.
    pub fn overflow(&self) -> &HashSet<Identity> {
        &self.overflow
    }

    /// Takes over a configuration: `fixed` are the groups that always exist. Other groups stay if one of `templates` has
    /// made their name.
    pub fn configure(&mut self, fixed: &[(&str, Entry)], templates: &[Entry]) {
        let mut before: HashMap<String, GroupTally> =
            self.groups.drain(..).map(|group| (group.name.clone(), group)).collect();
        for (name, entry) in fixed {
            let known = before.remove(*name).filter(|group| !group.is_made);
            let mut group = known.unwrap_or_else(|| GroupTally::new(name, *entry, false, None));
            (group.metrics, group.extra) = (entry.metrics, entry.extra);
            self.groups.push(group);
        }
        let mut made: Vec<GroupTally> = before.into_values().collect();
        made.retain_mut(|group| {
            let entry = templates.iter().find(|entry| entry.source == group.source);
            if let Some(entry) = entry {
                (group.metrics, group.extra) = (entry.metrics, entry.extra);
            }
            group.is_made && entry.is_some()
        });
        made.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.groups.append(&mut made);
        self.read_at = None;
        (self.has_warned, self.has_warned_of_name) = (false, false);
        self.index();
    }

    fn index(&mut self) {
        let names = self.groups.iter().enumerate();
        self.by_name = names.map(|(index, group)| (group.name.clone(), index)).collect();
        let made = self.groups.iter().filter(|group| group.is_made);
        self.made = made.filter(|group| self.is_bounded(&group.name)).count();
        self.thread_names = self.groups.iter().map(|group| group.threads.len()).sum();
    }

    /// Whether a group that a template made counts for the bound.
    fn is_bounded(&self, name: &str) -> bool {
        name != OTHER && !self.reserved.contains(name)
    }

    /// Begins a read. Where a bound was reached, names without members make space for others.
    pub fn begin(&mut self) {
        if self.is_full {
            let reserved = &self.reserved;
            self.groups
                .retain(|group| !group.is_made || group.totals.processes > 0 || reserved.contains(&group.name));
            self.index();
        }
        if self.thread_overflow > 0 {
            for group in &mut self.groups {
                group.threads.retain(|_, threads| threads.count > 0);
            }
            self.index();
        }
        self.overflow.clear();
        (self.is_full, self.thread_overflow) = (false, 0);
        for group in &mut self.groups {
            group.totals = GroupTotals::default();
            group.members = Members::with_capacity(group.account.members());
            group.threads.values_mut().for_each(|threads| threads.count = 0);
        }
    }

    /// Adds a member to a group that always exists.
    pub fn add_to_fixed(&mut self, name: &str, process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        if let Some(index) = self.by_name.get(name) {
            self.add_at(*index, process, extra, bounds);
        }
    }

    /// Adds a member to the group with a name that a template made. Users choose such names, so that they lead neither
    /// into a group that always exists nor beyond the bound. Groups that always exist come first: a member of such a
    /// group stays there.
    pub fn add_to_made(&mut self, name: &str, entry: Entry, process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        let index = match self.by_name.get(name).map(|index| (*index, &self.groups[*index])) {
            Some((index, group)) if group.is_made => index,
            Some((_, group)) if group.members.contains_key(&process.identity) => return,
            Some(_) => {
                if !std::mem::replace(&mut self.has_warned_of_name, true) {
                    tracing::warn!(
                        group = name,
                        "a template makes the name of another process group, the processes count as `{OTHER}`"
                    );
                }
                self.overflow_into(entry, process)
            }
            None if self.made >= bounds.groups && self.is_bounded(name) => {
                self.is_full = true;
                self.overflow_into(entry, process)
            }
            None => self.push(name, entry),
        };
        let group = &mut self.groups[index];
        group.metrics |= entry.metrics;
        group.extra |= entry.extra;
        self.add_at(index, process, extra, bounds);
    }

    /// The index of the group for members that lack a group of their own. The configuration has no such group where it
    /// has templates.
    fn overflow_into(&mut self, entry: Entry, process: &Process) -> usize {
        self.overflow.insert(process.identity);
        match self.by_name.get(OTHER) {
            Some(index) => *index,
            None => self.push(OTHER, entry),
        }
    }

    fn push(&mut self, name: &str, entry: Entry) -> usize {
        let index = self.groups.len();
        self.groups.push(GroupTally::new(name, entry, true, self.read_at));
        self.by_name.insert(name.to_owned(), index);
        self.made += usize::from(self.is_bounded(name));
        index
    }

    fn add_at(&mut self, index: usize, process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        let read_at = self.read_at;
        let group = &mut self.groups[index];
        let own = (process.born_at, counters(process));
        // Several entries may yield the name of this group.
        if group.members.insert(process.identity, own).is_some() {
            return;
        }
        group.totals.add(process, group.metrics, group.extra, extra);
        let threads = match group.extra.intersects(EACH_THREAD) {
            true => extra.threads.as_slice(),
            false => &[],
        };
        if threads.is_empty() {
            group.switch_members.insert(process.identity, own);
        }
        for thread in threads {
            let member = (thread.born_at, thread.counters);
            group.switch_members.insert(thread.identity, member);
            if !group.extra.contains(ExtraMetrics::THREADS) {
                continue;
            }
            let is_new = !group.threads.contains_key(&thread.name);
            let is_beyond = is_new && self.thread_names >= bounds.thread_names;
            self.thread_overflow += u64::from(is_beyond);
            let name = if is_beyond { OTHER } else { &thread.name };
            if !group.threads.contains_key(name) {
                self.thread_names += 1;
                let empty = ThreadTally {
                    account: Account::empty_since(read_at),
                    ..ThreadTally::default()
                };
                group.threads.insert(name.to_owned(), empty);
            }
            if let Some(threads) = group.threads.get_mut(name) {
                threads.count += 1;
                threads.members.insert(thread.identity, member);
            }
        }
    }

    /// Ends a read: the growth of all members goes to the accounts.
    pub fn finish(&mut self, boot_now: Duration, bounds: &Bounds) {
        for group in &mut self.groups {
            group.account.update(std::mem::take(&mut group.members), boot_now);
            group
                .switches
                .update(std::mem::take(&mut group.switch_members), boot_now);
            for threads in group.threads.values_mut() {
                threads.account.update(std::mem::take(&mut threads.members), boot_now);
            }
        }
        if bounds.remove_empty {
            self.groups.retain(|group| !group.is_made || group.totals.processes > 0);
            self.index();
        }
        self.read_at = Some(boot_now);
        if (self.is_full || self.thread_overflow > 0) && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                processes = self.overflow.len(),
                threads = self.thread_overflow,
                max_groups = bounds.groups,
                max_thread_names = bounds.thread_names,
                "too many names of process groups or threads, the rest counts as `{OTHER}`"
            );
        }
    }
}

#[cfg(test)]
mod tests;
