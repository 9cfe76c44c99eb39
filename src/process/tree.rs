//! One reading of the process table as a tree of parents and children. Data only.

use super::fields::Process;
use super::identity::Identity;
use std::collections::HashMap;
use std::ops::Deref;

/// A process table with an index of children. Dereferences to the processes in the order of the table.
#[derive(Debug, Clone, Default)]
pub struct ProcessTree {
    processes: Vec<Process>,
    by_pid: HashMap<i32, usize>,
    children: HashMap<i32, Vec<usize>>,
}

impl Deref for ProcessTree {
    type Target = [Process];

    fn deref(&self) -> &[Process] {
        &self.processes
    }
}

impl From<Vec<Process>> for ProcessTree {
    fn from(processes: Vec<Process>) -> ProcessTree {
        let mut kin = ProcessTree {
            by_pid: HashMap::with_capacity(processes.len()),
            ..ProcessTree::default()
        };
        for (place, process) in processes.iter().enumerate() {
            kin.by_pid.insert(process.identity.pid, place);
            kin.children.entry(process.parent).or_default().push(place);
        }
        for siblings in kin.children.values_mut() {
            siblings.sort_by_key(|place| std::cmp::Reverse(processes[*place].born_at));
        }
        kin.processes = processes;
        kin
    }
}

impl ProcessTree {
    pub fn get(&self, process: Identity) -> Option<&Process> {
        let found = self.with_pid(process.pid)?;
        (found.identity == process).then_some(found)
    }

    pub fn with_pid(&self, pid: i32) -> Option<&Process> {
        self.by_pid.get(&pid).map(|place| &self.processes[*place])
    }

    /// The children of a process, the youngest first.
    pub fn children(&self, pid: i32) -> impl Iterator<Item = &Process> {
        let places = self.children.get(&pid).into_iter().flatten();
        places.map(|place| &self.processes[*place])
    }

    /// The parent, its parent and so on.
    pub fn ancestors(&self, process: &Process) -> impl Iterator<Item = &Process> {
        let mut seen = vec![process.identity.pid];
        let mut next = process.parent;
        std::iter::from_fn(move || {
            // Reading a table takes time, so a pid that is reused meanwhile may close a cycle.
            if seen.contains(&next) {
                return None;
            }
            seen.push(next);
            let parent = self.with_pid(next)?;
            next = parent.parent;
            Some(parent)
        })
    }

    /// The descendants of a process for which `holds` is true, and is true for all processes in between.
    pub fn descendants(&self, process: Identity, holds: impl Fn(&Process) -> bool) -> Vec<&Process> {
        if self.get(process).is_none() {
            // The children belong to another process that has the pid now.
            return Vec::new();
        }
        let mut seen = std::collections::HashSet::from([process.pid]);
        let mut found: Vec<&Process> = Vec::new();
        let mut parent = Some(process.pid);
        let mut next = 0;
        while let Some(pid) = parent {
            found.extend(
                self.children(pid)
                    .filter(|child| holds(child) && seen.insert(child.identity.pid)),
            );
            parent = found.get(next).map(|process| process.identity.pid);
            next += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn kin(parents: &[(i32, i32)]) -> ProcessTree {
        let process = |&(pid, parent): &(i32, i32)| Process {
            parent,
            ..Process::example(pid, "x")
        };
        ProcessTree::from(parents.iter().map(process).collect::<Vec<_>>())
    }

    fn pids<'a>(processes: impl IntoIterator<Item = &'a Process>) -> BTreeSet<i32> {
        processes.into_iter().map(|process| process.identity.pid).collect()
    }

    #[test]
    fn ancestors_and_descendants_are_found() {
        let kin = kin(&[(1, 0), (7, 1), (8, 7), (9, 8), (10, 7), (11, 1)]);
        let of = |pid| kin.with_pid(pid).unwrap().identity;
        assert_eq!(pids(kin.descendants(of(7), |_| true)), BTreeSet::from([8, 9, 10]));
        assert_eq!(
            pids(kin.descendants(of(7), |process| process.identity.pid != 8)),
            [10].into()
        );
        assert_eq!(pids(kin.ancestors(kin.with_pid(9).unwrap())), [8, 7, 1].into());
        let other = Identity {
            start_ticks: 1,
            ..of(7)
        };
        assert!(kin.descendants(other, |_| true).is_empty());
    }

    #[test]
    fn cycle_ends() {
        let kin = kin(&[(7, 8), (8, 7)]);
        let first = kin.with_pid(7).unwrap();
        assert_eq!(pids(kin.descendants(first.identity, |_| true)), [8].into());
        assert_eq!(pids(kin.ancestors(first)), [8].into());
    }
}
