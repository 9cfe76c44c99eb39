//! The last minutes of a few figures at the pace of the samples, for the status page to draw. Bounded. Pure.

use super::snapshot::Snapshot;
use crate::family::{Family, Value};
use std::collections::HashMap;
use std::time::Instant;

/// Samples that are kept: five minutes at one second.
pub const MAX_SAMPLES: usize = 300;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    CpuBusy,
    MemoryUsed,
    /// Share of the time in which some task waited for a processor (PSI).
    CpuWaiting,
    IoWaiting,
    MemoryWaiting,
    /// Of the busiest device, for traffic through a bridge passes several.
    Received,
    Sent,
    /// Of the busiest device, for one disk may lie on another.
    DiskRead,
    DiskWritten,
}

impl Figure {
    pub const ALL: [Figure; 9] = [
        Figure::CpuBusy,
        Figure::MemoryUsed,
        Figure::CpuWaiting,
        Figure::IoWaiting,
        Figure::MemoryWaiting,
        Figure::Received,
        Figure::Sent,
        Figure::DiskRead,
        Figure::DiskWritten,
    ];

    /// The family that it comes from, and whether that counts up.
    fn source(self) -> (&'static str, bool) {
        match self {
            Figure::CpuBusy => ("evenkeel_cpu_busy_ratio", false),
            Figure::MemoryUsed => ("evenkeel_memory_used_ratio", false),
            Figure::CpuWaiting => ("node_pressure_cpu_waiting_seconds_total", true),
            Figure::IoWaiting => ("node_pressure_io_waiting_seconds_total", true),
            Figure::MemoryWaiting => ("node_pressure_memory_waiting_seconds_total", true),
            Figure::Received => ("evenkeel_network_receive_bytes_per_second", false),
            Figure::Sent => ("evenkeel_network_transmit_bytes_per_second", false),
            Figure::DiskRead => ("node_disk_read_bytes_total", true),
            Figure::DiskWritten => ("node_disk_written_bytes_total", true),
        }
    }

    /// Whether it is a share of 1. The others are bytes per second.
    pub fn is_ratio(self) -> bool {
        !matches!(
            self,
            Figure::Received | Figure::Sent | Figure::DiskRead | Figure::DiskWritten
        )
    }
}

/// The newest values of every figure, oldest first; NaN where a sample has none.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    values: [Vec<f32>; Figure::ALL.len()],
    /// Where the ring of each figure begins.
    start: usize,
    counters: Counters,
}

/// What the next sample is compared with: counters of the devices, by figure.
#[derive(Debug, Clone, Default)]
struct Counters {
    at: Option<Instant>,
    devices: [HashMap<String, f64>; Figure::ALL.len()],
}

impl Trail {
    /// Takes one more sample in.
    pub fn observe(&mut self, snapshot: &Snapshot) {
        let before = self.counters.at.replace(snapshot.taken_instant);
        let seconds = before.map(|before| snapshot.taken_instant.saturating_duration_since(before).as_secs_f64());
        let is_full = self.values[0].len() == MAX_SAMPLES;
        for (index, figure) in Figure::ALL.into_iter().enumerate() {
            let (name, counts) = figure.source();
            let value = snapshot.family(name).and_then(|family| {
                if counts {
                    fastest(&mut self.counters.devices[index], family, seconds)
                } else {
                    largest(numbers(family).map(|(_, value)| value))
                }
            });
            // The kernel brings its stall times up to date at moments of its own.
            let most = if figure.is_ratio() { 1.0 } else { f64::INFINITY };
            let value = value.map_or(f32::NAN, |value| value.min(most) as f32);
            if is_full {
                self.values[index][self.start] = value;
            } else {
                self.values[index].push(value);
            }
        }
        if is_full {
            self.start = (self.start + 1) % MAX_SAMPLES;
        }
    }

    /// The values of a figure, oldest first; NaN where a sample has none.
    pub fn values(&self, figure: Figure) -> impl Iterator<Item = f32> + Clone + '_ {
        let (newer, older) = self.values[figure as usize].split_at(self.start);
        older.iter().chain(newer).copied()
    }

    /// Samples so far, at most [`MAX_SAMPLES`].
    pub fn len(&self) -> usize {
        self.values[0].len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn largest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

/// The numbers of a family, with the value of the first label.
fn numbers(family: &Family) -> impl Iterator<Item = (&str, f64)> {
    family.points().filter_map(|point| match point.value {
        Value::Number(number) => Some((point.labels.first().map_or("", |(_, value)| value.as_ref()), *number)),
        Value::Histogram(_) => None,
    })
}

/// The largest rate per second among the devices. A counter that fell belongs to a new device of the same name.
fn fastest(before: &mut HashMap<String, f64>, family: &Family, seconds: Option<f64>) -> Option<f64> {
    let seconds = seconds.filter(|seconds| *seconds > 0.0);
    let rates = numbers(family).filter_map(|(device, now)| {
        let growth = now - before.get(device)?;
        (growth >= 0.0).then_some(growth / seconds?)
    });
    let fastest = largest(rates);
    // Names that are known keep their memory: this runs with every sample.
    for (device, now) in numbers(family) {
        match before.get_mut(device) {
            Some(known) => *known = now,
            None => drop(before.insert(device.to_owned(), now)),
        }
    }
    if before.len() > family.len() {
        before.retain(|name, _| numbers(family).any(|(device, _)| device == name));
    }
    fastest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;
    use crate::sense::Reading;
    use jiff::Timestamp;
    use std::sync::Arc;
    use std::time::Duration;

    fn snapshot(at: Instant, families: Vec<Family>) -> Snapshot {
        let reading = Reading {
            collector: "test",
            families,
            read_at: Timestamp::UNIX_EPOCH,
            read_instant: at,
            duration: Duration::ZERO,
            error: None,
        };
        Snapshot {
            taken_at: Timestamp::UNIX_EPOCH,
            taken_instant: at,
            fresh_since: at,
            readings: vec![Arc::new(reading)],
            ready_made: Arc::default(),
        }
    }

    fn disks(bytes: &[(&'static str, f64)]) -> Vec<Family> {
        let mut family = Family::counter("node_disk_read_bytes_total", "");
        for (device, value) in bytes {
            family.push([label("device", *device)], *value);
        }
        vec![family]
    }

    #[test]
    fn the_busiest_device_counts_and_a_new_or_reset_one_does_not() {
        let start = Instant::now();
        let mut trail = Trail::default();
        for (second, sample) in [
            disks(&[("sda", 100.0), ("sdb", 0.0)]),
            disks(&[("sda", 150.0), ("sdb", 400.0)]),
            disks(&[("sda", 160.0), ("sdb", 10.0), ("sdc", 9e9)]),
            disks(&[]),
        ]
        .into_iter()
        .enumerate()
        {
            trail.observe(&snapshot(start + 2 * Duration::from_secs(second as u64), sample));
        }
        let rates: Vec<f32> = trail.values(Figure::DiskRead).collect();
        assert!(rates[0].is_nan() && rates[3].is_nan(), "{rates:?}");
        assert_eq!(rates[1..3], [200.0, 5.0]);
        assert!(trail.values(Figure::CpuBusy).all(f32::is_nan));
    }

    #[test]
    fn the_newest_are_kept_in_their_order() {
        let start = Instant::now();
        let mut trail = Trail::default();
        for second in 0..MAX_SAMPLES + 7 {
            let received = Family::gauge("evenkeel_network_receive_bytes_per_second", "").value(second as f64);
            trail.observe(&snapshot(start, vec![received]));
        }
        let expected: Vec<f32> = (7..MAX_SAMPLES + 7).map(|second| second as f32).collect();
        assert_eq!(trail.values(Figure::Received).collect::<Vec<_>>(), expected);
        assert_eq!(trail.len(), MAX_SAMPLES);
    }
}
