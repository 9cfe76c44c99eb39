//! A snapshot of the host: the newest readings of all collectors, immutable, shared by scrapes, status page and the
//! evaluation of alerting rules.

use crate::family::{DescriptorCache, Family, label};
use crate::host::linux::boot_time;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of missed readings after which a reading is outdated, because its collector is stuck.
const MAX_MISSED: u32 = 4;
/// Age up to which no reading is outdated, because a busy host may delay a read by some seconds.
const MIN_MAX_AGE: Duration = Duration::from_secs(10);

/// The age from which a reading of a collector that is read every `interval` is outdated, so that its values do not pass
/// for present ones.
pub fn max_reading_age(interval: Duration) -> Duration {
    (interval * MAX_MISSED).max(MIN_MAX_AGE)
}

/// The time at which a sample or the read of a collector began, on each clock that is used.
#[derive(Debug, Clone, Copy)]
pub struct SampleTime {
    pub wall: Timestamp,
    /// The same moment on the monotonic clock.
    pub instant: Instant,
    /// The same moment on CLOCK_BOOTTIME, which distinguishes a step of the wall clock from elapsed time.
    pub boot: Duration,
}

impl SampleTime {
    pub fn now() -> SampleTime {
        SampleTime {
            wall: Timestamp::now(),
            instant: Instant::now(),
            boot: boot_time(),
        }
    }

    /// The moment that was `elapsed` ago.
    pub fn before_now(elapsed: Duration) -> SampleTime {
        let now = SampleTime::now();
        SampleTime {
            wall: now.wall.checked_sub(elapsed).unwrap_or(now.wall),
            instant: now.instant.checked_sub(elapsed).unwrap_or(now.instant),
            boot: now.boot.saturating_sub(elapsed),
        }
    }
}

/// How old a reading may be for a scrape that comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As old as the scrape permits.
    Fast,
    /// As old as the scrape permits, or as `valid_for` where that is longer.
    Scraped { valid_for: Duration },
    /// Of any age, because a timer reads the collector.
    Timed,
    /// For rules only, because some of its counters are older than the reading.
    ForRules,
}

/// The age of readings that a scrape permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// Of the collectors on the sampler's thread.
    pub fast: Duration,
    /// Of the collectors that other threads read for scrapes.
    pub scraped: Duration,
}

impl MaxAge {
    pub fn of_all(max_age: Duration) -> MaxAge {
        MaxAge {
            fast: max_age,
            scraped: max_age,
        }
    }
}

/// The result of one read of a collector.
#[derive(Debug, Clone)]
pub struct CollectorReading {
    pub collector: &'static str,
    pub families: Vec<Family>,
    pub read: SampleTime,
    pub duration: Duration,
    pub freshness: Freshness,
    /// Lines that no read of the collector so far could parse.
    pub skipped_lines: u64,
    /// Why there are no families.
    pub error: Option<String>,
}

impl CollectorReading {
    /// The reading of a collector before its first read has ended.
    pub fn unread(collector: &'static str) -> Arc<CollectorReading> {
        let error = "it was not read yet".to_owned();
        Arc::new(CollectorReading::failed(collector, SampleTime::now(), error))
    }

    /// The reading of a collector whose first read has not ended.
    pub fn failed(collector: &'static str, read: SampleTime, error: String) -> CollectorReading {
        CollectorReading {
            collector,
            families: Vec::new(),
            read,
            duration: Duration::ZERO,
            freshness: Freshness::Timed,
            skipped_lines: 0,
            error: Some(error),
        }
    }

    /// Whether the reading is older than `max_age`.
    pub fn is_outdated(&self, now: Instant, max_age: Duration) -> bool {
        now.saturating_duration_since(self.read.instant) > max_age
    }

    /// What a reading counts as that is older than `max_age`: as a failed one, because node_exporter shows nothing of a
    /// collector that fails, and values that stand still pass for present ones. Its age continues.
    pub fn outdated(&self, max_age: Duration, reason: Option<String>) -> CollectorReading {
        let reason = reason.unwrap_or_else(|| format!("its last reading is older than {} s", max_age.as_secs_f64()));
        CollectorReading {
            duration: self.duration,
            skipped_lines: self.skipped_lines,
            ..CollectorReading::failed(self.collector, self.read, reason)
        }
    }

    pub fn success(&self) -> bool {
        self.error.is_none()
    }

    /// Whether a scrape that came at `now` gets this reading, so that the collector is not read for it.
    pub fn is_fresh(&self, now: Instant, max_age: MaxAge) -> bool {
        let age = now.saturating_duration_since(self.read.instant);
        match self.freshness {
            Freshness::Fast => age <= max_age.fast,
            Freshness::Scraped { valid_for } => age <= max_age.scraped.max(valid_for),
            Freshness::Timed => true,
            Freshness::ForRules => false,
        }
    }
}

/// The newest reading of every collector, and the metrics derived from them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub taken: SampleTime,
    pub readings: Vec<Arc<CollectorReading>>,
    /// Derived gauges and distributions (`evenkeel_*`), computed from the one-second samples.
    pub derived: Arc<Vec<Family>>,
}

/// Whether a sample is regular or early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// A tick was due. The snapshot holds the newest reading of every collector.
    Regular,
    /// An event that may be over, or beyond repair, by the next tick. The snapshot holds only what was read for it.
    Early(EarlyCause),
}

/// The event that caused an early sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyCause {
    /// Free memory falls fast.
    MemoryFalls,
    CpuPressure,
    MemoryPressure,
    IoPressure,
}

impl EarlyCause {
    pub const ALL: [EarlyCause; 4] = [
        EarlyCause::MemoryFalls,
        EarlyCause::CpuPressure,
        EarlyCause::MemoryPressure,
        EarlyCause::IoPressure,
    ];

    /// Value of the label `cause`.
    pub fn as_str(self) -> &'static str {
        match self {
            EarlyCause::MemoryFalls => "memory_falls",
            EarlyCause::CpuPressure => "cpu_pressure",
            EarlyCause::MemoryPressure => "memory_pressure",
            EarlyCause::IoPressure => "io_pressure",
        }
    }
}

fn describe(collectors: &[&'static str]) -> [Family; 4] {
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
        Family::counter(
            "evenkeel_collector_skipped_lines_total",
            "Lines of kernel files that a collector could not parse and left out.",
        ),
    ];
    for collector in collectors {
        let label = || [label("collector", *collector)];
        families.iter_mut().for_each(|family| family.push(label(), 0.0));
    }
    families
}

impl Snapshot {
    /// Whether a scrape that came at `now` gets this snapshot.
    pub fn is_fresh(&self, now: Instant, max_age: MaxAge) -> bool {
        now.saturating_duration_since(self.taken.instant) <= max_age.fast
            && self.readings.iter().all(|reading| reading.is_fresh(now, max_age))
    }

    /// The snapshot with its outdated readings as failed ones, where the sampler has made no newer one for so long.
    pub fn without_outdated(self: Arc<Self>, now: Instant, max_age: Duration) -> Arc<Snapshot> {
        if !self.readings.iter().any(|reading| reading.is_outdated(now, max_age)) {
            return self;
        }
        let readings = self.readings.iter().map(|reading| {
            if reading.is_outdated(now, max_age) {
                Arc::new(reading.outdated(max_age, None))
            } else {
                Arc::clone(reading)
            }
        });
        let has_outdated_figures = now.saturating_duration_since(self.taken.instant) > max_age;
        Arc::new(Snapshot {
            taken: self.taken,
            readings: readings.collect(),
            derived: if has_outdated_figures {
                Arc::default()
            } else {
                Arc::clone(&self.derived)
            },
        })
    }

    /// All families, for rules and queries.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        // The derived ones come first because rules look them up by name every second.
        let read = self.readings.iter().flat_map(|reading| &reading.families);
        self.derived.iter().chain(read)
    }

    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families().find(|family| family.name == name)
    }

    /// Families about the collectors at `now`: age of their samples, duration and success of their last reads.
    pub fn collector_families(&self, now: Instant, cache: &mut DescriptorCache<&'static str>) -> Vec<Family> {
        let collectors = self.readings.iter().map(|reading| reading.collector).collect();
        let figures: [fn(&CollectorReading, Instant) -> f64; 4] = [
            |reading, now| now.saturating_duration_since(reading.read.instant).as_secs_f64(),
            |reading, _| reading.duration.as_secs_f64(),
            |reading, _| f64::from(reading.success()),
            |reading, _| reading.skipped_lines as f64,
        ];
        let descriptors = cache.descriptors(collectors, describe).iter().zip(figures);
        descriptors
            .map(|(descriptor, figure)| descriptor.family(self.readings.iter().map(|reading| figure(reading, now))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn reading(collector: &'static str, read: SampleTime) -> Arc<CollectorReading> {
        Arc::new(CollectorReading {
            families: vec![Family::gauge(collector, "").value(1.0)],
            duration: Duration::from_secs(2),
            skipped_lines: 3,
            error: None,
            ..CollectorReading::failed(collector, read, String::new())
        })
    }

    #[test]
    fn outdated_readings_count_as_failed() {
        let read = SampleTime::now();
        let later = SampleTime {
            instant: read.instant + MINUTE,
            ..read
        };
        let snapshot = Arc::new(Snapshot {
            taken: later,
            readings: vec![reading("old", read), reading("young", later)],
            derived: Arc::new(vec![Family::gauge("derived", "").value(1.0)]),
        });
        let at = |after: Duration| Arc::clone(&snapshot).without_outdated(read.instant + after, MINUTE);
        assert!(Arc::ptr_eq(&at(MINUTE), &snapshot));
        let [soon, late] = [at(MINUTE + Duration::from_secs(1)), at(3 * MINUTE)].map(|snapshot| {
            let names: Vec<String> = snapshot.families().map(|family| family.name.to_string()).collect();
            let successes: Vec<bool> = snapshot.readings.iter().map(|reading| reading.success()).collect();
            (names, successes)
        });
        assert_eq!(
            soon,
            (vec!["derived".to_owned(), "young".to_owned()], vec![false, true])
        );
        assert_eq!(late, (Vec::new(), vec![false, false]));
        let shown = at(3 * MINUTE).collector_families(read.instant + 3 * MINUTE, &mut DescriptorCache::default());
        let old = shown.iter().map(|family| family.point(0).number().unwrap());
        assert_eq!(
            old.collect::<Vec<_>>(),
            [180.0, 2.0, 0.0, 3.0],
            "age and counts continue"
        );
    }

    #[test]
    fn reading_is_outdated_after_four_missed_ones() {
        let seconds = Duration::from_secs;
        let ages = [seconds(15), seconds(1), Duration::from_millis(100)].map(max_reading_age);
        assert_eq!(ages, [seconds(60), seconds(10), seconds(10)]);
    }
}
