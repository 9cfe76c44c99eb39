//! A cache with a time to live for what changes slowly, inside collectors that are read every second.

use std::time::{Duration, Instant};

/// The usual interval of slow collectors.
const INTERVAL: Duration = Duration::from_secs(15);
/// By which share of the interval a value is read again early, so that a scrape each interval reads it.
const EARLY_SHARE: u32 = 15;

/// What was read last, and when.
pub struct TtlCache<T> {
    time_to_live: Duration,
    last: Option<(Instant, T)>,
}

impl<T> Default for TtlCache<T> {
    fn default() -> Self {
        TtlCache::with_interval(INTERVAL)
    }
}

impl<T> TtlCache<T> {
    /// A cache for scrapes in this interval.
    pub fn with_interval(interval: Duration) -> Self {
        TtlCache {
            time_to_live: interval - interval / EARLY_SHARE,
            last: None,
        }
    }

    /// The cached value where it is younger than the interval, 14 s by default, else the one that `read` returns.
    pub fn get(&mut self, now: Instant, read: impl FnOnce() -> T) -> &T {
        let is_young = |(at, _): &(Instant, T)| now.saturating_duration_since(*at) < self.time_to_live;
        let cached = self.last.take().filter(is_young);
        &self.last.insert(cached.unwrap_or_else(|| (now, read()))).1
    }

    /// The next [`TtlCache::get`] reads.
    pub fn clear(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn young_value_is_not_read_again() {
        let mut ttl_cache = TtlCache::default();
        let start = Instant::now();
        let mut reads = 0;
        for (seconds, expected) in [(0, 1), (13, 1), (14, 2), (20, 2), (29, 3)] {
            let value = *ttl_cache.get(start + Duration::from_secs(seconds), || {
                reads += 1;
                reads
            });
            assert_eq!((value, reads), (expected, expected), "after {seconds} s");
        }
        ttl_cache.clear();
        assert_eq!(*ttl_cache.get(start + Duration::from_secs(29), || 7), 7);
    }
}
