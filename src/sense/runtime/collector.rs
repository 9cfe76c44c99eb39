//! A running collector, whose errors and panics do not affect the others.

use super::bad_lines::SkippedLines;
use super::kernel_file::ReadError;
use super::roots::Roots;
use super::snapshot::{CollectorReading, Freshness, SampleTime};
use crate::family::{DescriptorPool, Family};
use crate::sense::collectors::info::{CollectorInfo, ReadFn};
use crate::sense::collectors::options::CollectorOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A reading counts as fresh for this multiple of the time that it took, so that any number of scrapers make a thread
/// read for half of the time at most. It is no longer, because scrapes each second need a reading each second.
const VALID_PER_DURATION: u32 = 2;

/// A running collector with its last error, which is logged once.
pub struct Collector {
    pub name: &'static str,
    read: ReadFn,
    freshness: Freshness,
    last_error: Option<String>,
    /// Bad lines of all reads.
    skipped_lines: u64,
    /// Whether the last read had bad lines, which is logged once.
    skips_lines: bool,
    descriptors: DescriptorPool,
}

impl Collector {
    pub fn new(info: &CollectorInfo, options: &CollectorOptions) -> Self {
        Self::with_reader(info.name, info.build(options))
    }

    pub fn with_reader(name: &'static str, read: ReadFn) -> Self {
        Collector {
            name,
            read,
            freshness: Freshness::Fast,
            last_error: None,
            skipped_lines: 0,
            skips_lines: false,
            descriptors: DescriptorPool::default(),
        }
    }

    /// Sets how fresh its readings are; the time in [`Freshness::Scraped`] is the longest.
    pub fn with_freshness(mut self, freshness: Freshness) -> Self {
        self.freshness = freshness;
        self
    }

    /// Reads once. An error or a panic becomes a reading without families.
    pub fn read(&mut self, roots: &Roots) -> Arc<CollectorReading> {
        let read = SampleTime::now();
        // Those of the reader of the core figures.
        drop(roots.take_bad_lines());
        // A panic must not stop the other collectors. The closure keeps only caches and last values, which stay usable.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.read)(roots)));
        let duration = read.instant.elapsed();
        let skipped = roots.take_bad_lines();
        let outcome = outcome.map(|read| self.count_skipped(read, skipped));
        let absent = matches!(&outcome, Ok(Err(ReadError::Absent(_))));
        let (mut families, error): (Vec<Family>, _) = match outcome {
            Ok(Ok(families)) => (families, None),
            Ok(Err(error)) => (Vec::new(), Some(error.to_string())),
            Err(_) => (Vec::new(), Some("the collector panicked".to_owned())),
        };
        if error != self.last_error {
            match &error {
                Some(error) if absent => tracing::debug!(collector = self.name, error, "collector returned no data"),
                Some(error) => tracing::warn!(collector = self.name, error, "collector failed"),
                None => tracing::info!(collector = self.name, "collector recovered"),
            }
            self.last_error.clone_from(&error);
        }
        let has_nothing = absent || (error.is_none() && families.iter().all(Family::is_empty));
        let freshness = match roots.take_old_counters() {
            true => Freshness::ForRules,
            false => freshness(self.freshness, duration, has_nothing),
        };
        // After a failed read no descriptors are shared with the next one.
        self.descriptors.share(&mut families);
        Arc::new(CollectorReading {
            collector: self.name,
            families,
            read,
            duration,
            freshness,
            skipped_lines: self.skipped_lines,
            error,
        })
    }

    /// Counts the bad lines. They fail the read only where they are all that there is.
    fn count_skipped(
        &mut self,
        read: Result<Vec<Family>, ReadError>,
        skipped: SkippedLines,
    ) -> Result<Vec<Family>, ReadError> {
        let count = skipped.count;
        self.skipped_lines += count;
        let families = read?;
        let first = skipped.into_error();
        let is_empty = families.iter().all(Family::is_empty);
        match &first {
            Some(_) if is_empty => {}
            Some(first) if !self.skips_lines => {
                tracing::warn!(collector = self.name, lines = count, error = %first, "collector skips lines");
            }
            None if self.skips_lines => tracing::info!(collector = self.name, "collector skips no line"),
            _ => {}
        }
        self.skips_lines = first.is_some() && !is_empty;
        match first {
            Some(error) if is_empty => Err(error),
            _ => Ok(families),
        }
    }
}

/// The freshness of a reading that took `duration`. A collector that has nothing to show on this host is not read for each
/// scrape, and so no thread is woken for it.
fn freshness(of_collector: Freshness, duration: Duration, has_nothing: bool) -> Freshness {
    match of_collector {
        Freshness::Scraped { valid_for: longest } if !has_nothing => Freshness::Scraped {
            valid_for: longest.min(duration * VALID_PER_DURATION),
        },
        other => other,
    }
}
