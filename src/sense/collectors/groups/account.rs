//! Counters of a group that never fall: each member's growth is added, and stays when the member is gone. Pure.

use crate::process::Identity;
use std::collections::HashMap;
use std::time::Duration;

/// The kernel tells births rounded down to a clock tick of 10 ms, so that who was born right after the last settlement
/// seems to be older than it.
const TICK: Duration = Duration::from_millis(10);

/// How many counters a process has here.
pub const COUNTERS: usize = 8;

/// What one process counted up to now; `None` where it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters(pub [Option<u64>; COUNTERS]);

/// What a group's members used while they were members.
#[derive(Debug, Default)]
pub struct Account {
    totals: [u64; COUNTERS],
    members: HashMap<Identity, Counters>,
    /// CLOCK_BOOTTIME of the last settlement.
    settled_at: Option<Duration>,
}

impl Account {
    pub fn members(&self) -> usize {
        self.members.len()
    }

    pub fn totals(&self) -> [u64; COUNTERS] {
        self.totals
    }

    /// Takes the members of now with the time of their birth. What a process used before evenkeel saw it in the group
    /// does not count, or a restart of evenkeel would look like a burst; one that was born since the last time counts
    /// from its birth.
    pub fn settle(&mut self, mut members: HashMap<Identity, (Duration, Counters)>, boot_now: Duration) {
        let mut settled = HashMap::with_capacity(members.len());
        for (identity, (born_at, mut now)) in members.drain() {
            let before = self.members.get(&identity);
            let is_new = before.is_none() && self.settled_at.is_some_and(|at| born_at + TICK > at);
            for (slot, total) in self.totals.iter_mut().enumerate() {
                let before = before.and_then(|before| before.0[slot]);
                let now = &mut now.0[slot];
                *total += match (before, *now) {
                    (Some(before), Some(now)) => now.saturating_sub(before),
                    (None, Some(now)) if is_new => now,
                    _ => 0,
                };
                // What could not be read this time goes on from where it was, and what fell is not counted twice.
                *now = before.max(*now);
            }
            settled.insert(identity, now);
        }
        self.members = settled;
        self.settled_at = Some(boot_now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;

    /// Members as (pid, second of birth, first counter), one list per round at 100 s, 200 s …
    fn check(rounds: &[&[(i32, u64, Option<u64>)]], expected: &[u64]) {
        let mut account = Account::default();
        for (round, (members, expected)) in rounds.iter().zip(expected).enumerate() {
            let members = members
                .iter()
                .map(|(pid, born, count)| {
                    let identity = Identity {
                        boot: BootId(1),
                        pid: *pid,
                        start_ticks: born * 100,
                    };
                    let mut counters = Counters::default();
                    counters.0[0] = *count;
                    (identity, (Duration::from_secs(*born), counters))
                })
                .collect();
            account.settle(members, Duration::from_secs(100 * (round as u64 + 1)));
            assert_eq!(account.totals()[0], *expected, "round {round} of {rounds:?}");
        }
    }

    #[test]
    fn totals_stay_when_members_end_and_when_the_group_is_empty() {
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
    fn the_young_count_from_their_birth_and_the_old_from_when_they_were_seen() {
        check(
            &[&[], &[(1, 150, Some(30))], &[(1, 150, Some(31)), (2, 199, Some(1000))]],
            &[0, 30, 31],
        );
    }

    #[test]
    fn who_was_born_in_the_tick_of_the_last_settlement_counts_from_its_birth() {
        let mut account = Account::default();
        account.settle(HashMap::new(), Duration::from_millis(100_004));
        let identity = Identity {
            boot: BootId(1),
            pid: 7,
            start_ticks: 10_000,
        };
        let mut counters = Counters::default();
        counters.0[0] = Some(30);
        let born_at = Duration::from_millis(100_000);
        account.settle(
            HashMap::from([(identity, (born_at, counters))]),
            Duration::from_secs(200),
        );
        assert_eq!(account.totals()[0], 30);
    }

    #[test]
    fn a_pid_that_is_handed_out_again_is_another_process() {
        check(
            &[&[(1, 5, Some(500))], &[(1, 120, Some(3))], &[(1, 120, Some(4))]],
            &[0, 3, 4],
        );
    }

    #[test]
    fn what_cannot_be_read_or_falls_is_not_counted_twice() {
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
    fn who_was_away_does_not_bring_what_was_used_meanwhile() {
        check(
            &[&[(1, 5, Some(10))], &[], &[(1, 5, Some(90))], &[(1, 5, Some(91))]],
            &[0, 0, 0, 1],
        );
    }
}
