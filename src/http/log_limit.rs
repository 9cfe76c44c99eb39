//! A limit for log lines that any peer can cause: one line a second for each kind, with the number of lines left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// The lines of one call site, by kind. Kinds come from the program, never from peers, so there are few.
pub struct LogLimit<K>(Mutex<BTreeMap<K, Kind>>);

#[derive(Default)]
struct Kind {
    logged_at: Option<Instant>,
    left_out: u64,
}

/// Permission to log one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    /// Lines of this kind left out since the last one; `None` without one.
    pub left_out: Option<u64>,
}

impl<K> Default for LogLimit<K> {
    fn default() -> LogLimit<K> {
        LogLimit(Mutex::default())
    }
}

impl<K: Ord> LogLimit<K> {
    /// Whether a line of this kind is logged now.
    pub fn permit(&self, kind: K) -> Option<Permit> {
        self.permit_at(kind, Instant::now())
    }

    fn permit_at(&self, kind: K, now: Instant) -> Option<Permit> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_default();
        if kind
            .logged_at
            .is_some_and(|at| now.saturating_duration_since(at) < INTERVAL)
        {
            kind.left_out += 1;
            return None;
        }
        kind.logged_at = Some(now);
        let left_out = std::mem::take(&mut kind.left_out);
        let left_out = (left_out > 0).then_some(left_out);
        Some(Permit { left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_line_a_second_with_a_count() {
        let limit = LogLimit::default();
        let begin = Instant::now();
        let left_out = |kind, ms| {
            let permit = limit.permit_at(kind, begin + Duration::from_millis(ms));
            permit.map(|permit| permit.left_out)
        };
        assert_eq!(left_out(401, 0), Some(None));
        assert_eq!(left_out(401, 1), None);
        assert_eq!(left_out(404, 2), Some(None));
        assert_eq!(left_out(401, 999), None);
        assert_eq!(left_out(401, 1000), Some(Some(2)));
        assert_eq!(left_out(401, 2000), Some(None));
    }
}
