//! The families of groups under the names, labels and types of process-exporter. Pure.

use super::group::ExtraMetrics;
use super::tally::GroupTally;
use super::totals::EXPORTER_STATES;
use crate::family::{Family, Label, label};
use crate::process::ProcessFields;
use crate::process::table::TICKS_PER_SECOND;

const TICKS: f64 = TICKS_PER_SECOND as f64;

/// Index of each counter in an account.
const USER: usize = 0;
const SYSTEM: usize = 1;
const MAJOR: usize = 2;
const MINOR: usize = 3;
const VOLUNTARY: usize = 4;
const INVOLUNTARY: usize = 5;
const READ: usize = 6;
const WRITE: usize = 7;

/// What went wrong since the start, under process-exporter's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrapeErrors {
    /// Reads without any process.
    pub reads: u64,
    /// Processes that could not be read.
    pub processes: u64,
    /// Processes of which a file could not be read.
    pub partial: u64,
}

impl ScrapeErrors {
    pub fn families(&self) -> [Family; 3] {
        let counter =
            |name: &'static str, help: &'static str, value: u64| Family::counter(name, help).value(value as f64);
        [
            counter(
                "namedprocess_scrape_errors",
                "Reads of all processes that failed.",
                self.reads,
            ),
            counter(
                "namedprocess_scrape_procread_errors",
                "Processes whose group could not be found out.",
                self.processes,
            ),
            counter(
                "namedprocess_scrape_partial_errors",
                "Members of groups of which a file could not be read.",
                self.partial,
            ),
        ]
    }
}

/// The families of these groups; each holds only the groups whose `metrics` include it.
pub fn families<'g>(groups: impl Iterator<Item = &'g GroupTally> + Clone, booted_at: f64) -> Vec<Family> {
    let mut families = gauges(groups.clone(), booted_at);
    families.extend(counters(groups.clone()));
    families.extend(threads(groups));
    families.retain(|family| !family.is_empty());
    families
}

fn name(group: &GroupTally) -> Label {
    label("groupname", group.name.clone())
}

fn gauges<'g>(groups: impl Iterator<Item = &'g GroupTally>, booted_at: f64) -> Vec<Family> {
    let gauge = |name: &'static str, help: &'static str| Family::gauge(name, help);
    let mut processes = gauge("namedprocess_namegroup_num_procs", "Processes in a group.");
    let mut threads = gauge("namedprocess_namegroup_num_threads", "Threads of a group.");
    let mut memory = gauge("namedprocess_namegroup_memory_bytes", "Memory of a group.");
    let mut fds = gauge(
        "namedprocess_namegroup_open_filedesc",
        "File descriptors that a group has open.",
    );
    let mut ratio = gauge(
        "namedprocess_namegroup_worst_fd_ratio",
        "Largest share of its limit of file descriptors that a member has open.",
    );
    let mut oldest = gauge(
        "namedprocess_namegroup_oldest_start_time_seconds",
        "Unix time at which the oldest member of a group started.",
    );
    let mut states = gauge(
        "namedprocess_namegroup_states",
        "Members of a group in each state, and the threads of members that have several.",
    );
    let mut waits = gauge(
        "namedprocess_namegroup_threads_wchan",
        "Threads of a group that wait in a function of the kernel.",
    );
    for group in groups {
        let totals = &group.totals;
        processes.push([name(group)], totals.processes as f64);
        threads.push([name(group)], totals.threads as f64);
        let mut kinds = vec![("resident", totals.resident_bytes), ("virtual", totals.virtual_bytes)];
        if group.metrics.contains(ProcessFields::SWAP) {
            kinds.push(("swapped", totals.swap_bytes));
        }
        if group.extra.contains(ExtraMetrics::SMAPS) {
            kinds.push(("proportionalResident", totals.proportional.resident_bytes));
            kinds.push(("proportionalSwapped", totals.proportional.swap_bytes));
        }
        for (kind, bytes) in kinds {
            memory.push([name(group), label("memtype", kind)], bytes as f64);
        }
        if group.metrics.contains(ProcessFields::OPEN_FDS) {
            fds.push([name(group)], totals.open_fds as f64);
            ratio.push([name(group)], totals.worst_fd_ratio.unwrap_or(0.0));
        }
        if let Some(born_at) = totals.oldest {
            oldest.push([name(group)], (booted_at + born_at.as_secs_f64()).floor());
        }
        for (state, count) in EXPORTER_STATES.into_iter().zip(totals.exporter_states) {
            states.push([name(group), label("state", state)], count as f64);
        }
        for (wait, count) in &totals.waits {
            waits.push([name(group), label("wchan", wait.clone())], *count as f64);
        }
    }
    vec![processes, threads, memory, fds, ratio, oldest, states, waits]
}

fn counters<'g>(groups: impl Iterator<Item = &'g GroupTally>) -> Vec<Family> {
    let counter = |name: &'static str, help: &'static str| Family::counter(name, help);
    let mut cpu = counter(
        "namedprocess_namegroup_cpu_seconds_total",
        "Processor time that members used since evenkeel saw them, those included that have ended.",
    );
    let mut major = counter(
        "namedprocess_namegroup_major_page_faults_total",
        "Page faults of members that had to wait for storage.",
    );
    let mut minor = counter(
        "namedprocess_namegroup_minor_page_faults_total",
        "Page faults of members that did not wait for storage.",
    );
    let mut switches = counter(
        "namedprocess_namegroup_context_switches_total",
        "Context switches of members.",
    );
    let mut read = counter(
        "namedprocess_namegroup_read_bytes_total",
        "Bytes that members had read from storage.",
    );
    let mut write = counter(
        "namedprocess_namegroup_write_bytes_total",
        "Bytes that members had written to storage.",
    );
    for group in groups {
        let totals = group.counters_of_threads().map(|total| total as f64);
        cpu.push([name(group), label("mode", "user")], totals[USER] / TICKS);
        cpu.push([name(group), label("mode", "system")], totals[SYSTEM] / TICKS);
        major.push([name(group)], totals[MAJOR]);
        minor.push([name(group)], totals[MINOR]);
        if group.metrics.contains(ProcessFields::CONTEXT_SWITCHES) {
            let kind = |kind| label("ctxswitchtype", kind);
            switches.push([name(group), kind("voluntary")], totals[VOLUNTARY]);
            switches.push([name(group), kind("nonvoluntary")], totals[INVOLUNTARY]);
        }
        if group.metrics.contains(ProcessFields::IO) {
            read.push([name(group)], totals[READ]);
            write.push([name(group)], totals[WRITE]);
        }
    }
    vec![cpu, major, minor, switches, read, write]
}

fn threads<'g>(groups: impl Iterator<Item = &'g GroupTally>) -> Vec<Family> {
    let counter = |name: &'static str, help: &'static str| Family::counter(name, help);
    let mut count = Family::gauge(
        "namedprocess_namegroup_thread_count",
        "Threads of this name in the members of a group that have several threads.",
    );
    let mut cpu = counter(
        "namedprocess_namegroup_thread_cpu_seconds_total",
        "Processor time of the threads of this name.",
    );
    let mut io = counter(
        "namedprocess_namegroup_thread_io_bytes_total",
        "Bytes that the threads of this name had read from storage and written to it.",
    );
    let mut major = counter(
        "namedprocess_namegroup_thread_major_page_faults_total",
        "Page faults of the threads of this name that had to wait for storage.",
    );
    let mut minor = counter(
        "namedprocess_namegroup_thread_minor_page_faults_total",
        "Page faults of the threads of this name that did not wait for storage.",
    );
    let mut switches = counter(
        "namedprocess_namegroup_thread_context_switches_total",
        "Context switches of the threads of this name.",
    );
    for group in groups.filter(|group| group.extra.contains(ExtraMetrics::THREADS)) {
        for (thread, threads) in &group.threads {
            let names = || [name(group), label("threadname", thread.clone())];
            let with = |kind| names().into_iter().chain([kind]);
            let totals = threads.totals().map(|total| total as f64);
            count.push(names(), threads.count as f64);
            cpu.push(with(label("mode", "user")), totals[USER] / TICKS);
            cpu.push(with(label("mode", "system")), totals[SYSTEM] / TICKS);
            io.push(with(label("iomode", "read")), totals[READ]);
            io.push(with(label("iomode", "write")), totals[WRITE]);
            major.push(names(), totals[MAJOR]);
            minor.push(names(), totals[MINOR]);
            switches.push(with(label("ctxswitchtype", "voluntary")), totals[VOLUNTARY]);
            switches.push(with(label("ctxswitchtype", "nonvoluntary")), totals[INVOLUNTARY]);
        }
    }
    vec![count, cpu, io, major, minor, switches]
}
