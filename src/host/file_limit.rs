//! The limit of open files (RLIMIT_NOFILE): raised to what evenkeel can use, and the connections that fit into it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Every connection, file of the kernel and pipe of a command fits into this. It is the usual soft limit, so commands
/// that use select(2) inherit no larger one.
const ENOUGH: u64 = 1024;
/// Files beside connections: listeners, ledger, kernel files that stay open, timers, pipes and pidfds.
const RESERVE: u64 = 80;
/// With less, hardly a connection would fit.
const NEED: u64 = 128;

/// The limit is too low to serve anything.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "evenkeel needs at least {NEED} open files and may have {allowed}: raise the hard limit with LimitNOFILE= of the \
     unit, or with ulimit -Hn"
)]
pub struct TooFewFiles {
    allowed: u64,
}

/// The number of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit(u64);

impl FileLimit {
    /// The limit for these limits of the process (`None` is unlimited).
    fn choose(soft: Option<u64>, hard: Option<u64>) -> Result<FileLimit, TooFewFiles> {
        let allowed = soft.unwrap_or(u64::MAX).max(hard.unwrap_or(u64::MAX).min(ENOUGH));
        if allowed < NEED {
            return Err(TooFewFiles { allowed });
        }
        Ok(FileLimit(allowed))
    }

    /// The most connections of a listener that wants `wanted`, where all listeners together want `all`.
    pub fn connections(self, wanted: usize, all: usize) -> usize {
        let free = usize::try_from(self.0 - RESERVE).unwrap_or(usize::MAX);
        if all <= free {
            return wanted;
        }
        (free * wanted / all).max(1)
    }
}

/// Raises the soft limit as far as evenkeel needs it.
///
/// # Errors
/// When even the hard limit is too low.
pub fn raise() -> Result<FileLimit, TooFewFiles> {
    let now = getrlimit(Resource::Nofile);
    let limit = FileLimit::choose(now.current, now.maximum)?;
    let wanted = Rlimit {
        current: Some(limit.0),
        maximum: now.maximum,
    };
    if now.current.is_some_and(|current| current < limit.0) && setrlimit(Resource::Nofile, wanted).is_err() {
        return FileLimit::choose(now.current, now.current);
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_rises_to_what_is_needed() {
        let chosen = |soft, hard| FileLimit::choose(soft, hard).map(|limit| limit.0);
        assert_eq!(chosen(Some(20), Some(4096)), Ok(1024));
        assert_eq!(chosen(Some(20), Some(300)), Ok(300));
        assert_eq!(chosen(Some(2048), None), Ok(2048));
        assert_eq!(chosen(Some(20), Some(32)), Err(TooFewFiles { allowed: 32 }));
        assert_eq!(chosen(Some(127), Some(127)), Err(TooFewFiles { allowed: 127 }));
    }

    #[test]
    fn connections_leave_a_reserve() {
        for limit in [128, 300, 1024, 65536] {
            let limit = FileLimit(limit);
            let [metrics, webhook] = [512, 256].map(|wanted| limit.connections(wanted, 768));
            assert!(metrics > 0 && webhook > 0);
            assert!((metrics + webhook) as u64 + RESERVE <= limit.0, "{limit:?}");
        }
        assert_eq!(FileLimit(1024).connections(512, 768), 512);
    }
}
