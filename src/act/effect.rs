//! The verification of irreversible actions: whether the victim exited, and whether that freed what it should. Pure.
//!
//! A victim had *no effect* in two cases: it still runs [`PATIENCE`] after SIGKILL, or after the last irreversible
//! action of its rule; or, for a rule about memory, it exited and the host has hardly more memory available. A victim
//! that still runs because its steps were interrupted says nothing about the rule.

use crate::ledger::Victim;
use crate::ledger::victim::MemoryBefore;
use crate::process::selector::Condition;
use crate::rule::{OrderKey, Rule};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Time within which a process exits if it can: SIGKILL takes milliseconds, and a service that flushes its data after SIGTERM
/// gets its time from the rule's `wait`.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Smaller victims are lost in the allocations of other processes meanwhile.
const MIN_JUDGED_BYTES: u64 = 64 << 20;
/// Part of a victim's memory that must be available after its exit; the rest may be shared, or allocated by others.
const MIN_FREED_PART: u64 = 10;

/// Whether no later step of the rule kills a process that survives this one.
pub fn is_last(rule: &Rule, step_index: usize, signal: Signal) -> bool {
    signal == Signal::SIGKILL || !rule.actions.iter().skip(step_index + 1).any(|step| step.is_final())
}

/// Whether a rule frees memory, judged by its selector and order.
pub fn is_about_memory(rule: &Rule) -> bool {
    let by_size = |condition: &Condition| matches!(condition, Condition::MinMemory(_));
    let selector = rule.selector();
    (rule.order_by.key == OrderKey::Memory && !rule.order_by.reverse)
        || selector.is_some_and(|selector| selector.conditions.iter().any(by_size))
}

/// The effect of a victim's exit as a reason; `Err` if there is none. `available_bytes` is the memory of the host afterwards.
///
/// # Errors
/// When nothing was freed.
pub fn of_end(victim: &Victim, now: Duration, available_bytes: Option<u64>) -> Result<String, String> {
    let took = now.saturating_sub(victim.struck_at).as_secs_f64();
    let ended = format!("exited {took:.1} s after the first irreversible action");
    let (Some(before), Some(after)) = (victim.memory, available_bytes) else {
        return Ok(ended);
    };
    let MemoryBefore {
        resident_bytes,
        available_bytes,
    } = before;
    let freed = after.saturating_sub(available_bytes);
    let had = mib(resident_bytes);
    let note = format!(
        "{ended}; it used {had} MiB, and {} MiB more are available now",
        mib(freed)
    );
    if resident_bytes >= MIN_JUDGED_BYTES && freed < resident_bytes / MIN_FREED_PART {
        return Err(note);
    }
    Ok(note)
}

/// The reason for a victim that still runs.
pub fn of_survivor(state: Option<char>, is_interrupted: bool) -> String {
    let hangs = if state == Some('D') {
        ": blocked in the kernel (state D)"
    } else {
        ""
    };
    let since = if is_interrupted {
        "its steps were interrupted"
    } else {
        "the last irreversible action"
    };
    format!("still running {} s after {since}{hangs}", PATIENCE.as_secs())
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
    fn last_kill_step_is_sigkill_or_the_last_step() {
        let rule = example("end", "signal TERM; wait 10; signal KILL; wait 5; signal TERM");
        assert!(!is_last(&rule, 0, Signal::SIGTERM));
        assert!(is_last(&rule, 2, Signal::SIGKILL));
        assert!(is_last(&rule, 4, Signal::SIGTERM));
    }

    #[test]
    fn killing_the_largest_process_is_about_memory() {
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
