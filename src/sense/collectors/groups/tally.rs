//! The groups of one configuration with their sums and accounts. Bounds the number of names that templates and threads
//! make. Pure.

use super::account::{Account, COUNTERS, Counters};
use super::group::{EACH_THREAD, ExtraMetrics};
use super::totals::{ExtraReading, GroupTotals, counters};
use crate::process::{Identity, Process, ProcessFields};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The group, and the name of threads, that counts what is beyond the bound.
pub const OTHER: &str = "other";

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
    /// The number of groups with names that templates made, without `OTHER`.
    made: usize,
    thread_names: usize,
    /// Members that count in `OTHER` for lack of a name.
    overflow: u64,
    thread_overflow: u64,
    has_warned: bool,
}

impl Tally {
    pub fn groups(&self) -> &[GroupTally] {
        &self.groups
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Members in the last read that count in the group `OTHER` for lack of a name.
    pub fn overflow(&self) -> u64 {
        self.overflow
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
        self.has_warned = false;
        self.index();
    }

    fn index(&mut self) {
        let names = self.groups.iter().enumerate();
        self.by_name = names.map(|(index, group)| (group.name.clone(), index)).collect();
        let made = self.groups.iter().filter(|group| group.is_made && group.name != OTHER);
        self.made = made.count();
        self.thread_names = self.groups.iter().map(|group| group.threads.len()).sum();
    }

    /// Begins a read. Where a bound was reached, names without members make space for others.
    pub fn begin(&mut self) {
        if self.overflow > 0 {
            self.groups.retain(|group| !group.is_made || group.totals.processes > 0);
            self.index();
        }
        if self.thread_overflow > 0 {
            for group in &mut self.groups {
                group.threads.retain(|_, threads| threads.count > 0);
            }
            self.index();
        }
        (self.overflow, self.thread_overflow) = (0, 0);
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

    /// Adds a member to the group with a name that a template made.
    pub fn add_to_made(&mut self, name: &str, entry: Entry, process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None => {
                let is_beyond = self.made >= bounds.groups;
                self.overflow += u64::from(is_beyond);
                let name = if is_beyond { OTHER } else { name };
                match self.by_name.get(name) {
                    Some(index) => *index,
                    None => self.push(name, entry),
                }
            }
        };
        let group = &mut self.groups[index];
        group.metrics |= entry.metrics;
        group.extra |= entry.extra;
        self.add_at(index, process, extra, bounds);
    }

    fn push(&mut self, name: &str, entry: Entry) -> usize {
        let index = self.groups.len();
        self.groups.push(GroupTally::new(name, entry, true, self.read_at));
        self.by_name.insert(name.to_owned(), index);
        self.made += usize::from(name != OTHER);
        index
    }

    fn add_at(&mut self, index: usize, process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        let read_at = self.read_at;
        let group = &mut self.groups[index];
        let own = counters(process);
        group.totals.add(process, group.metrics, group.extra, extra);
        group.members.insert(process.identity, (process.born_at, own));
        let threads = match group.extra.intersects(EACH_THREAD) {
            true => extra.threads.as_slice(),
            false => &[],
        };
        if threads.is_empty() {
            group.switch_members.insert(process.identity, (process.born_at, own));
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
        if self.overflow + self.thread_overflow > 0 && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                processes = self.overflow,
                threads = self.thread_overflow,
                max_groups = bounds.groups,
                max_thread_names = bounds.thread_names,
                "too many names of process groups or threads, the rest counts as `{OTHER}`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        groups: 2,
        thread_names: 3,
        remove_empty: false,
    };

    fn entry() -> Entry<'static> {
        Entry {
            source: "{{.Comm}}",
            metrics: ProcessFields::empty(),
            extra: ExtraMetrics::empty(),
        }
    }

    /// A read in which each process has a group of its own name.
    fn read(tally: &mut Tally, bounds: &Bounds, second: u64, members: &[(i32, &str, u64)]) {
        tally.begin();
        for (pid, name, ticks) in members {
            let mut process = Process::example(*pid, name);
            process.cpu_ticks = *ticks;
            tally.add_to_made(name, entry(), &process, &ExtraReading::default(), bounds);
        }
        tally.finish(Duration::from_secs(second), bounds);
    }

    fn shown(tally: &Tally) -> Vec<(String, u64, u64)> {
        let groups = tally.groups().iter();
        groups
            .map(|group| (group.name.clone(), group.totals.processes, group.counters()[0]))
            .collect()
    }

    #[test]
    fn names_beyond_the_bound_count_in_one_group() {
        let mut tally = Tally::default();
        let all = [(1, "a", 5), (2, "b", 5), (3, "c", 5), (4, "d", 5), (5, "a", 5)];
        read(&mut tally, &BOUNDS, 100, &all);
        let named = |name: &str, processes, ticks| (name.to_owned(), processes, ticks);
        assert_eq!(
            shown(&tally),
            [named("a", 2, 0), named("b", 1, 0), named("other", 2, 0)]
        );
        assert_eq!(tally.overflow(), 2);
        read(&mut tally, &BOUNDS, 110, &[(1, "a", 9), (3, "c", 7), (4, "d", 6)]);
        assert_eq!(
            shown(&tally),
            [named("a", 1, 4), named("b", 0, 0), named("other", 2, 3)]
        );
        // The group without members makes space.
        read(&mut tally, &BOUNDS, 120, &[(1, "a", 9), (3, "c", 9), (4, "d", 6)]);
        assert_eq!(
            shown(&tally),
            [named("a", 1, 4), named("other", 1, 3), named("c", 1, 0)]
        );
        assert_eq!(tally.overflow(), 1);
    }

    #[test]
    fn sums_of_ended_members_stay_unless_empty_groups_are_removed() {
        for remove_empty in [false, true] {
            let bounds = Bounds {
                groups: 9,
                remove_empty,
                ..BOUNDS
            };
            let mut tally = Tally::default();
            read(&mut tally, &bounds, 100, &[(1, "a", 5)]);
            read(&mut tally, &bounds, 110, &[(1, "a", 9)]);
            read(&mut tally, &bounds, 120, &[]);
            let expected = [("a".to_owned(), 0, 4)];
            assert_eq!(shown(&tally), expected[usize::from(remove_empty)..]);
        }
    }

    #[test]
    fn reload_keeps_groups_whose_entry_stays() {
        let mut tally = Tally::default();
        let fixed = [("fixed", entry())];
        tally.configure(&fixed, &[entry()]);
        read(&mut tally, &BOUNDS, 100, &[(1, "a", 5)]);
        read(&mut tally, &BOUNDS, 110, &[(1, "a", 9)]);
        tally.configure(&fixed, &[entry()]);
        let kept = [("fixed".to_owned(), 0, 0), ("a".to_owned(), 1, 4)];
        assert_eq!(shown(&tally), kept);
        let other = Entry {
            source: "{{.ExeBase}}",
            ..entry()
        };
        tally.configure(&fixed, &[other]);
        assert_eq!(shown(&tally), kept[..1]);
    }
}
