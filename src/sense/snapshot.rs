//! What was read of the host at one moment: immutable, shared by scrapes, status page and own evaluation.

use crate::family::{Family, FormsOf, label};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one collector yielded.
#[derive(Debug, Clone)]
pub struct Reading {
    pub collector: &'static str,
    pub families: Vec<Family>,
    pub read_at: Timestamp,
    /// The same moment on the monotonic clock.
    pub read_instant: Instant,
    /// The same moment on CLOCK_BOOTTIME.
    pub read_boot: Duration,
    pub duration: Duration,
    /// Why it yielded nothing, when it did.
    pub error: Option<String>,
}

impl Reading {
    pub fn success(&self) -> bool {
        self.error.is_none()
    }
}

/// The newest reading of every collector, and the figures made from them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was begun.
    pub taken_at: Timestamp,
    /// The same moment on the monotonic clock.
    pub taken_instant: Instant,
    /// The same moment on CLOCK_BOOTTIME, which tells a step of the wall clock from time that has passed.
    pub taken_boot: Duration,
    /// When the oldest was read of those readings that a scrape wants fresh.
    pub fresh_since: Instant,
    pub readings: Vec<Arc<Reading>>,
    /// Ready-made gauges and distributions (`evenkeel_*`), made from the one-second samples.
    pub ready_made: Arc<Vec<Family>>,
}

/// Why a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// It was due: the newest reading of every collector.
    Beat,
    /// Something is happening that could be over, or too late to mend, by the next beat. Only what was read anew for it
    /// is in the snapshot.
    Early(Cause),
}

/// What made an early sample necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Free memory falls fast.
    MemoryFalls,
    CpuPressure,
    MemoryPressure,
    IoPressure,
}

impl Cause {
    pub const ALL: [Cause; 4] = [
        Cause::MemoryFalls,
        Cause::CpuPressure,
        Cause::MemoryPressure,
        Cause::IoPressure,
    ];

    /// As in the label `cause`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::MemoryFalls => "memory_falls",
            Cause::CpuPressure => "cpu_pressure",
            Cause::MemoryPressure => "memory_pressure",
            Cause::IoPressure => "io_pressure",
        }
    }
}

fn about(collectors: &[&'static str]) -> [Family; 3] {
    let mut families = [
        Family::gauge("evenkeel_sample_age_seconds", "Seconds since a collector was read."),
        Family::gauge(
            "node_scrape_collector_duration_seconds",
            "Seconds that the last read of a collector took.",
        ),
        Family::gauge(
            "node_scrape_collector_success",
            "1 where the last read of a collector yielded a sample.",
        ),
    ];
    for collector in collectors {
        let label = || [label("collector", *collector)];
        families.iter_mut().for_each(|family| family.push(label(), 0.0));
    }
    families
}

impl Snapshot {
    /// All families that rules and queries may ask for.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        // The few that are looked for by name every second come first.
        let read = self.readings.iter().flat_map(|reading| &reading.families);
        self.ready_made.iter().chain(read)
    }

    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families().find(|family| family.name == name)
    }

    /// How the collectors fare at `now`: age of their samples, duration and success of their last reads.
    pub fn about_collectors(&self, now: Instant, kept: &mut FormsOf<&'static str>) -> Vec<Family> {
        let collectors = self.readings.iter().map(|reading| reading.collector).collect();
        let figures: [fn(&Reading, Instant) -> f64; 3] = [
            |reading, now| now.saturating_duration_since(reading.read_instant).as_secs_f64(),
            |reading, _| reading.duration.as_secs_f64(),
            |reading, _| f64::from(u8::from(reading.success())),
        ];
        let forms = kept.forms(collectors, about).iter().zip(figures);
        forms
            .map(|(form, figure)| form.family(self.readings.iter().map(|reading| figure(reading, now))))
            .collect()
    }
}
