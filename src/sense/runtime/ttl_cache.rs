//! A cache with a time to live for families that change slowly, inside collectors that are read every second.

use crate::family::Family;
use std::time::{Duration, Instant};

/// Time to live: the default interval of slow collectors.
const INTERVAL: Duration = Duration::from_secs(15);

/// The families last read, and when.
#[derive(Default)]
pub struct TtlCache(Option<(Instant, Vec<Family>)>);

impl TtlCache {
    /// The cached families where they are younger than 15 s, else those that `read` returns.
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
    fn young_families_are_not_read_again() {
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
