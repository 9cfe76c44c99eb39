//! The collectors of the sampler's thread, each with its newest reading, and which of them are due.

use super::guarded::Collector;
use super::roots::Roots;
use super::sampler::Follower;
use super::snapshot::Reading;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A collector and what it yielded last.
pub struct Held {
    pub collector: Collector,
    newest: Option<Arc<Reading>>,
    /// Whether rules of this edition read one of its metrics.
    judged: Option<(u64, bool)>,
}

impl Held {
    pub fn new(collector: Collector) -> Held {
        Held {
            collector,
            newest: None,
            judged: None,
        }
    }

    /// Whether the beat reads it anew. What no rule reads is read now and then nevertheless: which metrics it has may
    /// change while evenkeel runs.
    pub fn is_due(&mut self, now_and_then: Duration, follower: &dyn Follower) -> bool {
        self.is_wanted(follower) || self.is_older_than(now_and_then)
    }

    /// Whether a rule follows it from second to second.
    pub fn is_wanted(&mut self, follower: &dyn Follower) -> bool {
        let Some(edition) = follower.edition() else {
            return false;
        };
        match (self.judged, &self.newest) {
            (Some((judged, is_wanted)), _) if judged == edition => is_wanted,
            (_, Some(newest)) if newest.success() => {
                let is_wanted = newest.families.iter().any(|family| follower.reads(&family.name));
                self.judged = Some((edition, is_wanted));
                is_wanted
            }
            // What it has will be known when it is read without a fault.
            _ => true,
        }
    }

    fn read(&mut self, roots: &Roots) -> Arc<Reading> {
        // It may have other metrics now. What is wanted is read in any case.
        self.judged = self.judged.filter(|(_, is_wanted)| *is_wanted);
        self.collector.reading(roots)
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
    pub fn read(&mut self, roots: &Roots, mut is_due: impl FnMut(&mut Held) -> bool) -> Vec<Arc<Reading>> {
        let readings = self.0.iter_mut().map(|held| {
            if held.newest.is_none() || is_due(held) {
                held.newest = Some(held.read(roots));
            }
            held.newest.clone()
        });
        readings.flatten().collect()
    }

    /// Reads some of them for a sample of its own, which nobody else will see.
    pub fn read_apart(&mut self, roots: &Roots, mut is_wanted: impl FnMut(&mut Held) -> bool) -> Vec<Arc<Reading>> {
        let wanted = self
            .0
            .iter_mut()
            .filter_map(|held| is_wanted(held).then(|| held.read(roots)));
        wanted.collect()
    }

    /// When the oldest of the newest readings was taken; `now` where there is none.
    pub fn fresh_since(&self, now: Instant) -> Instant {
        let readings = self.0.iter().filter_map(|held| held.newest.as_ref());
        readings.map(|reading| reading.read_instant).min().unwrap_or(now)
    }
}
