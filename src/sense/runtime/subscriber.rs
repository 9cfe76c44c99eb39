//! The subscriber of the samples: the own evaluation of alerting rules, on the thread of the sampler.

use super::snapshot::{SampleKind, Snapshot};
use std::sync::Arc;

/// Who follows the samples. Runs on the sampler's thread, so it must return quickly.
pub trait Subscriber: Send {
    /// Which rules there are: another number when they may read other metrics. Where there is none, nobody follows, and
    /// samples are taken for scrapes only.
    fn rules_revision(&self) -> Option<u64>;

    /// Whether a rule reads the metric of this name.
    fn reads(&self, metric: &str) -> bool;

    /// Told of every sample that was not taken for a scrape, as long as there are rules.
    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind);
}

/// Nobody follows.
impl Subscriber for () {
    fn rules_revision(&self) -> Option<u64> {
        None
    }

    fn reads(&self, _metric: &str) -> bool {
        false
    }

    fn on_sample(&mut self, _snapshot: &Arc<Snapshot>, _occasion: SampleKind) {}
}
