//! What came of final steps: whether the victim ended, and whether that freed what it was to free. Pure.
//!
//! A victim had *no effect* when it still lives [`PATIENCE`] after SIGKILL, or after the last final step that its
//! ladder has; or, for a rule that is about memory, when it ended and the host has hardly more memory available. One
//! that lives on because its ladder was interrupted says nothing of the rule.

use crate::ledger::Victim;
use crate::ledger::victim::MemoryBefore;
use crate::process::selector::Condition;
use crate::rule::{OrderKey, Rule, Step};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A process that can end has done so by then: SIGKILL takes milliseconds, and a service that writes back what it
/// holds after SIGTERM gets its time from the ladder's `wait`.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Smaller victims are lost in what everybody else allocates meanwhile, so that nothing can be said.
const MIN_JUDGED_BYTES: u64 = 64 << 20;
/// Part of what a victim had that must be available after its end; the rest may be shared, or taken by others.
const MIN_FREED_PART: u64 = 10;

/// Whether no later step of the ladder will end a process that outlives this one.
pub fn is_last(rule: &Rule, step_index: usize, signal: Signal) -> bool {
    signal == Signal::SIGKILL || !rule.actions.iter().skip(step_index + 1).any(Step::is_final)
}

/// Whether a rule is there to free memory: it says so by whom it chooses.
pub fn is_about_memory(rule: &Rule) -> bool {
    let by_size = |condition: &Condition| matches!(condition, Condition::MinMemory(_));
    let selector = rule.selector();
    (rule.order_by.key == OrderKey::Memory && !rule.order_by.reverse)
        || selector.is_some_and(|selector| selector.conditions.iter().any(by_size))
}

/// What the end of a victim has come to, in words; `Err` where that is no effect. `available_bytes` is the host's
/// memory after it.
///
/// # Errors
/// When nothing was freed.
pub fn of_end(victim: &Victim, now: Duration, available_bytes: Option<u64>) -> Result<String, String> {
    let took = now.saturating_sub(victim.struck_at).as_secs_f64();
    let ended = format!("it ended {took:.1} s after the first final step");
    let (Some(before), Some(after)) = (victim.memory, available_bytes) else {
        return Ok(ended);
    };
    let MemoryBefore {
        resident_bytes,
        available_bytes,
    } = before;
    let freed = after.saturating_sub(available_bytes);
    let had = mib(resident_bytes);
    let told = format!("{ended}; it had {had} MiB, and {} MiB more are available", mib(freed));
    if resident_bytes >= MIN_JUDGED_BYTES && freed < resident_bytes / MIN_FREED_PART {
        return Err(told);
    }
    Ok(told)
}

/// What is to be said of a victim that lives on.
pub fn of_survivor(state: Option<char>, is_interrupted: bool) -> String {
    let hangs = if state == Some('D') {
        ": it hangs in the kernel (state D)"
    } else {
        ""
    };
    let since = if is_interrupted {
        "its ladder was interrupted"
    } else {
        "the last final step"
    };
    format!("it still lives {} s after {since}{hangs}", PATIENCE.as_secs())
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, Selector};
    use crate::rule::ruleset::TargetSelector;
    use crate::rule::{OrderBy, example};

    const MIB: u64 = 1 << 20;

    fn end(memory: Option<(u64, u64)>, after: Option<u64>) -> bool {
        let victim = Victim {
            memory: memory.map(|(resident, available)| MemoryBefore {
                resident_bytes: resident * MIB,
                available_bytes: available * MIB,
            }),
            ..Victim::new(Process::example(7, "x").identity.into(), false, Duration::from_secs(5))
        };
        of_end(&victim, Duration::from_secs(6), after.map(|mib| mib * MIB)).is_ok()
    }

    #[test]
    fn an_end_that_frees_nothing_has_no_effect() {
        assert!(end(None, Some(0)), "a rule that is not about memory");
        assert!(end(Some((1000, 50)), None), "it cannot be read");
        assert!(end(Some((1000, 50)), Some(1040)));
        assert!(end(Some((1000, 50)), Some(150)), "others took the most of it");
        assert!(!end(Some((1000, 50)), Some(149)));
        assert!(!end(Some((1000, 50)), Some(10)));
        assert!(end(Some((63, 50)), Some(50)), "too small to be seen");
    }

    #[test]
    fn the_last_final_step_is_sigkill_or_the_last_of_the_ladder() {
        let rule = example("end", "signal TERM; wait 10; signal KILL; wait 5; signal TERM");
        assert!(!is_last(&rule, 0, Signal::SIGTERM));
        assert!(is_last(&rule, 2, Signal::SIGKILL));
        assert!(is_last(&rule, 4, Signal::SIGTERM));
    }

    #[test]
    fn whoever_ends_the_largest_wants_memory() {
        let mut rule = example("end", "signal TERM");
        assert!(!is_about_memory(&rule));
        rule.order_by = OrderBy {
            key: OrderKey::Memory,
            reverse: false,
        };
        assert!(is_about_memory(&rule));
        rule.order_by.reverse = true;
        assert!(!is_about_memory(&rule), "the smallest first");
        rule.target_selector = TargetSelector::Processes(Selector {
            conditions: vec![Condition::MinMemory(MIB)],
        });
        assert!(is_about_memory(&rule));
    }
}
