//! Ready-made gauges and distributions, made from successive one-second samples. Pure: readings in, families out.

use super::snapshot::Reading;
use crate::family::{Family, Forms, Histogram, Kind, Point, Value, label};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// Upper bounds of the distributions of a ratio; finer where it hurts.
const RATIO_BOUNDS: [f64; 13] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0];

/// Name and help.
const MEMORY_USED: (&str, &str) = (
    "evenkeel_memory_used_ratio",
    "Share of memory that is not available to new programs, 0 to 1.",
);

/// Processor seconds of all processors together.
#[derive(Debug, Clone, Copy)]
struct CpuTime {
    all_seconds: f64,
    idle_seconds: f64,
}

/// Bytes so far by device, and whether received or sent.
type Traffic = HashMap<(String, bool), f64>;

/// What the next sample is compared with, and the distributions so far.
pub struct ReadyMade {
    cpu: Option<CpuTime>,
    network: Option<(Instant, Traffic)>,
    cpu_distribution: Histogram,
    memory_distribution: Histogram,
    forms: Forms,
}

fn empty_distribution() -> Histogram {
    Histogram {
        buckets: RATIO_BOUNDS.iter().map(|&bound| (bound, 0)).collect(),
        sum: 0.0,
        count: 0,
    }
}

fn observe(histogram: &mut Histogram, value: f64) {
    for (bound, count) in &mut histogram.buckets {
        if value <= *bound {
            *count += 1;
        }
    }
    histogram.sum += value;
    histogram.count += 1;
}

fn number(point: Point) -> f64 {
    if let Value::Number(value) = *point.value {
        value
    } else {
        f64::NAN
    }
}

fn value_of<'a>(point: Point<'a>, name: &str) -> &'a str {
    point
        .labels
        .iter()
        .find(|(label, _)| label == name)
        .map_or("", |(_, value)| value)
}

impl Default for ReadyMade {
    fn default() -> Self {
        ReadyMade {
            cpu: None,
            network: None,
            cpu_distribution: empty_distribution(),
            memory_distribution: empty_distribution(),
            forms: Forms::default(),
        }
    }
}

/// The figures that one moment tells by itself, without one before it and without counting it: for early samples, which must
/// not weigh in distributions over seconds.
pub fn of_one_moment(readings: &[Arc<Reading>]) -> Vec<Family> {
    let meminfo = readings
        .iter()
        .find(|reading| reading.collector == "meminfo" && reading.success());
    let used = meminfo.and_then(|meminfo| memory_used_ratio(&meminfo.families));
    used.map(|used| Family::gauge(MEMORY_USED.0, MEMORY_USED.1).value(used))
        .into_iter()
        .collect()
}

impl ReadyMade {
    /// The figures after one more sample. A figure whose collector yielded nothing is left out, never repeated.
    pub fn observe(&mut self, readings: &[Arc<Reading>]) -> Vec<Family> {
        let reading = |name: &str| {
            readings
                .iter()
                .find(|reading| reading.collector == name && reading.success())
        };
        let mut families = Vec::new();

        let busy = reading("cpu").and_then(|cpu| self.cpu_busy_ratio(&cpu.families));
        let memory = reading("meminfo").and_then(|meminfo| memory_used_ratio(&meminfo.families));
        for (name, help, value, distribution) in [
            (
                "evenkeel_cpu_busy_ratio",
                "Share of processor time in the last second that was neither idle nor iowait, 0 to 1.",
                busy,
                &mut self.cpu_distribution,
            ),
            (MEMORY_USED.0, MEMORY_USED.1, memory, &mut self.memory_distribution),
        ] {
            if let Some(value) = value {
                observe(distribution, value);
                families.push(Family::gauge(name, help).value(value));
            }
            let mut family = Family::new(
                format!("{name}_distribution"),
                format!("Distribution of the one-second samples of {name}."),
                Kind::Histogram,
            );
            family.push_histogram(Vec::new(), distribution.clone());
            families.push(family);
        }
        families.extend(reading("filesystem").map(|filesystem| filesystem_used_ratio(&filesystem.families)));
        if let Some(netdev) = reading("netdev") {
            families.extend(self.network_rates(netdev));
        }
        families.retain(|family| !family.is_empty());
        self.forms.share(&mut families);
        families
    }

    fn cpu_busy_ratio(&mut self, families: &[Family]) -> Option<f64> {
        let family = families.iter().find(|family| family.name == "node_cpu_seconds_total")?;
        let mut now = CpuTime {
            all_seconds: 0.0,
            idle_seconds: 0.0,
        };
        for point in family.points() {
            now.all_seconds += number(point);
            if matches!(value_of(point, "mode"), "idle" | "iowait") {
                now.idle_seconds += number(point);
            }
        }
        let before = self.cpu.replace(now)?;
        let all = now.all_seconds - before.all_seconds;
        let idle = now.idle_seconds - before.idle_seconds;
        // Processors that go offline take their time with them: such a second says nothing.
        (all > 0.0 && idle >= 0.0).then(|| (1.0 - idle / all).clamp(0.0, 1.0))
    }

    fn network_rates(&mut self, reading: &Reading) -> Vec<Family> {
        let mut receive = Family::gauge(
            "evenkeel_network_receive_bytes_per_second",
            "Bytes received per second, over the last second.",
        );
        let mut transmit = Family::gauge(
            "evenkeel_network_transmit_bytes_per_second",
            "Bytes sent per second, over the last second.",
        );
        let mut counters = Traffic::new();
        for family in &reading.families {
            let received = match family.name.as_ref() {
                "node_network_receive_bytes_total" => true,
                "node_network_transmit_bytes_total" => false,
                _ => continue,
            };
            for point in family.points() {
                let device = value_of(point, "device");
                if device != "lo" {
                    counters.insert((device.to_owned(), received), number(point));
                }
            }
        }
        if let Some((at, before)) = &self.network {
            let seconds = reading.read_instant.saturating_duration_since(*at).as_secs_f64();
            let rates: BTreeMap<_, _> = counters
                .iter()
                // A counter that fell belongs to a new device of the same name.
                .filter_map(|(key, now)| Some((key, (now - before.get(key)?) / seconds)))
                .filter(|(_, rate)| rate.is_finite() && *rate >= 0.0)
                .collect();
            for ((device, received), rate) in rates {
                let family = if *received { &mut receive } else { &mut transmit };
                family.push([label("device", device.clone())], rate);
            }
        }
        self.network = Some((reading.read_instant, counters));
        vec![receive, transmit]
    }
}

fn memory_used_ratio(families: &[Family]) -> Option<f64> {
    let gauge = |name: &str| {
        families
            .iter()
            .find(|family| family.name == name)?
            .points()
            .next()
            .map(number)
    };
    let total = gauge("node_memory_MemTotal_bytes")?;
    // Kernels before 3.14 have no MemAvailable: no figure is better than a wrong one.
    let available = gauge("node_memory_MemAvailable_bytes")?;
    (total > 0.0).then(|| (1.0 - available / total).clamp(0.0, 1.0))
}

fn filesystem_used_ratio(families: &[Family]) -> Family {
    let by_mount = |name: &str| -> BTreeMap<String, f64> {
        let family = families.iter().find(|family| family.name == name);
        let points = family.into_iter().flat_map(Family::points);
        points
            .map(|point| (value_of(point, "mountpoint").to_owned(), number(point)))
            .collect()
    };
    let (size, free, avail) = (
        by_mount("node_filesystem_size_bytes"),
        by_mount("node_filesystem_free_bytes"),
        by_mount("node_filesystem_avail_bytes"),
    );
    let mut ratio = Family::gauge(
        "evenkeel_filesystem_used_ratio",
        "Share of a file system that is used, as df counts: without what is kept for root, 0 to 1.",
    );
    for (mount_point, size) in size {
        let (Some(free), Some(avail)) = (free.get(&mount_point), avail.get(&mount_point)) else {
            continue;
        };
        let used = size - free;
        // Nothing to fill: a file system without blocks.
        if used + avail > 0.0 {
            ratio.push([label("mountpoint", mount_point)], used / (used + avail));
        }
    }
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::time::Duration;

    fn reading(collector: &'static str, at: Instant, families: Vec<Family>) -> Arc<Reading> {
        let read_at = Timestamp::UNIX_EPOCH;
        Arc::new(Reading {
            collector,
            families,
            read_at,
            read_instant: at,
            duration: Duration::ZERO,
            error: None,
        })
    }

    fn cpu(at: Instant, user: f64, idle: f64, iowait: f64) -> Arc<Reading> {
        let mut family = Family::counter("node_cpu_seconds_total", "");
        for (mode, value) in [("user", user), ("idle", idle), ("iowait", iowait)] {
            family.push([label("cpu", "0"), label("mode", mode)], value);
        }
        reading("cpu", at, vec![family])
    }

    fn traffic(at: Instant, device: &'static str, bytes: f64) -> Arc<Reading> {
        let mut family = Family::counter("node_network_receive_bytes_total", "");
        family.push([label("device", device)], bytes);
        reading("netdev", at, vec![family])
    }

    fn gauge(families: &[Family], name: &str) -> Option<f64> {
        families
            .iter()
            .find(|family| family.name == name)
            .map(|family| number(family.point(0)))
    }

    #[test]
    fn busy_is_all_but_idle_and_iowait_and_needs_two_samples() {
        let at = Instant::now();
        let mut ready = ReadyMade::default();
        assert_eq!(
            gauge(&ready.observe(&[cpu(at, 10.0, 20.0, 5.0)]), "evenkeel_cpu_busy_ratio"),
            None
        );
        let families = ready.observe(&[cpu(at, 11.0, 22.0, 6.0)]);
        assert_eq!(gauge(&families, "evenkeel_cpu_busy_ratio"), Some(0.25));
        let distribution = families
            .iter()
            .find(|family| family.name == "evenkeel_cpu_busy_ratio_distribution")
            .unwrap();
        let Value::Histogram(histogram) = distribution.point(0).value else {
            panic!("not a histogram")
        };
        assert_eq!(
            (histogram.count, histogram.buckets[1].1, histogram.buckets[2].1),
            (1, 0, 1)
        );
        // A processor went offline.
        assert_eq!(
            gauge(&ready.observe(&[cpu(at, 5.0, 11.0, 3.0)]), "evenkeel_cpu_busy_ratio"),
            None
        );
    }

    #[test]
    fn memory_counts_what_is_available_and_file_systems_count_as_df() {
        let at = Instant::now();
        let mut fs = Vec::new();
        for (name, value) in [("size", 100.0), ("free", 60.0), ("avail", 40.0)] {
            let mut family = Family::gauge(format!("node_filesystem_{name}_bytes"), "");
            family.push([label("mountpoint", "/")], value);
            family.push([label("mountpoint", "/empty")], 0.0);
            fs.push(family);
        }
        let memory = vec![
            Family::gauge("node_memory_MemTotal_bytes", "").value(8.0),
            Family::gauge("node_memory_MemAvailable_bytes", "").value(2.0),
        ];
        let families = ReadyMade::default().observe(&[reading("meminfo", at, memory), reading("filesystem", at, fs)]);
        assert_eq!(gauge(&families, "evenkeel_memory_used_ratio"), Some(0.75));
        let used = families
            .iter()
            .find(|family| family.name == "evenkeel_filesystem_used_ratio")
            .unwrap();
        assert_eq!(used.len(), 1);
        assert_eq!(number(used.point(0)), 0.5);
    }

    #[test]
    fn rates_leave_out_loopback_new_devices_and_counters_that_fell() {
        let name = "evenkeel_network_receive_bytes_per_second";
        let at = Instant::now();
        let later = at + Duration::from_secs(2);
        for (before, after, expected) in [
            (traffic(at, "eth0", 100.0), traffic(later, "eth0", 500.0), Some(200.0)),
            (traffic(at, "lo", 100.0), traffic(later, "lo", 500.0), None),
            (traffic(at, "eth0", 100.0), traffic(later, "eth1", 500.0), None),
            (traffic(at, "eth0", 100.0), traffic(later, "eth0", 50.0), None),
            (traffic(at, "eth0", 100.0), traffic(at, "eth0", 100.0), None),
        ] {
            let mut ready = ReadyMade::default();
            assert_eq!(gauge(&ready.observe(&[before]), name), None);
            assert_eq!(gauge(&ready.observe(&[after]), name), expected);
        }
    }
}
