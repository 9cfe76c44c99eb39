//! `cpu`: time per processor and mode from `/proc/stat` (proc(5)), and properties of processors.

mod cpu_info;
pub(super) mod options;
mod topology;

use super::info::{CollectorInfo, Pace};
use crate::family::{DescriptorCache, Family, SharedStr, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use options::CpuOptions;
use std::collections::BTreeMap;
use std::time::Instant;
use topology::{Topology, read_throttles, read_topology};

/// The published metrics.
const METRICS: &str = "\
    node_cpu_bug_info node_cpu_core_throttles_total node_cpu_flag_info node_cpu_frequency_hertz \
    node_cpu_guest_seconds_total node_cpu_info node_cpu_isolated node_cpu_online node_cpu_package_throttles_total \
    node_cpu_seconds_total";

pub const INFO: CollectorInfo = CollectorInfo::on("cpu", Pace::Fast, "processor time per mode", METRICS, |options| {
    let mut cpu = Cpu {
        options: options.cpu.clone(),
        ..Cpu::default()
    };
    Box::new(move |roots| cpu.read(roots))
});

/// `/proc/stat` counts in USER_HZ, which is 100 on every Linux in use (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A smaller fall of a counter is a correction by the kernel (idle and iowait are corrected backwards). After a larger
/// one the processor was offline and has new counters.
const QUIRK_SECONDS: f64 = 3.0;

const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// Seconds of one processor since boot, in the order of `MODES`, then as guest and as niced guest.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    pub modes: [f64; 8],
    pub guest: [f64; 2],
}

/// Times by processor number.
pub type CpuSample = BTreeMap<u32, Times>;

/// Parses the columns of a line.
fn times(columns: &str, line: &str) -> Result<Times, ParseError> {
    let mut times = Times::default();
    for (slot, field) in times
        .modes
        .iter_mut()
        .chain(&mut times.guest)
        .zip(columns.split_ascii_whitespace())
    {
        let ticks: u64 = field
            .parse()
            .map_err(|_| ParseError::field(field, "is not a number of ticks", line))?;
        *slot = ticks as f64 / TICKS_PER_SECOND;
    }
    Ok(times)
}

/// Parses the first line of `/proc/stat`, the sum over all processors.
pub fn parse_all(text: &str) -> Result<Times, ParseError> {
    let line = lines(text).next().unwrap_or("");
    let columns = line.strip_prefix("cpu ");
    times(
        columns.ok_or(ParseError::File("the first line is not that of all processors"))?,
        line,
    )
}

/// Parses the `cpuN` lines of `/proc/stat`.
pub fn parse_cpu(text: &str, bad: &mut BadLines) -> Result<CpuSample, ParseError> {
    let mut sample = CpuSample::new();
    for line in lines(text) {
        let Some(rest) = line.strip_prefix("cpu") else { continue };
        // The line of all processors has no number.
        if rest.starts_with(' ') {
            continue;
        }
        let (number, columns) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = number.parse().map_err(|_| ParseError::missing("processor", line));
        sample.extend(bad.keep(number.and_then(|number| Ok((number, times(columns, line)?)))));
    }
    if sample.is_empty() {
        Err(ParseError::File("no line begins with cpu0"))
    } else {
        Ok(sample)
    }
}

/// Hides the kernel's backward corrections, which `rate()` would take for a counter reset.
fn hold_up(times: &mut Times, before: &Times) {
    for (now, before) in times
        .modes
        .iter_mut()
        .chain(&mut times.guest)
        .zip(before.modes.iter().chain(&before.guest))
    {
        if *now < *before && *before - *now < QUIRK_SECONDS {
            *now = *before;
        }
    }
}

/// The busy share of all processors between two reads.
#[derive(Debug, Default)]
pub struct BusyMeter(Option<CpuTotals>);

/// Seconds since boot.
#[derive(Debug, Clone, Copy)]
struct CpuTotals {
    all: f64,
    /// Idle and iowait together, because the kernel moves time between them when a waiting task wakes on another
    /// processor.
    idle: f64,
}

impl BusyMeter {
    /// Share of the time since the last read that was neither idle nor iowait, 0 to 1.
    pub fn ratio(&mut self, now: Option<Times>) -> Option<f64> {
        let now = now.map(|Times { modes, .. }| CpuTotals {
            all: modes.iter().sum(),
            idle: modes[IDLE] + modes[IOWAIT],
        });
        let (before, now) = (std::mem::replace(&mut self.0, now)?, now?);
        let all = now.all - before.all;
        // The sum falls when processors go offline. Idle time alone may fall a little by a correction of the kernel.
        (all > 0.0).then(|| (1.0 - (now.idle - before.idle) / all).clamp(0.0, 1.0))
    }
}

fn describe(processors: &[u32]) -> [Family; 2] {
    let mut seconds = Family::counter(
        "node_cpu_seconds_total",
        "Seconds that each processor spent in each mode.",
    );
    let mut guest = Family::counter(
        "node_cpu_guest_seconds_total",
        "Seconds that each processor spent in guests of a hypervisor here; part of user and nice.",
    );
    for cpu in processors {
        let cpu = SharedStr::from(cpu.to_string());
        let labels = |mode: &'static str| [label("cpu", cpu.clone()), label("mode", mode)];
        MODES.iter().for_each(|mode| seconds.push(labels(mode), 0.0));
        ["user", "nice"].iter().for_each(|mode| guest.push(labels(mode), 0.0));
    }
    [seconds, guest]
}

/// The state between two reads.
#[derive(Default)]
pub struct Cpu {
    options: CpuOptions,
    before: CpuSample,
    descriptors: DescriptorCache<u32>,
    topology: TtlCache<Topology>,
    throttles: TtlCache<Vec<Family>>,
    info: TtlCache<Vec<Family>>,
}

impl Cpu {
    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let mut sample = roots.parse_lines("stat", FileLayout::Record, parse_cpu)?;
        for (cpu, times) in &mut sample {
            if let Some(before) = self.before.get(cpu) {
                hold_up(times, before);
            }
        }
        let mut families = Vec::new();
        if let [seconds, guest] = self.descriptors.descriptors(sample.keys().copied().collect(), describe) {
            families.push(seconds.family(sample.values().flat_map(|times| times.modes)));
            if self.options.has_guest {
                families.push(guest.family(sample.values().flat_map(|times| times.guest)));
            }
        }
        self.before = sample;
        // Several files per processor are expensive on a large machine.
        let now = Instant::now();
        let topology = self.topology.get(now, || read_topology(roots));
        if topology.has_throttles() {
            let throttles = roots.device_counters(&mut self.throttles, || read_throttles(topology));
            families.extend_from_slice(throttles);
        }
        families.extend_from_slice(&topology.families);
        if self.options.has_info {
            let info = self.info.get(now, || cpu_info::read_cpu_info(roots, &self.options));
            families.extend_from_slice(info);
        }
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};
    use crate::sense::runtime::roots::RoundPurpose;

    #[test]
    fn times_are_parsed_with_and_without_guest() {
        let sample = parsed(
            "cpu  9 9 9 9\ncpu0 100 1 2 3 4 5 6 7 8 9\ncpu12 250 0 0 0\nintr 1 2\n",
            parse_cpu,
        )
        .unwrap();
        assert_eq!(sample[&0].modes, [1.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]);
        assert_eq!(sample[&0].guest, [0.08, 0.09]);
        assert_eq!(sample[&12].modes[0], 2.5);
        assert!(
            parsed("cpu0 1 x\n", parse_cpu)
                .unwrap_err()
                .to_string()
                .contains("\"x\"")
        );
        assert!(parsed("", parse_cpu).is_err());
    }

    #[test]
    fn busy_excludes_idle_and_iowait() {
        let times = |text: &str| Some(parse_all(text).unwrap());
        let mut busy = BusyMeter::default();
        assert_eq!(
            busy.ratio(times("cpu  1000 0 0 2000 500 0 0 0 0 0\ncpu0 1 1 1 1\n")),
            None
        );
        assert_eq!(busy.ratio(times("cpu  1100 0 0 2200 600\n")), Some(0.25));
        // The kernel corrects iowait backwards, and moves it to idle.
        assert_eq!(busy.ratio(times("cpu  1200 0 0 2200 599\n")), Some(1.0));
        assert_eq!(busy.ratio(times("cpu  1200 0 0 2300 600\n")), Some(0.0));
        assert_eq!(busy.ratio(times("cpu  1300 0 0 2900 100\n")), Some(0.5));
        assert_eq!(busy.ratio(times("cpu  1400 0 0 2800 300\n")), Some(0.5));
        assert_eq!(MODES[IDLE..=IOWAIT], ["idle", "iowait"]);
        // At one moment, and after processors went offline.
        assert_eq!(busy.ratio(times("cpu  1400 0 0 2800 300\n")), None);
        assert_eq!(busy.ratio(times("cpu  1300 0 0 1000 600\n")), None);
        assert_eq!(busy.ratio(times("cpu  1350 0 0 1050 600\n")), Some(0.5));
        assert_eq!(busy.ratio(None), None);
        assert_eq!(busy.ratio(times("cpu  1400 0 0 1100 600\n")), None);
        for bad in ["", "cpu0 1 2 3\n", "cpu  1 x\n"] {
            assert!(parse_all(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scrape_reads_throttles_that_rules_get_later() {
        let tree = Tree::new();
        tree.proc("stat", "cpu0 0 0 0 1 0 0 0 0 0 0\n");
        tree.sys("devices/system/cpu/cpu0/topology/physical_package_id", "0\n");
        tree.sys("devices/system/cpu/cpu0/topology/core_id", "0\n");
        let mut cpu = Cpu::default();
        let mut throttles = |count: u32, purpose| {
            tree.sys(
                "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
                format!("{count}\n"),
            );
            tree.roots.begin_round(purpose);
            text_of(&cpu.read(&tree.roots).unwrap(), "throttles").remove(0)
        };
        let line = |count: u32| format!("node_cpu_core_throttles_total{{package=\"0\",core=\"0\"}} {count}");
        assert_eq!(throttles(1, RoundPurpose::Rules), line(1));
        assert_eq!(
            throttles(2, RoundPurpose::Rules),
            line(1),
            "one file per core each second is too much"
        );
        assert_eq!(throttles(3, RoundPurpose::Scrape), line(3));
        assert_eq!(throttles(4, RoundPurpose::Scrape), line(4));
        assert_eq!(throttles(5, RoundPurpose::Rules), line(4));
    }

    #[test]
    fn small_falls_of_counters_are_hidden() {
        let tree = Tree::new();
        let mut cpu = Cpu::default();
        let mut idle = |ticks: u32| {
            tree.proc("stat", format!("cpu0 0 0 0 {ticks} 0 0 0 0 0 0\n"));
            text_of(&cpu.read(&tree.roots).unwrap(), "mode=\"idle\"")
        };
        assert_eq!(idle(1000), ["node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 10"]);
        assert_eq!(idle(900), ["node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 10"]);
        assert_eq!(idle(100), ["node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 1"]);
    }
}
