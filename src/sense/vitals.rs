//! What is looked at every second whether anybody asks or not: the few numbers behind the ready-made figures and the curves of the page.
//! Taken from the text as it is, without a family, for those are made when somebody asks for them. Allocates nothing while devices stay the same.

use super::cpu::{self, Busy};
use super::diskstats;
use super::flows::Flows;
use super::meminfo;
use super::netdev;
use super::pressure;
use super::roots::Roots;
use super::{NameFilter, Options};
use std::collections::BTreeSet;
use std::time::Instant;

/// What stands still for want of a resource, in the order of [`Vitals::waiting_ratios`].
const RESOURCES: [&str; 3] = ["pressure/cpu", "pressure/io", "pressure/memory"];

/// The numbers of the last look. Nothing where a file cannot be read, or the look before is missing: never repeated.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Share of processor time that was neither idle nor iowait, since the look before.
    pub cpu_busy_ratio: Option<f64>,
    /// Share of memory that is not available to new programs.
    pub memory_used_ratio: Option<f64>,
    /// Share of the time since the look before in which some task waited for a processor, I/O, memory (PSI).
    pub waiting_ratios: [Option<f64>; 3],
    /// Bytes received and sent, without lo.
    pub traffic: Flows,
    /// Bytes read and written.
    pub disks: Flows,
}

/// Looks, and keeps what the next look is compared with.
#[derive(Debug, Default)]
pub struct VitalsReader {
    pub vitals: Vitals,
    busy: Busy,
    stalled: [Option<(Instant, f64)>; 3],
    sources: Sources,
}

/// What may be looked at: the collectors that are on, and which devices they show.
#[derive(Debug, Default)]
pub struct Sources {
    cpu: bool,
    meminfo: bool,
    pressure: bool,
    netdev: Option<NameFilter>,
    diskstats: Option<NameFilter>,
}

impl Sources {
    pub fn new(collectors: &BTreeSet<&'static str>, options: &Options) -> Sources {
        let is_on = |name| collectors.contains(name);
        Sources {
            cpu: is_on("cpu"),
            meminfo: is_on("meminfo"),
            pressure: is_on("pressure"),
            netdev: is_on("netdev").then(|| options.netdev_devices.clone()),
            diskstats: is_on("diskstats").then(|| options.diskstats_devices.clone()),
        }
    }
}

impl VitalsReader {
    pub fn new(sources: Sources) -> VitalsReader {
        VitalsReader {
            sources,
            ..VitalsReader::default()
        }
    }

    /// Looks anew; `now` tells the time. Why a file cannot be read is told by the collector that is asked for it.
    pub fn look(&mut self, roots: &Roots, now: impl Fn() -> Instant) {
        let times = || roots.record("stat", cpu::parse_all).ok();
        let times = self.sources.cpu.then(times).flatten();
        self.vitals.cpu_busy_ratio = self.busy.ratio(times);
        self.vitals.memory_used_ratio = self.memory_used_ratio(roots);
        self.look_at_pressure(roots, &now);
        self.look_at_devices(roots, &now);
    }

    /// As it is in this round, without counting as a look.
    pub fn memory_used_ratio(&self, roots: &Roots) -> Option<f64> {
        let used = || roots.record("meminfo", |text| Ok(meminfo::used_ratio(text))).ok();
        self.sources.meminfo.then(used).flatten().flatten()
    }

    fn look_at_pressure(&mut self, roots: &Roots, now: &impl Fn() -> Instant) {
        let mut is_there = self.sources.pressure;
        for (index, path) in RESOURCES.into_iter().enumerate() {
            let stalls = is_there
                .then(|| roots.record(path, pressure::parse_pressure).ok())
                .flatten();
            // A kernel without the first has none of them.
            is_there = stalls.is_some();
            let stalled = stalls.map(|stalls| (now(), stalls.some_seconds));
            let before = std::mem::replace(&mut self.stalled[index], stalled);
            self.vitals.waiting_ratios[index] = before.zip(stalled).and_then(|((before, from), (now, to))| {
                let ratio = (to - from) / now.saturating_duration_since(before).as_secs_f64();
                // The kernel brings its stall times up to date at moments of its own.
                ratio.is_finite().then(|| ratio.clamp(0.0, 1.0))
            });
        }
    }

    fn look_at_devices(&mut self, roots: &Roots, now: &impl Fn() -> Instant) {
        let VitalsReader { vitals, sources, .. } = self;
        if let Some(shown) = &sources.netdev {
            let is_shown = |device: &str| device != "lo" && shown.allows(device);
            let looked = roots.parsed("net/dev", |text| {
                vitals.traffic.update(now(), netdev::bytes(text), is_shown);
                Ok(())
            });
            looked.unwrap_or_else(|_| vitals.traffic = Flows::default());
        }
        if let Some(shown) = &sources.diskstats {
            let looked = roots.parsed("diskstats", |text| {
                vitals
                    .disks
                    .update(now(), diskstats::bytes(text), |device| shown.allows(device));
                Ok(())
            });
            looked.unwrap_or_else(|_| vitals.disks = Flows::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::DISKSTATS_EXCLUDE;
    use crate::sense::fixture::Tree;
    use std::time::Duration;

    const HEAD: &str = "Inter-|   Receive |  Transmit\n face |bytes |bytes\n";

    fn all() -> Sources {
        let shown = |exclude| Some(NameFilter::exclude(exclude).unwrap());
        Sources {
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
    fn two_looks_tell_rates_and_what_cannot_be_read_is_not_repeated() {
        let tree = Tree::new();
        let start = Instant::now();
        let mut reader = VitalsReader::new(all());
        let mut look = |roots: &Roots, second| {
            reader.look(roots, || start + Duration::from_secs(second));
            let vitals = &reader.vitals;
            let name = |flows: &Flows| flows.shown().map(|flow| flow.device.to_string()).collect::<Vec<_>>();
            (
                [vitals.cpu_busy_ratio, vitals.memory_used_ratio],
                vitals.waiting_ratios,
                (name(&vitals.traffic).join(" "), vitals.traffic.busiest()),
                (name(&vitals.disks).join(" "), vitals.disks.busiest()),
            )
        };
        let (eth0, sda) = ("eth0".to_owned(), "sda".to_owned());
        host(&tree, 100);
        assert_eq!(
            look(&tree.roots, 0),
            (
                [None, Some(0.25)],
                [None; 3],
                (eth0.clone(), [None; 2]),
                (sda.clone(), [None; 2])
            )
        );
        host(&tree, 200);
        assert_eq!(
            look(&tree.roots, 2),
            (
                [Some(0.25), Some(0.5)],
                // A hundred seconds of waiting in two are the kernel's arrears.
                [Some(1.0), Some(0.25), Some(0.0)],
                (eth0, [Some(50.0); 2]),
                (sda, [Some(50.0 * 512.0), Some(100.0 * 512.0)])
            )
        );
        for path in ["stat", "meminfo", "pressure/cpu", "net/dev", "diskstats"] {
            std::fs::remove_file(tree.roots.proc(path)).unwrap();
        }
        // A copy has nothing open.
        let nothing = || (String::new(), [None; 2]);
        assert_eq!(
            look(&tree.roots.clone(), 4),
            ([None; 2], [None; 3], nothing(), nothing())
        );
    }

    #[test]
    fn what_is_off_is_not_looked_at() {
        let tree = Tree::new();
        let start = Instant::now();
        let mut reader = VitalsReader::new(Sources::new(&BTreeSet::from(["cpu"]), &Options::default()));
        for second in [1, 3] {
            host(&tree, second * 100);
            reader.look(&tree.roots, || start + Duration::from_secs(second));
        }
        let vitals = &reader.vitals;
        assert_eq!((vitals.cpu_busy_ratio, vitals.memory_used_ratio), (Some(0.25), None));
        assert_eq!(vitals.waiting_ratios, [None; 3]);
        assert_eq!(vitals.traffic.shown().count() + vitals.disks.shown().count(), 0);
    }
}
