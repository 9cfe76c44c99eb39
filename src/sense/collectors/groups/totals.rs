//! What a group uses at one moment: the sum over its members. Pure.

use super::account::Counters;
use super::group::{EACH_THREAD, ExtraMetrics};
use crate::process::proc_dir::{OpenProcess, ProportionalMemory};
use crate::process::table::Procfs;
use crate::process::user_names::UserNames;
use crate::process::{Identity, Process, ProcessFields};
use std::collections::BTreeMap;
use std::time::Duration;

pub const STATES: [&str; 6] = ["running", "sleeping", "waiting", "stopped", "zombie", "other"];
/// The states of process-exporter, which has no state for stopped and idle threads.
pub const EXPORTER_STATES: [&str; 5] = ["Running", "Sleeping", "Waiting", "Zombie", "Other"];

/// A thread of a member.
#[derive(Debug)]
pub struct ThreadReading {
    pub identity: Identity,
    pub born_at: Duration,
    pub name: String,
    pub counters: Counters,
    state: char,
    wait: Option<String>,
}

/// What the extra metrics read of a member.
#[derive(Debug, Default)]
pub struct ExtraReading {
    /// The threads, if there are several.
    pub threads: Vec<ThreadReading>,
    wait: Option<String>,
    memory: Option<ProportionalMemory>,
    lacks_memory: bool,
}

impl ExtraReading {
    /// Reads what `extra` needs of a process.
    pub fn read(process: &Process, files: &OpenProcess, extra: ExtraMetrics, reader: (&Procfs, Duration)) -> Self {
        let mut reading = ExtraReading::default();
        let (procfs, boot_now) = reader;
        if extra.contains(ExtraMetrics::SMAPS) {
            reading.memory = files.proportional_memory();
            reading.lacks_memory = reading.memory.is_none() && !process.is_kernel_thread;
        }
        if extra.contains(ExtraMetrics::WAITS) {
            reading.wait = files.wait_channel();
        }
        if !extra.intersects(EACH_THREAD) || process.threads < 2 {
            return reading;
        }
        let mut needs = ProcessFields::CONTEXT_SWITCHES;
        needs.set(ProcessFields::IO, extra.contains(ExtraMetrics::THREADS));
        let mut users = UserNames::default();
        files.for_each_thread(procfs, boot_now, |mut thread, files| {
            files.read_details(&mut thread.details, needs, &mut users);
            let waits = extra.contains(ExtraMetrics::WAITS);
            reading.threads.push(ThreadReading {
                identity: thread.identity,
                born_at: thread.born_at,
                counters: counters(&thread),
                state: thread.state,
                wait: waits.then(|| files.wait_channel()).flatten(),
                name: thread.name,
            });
        });
        if reading.threads.len() < 2 {
            reading.threads.clear();
        }
        reading
    }
}

/// The usage of all members of one group at one moment.
#[derive(Debug, Default)]
pub struct GroupTotals {
    pub processes: u64,
    pub threads: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub swap_bytes: u64,
    pub open_fds: u64,
    pub worst_fd_ratio: Option<f64>,
    pub states: [u64; STATES.len()],
    pub oldest: Option<Duration>,
    pub proportional: ProportionalMemory,
    /// As process-exporter counts: each process, and each thread of a process that has several.
    pub exporter_states: [u64; EXPORTER_STATES.len()],
    /// The number of threads that wait in each function of the kernel, counted in the same way.
    pub waits: BTreeMap<String, u64>,
    /// Members of which a file could not be read.
    pub incomplete: u64,
}

impl GroupTotals {
    /// Adds a member, of which `needs` and `wanted` were read. Other groups may have needed more.
    pub fn add(&mut self, process: &Process, needs: ProcessFields, wanted: ExtraMetrics, extra: &ExtraReading) {
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
        if wanted.contains(ExtraMetrics::SMAPS) {
            let memory = extra.memory.unwrap_or_default();
            self.proportional.resident_bytes += memory.resident_bytes;
            self.proportional.swap_bytes += memory.swap_bytes;
        }
        self.exporter_states[exporter_state(process.state)] += 1;
        if wanted.intersects(EACH_THREAD) {
            for thread in &extra.threads {
                self.exporter_states[exporter_state(thread.state)] += 1;
            }
        }
        if wanted.contains(ExtraMetrics::WAITS) {
            let of_threads = extra.threads.iter().filter_map(|thread| thread.wait.as_ref());
            for wait in extra.wait.iter().chain(of_threads) {
                *self.waits.entry(wait.clone()).or_default() += 1;
            }
        }
        // Kernel threads have no memory that could be in swap.
        let needs = match process.is_kernel_thread {
            true => needs.difference(ProcessFields::SWAP),
            false => needs,
        };
        let lacks_memory = wanted.contains(ExtraMetrics::SMAPS) && extra.lacks_memory;
        self.incomplete += u64::from(lacks_memory || !usage.is_complete(needs));
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

fn exporter_state(letter: char) -> usize {
    match letter {
        'R' => 0,
        'S' => 1,
        'D' => 2,
        'Z' => 3,
        _ => 4,
    }
}

/// The counters of a process or a thread.
pub fn counters(process: &Process) -> Counters {
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
