//! The set of fast collectors, each with its newest reading, and the schedule that says which of them are due.

use super::collector::Collector;
use super::roots::Roots;
use super::snapshot::{CollectorReading, MaxAge};
use super::subscriber::Subscriber;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A collector with its newest reading and its use by rules.
pub struct ScheduledCollector {
    pub collector: Collector,
    newest: Option<Arc<CollectorReading>>,
    /// Revision of the rules, and whether those read one of the collector's metrics.
    rule_use: Option<(u64, bool)>,
}

impl ScheduledCollector {
    pub fn new(collector: Collector) -> ScheduledCollector {
        ScheduledCollector {
            collector,
            newest: None,
            rule_use: None,
        }
    }

    /// Whether a tick reads it. A collector that no rule reads is read after `max_age` nevertheless, because its
    /// metrics may change while evenkeel runs.
    pub fn is_due(&mut self, max_age: Duration, subscriber: &dyn Subscriber) -> bool {
        self.is_read_by_rules(subscriber) || self.is_older_than(max_age)
    }

    /// Whether a rule reads one of its metrics.
    pub fn is_read_by_rules(&mut self, subscriber: &dyn Subscriber) -> bool {
        let Some(rules_revision) = subscriber.rules_revision() else {
            return false;
        };
        match (self.rule_use, &self.newest) {
            (Some((revision, is_read)), _) if revision == rules_revision => is_read,
            (_, Some(newest)) if newest.success() => {
                let is_read = newest.families.iter().any(|family| subscriber.reads(&family.name));
                self.rule_use = Some((rules_revision, is_read));
                is_read
            }
            // Its metrics are unknown until it is read without an error.
            _ => true,
        }
    }

    fn read(&mut self, roots: &Roots) -> Arc<CollectorReading> {
        // It may have other metrics after this read. One that rules read is read in any case.
        self.rule_use = self.rule_use.filter(|(_, is_read)| *is_read);
        self.collector.read(roots)
    }

    fn is_older_than(&self, max_age: Duration) -> bool {
        self.newest
            .as_ref()
            .is_none_or(|reading| reading.read.instant.elapsed() > max_age)
    }

    /// Whether a scrape that came at `now` needs a newer reading.
    pub fn is_stale(&self, now: Instant, max_age: MaxAge) -> bool {
        self.newest
            .as_ref()
            .is_none_or(|reading| !reading.is_fresh(now, max_age))
    }
}

/// The collectors in the order in which they are read.
#[derive(Default)]
pub struct CollectorSet(Vec<ScheduledCollector>);

impl CollectorSet {
    pub fn new(scheduled: impl IntoIterator<Item = ScheduledCollector>) -> CollectorSet {
        CollectorSet(scheduled.into_iter().collect())
    }

    /// Reads the collectors that are due and returns the newest reading of each.
    pub fn read(
        &mut self,
        roots: &Roots,
        mut is_due: impl FnMut(&mut ScheduledCollector) -> bool,
    ) -> Vec<Arc<CollectorReading>> {
        let readings = self.0.iter_mut().map(|scheduled| {
            if scheduled.newest.is_none() || is_due(scheduled) {
                scheduled.newest = Some(scheduled.read(roots));
            }
            scheduled.newest.clone()
        });
        readings.flatten().collect()
    }

    /// Reads the wanted collectors for an early sample, which does not replace their newest reading.
    pub fn read_for_early_sample(
        &mut self,
        roots: &Roots,
        mut is_wanted: impl FnMut(&mut ScheduledCollector) -> bool,
    ) -> Vec<Arc<CollectorReading>> {
        let wanted = self
            .0
            .iter_mut()
            .filter_map(|scheduled| is_wanted(scheduled).then(|| scheduled.read(roots)));
        wanted.collect()
    }
}
