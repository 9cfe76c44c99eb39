//! The collectors of the sampler's thread, each with its newest reading, and which of them are due.

use super::guarded::Collector;
use super::roots::Roots;
use super::snapshot::Reading;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A collector and what it yielded last.
pub struct Held {
    pub collector: Collector,
    /// Nobody misses it between two scrapes, unless a rule reads one of its metrics.
    pub on_demand: bool,
    newest: Option<Arc<Reading>>,
}

impl Held {
    pub fn new(collector: Collector, on_demand: bool) -> Held {
        Held {
            collector,
            on_demand,
            newest: None,
        }
    }

    /// Whether the beat reads it anew. What no rule reads is read now and then nevertheless: which metrics it has may
    /// change while evenkeel runs.
    pub fn is_due(&self, now_and_then: Duration, is_read: impl Fn(&str) -> bool) -> bool {
        self.is_wanted(is_read) || self.is_older_than(now_and_then)
    }

    /// Whether somebody follows it from second to second.
    pub fn is_wanted(&self, is_read: impl Fn(&str) -> bool) -> bool {
        let mut families = self.newest.iter().flat_map(|reading| &reading.families);
        !self.on_demand || families.any(|family| is_read(&family.name))
    }

    pub fn is_older_than(&self, max_age: Duration) -> bool {
        self.newest
            .as_ref()
            .is_none_or(|reading| reading.read_instant.elapsed() > max_age)
    }
}

/// The collectors in the order in which they are read.
pub struct Shelf(Vec<Held>);

impl Shelf {
    pub fn new(held: impl IntoIterator<Item = Held>) -> Shelf {
        Shelf(held.into_iter().collect())
    }

    /// Reads those that are due, and shows the newest reading of each.
    pub fn read(&mut self, roots: &Roots, is_due: impl Fn(&Held) -> bool) -> Vec<Arc<Reading>> {
        let readings = self.0.iter_mut().map(|held| {
            if is_due(held) {
                held.newest = None;
            }
            let collector = &mut held.collector;
            Arc::clone(held.newest.get_or_insert_with(|| collector.reading(roots)))
        });
        readings.collect()
    }

    /// Reads some of them for a sample of its own, which nobody else will see.
    pub fn read_apart(&mut self, roots: &Roots, is_wanted: impl Fn(&Held) -> bool) -> Vec<Arc<Reading>> {
        let wanted = self.0.iter_mut().filter(|held| is_wanted(held));
        wanted.map(|held| held.collector.reading(roots)).collect()
    }

    /// When the oldest of the newest readings was taken; `now` where there is none.
    pub fn fresh_since(&self, now: Instant) -> Instant {
        let readings = self.0.iter().filter_map(|held| held.newest.as_ref());
        readings.map(|reading| reading.read_instant).min().unwrap_or(now)
    }
}
