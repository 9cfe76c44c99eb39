//! `groups`: totals of named groups of processes (`evenkeel_group_*`), without a series per process. `process` reads
//! the processes; this file decides membership and sums.

pub mod group;
mod account;

use super::info::{CollectorInfo, Pace};
use super::stat::parse_boot_time;
use crate::family::{Family, label};
use crate::host::linux::boot_time;
use crate::process::selector::SelectorMatch;
use crate::process::table::{CpuBaseline, MIN_CPU_WINDOW, Procfs, TICKS_PER_SECOND};
use crate::process::user_names::UserNames;
use crate::process::{Process, ProcessFields};
use crate::sense::runtime::idle_cache::IdleCache;
use crate::sense::runtime::kernel_file::{ReadError, read_record};
use crate::sense::runtime::roots::Roots;
use account::{Account, COUNTERS, Counters};
use group::{Group, Groups};
use std::collections::HashMap;
use std::time::Duration;

/// The published metrics.
const METRICS: &str = "\
    evenkeel_group_context_switches_total evenkeel_group_cpu_seconds_total evenkeel_group_major_page_faults_total \
    evenkeel_group_minor_page_faults_total evenkeel_group_oldest_start_time_seconds evenkeel_group_open_fds \
    evenkeel_group_processes evenkeel_group_read_bytes_total evenkeel_group_resident_bytes evenkeel_group_states \
    evenkeel_group_swap_bytes evenkeel_group_threads evenkeel_group_virtual_bytes evenkeel_group_worst_fd_ratio \
    evenkeel_group_write_bytes_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "groups",
    Pace::IsolatedScrape,
    "process_groups of the configuration",
    METRICS,
    |options| {
        // Isolated, because the kernel may block a reader of a process.
        let mut groups = GroupsReader::new(Groups::clone(&options.process_groups));
        Box::new(move |roots| groups.read(roots))
    },
);

const STATES: [&str; 6] = ["running", "sleeping", "waiting", "stopped", "zombie", "other"];

/// The usage of all members of one group at one moment.
#[derive(Debug, Default)]
struct GroupTotals {
    processes: u64,
    threads: u64,
    resident_bytes: u64,
    virtual_bytes: u64,
    swap_bytes: u64,
    open_fds: u64,
    worst_fd_ratio: Option<f64>,
    states: [u64; STATES.len()],
    oldest: Option<Duration>,
}

impl GroupTotals {
    fn add(&mut self, process: &Process) {
        let usage = &process.details.usage;
        self.processes += 1;
        self.threads += u64::from(process.threads);
        self.resident_bytes += process.resident_bytes;
        self.virtual_bytes += process.virtual_bytes;
        self.swap_bytes += usage.swap_bytes.unwrap_or(0);
        self.open_fds += usage.open_fds.unwrap_or(0);
        if let (Some(open), Some(max @ 1..)) = (usage.open_fds, usage.max_fds) {
            let ratio = open as f64 / max as f64;
            self.worst_fd_ratio = Some(self.worst_fd_ratio.map_or(ratio, |worst| worst.max(ratio)));
        }
        self.states[state(process.state)] += 1;
        self.oldest = Some(
            self.oldest
                .map_or(process.born_at, |oldest| oldest.min(process.born_at)),
        );
    }
}

/// Index in `STATES` of a state letter of proc(5).
fn state(letter: char) -> usize {
    match letter {
        'R' => 0,
        'S' | 'I' => 1,
        'D' => 2,
        'T' | 't' => 3,
        'Z' | 'X' | 'x' => 4,
        _ => 5,
    }
}

fn counters(process: &Process) -> Counters {
    let usage = &process.details.usage;
    Counters([
        Some(process.cpu_ticks.saturating_sub(process.system_ticks)),
        Some(process.system_ticks),
        Some(process.major_faults),
        Some(process.minor_faults),
        usage.voluntary_switches,
        usage.involuntary_switches,
        usage.read_bytes,
        usage.write_bytes,
    ])
}

/// Two baselines of processor time. The older one is used until the newer one is five seconds old, so that CPU is
/// measured over at least five seconds at any interval.
#[derive(Default)]
struct CpuBaselines {
    older: Option<CpuBaseline>,
    newer: Option<CpuBaseline>,
}

impl CpuBaselines {
    fn measure(&self, process: &mut Process, boot_now: Duration) {
        if let Some(baseline) = &self.older {
            baseline.measure(std::slice::from_mut(process), boot_now);
        }
    }

    fn update(&mut self, now: CpuBaseline) {
        let Some(newer) = self.newer.take() else {
            self.older = Some(now.clone());
            self.newer = Some(now);
            return;
        };
        let is_old_enough = now.taken_at.saturating_sub(newer.taken_at) >= MIN_CPU_WINDOW;
        if is_old_enough {
            self.older = Some(newer);
            self.newer = Some(now);
        } else {
            self.newer = Some(newer);
        }
    }
}

/// The families of groups; each holds only the groups whose `metrics` include it.
fn families(shown: &[(&Group, &GroupTotals, [u64; COUNTERS])], booted_at: f64) -> Vec<Family> {
    let name = |group: &Group| label("group", group.name.clone());
    let gauge =
        |family: &'static str, help: &'static str, needs: ProcessFields, value: fn(&GroupTotals) -> Option<f64>| {
            let mut gauge = Family::gauge(family, help);
            for (group, sum, _) in shown.iter().filter(|(group, ..)| group.metrics.contains(needs)) {
                if let Some(value) = value(sum) {
                    gauge.push(vec![name(group)], value);
                }
            }
            gauge
        };
    // Index in `Counters`, and the label that distinguishes the series, if any.
    type Slots = &'static [(usize, Option<(&'static str, &'static str)>)];
    let counter = |family: &'static str, help: &'static str, needs: ProcessFields, scale: f64, slots: Slots| {
        let mut counter = Family::counter(family, help);
        for (group, _, totals) in shown.iter().filter(|(group, ..)| group.metrics.contains(needs)) {
            for (slot, kind) in slots {
                let mut labels = vec![name(group)];
                labels.extend(kind.map(|(key, value)| label(key, value)));
                counter.push(labels, totals[*slot] as f64 / scale);
            }
        }
        counter
    };
    let mut states = Family::gauge(
        "evenkeel_group_states",
        "Members of a group in each state; of threads, the first counts.",
    );
    let mut oldest = Family::gauge(
        "evenkeel_group_oldest_start_time_seconds",
        "Unix time at which the oldest member of a group started.",
    );
    for (group, sum, _) in shown {
        for (state, count) in STATES.into_iter().zip(sum.states) {
            states.push(vec![name(group), label("state", state)], count as f64);
        }
        if let Some(born_at) = sum.oldest {
            oldest.push(vec![name(group)], booted_at + born_at.as_secs_f64());
        }
    }
    const TICKS: f64 = TICKS_PER_SECOND as f64;
    let mut families = vec![
        gauge(
            "evenkeel_group_processes",
            "Processes in a group.",
            ProcessFields::empty(),
            |sum| Some(sum.processes as f64),
        ),
        gauge(
            "evenkeel_group_threads",
            "Threads of a group.",
            ProcessFields::empty(),
            |sum| Some(sum.threads as f64),
        ),
        gauge(
            "evenkeel_group_resident_bytes",
            "Resident memory of a group, shared pages once per member.",
            ProcessFields::empty(),
            |sum| Some(sum.resident_bytes as f64),
        ),
        gauge(
            "evenkeel_group_virtual_bytes",
            "Address space of a group.",
            ProcessFields::empty(),
            |sum| Some(sum.virtual_bytes as f64),
        ),
        gauge(
            "evenkeel_group_swap_bytes",
            "Memory of a group that is in swap.",
            ProcessFields::SWAP,
            |sum| Some(sum.swap_bytes as f64),
        ),
        gauge(
            "evenkeel_group_open_fds",
            "File descriptors that a group has open.",
            ProcessFields::OPEN_FDS,
            |sum| Some(sum.open_fds as f64),
        ),
        gauge(
            "evenkeel_group_worst_fd_ratio",
            "Largest share of its limit of file descriptors that a member has open.",
            ProcessFields::OPEN_FDS,
            |sum| sum.worst_fd_ratio,
        ),
        counter(
            "evenkeel_group_cpu_seconds_total",
            "Processor time that members used since evenkeel saw them, those included that have ended.",
            ProcessFields::empty(),
            TICKS,
            &[(0, Some(("mode", "user"))), (1, Some(("mode", "system")))],
        ),
        counter(
            "evenkeel_group_major_page_faults_total",
            "Page faults of members that had to wait for storage.",
            ProcessFields::empty(),
            1.0,
            &[(2, None)],
        ),
        counter(
            "evenkeel_group_minor_page_faults_total",
            "Page faults of members that did not wait for storage.",
            ProcessFields::empty(),
            1.0,
            &[(3, None)],
        ),
        counter(
            "evenkeel_group_context_switches_total",
            "Context switches of the members' first threads.",
            ProcessFields::CONTEXT_SWITCHES,
            1.0,
            &[(4, Some(("type", "voluntary"))), (5, Some(("type", "involuntary")))],
        ),
        counter(
            "evenkeel_group_read_bytes_total",
            "Bytes that members had read from storage.",
            ProcessFields::IO,
            1.0,
            &[(6, None)],
        ),
        counter(
            "evenkeel_group_write_bytes_total",
            "Bytes that members had written to storage.",
            ProcessFields::IO,
            1.0,
            &[(7, None)],
        ),
        states,
        oldest,
    ];
    families.retain(|family| !family.is_empty());
    families
}

/// The state between two reads.
pub struct GroupsReader {
    groups: Groups,
    procfs: Option<Procfs>,
    accounts: HashMap<String, Account>,
    users: UserNames,
    cpu_baselines: CpuBaselines,
    idle_cache: IdleCache,
}

impl GroupsReader {
    pub fn new(groups: Groups) -> Self {
        GroupsReader {
            groups,
            procfs: None,
            accounts: HashMap::new(),
            users: UserNames::default(),
            cpu_baselines: CpuBaselines::default(),
            idle_cache: IdleCache::default(),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let groups = self.groups.load_full();
        self.accounts
            .retain(|name, _| groups.iter().any(|group| group.name == *name));
        if groups.is_empty() {
            (self.cpu_baselines, self.idle_cache) = Default::default();
            return Ok(Vec::new());
        }
        let failed = |source| ReadError::io(&roots.procfs, source);
        let procfs = match &self.procfs {
            Some(procfs) => procfs,
            None => self.procfs.insert(Procfs::for_metrics(&roots.procfs)),
        };
        let booted_at = read_record(&roots.proc("stat"), parse_boot_time)?;
        let boot_now = boot_time();

        let needs_cpu = groups
            .iter()
            .any(|group| group.selector.needs().contains(ProcessFields::CPU));
        let mut baseline = CpuBaseline::take(&[], boot_now);
        let mut sums: Vec<GroupTotals> = groups.iter().map(|_| GroupTotals::default()).collect();
        let mut members: Vec<HashMap<_, _>> = groups
            .iter()
            .map(|group| HashMap::with_capacity(self.accounts.get(&group.name).map_or(0, Account::members)))
            .collect();
        let mut joined = Vec::with_capacity(groups.len());
        self.idle_cache.begin();
        procfs
            .for_each_process(boot_now, |mut process, files| {
                if needs_cpu {
                    self.cpu_baselines.measure(&mut process, boot_now);
                    baseline.add(&process);
                }
                let (mut known, mut metrics) = (ProcessFields::CPU, ProcessFields::empty());
                joined.clear();
                for (index, group) in groups.iter().enumerate() {
                    if matches!(group.selector.judge_cheaply(&process), SelectorMatch::Fails(_)) {
                        continue;
                    }
                    let missing = group.selector.needs().difference(known);
                    if !missing.is_empty() {
                        files.read_details(&mut process.details, missing, &mut self.users);
                        known |= missing;
                    }
                    if group.selector.judge(&process) == SelectorMatch::Holds {
                        metrics |= group.metrics;
                        joined.push(index);
                    }
                }
                if !metrics.is_empty() {
                    self.idle_cache
                        .fill_usage(&mut process, files, metrics, boot_now, &mut self.users);
                }
                for &index in &joined {
                    sums[index].add(&process);
                    members[index].insert(process.identity, (process.born_at, counters(&process)));
                }
            })
            .map_err(failed)?;
        if needs_cpu {
            self.cpu_baselines.update(baseline);
        }
        for (group, members) in groups.iter().zip(members) {
            self.accounts
                .entry(group.name.clone())
                .or_default()
                .update(members, boot_now);
        }
        let shown: Vec<_> = groups
            .iter()
            .zip(&sums)
            .filter_map(|(group, sum)| Some((group, sum, self.accounts.get(&group.name)?.totals())))
            .collect();
        Ok(families(&shown, booted_at))
    }
}

#[cfg(test)]
mod tests;
