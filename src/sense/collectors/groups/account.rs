//! The account of a group: counters that never fall. The growth of each member is added and stays after its end. Pure.

use crate::process::Identity;
use std::collections::HashMap;
use std::time::Duration;

/// The kernel rounds start times down to a clock tick of 10 ms, so a process that started right after the last update
/// seems to be older than the update.
const TICK: Duration = Duration::from_millis(10);

/// Number of counters per process.
pub const COUNTERS: usize = 8;

/// The counters of one process; `None` where one could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters(pub [Option<u64>; COUNTERS]);

/// The resource use of a group's members during their membership.
#[derive(Debug, Default)]
pub struct Account {
    totals: [u64; COUNTERS],
    members: HashMap<Identity, Counters>,
    /// CLOCK_BOOTTIME of the last update.
    updated_at: Option<Duration>,
}

impl Account {
    /// An account of a group that had no members at an earlier moment of CLOCK_BOOTTIME, if there was one.
    pub fn empty_since(earlier: Option<Duration>) -> Account {
        Account {
            updated_at: earlier,
            ..Account::default()
        }
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    pub fn totals(&self) -> [u64; COUNTERS] {
        self.totals
    }

    /// Adds the growth of the present members, given with their start times. What a process used before evenkeel saw it
    /// in the group does not count, because a restart of evenkeel would look like a burst. A process that started since
    /// the last update counts from its start.
    pub fn update(&mut self, mut members: HashMap<Identity, (Duration, Counters)>, boot_now: Duration) {
        let mut updated = HashMap::with_capacity(members.len());
        for (identity, (born_at, mut now)) in members.drain() {
            let before = self.members.get(&identity);
            let is_new = before.is_none() && self.updated_at.is_some_and(|at| born_at + TICK > at);
            for (slot, total) in self.totals.iter_mut().enumerate() {
                let before = before.and_then(|before| before.0[slot]);
                let now = &mut now.0[slot];
                *total += match (before, *now) {
                    (Some(before), Some(now)) => now.saturating_sub(before),
                    (None, Some(now)) if is_new => now,
                    _ => 0,
                };
                // A counter that could not be read, or fell, continues from its last value, so that nothing is counted
                // twice.
                *now = before.max(*now);
            }
            updated.insert(identity, now);
        }
        self.members = updated;
        self.updated_at = Some(boot_now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;

    /// Members as (pid, start second, first counter), one list per round at 100 s, 200 s …
    fn check(rounds: &[&[(i32, u64, Option<u64>)]], expected: &[u64]) {
        let mut account = Account::default();
        for (round, (members, expected)) in rounds.iter().zip(expected).enumerate() {
            let members = members
                .iter()
                .map(|(pid, started, count)| {
                    let identity = Identity {
                        boot: BootId(1),
                        pid: *pid,
                        start_ticks: started * 100,
                    };
                    let mut counters = Counters::default();
                    counters.0[0] = *count;
                    (identity, (Duration::from_secs(*started), counters))
                })
                .collect();
            account.update(members, Duration::from_secs(100 * (round as u64 + 1)));
            assert_eq!(account.totals()[0], *expected, "round {round} of {rounds:?}");
        }
    }

    #[test]
    fn totals_stay_when_members_end() {
        check(
            &[
                &[(1, 5, Some(50)), (2, 6, Some(60))],
                &[(1, 5, Some(57)), (2, 6, Some(61))],
                &[(1, 5, Some(58))],
                &[],
            ],
            &[0, 8, 9, 9],
        );
    }

    #[test]
    fn new_members_count_from_their_start() {
        check(
            &[&[], &[(1, 150, Some(30))], &[(1, 150, Some(31)), (2, 199, Some(1000))]],
            &[0, 30, 31],
        );
    }

    #[test]
    fn member_started_in_the_last_tick_counts() {
        let mut account = Account::default();
        account.update(HashMap::new(), Duration::from_millis(100_004));
        let identity = Identity {
            boot: BootId(1),
            pid: 7,
            start_ticks: 10_000,
        };
        let mut counters = Counters::default();
        counters.0[0] = Some(30);
        let born_at = Duration::from_millis(100_000);
        account.update(
            HashMap::from([(identity, (born_at, counters))]),
            Duration::from_secs(200),
        );
        assert_eq!(account.totals()[0], 30);
    }

    #[test]
    fn group_that_was_empty_counts_new_members_from_their_start() {
        for (earlier, expected) in [(None, 0), (Some(100), 30), (Some(160), 0)] {
            let mut account = Account::empty_since(earlier.map(Duration::from_secs));
            let identity = Identity {
                boot: BootId(1),
                pid: 7,
                start_ticks: 15_000,
            };
            let mut counters = Counters::default();
            counters.0[0] = Some(30);
            let members = HashMap::from([(identity, (Duration::from_secs(150), counters))]);
            account.update(members, Duration::from_secs(200));
            assert_eq!(account.totals()[0], expected, "{earlier:?}");
        }
    }

    #[test]
    fn reused_pid_is_another_process() {
        check(
            &[&[(1, 5, Some(500))], &[(1, 120, Some(3))], &[(1, 120, Some(4))]],
            &[0, 3, 4],
        );
    }

    #[test]
    fn unreadable_or_fallen_counters_count_once() {
        check(
            &[
                &[(1, 5, Some(10))],
                &[(1, 5, None)],
                &[(1, 5, Some(15))],
                &[(1, 5, Some(12))],
                &[(1, 5, Some(16))],
            ],
            &[0, 0, 5, 5, 6],
        );
        check(&[&[(1, 5, None)], &[(1, 5, Some(15))], &[(1, 5, Some(16))]], &[0, 0, 1]);
    }

    #[test]
    fn usage_outside_the_group_does_not_count() {
        check(
            &[&[(1, 5, Some(10))], &[], &[(1, 5, Some(90))], &[(1, 5, Some(91))]],
            &[0, 0, 0, 1],
        );
    }
}
