//! The engine's view of the processes: the table as it was read last, earlier readings from which processor use is
//! measured, and the children of targets.

use super::Policy;
use super::members::Members;
use crate::act::descendants::Descendants;
use crate::act::guard::Protection;
use crate::host::Host;
use crate::ledger::leases::Leases;
use crate::process::cpu_baseline::{CpuBaseline, MIN_CPU_WINDOW};
use crate::process::{Process, ProcessTree};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A process table serves alerts that come so soon after it was read.
const JUST_READ: Duration = Duration::from_millis(20);

pub(super) struct ProcessView {
    /// Pids of evenkeel's processes and their ancestors.
    own_ancestors: BTreeSet<i32>,
    /// Children of targets that were seen.
    pub descendants: Descendants,
    /// The last two readings for processor use: the newer one serves once it is old enough.
    baselines: [Option<CpuBaseline>; 2],
    /// The table as an alert had it read, and when (CLOCK_BOOTTIME).
    last_table: Option<(Duration, Arc<ProcessTree>)>,
}

impl ProcessView {
    pub fn new(own_ancestors: BTreeSet<i32>) -> ProcessView {
        ProcessView {
            own_ancestors,
            descendants: Descendants::default(),
            baselines: [None, None],
            last_table: None,
        }
    }

    /// The built-in protection of processes, and that of the configuration.
    pub fn protection<'a>(&'a self, policy: &'a Policy) -> Protection<'a> {
        Protection {
            own_ancestors: &self.own_ancestors,
            protect: &policy.protect,
        }
    }

    /// The guard's view of the members of cgroups, without a process table.
    pub fn members<'a>(&'a self, policy: &'a Policy) -> Members<'a> {
        Members {
            by_pid: BTreeMap::new(),
            protection: self.protection(policy),
        }
    }

    /// Measures processor use from this reading alone, or no more.
    pub fn measure_from(&mut self, baseline: Option<CpuBaseline>) {
        self.baselines = [baseline, None];
    }

    /// Measures processor use from this reading once it is old enough.
    pub fn add_baseline(&mut self, table: &[Process], now: Duration) {
        let [newer, older] = &mut self.baselines;
        *older = newer.replace(CpuBaseline::take(table, now));
    }

    /// The newest reading that lies far enough back to measure from.
    pub fn baseline(&self, now: Duration) -> Option<&CpuBaseline> {
        let is_old_enough = |baseline: &&CpuBaseline| now.saturating_sub(baseline.taken_at) >= MIN_CPU_WINDOW;
        self.baselines.iter().flatten().find(is_old_enough)
    }

    /// Something was done on the host, so the table is read again for the next alert.
    pub fn forget_table(&mut self) {
        self.last_table = None;
    }

    /// The process table at `now`. Alerts in quick succession share a reading (`is_shared`), because nothing was done
    /// since, and each target is read again before it is touched.
    pub fn table(&mut self, host: &mut impl Host, leases: &Leases, now: Duration, is_shared: bool) -> Arc<ProcessTree> {
        let recent = self.last_table.take().filter(|_| is_shared);
        let recent = recent.filter(|(read_at, _)| now.saturating_sub(*read_at) < JUST_READ);
        let (read_at, table) = recent.unwrap_or_else(|| (now, Arc::new(self.read_table(host, leases, now))));
        self.last_table = Some((read_at, Arc::clone(&table)));
        table
    }

    /// Reads again which processes are evenkeel's, because the one that runs commands may be another one by now.
    pub fn find_own(&mut self, host: &impl Host) {
        // Without a free descriptor they are the former ones.
        if let Ok(found) = host.find_own_ancestors() {
            self.own_ancestors = found;
        }
    }

    fn read_table(&mut self, host: &mut impl Host, leases: &Leases, now: Duration) -> ProcessTree {
        self.find_own(host);
        let mut table = match host.processes() {
            Ok(table) => table,
            Err(error) => {
                tracing::error!(%error, "could not read the process table");
                // The children that were seen may still run.
                return ProcessTree::default();
            }
        };
        if let Some(baseline) = self.baseline(now) {
            baseline.measure(&mut table, now);
        }
        let tree = ProcessTree::from(table);
        self.descendants.note(&tree, leases);
        tree
    }
}

/// The process table as undoing needs it: without processor use.
///
/// # Errors
/// When the table cannot be read.
pub(super) fn read_tree(host: &mut impl Host) -> io::Result<ProcessTree> {
    host.processes().map(ProcessTree::from)
}

/// A process, and its ancestors where one of them may hold what the process inherited. A rule that names a process by
/// pid does not wait until all others are read.
pub(super) fn read_ancestry(host: &mut impl Host, leases: &Leases, pid: i32) -> ProcessTree {
    let mut line: Vec<Process> = Vec::new();
    let mut next = host.process(pid);
    while let Some(process) = next {
        // A reused pid may close a circle.
        let is_known = |known: &Process| known.identity.pid == process.parent;
        let has_ancestor = !leases.is_empty() && !line.iter().any(is_known);
        next = has_ancestor.then(|| host.process(process.parent)).flatten();
        line.push(process);
    }
    ProcessTree::from(line)
}
