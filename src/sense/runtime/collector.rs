//! A running collector, whose errors and panics do not affect the others.

use super::kernel_file::ReadError;
use super::roots::Roots;
use super::snapshot::CollectorReading;
use crate::family::{DescriptorPool, Family};
use crate::host::linux::boot_time;
use crate::sense::collectors::info::{CollectorInfo, ReadFn};
use crate::sense::collectors::options::CollectorOptions;
use jiff::Timestamp;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// A running collector with its last error, which is logged once.
pub struct Collector {
    pub name: &'static str,
    read: ReadFn,
    last_error: Option<String>,
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
            last_error: None,
            descriptors: DescriptorPool::default(),
        }
    }

    /// Reads once. An error or a panic becomes a reading without families.
    pub fn read(&mut self, roots: &Roots) -> Arc<CollectorReading> {
        let read_at = Timestamp::now();
        let read_instant = Instant::now();
        let read_boot = boot_time();
        // A panic must not stop the other collectors. The closure keeps only caches and last values, which stay usable.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.read)(roots)));
        let duration = read_instant.elapsed();
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
        // After a failed read no descriptors are shared with the next one.
        self.descriptors.share(&mut families);
        Arc::new(CollectorReading {
            collector: self.name,
            families,
            read_at,
            read_instant,
            read_boot,
            duration,
            error,
        })
    }
}
