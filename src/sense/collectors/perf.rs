//! `perf`: events that processors and the kernel count, from perf_event_open(2).

pub mod counters;
pub mod events;
pub mod options;

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, MetricKind, label};
use crate::sense::runtime::kernel_file::ReadError;
use counters::PerfCounters;
use std::sync::Arc;

/// The published metrics. Those of tracepoints have the name of the tracepoint.
const METRICS: &str = "\
    node_perf_branch_instructions_total node_perf_branch_misses_total node_perf_cache_bpu_read_hits_total \
    node_perf_cache_bpu_read_misses_total node_perf_cache_l1_instr_read_misses_total \
    node_perf_cache_l1d_read_hits_total node_perf_cache_l1d_read_misses_total node_perf_cache_l1d_write_hits_total \
    node_perf_cache_ll_read_hits_total node_perf_cache_ll_read_misses_total node_perf_cache_ll_write_hits_total \
    node_perf_cache_ll_write_misses_total node_perf_cache_misses_total node_perf_cache_refs_total \
    node_perf_cache_tlb_data_read_hits_total node_perf_cache_tlb_data_read_misses_total \
    node_perf_cache_tlb_data_write_hits_total node_perf_cache_tlb_data_write_misses_total \
    node_perf_cache_tlb_instr_read_hits_total node_perf_cache_tlb_instr_read_misses_total \
    node_perf_context_switches_total node_perf_cpu_migrations_total node_perf_cpucycles_total \
    node_perf_instructions_total node_perf_major_faults_total node_perf_minor_faults_total \
    node_perf_page_faults_total node_perf_ref_cpucycles_total node_perf_stalled_cycles_backend_total \
    node_perf_stalled_cycles_frontend_total node_perf_*";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "perf",
    Pace::Scrape,
    "events counted by processors and kernel",
    METRICS,
    |options| {
        let counters = Arc::clone(&options.perf_counters);
        Box::new(move |_| read_perf(&counters))
    },
);

/// Reads the counters that were opened at the start.
pub fn read_perf(opened: &PerfCounters) -> Result<Vec<Family>, ReadError> {
    let counters = opened.counters.iter().map(|counter| {
        let mut family = Family::new(counter.metric.clone(), counter.help.clone(), MetricKind::Counter);
        for (cpu, count) in counter.counts() {
            family.push([label("cpu", cpu.to_string())], count as f64);
        }
        family
    });
    let families: Vec<Family> = counters.filter(|family| !family.is_empty()).collect();
    if families.is_empty() {
        let problem = opened.problem.clone();
        return Err(ReadError::System(
            problem.unwrap_or_else(|| "no counter is open".to_owned()),
        ));
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::events::{EVENTS, EventGroup};
    use super::options::PerfOptions;
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use crate::sense::runtime::roots::Roots;
    use std::fs;
    use std::process::Command;

    /// The counters of the kernel itself, which every machine has.
    fn software() -> PerfOptions {
        let mut options = PerfOptions::default();
        options.hardware.is_disabled = true;
        options.cache.is_disabled = true;
        options
    }

    fn sum(families: &[Family], name: &str) -> f64 {
        let lines = text_of(families, name);
        assert!(!lines.is_empty(), "no series of {name}");
        let value = |line: &String| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        lines.iter().map(value).sum()
    }

    #[test]
    fn software_counters_rise() {
        let opened = PerfCounters::open(&software(), &Roots::default());
        assert_eq!(opened.problem, None);
        let before = read_perf(&opened).unwrap();
        assert_eq!(before.len(), 5);
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_micros(1));
        }
        // The pages of a new process are faults.
        for _ in 0..4 {
            assert!(Command::new("true").status().unwrap().success());
        }
        let after = read_perf(&opened).unwrap();
        for (name, least) in [
            ("node_perf_context_switches_total", 100.0),
            ("node_perf_page_faults_total", 100.0),
            ("node_perf_minor_faults_total", 100.0),
        ] {
            let rise = sum(&after, name) - sum(&before, name);
            assert!(rise >= least, "{name} rose by {rise}");
        }
    }

    #[test]
    fn missing_processor_costs_only_its_series() {
        let mut options = software();
        options.set_cpus("0,8000").unwrap();
        let opened = PerfCounters::open(&options, &Roots::default());
        let families = read_perf(&opened).unwrap();
        assert_eq!(text_of(&families, "node_perf_page_faults_total").len(), 1);
        assert!(opened.problem.unwrap().starts_with("perf_event_open: "));
    }

    #[test]
    fn tracepoint_is_counted_under_its_name() {
        let tree = Tree::new();
        let tracefs = tree.roots.sys("tracefs");
        fs::create_dir_all(&tracefs).unwrap();
        // A mount that no other process sees.
        let script = "mount -t tracefs none \"$0\" && cat \"$0/events/sched/sched_switch/id\"";
        let id = Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(&tracefs)
            .output()
            .unwrap();
        assert!(id.status.success(), "{}", String::from_utf8_lossy(&id.stderr));
        tree.sys("kernel/tracing/events/sched/sched_switch/id", id.stdout);
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        tree.sys("devices/system/cpu/online", online);
        let mut options = software();
        options.software.is_disabled = true;
        options.add_tracepoint("sched:sched_switch").unwrap();
        options.add_tracepoint("sched:no_such").unwrap();
        let opened = PerfCounters::open(&options, &tree.roots);
        assert!(
            opened.problem.as_ref().unwrap().contains("no_such/id"),
            "{:?}",
            opened.problem
        );
        let before = read_perf(&opened).unwrap();
        assert_eq!((before.len(), before[0].kind), (1, MetricKind::Counter));
        let lines = text_of(&before, "");
        assert!(lines[0].starts_with("node_perf_sched_sched_switch{cpu=\""), "{lines:?}");
        std::thread::sleep(std::time::Duration::from_millis(1));
        let [before, after] = [before, read_perf(&opened).unwrap()].map(|families| sum(&families, ""));
        assert!(after > before, "{before} {after}");
    }

    #[test]
    fn nothing_open_is_a_failure_with_its_reason() {
        let mut options = software();
        options.set_cpus("8000").unwrap();
        let error = read_perf(&PerfCounters::open(&options, &Roots::default())).unwrap_err();
        assert!(error.to_string().starts_with("perf_event_open: "), "{error}");
        let error = read_perf(&PerfCounters::default()).unwrap_err();
        assert_eq!(error.to_string(), "no counter is open");
    }

    #[test]
    fn every_event_has_its_own_name_and_number() {
        for group in EventGroup::ALL {
            let events: Vec<_> = EVENTS.iter().filter(|event| event.group == group).collect();
            for (index, event) in events.iter().enumerate() {
                let others = &events[index + 1..];
                assert!(
                    others.iter().all(|other| other.config != event.config),
                    "{}",
                    event.flag
                );
                assert!(
                    others
                        .iter()
                        .all(|other| other.flag != event.flag && other.metric != event.metric)
                );
            }
        }
    }
}
