//! The revert of a lease, on every thread of the target and on the children that inherited its value. Values that
//! another program changed meanwhile stay.

use super::apply::{MAX_ROUNDS, StepResult, catches, concerned};
use super::descendants::Family;
use super::favour;
use crate::host::{Host, HostError, Thread, Value};
use crate::ledger::stacked_leases::Undo;
use crate::ledger::{Lease, Outcome};
use crate::process::{Identity, Process};
use crate::telemetry::LEFT_AS_IT_IS;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

/// Maximum number of possible orphans that are checked per lease.
const MAX_SUSPECTS: usize = 64;

/// Reverts a lease as the arithmetic of leases demands, on the target and on the processes that inherited its value.
pub fn undo(host: &mut impl Host, lease: &Lease, undo: &Undo, family: &Family<'_>) -> StepResult {
    let Some(target) = lease.target.process() else {
        return StepResult::only(Outcome::Failed, format!("{} is no process", lease.target));
    };
    let mut result = undo_what_is_known(host, target, lease, undo, family);
    if !matches!(undo, Undo::HandOver { .. }) {
        favour::let_children_inherit(host, target, lease);
    }
    if let (Some(ours), false) = (lease.effect.value(), matches!(undo, Undo::HandOver { .. })) {
        let note = tell_of_orphans(host, lease, ours, family);
        result.reason = match (result.reason, note) {
            (reason, None) => reason,
            (reason, Some(note)) if reason.is_empty() => note,
            (reason, Some(note)) => format!("{reason}; {note}"),
        };
    }
    result
}

/// Restores children that started between the reading of the table and the revert, and returns all children.
pub fn sweep(host: &mut impl Host, lease: &Lease, undo: &Undo, family: &Family<'_>) -> Vec<Identity> {
    let Some(target) = lease.target.process() else {
        return Vec::new();
    };
    let (value, ours) = match undo {
        Undo::Set { value, ours, .. } => (Some(value), ours),
        Undo::Restore { saved, ours } | Undo::HandOver { saved, ours, .. } => {
            (saved.first().map(|saved| &saved.value), ours)
        }
        Undo::Signal(_) | Undo::Nothing => return Vec::new(),
    };
    let Some(value) = value else { return Vec::new() };
    let born = born(host, target, lease, ours, value, family);
    let mut counts = RevertCounts {
        is_handed_over: matches!(undo, Undo::HandOver { .. }),
        ..RevertCounts::default()
    };
    let missed = restore_children(host, &born, ours, value, &mut counts);
    if missed > 0 {
        tracing::warn!(pid = target.pid, missed, "could not restore late children");
    }
    born
}

/// The processes that inherited the value of a lease: the descendants of its target, and who else holds a favour.
fn born(
    host: &mut impl Host,
    target: Identity,
    lease: &Lease,
    ours: &Value,
    own: &Value,
    family: &Family<'_>,
) -> Vec<Identity> {
    if !ours.knob().is_inherited() {
        return Vec::new();
    }
    let mut born = family.born(target, lease);
    born.extend(favour::holders(host, lease, ours, own, family));
    born
}

/// Processes that may have inherited our value, or may be unrelated. They are reported, not touched.
fn tell_of_orphans(host: &mut impl Host, lease: &Lease, ours: &Value, family: &Family<'_>) -> Option<String> {
    let knob = ours.knob();
    if !knob.is_inherited() {
        return None;
    }
    let suspects = family.possible_orphans(lease).take(MAX_SUSPECTS);
    let has_ours = |process: &&Process| {
        if let Some(found) = knob.in_table(process) {
            return found == *ours;
        }
        host.get(process.identity, process.identity.main_thread(), knob)
            .is_ok_and(|found| found == *ours)
    };
    let pids: Vec<String> = suspects
        .filter(has_ours)
        .map(|process| process.identity.pid.to_string())
        .collect();
    (!pids.is_empty()).then(|| {
        format!(
            "left alone, because they may be unrelated: {} with the same {knob} value, started meanwhile, whose parent is gone",
            pids.join(", ")
        )
    })
}

fn undo_what_is_known(
    host: &mut impl Host,
    target: Identity,
    lease: &Lease,
    undo: &Undo,
    family: &Family<'_>,
) -> StepResult {
    match undo {
        Undo::HandOver {
            heir,
            saved,
            ours,
            is_last_of_value,
            ..
        } => {
            let first = saved.first().map_or(ours, |saved| &saved.value);
            let mut counts = RevertCounts {
                is_handed_over: true,
                ..RevertCounts::default()
            };
            if *is_last_of_value {
                // The remaining lease restores threads that fail now.
                let _ = restore_threads(host, target, ours, &mut counts, |thread| {
                    let known = saved.iter().find(|saved| saved.thread() == thread);
                    known.map_or_else(|| first.clone(), |saved| saved.value.clone())
                });
            }
            let born = born(host, target, lease, ours, first, family);
            let missed = restore_children(host, &born, ours, first, &mut counts);
            let mut reason = format!("lease {heir} holds the knob and restores it");
            if missed > 0 {
                reason.push_str(&format!("; could not restore {missed} children"));
            }
            StepResult::only(Outcome::Restored, reason)
        }
        Undo::Nothing => StepResult::only(Outcome::Restored, "another lease needs the effect of the signal"),
        Undo::Signal(number) => match Signal::try_from(*number) {
            Ok(signal) => catches(host, target, signal)
                .and_then(|()| host.signal(target, signal).map_err(StepResult::from))
                .map_or_else(
                    |result| result,
                    |()| StepResult::only(Outcome::Restored, format!("sent {signal}")),
                ),
            Err(_) => StepResult::only(Outcome::Failed, format!("no signal has the number {number}")),
        },
        Undo::Set { value, saved, ours } => {
            let born = born(host, target, lease, ours, value, family);
            let mut result = put_back(host, target, ours, &born, |thread| {
                let changed = thread.and_then(|thread| saved.iter().find(|saved| saved.thread() == thread));
                changed.map_or_else(|| value.clone(), |saved| saved.value.clone())
            });
            if result.outcome == Outcome::Restored && value == ours && result.reason.is_empty() {
                result.reason = "an older lease holds the same value".to_owned();
            }
            result
        }
        Undo::Restore { saved, ours } => {
            let of_thread = |thread: Option<Thread>| {
                let known = thread.and_then(|thread| saved.iter().find(|saved| saved.thread() == thread));
                // A thread or child that started during the lease inherited our value from one that had this value before.
                known
                    .or(saved.first())
                    .map_or_else(|| ours.clone(), |saved| saved.value.clone())
            };
            let own = of_thread(None);
            let born = born(host, target, lease, ours, &own, family);
            put_back(host, target, ours, &born, of_thread)
        }
    }
}

/// Sets `value_for(thread)` on every thread of the target and its descendants that still has `ours`.
fn put_back(
    host: &mut impl Host,
    target: Identity,
    ours: &Value,
    born: &[Identity],
    value_for: impl Fn(Option<Thread>) -> Value,
) -> StepResult {
    let mut counts = RevertCounts::default();
    let on_target = restore_threads(host, target, ours, &mut counts, |thread| value_for(Some(thread)));
    counts.missed = restore_children(host, born, ours, &value_for(None), &mut counts);
    let mut result = match (on_target, counts) {
        // What can be done another time must not be taken for done because one thread or child was.
        (Err(result), _) if matches!(result.outcome, Outcome::Denied | Outcome::Failed) => result,
        (Err(result), RevertCounts { restored: 0, .. }) => result,
        (
            _,
            RevertCounts {
                restored: 0,
                superseded,
                ..
            },
        ) if superseded > 0 => StepResult::only(Outcome::Superseded, LEFT_AS_IT_IS),
        (_, RevertCounts { superseded, missed, .. }) => {
            let mut notes = Vec::new();
            if superseded > 0 {
                notes.push(format!(
                    "another program changed {superseded} threads; left as they are"
                ));
            }
            if missed > 0 {
                notes.push(format!("could not restore {missed} children"));
            }
            StepResult::only(Outcome::Restored, notes.join("; "))
        }
    };
    result.before = Some(ours.to_string());
    result.after = Some(value_for(None).to_string());
    result
}

#[derive(Default, Clone, Copy)]
struct RevertCounts {
    restored: usize,
    superseded: usize,
    missed: usize,
    /// Whether a newer lease keeps the knob, so that other values than ours may be its own.
    is_handed_over: bool,
}

/// Returns the number of failures.
fn restore_children(
    host: &mut impl Host,
    children: &[Identity],
    ours: &Value,
    value: &Value,
    counts: &mut RevertCounts,
) -> usize {
    let mut missed = 0;
    for child in children {
        // Whatever goes wrong with a child must not keep the others from being restored.
        if let Err(result) = restore_threads(host, *child, ours, counts, |_| value.clone())
            && matches!(result.outcome, Outcome::Denied | Outcome::Failed)
        {
            missed += 1;
        }
    }
    missed
}

fn restore_threads(
    host: &mut impl Host,
    process: Identity,
    ours: &Value,
    counts: &mut RevertCounts,
    value_for: impl Fn(Thread) -> Value,
) -> Result<(), StepResult> {
    let mut done = BTreeSet::new();
    let mut failed = None;
    for _ in 0..MAX_ROUNDS {
        let threads = concerned(host, process, ours.knob())?;
        let new: Vec<Thread> = threads.into_iter().filter(|thread| !done.contains(thread)).collect();
        if new.is_empty() {
            break;
        }
        for thread in new {
            done.insert(thread);
            match restore_thread(host, process, thread, ours, &value_for(thread), counts.is_handed_over) {
                Ok(true) => counts.restored += 1,
                Ok(false) => counts.superseded += 1,
                Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => {}
                // The others are restored anyway.
                Err(error) => failed = Some(error),
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// False when another program changed the value.
fn restore_thread(
    host: &mut impl Host,
    process: Identity,
    thread: Thread,
    ours: &Value,
    value: &Value,
    is_handed_over: bool,
) -> Result<bool, HostError> {
    let found = host.get(process, thread, ours.knob())?;
    // A process that got a favour may give up a part of it, but not keep the rest. Only root could have given it more.
    let is_favour = ours.favours(value) && !found.favours(ours) && !is_handed_over;
    let is_always_written = ours.is_always_reverted_to(value) && (is_favour || !ours.favours(value));
    if found.is_restored(value, &mut || host.processors_of(process)) && !is_always_written {
        // After a crash between intent and outcome a thread may still have its old value.
        return Ok(true);
    }
    if found != *ours && !is_always_written && !(is_favour && found.favours(value)) {
        return Ok(false);
    }
    host.set(process, thread, value).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::apply::{self, set};
    use crate::act::descendants::Descendants;
    use crate::host::Knob;
    use crate::host::fake::{FakeHost, FakeThread};
    use crate::knob::Policy;
    use crate::ledger::{Effect, stacked_leases};
    use crate::process::ProcessTree;
    use std::time::Duration;

    fn host_with(threads: u32, nice: i32) -> (FakeHost, Identity) {
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        let mut process = Process::example(100, "burner");
        (process.threads, process.nice) = (threads, nice);
        let target = host.add(process);
        (host, target)
    }

    fn niceness(host: &FakeHost, pid: i32) -> Vec<i32> {
        host.processes[&pid].threads.values().map(FakeThread::nice).collect()
    }

    fn take(host: &mut FakeHost, id: u64, target: Identity, nice: i32) -> Lease {
        let mut saved = apply::read(host, target, Knob::Nice).unwrap();
        let mut value = Value::Nice(nice);
        let result = set(host, target, &mut value, &mut saved);
        assert_eq!(result.outcome, Outcome::Applied, "{result:?}");
        Lease {
            id,
            rule: "calm".into(),
            fingerprint: "f".into(),
            target: target.into(),
            name: "burner".into(),
            effect: Effect::Value { value, saved },
            taken_at: host.now.boot,
            deadline: Duration::MAX,
            settled: true,
            is_undoing: false,
            released: None,
        }
    }

    fn undone(host: &mut FakeHost, lease: &Lease, what: &Undo, descendants: &Descendants) -> StepResult {
        let tree = ProcessTree::from(host.processes().unwrap());
        let family = Family {
            tree: &tree,
            descendants,
            is_holder: &|_| false,
        };
        undo(host, lease, what, &family)
    }

    fn begin_release(host: &mut FakeHost, lease: &Lease, live: &[Lease]) -> Outcome {
        let what = stacked_leases::undo(lease, live.iter());
        undone(host, lease, &what, &Descendants::default()).outcome
    }

    #[test]
    fn every_thread_gets_its_own_prior_value_back() {
        let (mut host, target) = host_with(3, 0);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&101)
            .unwrap()
            .put(Value::Nice(-3));
        let lease = take(&mut host, 1, target, 15);
        assert_eq!(niceness(&host, 100), [15, 15, 15]);
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::Restored);
        assert_eq!(niceness(&host, 100), [0, -3, 0]);
    }

    #[test]
    fn threads_and_children_started_during_the_lease_are_restored() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.advance(Duration::from_secs(5));
        let newborn = host.processes[&100].threads[&100].clone();
        host.processes.get_mut(&100).unwrap().threads.insert(109, newborn);
        for (pid, parent) in [(200, 100), (201, 200), (300, 1)] {
            let mut child = Process::example(pid, "child");
            (child.parent, child.nice, child.age) = (parent, 15, Duration::ZERO);
            host.add(child);
        }
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::Restored);
        assert_eq!(niceness(&host, 100), [0, 0]);
        assert_eq!((niceness(&host, 200), niceness(&host, 201)), (vec![0], vec![0]));
        assert_eq!(niceness(&host, 300), [15], "no descendant");
    }

    #[test]
    fn possible_orphans_are_reported_and_left_alone() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.advance(Duration::from_secs(5));
        for (pid, nice) in [(300, 15), (301, 0)] {
            let mut orphan = Process::example(pid, "daemon");
            (orphan.parent, orphan.nice, orphan.age) = (1, nice, Duration::ZERO);
            host.add(orphan);
        }
        let what = stacked_leases::undo(&lease, std::iter::empty());
        let result = undone(&mut host, &lease, &what, &Descendants::default());
        assert!(result.reason.contains("300 with the same nice value"), "{result:?}");
        assert!(!result.reason.contains("301"), "{result:?}");
        assert_eq!(niceness(&host, 300), [15]);
    }

    #[test]
    fn children_from_before_the_lease_keep_their_values() {
        let (mut host, target) = host_with(1, 0);
        let mut child = Process::example(200, "child");
        (child.parent, child.nice) = (100, 15);
        host.add(child);
        host.advance(Duration::from_secs(5));
        let lease = take(&mut host, 1, target, 15);
        begin_release(&mut host, &lease, &[]);
        assert_eq!(niceness(&host, 200), [15]);
    }

    #[test]
    fn value_changed_by_others_is_left_alone() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&100)
            .unwrap()
            .put(Value::Nice(7));
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::Superseded);
        assert_eq!(niceness(&host, 100), [7]);
    }

    #[test]
    fn the_older_holder_applies_again() {
        let (mut host, target) = host_with(2, 0);
        let first = take(&mut host, 1, target, 10);
        let second = take(&mut host, 2, target, 15);
        assert_eq!(
            begin_release(&mut host, &second, &[first.clone(), second.clone()]),
            Outcome::Restored
        );
        assert_eq!(niceness(&host, 100), [10, 10]);
        assert_eq!(
            begin_release(&mut host, &first, std::slice::from_ref(&first)),
            Outcome::Restored
        );
        assert_eq!(niceness(&host, 100), [0, 0]);
    }

    #[test]
    fn real_time_threads_are_never_touched() {
        let (mut host, target) = host_with(2, 0);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&101)
            .unwrap()
            .put(Value::Sched(Policy::RealTime));
        let lease = take(&mut host, 1, target, 15);
        assert_eq!(niceness(&host, 100), [15, 0]);
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::Restored);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&100)
            .unwrap()
            .put(Value::Sched(Policy::RealTime));
        assert_eq!(
            apply::read(&mut host, target, Knob::Nice).unwrap_err().outcome,
            Outcome::Denied
        );
    }

    #[test]
    fn a_target_that_is_gone_or_another_is_an_outcome() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.processes.clear();
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::Gone);
        host.advance(Duration::from_secs(60));
        host.add(Process {
            age: Duration::ZERO,
            nice: 15,
            ..Process::example(100, "another")
        });
        assert_eq!(begin_release(&mut host, &lease, &[]), Outcome::ChangedIdentity);
        assert_eq!(niceness(&host, 100), [15]);
    }
}
