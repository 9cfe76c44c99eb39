//! Families that change slowly within a collector that is read every second: kept for a while, so that the second costs
//! only what moves.

use crate::family::Family;
use std::time::{Duration, Instant};

/// As often as the slow collectors are read by default.
const INTERVAL: Duration = Duration::from_secs(15);

/// The families last read, and when.
#[derive(Default)]
pub struct TtlCache(Option<(Instant, Vec<Family>)>);

impl TtlCache {
    /// What was read less than 15 s before `now`, or else read anew.
    pub fn families(&mut self, now: Instant, read: impl FnOnce() -> Vec<Family>) -> Vec<Family> {
        match &self.0 {
            Some((at, families)) if now.saturating_duration_since(*at) < INTERVAL => families.clone(),
            _ => {
                let families = read();
                self.0 = Some((now, families.clone()));
                families
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_young_is_not_read_again() {
        let mut ttl_cache = TtlCache::default();
        let start = Instant::now();
        let mut reads = 0;
        for (seconds, expected) in [(0, 1), (14, 1), (15, 2), (20, 2), (31, 3)] {
            ttl_cache.families(start + Duration::from_secs(seconds), || {
                reads += 1;
                Vec::new()
            });
            assert_eq!(reads, expected, "after {seconds} s");
        }
    }
}
