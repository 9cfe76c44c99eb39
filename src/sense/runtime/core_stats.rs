//! The core figures of the host, read every second: the numbers behind the derived metrics and the charts of the status
//! page. They are parsed from the text without building families, and allocate nothing while devices stay the same.

use super::device_rates::DeviceRates;
use super::kernel_file::FileLayout;
use super::roots::Roots;
use crate::sense::collectors::cpu::{self, BusyMeter};
use crate::sense::collectors::diskstats;
use crate::sense::collectors::meminfo;
use crate::sense::collectors::name_filter::NameFilter;
use crate::sense::collectors::netdev;
use crate::sense::collectors::options::CollectorOptions;
use crate::sense::collectors::pressure;
use std::collections::BTreeSet;
use std::time::Instant;

/// Pressure files in the order of [`CoreStats::waiting_ratios`].
const RESOURCES: [&str; 3] = ["pressure/cpu", "pressure/io", "pressure/memory"];

/// The figures of the last read. A figure is `None` where a file cannot be read or the read before is missing; an old
/// value is never repeated.
#[derive(Debug, Default)]
pub struct CoreStats {
    /// Share of processor time since the last read that was neither idle nor iowait.
    pub cpu_busy_ratio: Option<f64>,
    /// Share of memory that is not available to new programs.
    pub memory_used_ratio: Option<f64>,
    /// Share of the time since the last read in which some task waited for a processor, I/O, memory (PSI).
    pub waiting_ratios: [Option<f64>; 3],
    /// Bytes received and sent, without lo.
    pub traffic: DeviceRates,
    /// Bytes read and written.
    pub disks: DeviceRates,
}

/// A reader of the core figures, with the counters of the last read.
#[derive(Debug, Default)]
pub struct CoreStatsReader {
    pub stats: CoreStats,
    busy: BusyMeter,
    stalled: [Option<(Instant, f64)>; 3],
    sources: StatSources,
}

/// The sources that may be read: enabled collectors, and the devices that they show.
#[derive(Debug, Default)]
pub struct StatSources {
    cpu: bool,
    meminfo: bool,
    pressure: bool,
    netdev: Option<NameFilter>,
    diskstats: Option<NameFilter>,
}

impl StatSources {
    pub fn new(collectors: &BTreeSet<&'static str>, options: &CollectorOptions) -> StatSources {
        let is_on = |name| collectors.contains(name);
        StatSources {
            cpu: is_on("cpu"),
            meminfo: is_on("meminfo"),
            pressure: is_on("pressure"),
            netdev: is_on("netdev").then(|| options.netdev_devices.clone()),
            diskstats: is_on("diskstats").then(|| options.diskstats_devices.clone()),
        }
    }
}

impl CoreStatsReader {
    pub fn new(sources: StatSources) -> CoreStatsReader {
        CoreStatsReader {
            sources,
            ..CoreStatsReader::default()
        }
    }

    /// Reads all figures; `now` is the clock. A file that cannot be read is reported by its collector, not here.
    pub fn read(&mut self, roots: &Roots, now: impl Fn() -> Instant) {
        let times = || roots.parse("stat", FileLayout::Record, cpu::parse_all).ok();
        let times = self.sources.cpu.then(times).flatten();
        self.stats.cpu_busy_ratio = self.busy.ratio(times);
        self.stats.memory_used_ratio = self.memory_used_ratio(roots);
        self.read_pressure(roots, &now);
        self.read_devices(roots, &now);
    }

    /// The figure of this round, without an update of the reader.
    pub fn memory_used_ratio(&self, roots: &Roots) -> Option<f64> {
        let parse = |text: &str| Ok(meminfo::used_ratio(text));
        let used = || roots.parse("meminfo", FileLayout::Record, parse).ok();
        self.sources.meminfo.then(used).flatten().flatten()
    }

    fn read_pressure(&mut self, roots: &Roots, now: &impl Fn() -> Instant) {
        let mut is_there = self.sources.pressure;
        for (index, path) in RESOURCES.into_iter().enumerate() {
            let stalls = is_there
                .then(|| {
                    roots
                        .parse_lines(path, FileLayout::Record, pressure::parse_pressure)
                        .ok()
                })
                .flatten();
            // A kernel without the first file has none of them.
            is_there = stalls.is_some();
            let stalled = stalls.and_then(|stalls| Some((now(), stalls.some_seconds?)));
            let before = std::mem::replace(&mut self.stalled[index], stalled);
            self.stats.waiting_ratios[index] = before.zip(stalled).and_then(|((before, from), (now, to))| {
                let ratio = (to - from) / now.saturating_duration_since(before).as_secs_f64();
                // The kernel updates its stall times irregularly, so the ratio may exceed 1.
                ratio.is_finite().then(|| ratio.clamp(0.0, 1.0))
            });
        }
    }

    fn read_devices(&mut self, roots: &Roots, now: &impl Fn() -> Instant) {
        let CoreStatsReader {
            stats: core_stats,
            sources,
            ..
        } = self;
        if let Some(shown) = &sources.netdev {
            let is_shown = |device: &str| device != "lo" && shown.allows(device);
            let outcome = roots.parse("net/dev", FileLayout::Rows, |text| {
                core_stats.traffic.update(now(), netdev::bytes(text), is_shown);
                Ok(())
            });
            outcome.unwrap_or_else(|_| core_stats.traffic = DeviceRates::default());
        }
        if let Some(shown) = &sources.diskstats {
            let outcome = roots.parse("diskstats", FileLayout::Pieces, |text| {
                core_stats
                    .disks
                    .update(now(), diskstats::bytes(text), |device| shown.allows(device));
                Ok(())
            });
            outcome.unwrap_or_else(|_| core_stats.disks = DeviceRates::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::options::DISKSTATS_EXCLUDE;
    use crate::sense::fixture::Tree;
    use std::time::Duration;

    const HEAD: &str = "Inter-|   Receive |  Transmit\n face |bytes |bytes\n";

    fn all() -> StatSources {
        let shown = |exclude| Some(NameFilter::exclude(regex::Regex::new(exclude).unwrap()));
        StatSources {
            cpu: true,
            meminfo: true,
            pressure: true,
            netdev: shown("^veth"),
            diskstats: shown(DISKSTATS_EXCLUDE),
        }
    }

    fn host(tree: &Tree, count: u64) {
        tree.proc(
            "stat",
            format!("cpu  {} 0 0 {} {} 0 0 0 0 0\ncpu0 1 1 1 1\n", count, 2 * count, count),
        );
        tree.proc(
            "meminfo",
            format!(
                "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n",
                1000 - 5 * count / 2
            ),
        );
        for (resource, micros) in [("cpu", 1_000_000), ("io", 5_000), ("memory", 0)] {
            tree.proc(
                &format!("pressure/{resource}"),
                format!("some avg10=0.00 total={}\n", count * micros),
            );
        }
        let zeros = " 0".repeat(7);
        let device = |name: &str| format!("{name}: {count}{zeros} {count}{zeros}\n");
        tree.proc(
            "net/dev",
            format!("{HEAD}{}{}{}", device("lo"), device("eth0"), device("veth1")),
        );
        let disk = |name: &str| format!(" 8 0 {name} 1 1 {count} 1 1 1 {} 1 1 1 1\n", 2 * count);
        tree.proc("diskstats", format!("{}{}", disk("sda"), disk("sda1")));
    }

    #[test]
    fn rates_need_two_reads_and_old_values_do_not_repeat() {
        let tree = Tree::new();
        let start = Instant::now();
        let mut reader = CoreStatsReader::new(all());
        let mut read = |roots: &Roots, second| {
            reader.read(roots, || start + Duration::from_secs(second));
            let core_stats = &reader.stats;
            let name = |device_rates: &DeviceRates| {
                device_rates
                    .shown()
                    .map(|rate| rate.device.to_string())
                    .collect::<Vec<_>>()
            };
            (
                [core_stats.cpu_busy_ratio, core_stats.memory_used_ratio],
                core_stats.waiting_ratios,
                (name(&core_stats.traffic).join(" "), core_stats.traffic.busiest()),
                (name(&core_stats.disks).join(" "), core_stats.disks.busiest()),
            )
        };
        let (eth0, sda) = ("eth0".to_owned(), "sda".to_owned());
        host(&tree, 100);
        assert_eq!(
            read(&tree.roots, 0),
            (
                [None, Some(0.25)],
                [None; 3],
                (eth0.clone(), [None; 2]),
                (sda.clone(), [None; 2])
            )
        );
        host(&tree, 200);
        assert_eq!(
            read(&tree.roots, 2),
            (
                [Some(0.25), Some(0.5)],
                // The kernel may add a hundred seconds of waiting within two seconds.
                [Some(1.0), Some(0.25), Some(0.0)],
                (eth0, [Some(50.0); 2]),
                (sda, [Some(50.0 * 512.0), Some(100.0 * 512.0)])
            )
        );
        for path in ["stat", "meminfo", "pressure/cpu", "net/dev", "diskstats"] {
            std::fs::remove_file(tree.roots.proc(path)).unwrap();
        }
        // A clone of the roots has no open files.
        let nothing = || (String::new(), [None; 2]);
        assert_eq!(
            read(&tree.roots.clone(), 4),
            ([None; 2], [None; 3], nothing(), nothing())
        );
    }

    #[test]
    fn disabled_collectors_are_not_read() {
        let tree = Tree::new();
        let start = Instant::now();
        let mut reader = CoreStatsReader::new(StatSources::new(&BTreeSet::from(["cpu"]), &CollectorOptions::default()));
        for second in [1, 3] {
            host(&tree, second * 100);
            reader.read(&tree.roots, || start + Duration::from_secs(second));
        }
        let core_stats = &reader.stats;
        assert_eq!(
            (core_stats.cpu_busy_ratio, core_stats.memory_used_ratio),
            (Some(0.25), None)
        );
        assert_eq!(core_stats.waiting_ratios, [None; 3]);
        assert_eq!(core_stats.traffic.shown().count() + core_stats.disks.shown().count(), 0);
    }
}
