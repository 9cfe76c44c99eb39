//! The age of the samples behind a result of `while`: that of the collectors that the expression reads, not of the
//! latest sample.

use crate::sense::{COLLECTORS, CollectorReading, Pace, Sampling, Snapshot, max_reading_age};
use crate::watch::evaluator::{QueryInputs, UNSEEN_METRIC_WAIT_MS};
use crate::watch::history::{History, SnapshotSource};
use std::collections::HashMap;
use std::time::Duration;

/// The source of the metrics that the sampler computes itself at each tick.
pub const READY_MADE: SnapshotSource = SnapshotSource(0);

struct Collector {
    source: SnapshotSource,
    interval: Duration,
    /// CLOCK_BOOTTIME of the last reading in the history, and whether it was good then.
    taken: Option<(Duration, bool)>,
    /// CLOCK_BOOTTIME of the last successful reading at a regular tick.
    sampled: Option<Duration>,
}

/// The times at which each collector was read, on CLOCK_BOOTTIME.
pub struct SampleAge {
    sampling: Sampling,
    collectors: HashMap<&'static str, Collector>,
    beat: Duration,
    /// Time of the last change of the rules.
    rules_since: Duration,
}

impl SampleAge {
    pub fn new(sampling: Sampling, boot_now: Duration) -> SampleAge {
        SampleAge {
            sampling,
            collectors: HashMap::new(),
            beat: Duration::ZERO,
            rules_since: boot_now,
        }
    }

    /// Forgets the readings, because new rules may read other metrics of them.
    pub fn replace(&mut self, boot_now: Duration) {
        self.rules_since = boot_now;
        self.collectors
            .values_mut()
            .for_each(|collector| collector.taken = None);
    }

    /// The source of a reading in the history, if the history does not have the reading yet.
    pub fn note_reading(&mut self, reading: &CollectorReading) -> Option<SnapshotSource> {
        // By name, because slow collectors join the snapshot later.
        let next = SnapshotSource(self.collectors.len() as u16 + 1);
        let sampling = self.sampling;
        let collector = self.collectors.entry(reading.collector).or_insert_with(|| Collector {
            source: next,
            interval: interval(reading.collector, sampling),
            taken: None,
            sampled: None,
        });
        // A reading fails without a new one when it is outdated, and its series end then.
        let taken = Some((reading.read.boot, reading.success()));
        (std::mem::replace(&mut collector.taken, taken) != taken).then_some(collector.source)
    }

    /// Records the collectors that a regular tick has read.
    pub fn note_beat(&mut self, sample: &Snapshot) {
        self.beat = sample.taken.boot;
        for reading in sample.readings.iter().filter(|reading| reading.success()) {
            if let Some(collector) = self.collectors.get_mut(reading.collector) {
                collector.sampled = Some(reading.read.boot);
            }
        }
    }

    /// The time of the oldest sample behind a result, and whether all samples are recent enough. `evaluations` are the
    /// times and intervals of the rules behind it.
    pub fn judge(
        &self,
        history: &History,
        query_inputs: &QueryInputs,
        evaluations: impl Iterator<Item = (Duration, Duration)>,
        boot_now: Duration,
    ) -> (Duration, bool) {
        let sources = history.sources();
        let read: Vec<SnapshotSource> = sources
            .filter(|(metric, _)| query_inputs.sampled.keep_ms(metric).is_some())
            .flat_map(|(_, sources)| sources.iter().copied())
            .collect();
        let collectors = self.collectors.values();
        let collectors = collectors
            .filter(|collector| read.contains(&collector.source))
            .map(|collector| (collector.sampled.unwrap_or_default(), collector.interval));
        // A metric without samples is not absent if its collector was not read yet.
        let patience = Duration::from_millis(UNSEEN_METRIC_WAIT_MS as u64);
        let mut is_recent = !query_inputs.has_unseen || boot_now.saturating_sub(self.rules_since) >= patience;
        let mut oldest = self.beat;
        let beat = (self.beat, self.sampling.interval);
        for (read_at, interval) in collectors.chain(evaluations).chain([beat]) {
            oldest = oldest.min(read_at);
            is_recent &= boot_now.saturating_sub(read_at) <= max_reading_age(interval);
        }
        (oldest, is_recent)
    }
}

/// The interval of a collector that rules read.
fn interval(collector: &str, sampling: Sampling) -> Duration {
    let info = COLLECTORS.iter().find(|info| info.name == collector);
    match info.map(|info| info.pace) {
        Some(Pace::Scrape | Pace::IsolatedScrape | Pace::Slow) => sampling.slow_interval,
        Some(Pace::Fast) | None => sampling.interval,
    }
}
