//! The interface of a subscriber to samples, such as the evaluation of alerting rules.

use super::snapshot::{SampleKind, Snapshot};
use std::sync::Arc;

/// A subscriber to samples. It runs on the sampler's thread, so it must return quickly.
pub trait Subscriber: Send {
    /// A number that changes when the rules may read other metrics. `None` without rules: then samples are taken for
    /// scrapes only.
    fn rules_revision(&self) -> Option<u64>;

    /// Whether a rule reads the metric of this name.
    fn reads(&self, metric: &str) -> bool;

    /// Receives every sample that was not taken for a scrape, while there are rules.
    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind);
}

/// No subscriber.
impl Subscriber for () {
    fn rules_revision(&self) -> Option<u64> {
        None
    }

    fn reads(&self, _metric: &str) -> bool {
        false
    }

    fn on_sample(&mut self, _snapshot: &Arc<Snapshot>, _occasion: SampleKind) {}
}
