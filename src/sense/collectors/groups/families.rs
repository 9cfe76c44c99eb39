//! The families of groups under evenkeel's names. Pure.

use super::group::ExtraMetrics;
use super::tally::GroupTally;
use super::totals::{GroupTotals, STATES};
use crate::family::{Family, label};
use crate::process::ProcessFields;
use crate::process::table::TICKS_PER_SECOND;

const TICKS: f64 = TICKS_PER_SECOND as f64;

/// The families of groups; each holds only the groups whose `metrics` include it.
pub fn families(groups: &[GroupTally], booted_at: f64) -> Vec<Family> {
    let name = |group: &GroupTally| label("group", group.name.clone());
    let gauge =
        |family: &'static str, help: &'static str, needs: ProcessFields, value: fn(&GroupTotals) -> Option<f64>| {
            let mut gauge = Family::gauge(family, help);
            for group in groups.iter().filter(|group| group.metrics.contains(needs)) {
                if let Some(value) = value(&group.totals) {
                    gauge.push(vec![name(group)], value);
                }
            }
            gauge
        };
    // Index in `Counters`, and the label that distinguishes the series, if any.
    type Slots = &'static [(usize, Option<(&'static str, &'static str)>)];
    let counter = |family: &'static str, help: &'static str, needs: ProcessFields, scale: f64, slots: Slots| {
        let mut counter = Family::counter(family, help);
        for group in groups.iter().filter(|group| group.metrics.contains(needs)) {
            let totals = group.counters();
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
    for group in groups {
        let sum = &group.totals;
        for (state, count) in STATES.into_iter().zip(sum.states) {
            states.push(vec![name(group), label("state", state)], count as f64);
        }
        if let Some(born_at) = sum.oldest {
            oldest.push(vec![name(group)], booted_at + born_at.as_secs_f64());
        }
    }
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
    families.extend(proportional(groups));
    families.extend(threads(groups));
    families.retain(|family| !family.is_empty());
    families
}

/// The families that `metrics: [smaps]` adds.
fn proportional(groups: &[GroupTally]) -> [Family; 2] {
    let mut resident = Family::gauge(
        "evenkeel_group_proportional_bytes",
        "Resident memory of a group, a shared page in equal parts for all processes that share it.",
    );
    let mut swap = Family::gauge(
        "evenkeel_group_proportional_swap_bytes",
        "Memory of a group that is in swap, a shared page in equal parts for all processes that share it.",
    );
    for group in groups.iter().filter(|group| group.extra.contains(ExtraMetrics::SMAPS)) {
        let memory = group.totals.proportional;
        resident.push([label("group", group.name.clone())], memory.resident_bytes as f64);
        swap.push([label("group", group.name.clone())], memory.swap_bytes as f64);
    }
    [resident, swap]
}

/// The families that `metrics: [threads]` adds.
fn threads(groups: &[GroupTally]) -> [Family; 7] {
    let mut count = Family::gauge(
        "evenkeel_group_thread_count",
        "Threads of this name in the members of a group that have several threads.",
    );
    let mut cpu = Family::counter(
        "evenkeel_group_thread_cpu_seconds_total",
        "Processor time of the threads of this name.",
    );
    let mut major = Family::counter(
        "evenkeel_group_thread_major_page_faults_total",
        "Page faults of the threads of this name that had to wait for storage.",
    );
    let mut minor = Family::counter(
        "evenkeel_group_thread_minor_page_faults_total",
        "Page faults of the threads of this name that did not wait for storage.",
    );
    let mut switches = Family::counter(
        "evenkeel_group_thread_context_switches_total",
        "Context switches of the threads of this name.",
    );
    let mut read = Family::counter(
        "evenkeel_group_thread_read_bytes_total",
        "Bytes that the threads of this name had read from storage.",
    );
    let mut write = Family::counter(
        "evenkeel_group_thread_write_bytes_total",
        "Bytes that the threads of this name had written to storage.",
    );
    for group in groups
        .iter()
        .filter(|group| group.extra.contains(ExtraMetrics::THREADS))
    {
        for (thread, threads) in &group.threads {
            let names = || [label("group", group.name.clone()), label("thread", thread.clone())];
            let with = |kind| names().into_iter().chain([kind]);
            let totals = threads.totals().map(|total| total as f64);
            count.push(names(), threads.count as f64);
            cpu.push(with(label("mode", "user")), totals[0] / TICKS);
            cpu.push(with(label("mode", "system")), totals[1] / TICKS);
            major.push(names(), totals[2]);
            minor.push(names(), totals[3]);
            switches.push(with(label("type", "voluntary")), totals[4]);
            switches.push(with(label("type", "involuntary")), totals[5]);
            read.push(names(), totals[6]);
            write.push(names(), totals[7]);
        }
    }
    [count, cpu, major, minor, switches, read, write]
}

/// The number of processes that lack a group of their own, where templates make names.
pub fn overflow(processes: usize) -> Family {
    Family::gauge(
        "evenkeel_group_overflow_processes",
        "Processes in the group `other`, because templates made too many names or that of another group.",
    )
    .value(processes as f64)
}
