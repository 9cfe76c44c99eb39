//! The host's budget of irreversible actions within a period, for all rules together. Pure.

use crate::ledger::Victim;
use crate::process::Target;
use std::collections::BTreeSet;
use std::time::Duration;

/// The host-wide limits of irreversible actions within a period. Commands have a limit of their own, so that
/// notifications do not prevent a kill, and kills do not prevent a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Processes, cgroups and units.
    pub final_steps: u32,
    /// Episodes whose commands without `undo` run.
    pub commands: u32,
    pub per: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            final_steps: 3,
            commands: 10,
            per: Duration::from_secs(300),
        }
    }
}

impl Budget {
    /// Number of victims that are still allowed; dry-run and real ones are counted separately.
    pub fn remaining<'a>(&self, victims: impl IntoIterator<Item = &'a Victim>, simulated: bool, now: Duration) -> u32 {
        let recent = self.recent(victims, simulated, now);
        let targets = recent
            .map(|victim| victim.target)
            .filter(|target| *target != Target::Host);
        left_of(self.final_steps, targets.collect::<BTreeSet<_>>().len())
    }

    /// Number of episodes that may still run commands. A command that failed does not count.
    pub fn remaining_commands<'a>(
        &self,
        victims: impl IntoIterator<Item = &'a Victim>,
        simulated: bool,
        now: Duration,
    ) -> u32 {
        let recent = self.recent(victims, simulated, now);
        let spent = recent.filter(|victim| victim.target == Target::Host && !victim.is_uncounted);
        left_of(self.commands, spent.count())
    }

    fn recent<'a>(
        &self,
        victims: impl IntoIterator<Item = &'a Victim>,
        simulated: bool,
        now: Duration,
    ) -> impl Iterator<Item = &'a Victim> {
        let per = self.per;
        let victims = victims.into_iter();
        victims.filter(move |victim| victim.simulated == simulated && victim.struck_at + per > now)
    }
}

fn left_of(limit: u32, spent: usize) -> u32 {
    limit.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    const NOW: Duration = Duration::from_secs(1000);

    fn victim(pid: i32, struck_at: u64) -> Victim {
        let target = Process::example(pid, "x").identity.into();
        Victim::new(target, false, Duration::from_secs(struck_at))
    }

    #[test]
    fn commands_and_kills_have_budgets_of_their_own() {
        let run = |is_uncounted| Victim {
            target: Target::Host,
            is_uncounted,
            ..victim(1, 990)
        };
        let budget = Budget {
            commands: 2,
            ..Budget::default()
        };
        let victims = [run(false), run(true), victim(2, 991)];
        let left = |simulated| {
            let of_processes = budget.remaining(&victims, simulated, NOW);
            (of_processes, budget.remaining_commands(&victims, simulated, NOW))
        };
        assert_eq!(left(false), (2, 1));
        assert_eq!(left(true), (3, 2));
        let later = Duration::from_secs(2000);
        assert_eq!(budget.remaining_commands(&victims, false, later), 2);
    }

    #[test]
    fn budget_counts_each_victim_once() {
        let victims = [victim(1, 990), victim(1, 991), victim(2, 992)];
        assert_eq!(Budget::default().remaining(&victims, false, NOW), 1);
        assert_eq!(Budget::default().remaining(&victims, true, NOW), 3);
    }
}
