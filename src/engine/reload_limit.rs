//! The limit for records of reloads: one a minute for each client and result, with the number of equal ones left out.
//! Any client can post a reload where `--web.enable-lifecycle` allows it, and must not push other records out of the
//! history. Pure.

use crate::ledger::OperatorRequest;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Interval of the records of one kind.
const INTERVAL: Duration = Duration::from_secs(60);
/// Number of kinds within an interval; all further ones share a kind, because a client may have many addresses.
const MAX_KINDS: usize = 4;

/// What equal reloads have in common. Without a requester it stands for all kinds above the limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ReloadKind {
    by: Option<String>,
    refused: Option<String>,
}

#[derive(Debug)]
struct ReloadCount {
    /// CLOCK_BOOTTIME of the last record.
    recorded_at: Duration,
    left_out: Option<LeftOut>,
}

/// The reloads of one kind without a record of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub count: u64,
    pub last_at: Timestamp,
    pub last: OperatorRequest,
    /// The reason why the last one was refused.
    pub refused: Option<String>,
}

#[derive(Debug, Default)]
pub struct ReloadLimit {
    kinds: BTreeMap<ReloadKind, ReloadCount>,
}

impl ReloadLimit {
    /// Whether a reload gets a record of its own. Otherwise it is counted. `now` is CLOCK_BOOTTIME.
    pub fn permit(&mut self, request: &OperatorRequest, refused: Option<&str>, at: Timestamp, now: Duration) -> bool {
        // Only root and evenkeel's own user send requests with a user id.
        if request.by.uid.is_some() {
            return true;
        }
        let mut kind = ReloadKind {
            by: Some(request.by.to_string()),
            refused: refused.map(str::to_owned),
        };
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            kind = ReloadKind {
                by: None,
                refused: None,
            };
        }
        let Some(known) = self.kinds.get_mut(&kind) else {
            let recorded_at = now;
            let left_out = None;
            self.kinds.insert(kind, ReloadCount { recorded_at, left_out });
            return true;
        };
        let count = known.left_out.as_ref().map_or(0, |left_out| left_out.count) + 1;
        known.left_out = Some(LeftOut {
            count,
            last_at: at,
            last: request.clone(),
            refused: refused.map(str::to_owned),
        });
        false
    }

    /// CLOCK_BOOTTIME from which [`ReloadLimit::take`] has something to return.
    pub fn next_due(&self) -> Option<Duration> {
        let counting = self.kinds.values().filter(|kind| kind.left_out.is_some());
        counting.map(|kind| kind.recorded_at.saturating_add(INTERVAL)).min()
    }

    /// The reloads that were left out in the intervals that are over at `now`.
    pub fn take(&mut self, now: Duration) -> Vec<LeftOut> {
        let mut all = Vec::new();
        self.kinds.retain(|_, kind| {
            if kind.recorded_at.saturating_add(INTERVAL) > now {
                return true;
            }
            kind.recorded_at = now;
            let left_out = kind.left_out.take();
            let is_recorded = left_out.is_some();
            all.extend(left_out);
            is_recorded
        });
        all
    }
}
