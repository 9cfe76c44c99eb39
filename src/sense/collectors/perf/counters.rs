//! The open counters of perf_event_open(2). They are opened once, before the sandbox, which denies that call; reading
//! them needs no privilege.

use super::events::EVENTS;
use super::options::{PerfOptions, Tracepoint};
use crate::sense::collectors::cpu_list::parse_cpu_list;
use crate::sense::runtime::kernel_file::{ReadError, read_attribute, read_text};
use crate::sense::runtime::roots::Roots;
use nix::errno::Errno;
use nix::libc;
use std::os::fd::{FromRawFd, OwnedFd};

/// `PERF_TYPE_TRACEPOINT`
const TRACEPOINT: u32 = 2;
/// The bit `exclude_hv`: hypervisors are left out, as in node_exporter.
const WITHOUT_HYPERVISOR: u64 = 1 << 6;
/// Events of any process.
const ANY_PROCESS: libc::pid_t = -1;
/// Programs that evenkeel starts do not get the descriptor (`PERF_FLAG_FD_CLOEXEC`).
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// The first version of the kernel's structure, which every kernel accepts (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

/// An event, counted on each processor from the opening on.
#[derive(Debug)]
pub struct PerfCounter {
    pub metric: String,
    pub help: String,
    by_cpu: Vec<(u32, OwnedFd)>,
}

impl PerfCounter {
    /// The processors with their counts; one that cannot be read is left out.
    pub fn counts(&self) -> impl Iterator<Item = (u32, u64)> {
        self.by_cpu.iter().filter_map(|(cpu, file)| {
            let mut count = [0; 8];
            let length = rustix::io::read(file, &mut count).ok()?;
            (length == count.len()).then(|| (*cpu, u64::from_ne_bytes(count)))
        })
    }
}

/// All open counters, and why others are missing.
#[derive(Debug, Default)]
pub struct PerfCounters {
    pub counters: Vec<PerfCounter>,
    /// The reason of the first one that is missing.
    pub problem: Option<String>,
}

impl PerfCounters {
    /// Opens what the options want. What this machine lacks is missing, with a warning.
    pub fn open(options: &PerfOptions, roots: &Roots) -> PerfCounters {
        let cpus: Vec<u32> = match options.cpus.is_empty() {
            true => parse_cpu_list(&read_attribute(&roots.sys("devices/system/cpu/online")).unwrap_or_default()),
            false => options.cpus.iter().copied().collect(),
        };
        let mut opened = PerfCounters::default();
        let mut missing = Vec::new();
        for event in EVENTS
            .iter()
            .filter(|event| options.group(event.group).wants(event.flag))
        {
            if let Err(problem) = opened.add(
                event.metric.to_owned(),
                event.help.to_owned(),
                event.group.kind(),
                event.config,
                &cpus,
            ) {
                missing.push(event.flag.to_owned());
                opened.problem.get_or_insert(problem);
            }
        }
        for tracepoint in &options.tracepoints {
            let Tracepoint { subsystem, event } = tracepoint;
            let metric = format!("node_perf_{subsystem}_{event}");
            let help = format!("Times that the kernel passed the tracepoint {subsystem}:{event}.");
            let id = tracepoint_id(roots, tracepoint).map_err(|error| error.to_string());
            if let Err(problem) = id.and_then(|id| opened.add(metric, help, TRACEPOINT, id, &cpus)) {
                missing.push(format!("{subsystem}:{event}"));
                opened.problem.get_or_insert(problem);
            }
        }
        if let Some(error) = &opened.problem {
            let events = missing.join(" ");
            tracing::warn!(collector = "perf", events, error, "performance counters unavailable");
        }
        opened
    }

    /// Opens an event on each processor.
    ///
    /// # Errors
    /// Why it could not be opened on one of them.
    fn add(&mut self, metric: String, help: String, kind: u32, config: u64, cpus: &[u32]) -> Result<(), String> {
        let mut problem = cpus.is_empty().then(|| "no list of processors".to_owned());
        let mut by_cpu = Vec::new();
        for cpu in cpus {
            match open_counter(kind, config, *cpu) {
                Ok(file) => by_cpu.push((*cpu, file)),
                Err(errno) => {
                    problem.get_or_insert_with(|| reason(errno));
                }
            }
        }
        if !by_cpu.is_empty() {
            self.counters.push(PerfCounter { metric, help, by_cpu });
        }
        problem.map_or(Ok(()), Err)
    }
}

fn open_counter(kind: u32, config: u64, cpu: u32) -> Result<OwnedFd, Errno> {
    let attributes = Attributes {
        kind,
        size: size_of::<Attributes>() as u32,
        config,
        flags: WITHOUT_HYPERVISOR,
        ..Attributes::default()
    };
    let no_group: libc::c_int = -1;
    // SAFETY: the kernel reads `size` bytes of the structure and keeps no reference.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            ANY_PROCESS,
            cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    let file = Errno::result(answer)?;
    // SAFETY: the call returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(file as libc::c_int) })
}

/// An error with what it takes to avoid it.
fn reason(errno: Errno) -> String {
    let error = format!("perf_event_open: {}", errno.desc());
    match errno {
        Errno::EACCES | Errno::EPERM => {
            error + "; it takes CAP_PERFMON, or kernel.perf_event_paranoid=0 (-1 for tracepoints)"
        }
        Errno::ENOENT | Errno::EOPNOTSUPP => error + "; this machine has no such counter",
        _ => error,
    }
}

/// The number of a tracepoint, where tracefs is mounted.
fn tracepoint_id(roots: &Roots, tracepoint: &Tracepoint) -> Result<u64, ReadError> {
    let Tracepoint { subsystem, event } = tracepoint;
    let read = |tracefs: &str| read_text(&roots.sys(&format!("{tracefs}/events/{subsystem}/{event}/id")));
    let text = read("kernel/tracing").or_else(|error| read("kernel/debug/tracing").map_err(|_| error))?;
    let id = text.trim().parse();
    id.map_err(|_| ReadError::System(format!("{text:?} is not the number of a tracepoint")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_what_it_takes() {
        for errno in [Errno::EACCES, Errno::EPERM] {
            let text = reason(errno);
            assert!(
                text.contains("CAP_PERFMON") && text.contains("kernel.perf_event_paranoid"),
                "{text}"
            );
        }
        assert!(reason(Errno::ENOENT).ends_with("this machine has no such counter"));
        assert_eq!(size_of::<Attributes>(), 64, "the kernel's first version");
    }
}
