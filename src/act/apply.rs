//! Does what was planned and allowed, and undoes it. Decides nothing: policy is in plan and guard. Every outcome is
//! read back from the host, never assumed.

use super::guard;
use crate::host::knob::{CpuSet, Policy};
use crate::host::{Host, HostError, Knob, Thread, Value};
use crate::ledger::lease::{Lease, Undo};
use crate::ledger::{Effect, Outcome, Prior};
use crate::process::{Identity, Needs, Process};
use crate::rule::step::{AffinityChange, Change};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// New threads are looked for this many times; a process that breeds threads faster than that is told as failed.
const MAX_ROUNDS: usize = 16;
/// Start times are known to a clock tick of 10 ms (USER_HZ is 100 on every Linux port).
const TICK: Duration = Duration::from_millis(10);

/// What came of a step, and what was there before and after, in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Effected {
    pub outcome: Outcome,
    pub before: Option<String>,
    pub after: Option<String>,
    pub reason: String,
}

impl Effected {
    pub(super) fn only(outcome: Outcome, reason: impl Into<String>) -> Effected {
        Effected {
            outcome,
            before: None,
            after: None,
            reason: reason.into(),
        }
    }
}

impl From<HostError> for Effected {
    fn from(error: HostError) -> Effected {
        let outcome = match &error {
            HostError::Gone { .. } => Outcome::Gone,
            HostError::ChangedIdentity { .. } => Outcome::ChangedIdentity,
            HostError::Denied { .. } => Outcome::Denied,
            HostError::Failed { .. } => Outcome::Failed,
        };
        Effected::only(outcome, error.to_string())
    }
}

/// What a reversible step would set, and what each thread has now: the content of a lease before it is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub value: Value,
    pub prior: Vec<Prior>,
    /// Every thread has the value already, so nothing needs doing and nothing undoing.
    pub is_set_already: bool,
}

/// Reads what a step would change.
///
/// # Errors
/// With the outcome, when the process is gone or its values cannot be read.
pub fn prepare(host: &mut impl Host, target: Identity, change: &Change) -> Result<Prepared, Effected> {
    let knob = change.knob();
    let mut prior = Vec::new();
    for thread in concerned(host, target, knob)? {
        match host.get(target, thread, knob) {
            Ok(value) => prior.push(Prior {
                tid: thread.tid,
                start_ticks: thread.start_ticks,
                value,
                unit: None,
            }),
            // A thread that ends meanwhile has nothing to restore.
            Err(HostError::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Some(first) = prior.first() else {
        return Err(Effected::only(
            Outcome::Denied,
            "all its threads are real-time, which are never touched",
        ));
    };
    let value = match change {
        // The kernel drops processors that are not there, and would be found to have set something else.
        Change::To(Value::Affinity(cpus)) => {
            let online = host.online_cpus();
            Value::Affinity(CpuSet(cpus.0.intersection(&online).copied().collect()))
        }
        Change::To(value) => value.clone(),
        Change::Affinity(change) => Value::Affinity(relative_affinity(*change, &first.value, host.online_cpus())),
        Change::Limit { .. } | Change::Io(_) => {
            return Err(Effected::only(Outcome::Failed, "a process has no limits of a cgroup"));
        }
    };
    let is_set_already = prior.iter().all(|prior| prior.value == value);
    Ok(Prepared {
        value,
        prior,
        is_set_already,
    })
}

/// Sets `value` on every thread, those born meanwhile included; `prior` grows by what those had. `value` becomes what
/// the kernel made of it.
pub fn set(host: &mut impl Host, target: Identity, value: &mut Value, prior: &mut Vec<Prior>) -> Effected {
    let before = summary(prior.iter().map(|prior| &prior.value));
    let result = set_threads(host, target, value, prior).and_then(|()| read_back(host, target, value));
    let mut effected = match result {
        Ok(true) => Effected::only(Outcome::Applied, ""),
        Ok(false) => Effected::only(Outcome::NoEffect, "the value did not stay on every thread"),
        Err(effected) => effected,
    };
    effected.before = Some(before);
    effected.after = Some(value.to_string());
    effected
}

fn set_threads(host: &mut impl Host, target: Identity, value: &Value, prior: &mut Vec<Prior>) -> Result<(), Effected> {
    let inherited = prior.first().map(|prior| prior.value.clone());
    let mut done = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let threads = concerned(host, target, value.knob())?;
        let new: Vec<Thread> = threads.into_iter().filter(|thread| !done.contains(thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in new {
            done.insert(thread);
            match set_thread(host, target, thread, value, prior, inherited.as_ref()) {
                // A thread that ended, and whose id another one may have got, is no fault of the process.
                Ok(()) | Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) if host.is_alive(target) => {}
                Ok(()) => return Err(HostError::Gone { pid: target.pid }.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(Effected::only(
        Outcome::Failed,
        "threads are born faster than they can be set",
    ))
}

fn set_thread(
    host: &mut impl Host,
    target: Identity,
    thread: Thread,
    value: &Value,
    prior: &mut Vec<Prior>,
    inherited: Option<&Value>,
) -> Result<(), HostError> {
    if !prior.iter().any(|prior| prior.thread() == thread) {
        let found = host.get(target, thread, value.knob())?;
        // Born during the lease of a thread that was set already: what it has is ours, not its own.
        let own = if found == *value {
            inherited.cloned().unwrap_or(found)
        } else {
            found
        };
        prior.push(Prior {
            tid: thread.tid,
            start_ticks: thread.start_ticks,
            value: own,
            unit: None,
        });
    }
    host.set(target, thread, value)
}

fn read_back(host: &mut impl Host, target: Identity, value: &mut Value) -> Result<bool, Effected> {
    let mut found = BTreeSet::new();
    for thread in concerned(host, target, value.knob())? {
        match host.get(target, thread, value.knob()) {
            Ok(now) => found.insert(now),
            Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => false,
            Err(error) => return Err(error.into()),
        };
    }
    // A cpuset (cpuset(7)) cuts a mask down. What stands is what undoing will look for.
    if let (Value::Affinity(wanted), 1, Some(Value::Affinity(now))) = (&*value, found.len(), found.first())
        && !now.0.is_empty()
        && now.0.is_subset(&wanted.0)
    {
        *value = Value::Affinity(now.clone());
    }
    Ok(found.iter().all(|now| now == value))
}

/// Whether a process handles a signal now. A program that was replaced by exec(2) has no handlers any more, and what
/// was a notice would end it.
///
/// # Errors
/// With the outcome, when it does not, or cannot be asked.
pub fn catches(host: &mut impl Host, target: Identity, signal: Signal) -> Result<(), Effected> {
    let Some(mut process) = host.process(target.pid).filter(|process| process.identity == target) else {
        return Err(HostError::Gone { pid: target.pid }.into());
    };
    if !host.read_details(&mut process, Needs::SIGNALS) {
        return Err(HostError::Gone { pid: target.pid }.into());
    }
    guard::notice(&process, signal).map_err(|refusal| Effected::only(Outcome::Superseded, refusal.reason))
}

/// Carries out what the arithmetic of leases asks for. `table` is a reading of all processes, for the children that
/// were born during the lease.
///
/// `holders` hold the knob by leases of their own and are left to those.
pub fn undo(
    host: &mut impl Host,
    lease: &Lease,
    undo: &Undo,
    table: &[Process],
    holders: &BTreeSet<Identity>,
) -> Effected {
    let Some(target) = lease.target.process() else {
        return Effected::only(Outcome::Failed, format!("{} is no process", lease.target));
    };
    let mut effected = undo_what_is_known(host, target, lease, undo, table, holders);
    let orphans = possible_orphans(lease, table, holders);
    if !orphans.is_empty() && !matches!(undo, Undo::Bequeath { .. }) {
        let pids: Vec<String> = orphans.iter().map(i32::to_string).collect();
        let told = format!(
            "left alone, for they may be a stranger's: {} with the same nice value, born meanwhile, whose parent is gone",
            pids.join(", ")
        );
        effected.reason = if effected.reason.is_empty() {
            told
        } else {
            format!("{}; {told}", effected.reason)
        };
    }
    effected
}

/// Processes that init took over and that hold our nice value since the lease was taken: perhaps children of the
/// target whose parent ended, perhaps not. They are told, not touched.
fn possible_orphans(lease: &Lease, table: &[Process], holders: &BTreeSet<Identity>) -> Vec<i32> {
    let crate::ledger::Effect::Value {
        value: Value::Nice(ours),
        ..
    } = &lease.effect
    else {
        return Vec::new();
    };
    let is_suspect = |process: &&Process| {
        process.parent == 1
            && process.nice == *ours
            && is_born_since(process, lease)
            && !process.is_dead()
            && lease.target != process.identity.into()
            && !holders.contains(&process.identity)
    };
    table
        .iter()
        .filter(is_suspect)
        .map(|process| process.identity.pid)
        .collect()
}

fn undo_what_is_known(
    host: &mut impl Host,
    target: Identity,
    lease: &Lease,
    undo: &Undo,
    table: &[Process],
    holders: &BTreeSet<Identity>,
) -> Effected {
    let born = |ours: &Value| -> Vec<Identity> {
        // Who is stopped bears children that run.
        if ours.knob() == Knob::Freeze {
            return Vec::new();
        }
        let born = descendants(target, lease, table).into_iter();
        born.filter(|child| !holders.contains(child)).collect()
    };
    match undo {
        Undo::Bequeath { heir, prior, ours, .. } => {
            let first = prior.first().map_or(ours, |prior| &prior.value);
            let missed = restore_children(host, &born(ours), ours, first, &mut Back::default());
            let mut reason = format!("lease {heir} holds the knob and restores it");
            if missed > 0 {
                reason.push_str(&format!("; {missed} children could not be restored"));
            }
            Effected::only(Outcome::Restored, reason)
        }
        Undo::Nothing => Effected::only(Outcome::Restored, "another lease wants the signal's effect to last"),
        Undo::Signal(number) => match Signal::try_from(*number) {
            Ok(signal) => catches(host, target, signal)
                .and_then(|()| host.signal(target, signal).map_err(Effected::from))
                .map_or_else(
                    |effected| effected,
                    |()| Effected::only(Outcome::Restored, format!("sent {signal}")),
                ),
            Err(_) => Effected::only(Outcome::Failed, format!("no signal has the number {number}")),
        },
        Undo::Set { value, prior, ours } => put_back(host, target, ours, &born(ours), |thread| {
            let changed = thread.and_then(|thread| prior.iter().find(|prior| prior.thread() == thread));
            changed.map_or_else(|| value.clone(), |prior| prior.value.clone())
        }),
        Undo::Restore { prior, ours } => {
            let of_thread = |thread: Option<Thread>| {
                let known = thread.and_then(|thread| prior.iter().find(|prior| prior.thread() == thread));
                // A thread or child born during the lease has inherited ours from one that had this before.
                known
                    .or(prior.first())
                    .map_or_else(|| ours.clone(), |prior| prior.value.clone())
            };
            put_back(host, target, ours, &born(ours), of_thread)
        }
    }
}

/// Puts `value_for(thread)` wherever `ours` still stands, on the target's threads and its descendants'.
fn put_back(
    host: &mut impl Host,
    target: Identity,
    ours: &Value,
    born: &[Identity],
    value_for: impl Fn(Option<Thread>) -> Value,
) -> Effected {
    let mut tally = Back::default();
    let on_target = restore_threads(host, target, ours, &mut tally, |thread| value_for(Some(thread)));
    tally.missed = restore_children(host, born, ours, &value_for(None), &mut tally);
    let mut effected = match (on_target, tally) {
        // What can be done another time must not be taken for done because one thread or child was.
        (Err(effected), _) if matches!(effected.outcome, Outcome::Denied | Outcome::Failed) => effected,
        (Err(effected), Back { restored: 0, .. }) => effected,
        (
            _,
            Back {
                restored: 0,
                superseded,
                ..
            },
        ) if superseded > 0 => Effected::only(
            Outcome::Superseded,
            "somebody else changed the value meanwhile; it is left alone",
        ),
        (_, Back { superseded, missed, .. }) => {
            let mut notes = Vec::new();
            if superseded > 0 {
                notes.push(format!(
                    "{superseded} threads were changed by somebody else and left alone"
                ));
            }
            if missed > 0 {
                notes.push(format!("{missed} children could not be restored"));
            }
            Effected::only(Outcome::Restored, notes.join("; "))
        }
    };
    effected.before = Some(ours.to_string());
    effected.after = Some(value_for(None).to_string());
    effected
}

#[derive(Default, Clone, Copy)]
struct Back {
    restored: usize,
    superseded: usize,
    missed: usize,
}

/// Returns how many could not be restored.
fn restore_children(
    host: &mut impl Host,
    children: &[Identity],
    ours: &Value,
    value: &Value,
    tally: &mut Back,
) -> usize {
    let mut missed = 0;
    for child in children {
        // Whatever goes wrong with a child must not keep the others from being restored.
        if let Err(effected) = restore_threads(host, *child, ours, tally, |_| value.clone())
            && matches!(effected.outcome, Outcome::Denied | Outcome::Failed)
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
    tally: &mut Back,
    value_for: impl Fn(Thread) -> Value,
) -> Result<(), Effected> {
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
            match restore_thread(host, process, thread, ours, &value_for(thread)) {
                Ok(true) => tally.restored += 1,
                Ok(false) => tally.superseded += 1,
                Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => {}
                // The others are restored all the same.
                Err(error) => failed = Some(error),
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// False when somebody else changed the value.
fn restore_thread(
    host: &mut impl Host,
    process: Identity,
    thread: Thread,
    ours: &Value,
    value: &Value,
) -> Result<bool, HostError> {
    let found = host.get(process, thread, ours.knob())?;
    // A stop may be pending on a process that hangs in the kernel; only SIGCONT takes it back.
    let may_be_pending = *ours == Value::Freeze(true) && *value == Value::Freeze(false);
    if found == *value && !may_be_pending {
        // After a crash between intent and outcome a thread may never have been set.
        return Ok(true);
    }
    if found != *ours && !may_be_pending {
        return Ok(false);
    }
    host.set(process, thread, value).map(|()| true)
}

/// Threads that a knob belongs to. Real-time and deadline threads are never touched.
fn concerned(host: &mut impl Host, target: Identity, knob: Knob) -> Result<Vec<Thread>, HostError> {
    let mut threads = host.threads(target)?;
    if !knob.is_per_thread() {
        threads.retain(|thread| thread.tid == target.pid);
        return Ok(threads);
    }
    let mut normal = Vec::with_capacity(threads.len());
    for thread in threads {
        match host.get(target, thread, Knob::Sched) {
            Ok(Value::Sched(Policy::RealTime)) | Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => {}
            Ok(_) => normal.push(thread),
            Err(error) => return Err(error),
        }
    }
    Ok(normal)
}

/// Processes below the target that were born since the lease was taken, of parents that have it themselves or were
/// born since: nobody else can have inherited from it. A child whose parent is gone was handed to another parent and
/// cannot be told from a stranger.
fn descendants(target: Identity, lease: &Lease, table: &[Process]) -> Vec<Identity> {
    if !table.iter().any(|process| process.identity == target) {
        // Whoever has the pid now has children of his own.
        return Vec::new();
    }
    let mut line = BTreeSet::from([target.pid]);
    let mut found = Vec::new();
    loop {
        let before = line.len();
        for process in table.iter().filter(|process| is_born_since(process, lease)) {
            if line.contains(&process.parent) && line.insert(process.identity.pid) {
                found.push(process.identity);
            }
        }
        if line.len() == before {
            return found;
        }
    }
}

fn is_born_since(process: &Process, lease: &Lease) -> bool {
    process.born_at + TICK >= lease.taken_at
}

/// What a process would have if its ancestors held no leases, where `found` came to it by birth from one that does.
pub fn before_birth<'a>(
    process: &Process,
    found: &Value,
    live: impl Iterator<Item = &'a Lease>,
    table: &[Process],
) -> Option<Value> {
    let mut live: Vec<(&Lease, &Value, &Vec<Prior>)> = live
        .filter_map(|lease| match &lease.effect {
            Effect::Value { value, prior } if value.knob() == found.knob() => Some((lease, value, prior)),
            _ => None,
        })
        .collect();
    live.sort_unstable_by_key(|(lease, ..)| lease.id);
    let is_source = |(lease, value, _): &&(&Lease, &Value, &Vec<Prior>)| {
        let is_parent = |target| descendants(target, lease, table).contains(&process.identity);
        *value == found && is_born_since(process, lease) && lease.target.process().is_some_and(is_parent)
    };
    let (source, ..) = live.iter().find(is_source)?;
    let (.., first) = live.iter().find(|(lease, ..)| lease.target == source.target)?;
    first.first().map(|prior| prior.value.clone())
}

fn relative_affinity(change: AffinityChange, prior: &Value, online: BTreeSet<u32>) -> CpuSet {
    let have = match prior {
        Value::Affinity(cpus) => cpus.0.clone(),
        _ => BTreeSet::new(),
    };
    let wanted = match change {
        AffinityChange::All => online.len(),
        AffinityChange::Cpus(cpus) => have.len().saturating_add_signed(cpus as isize),
        AffinityChange::Percent(percent) => (have.len() as f64 * (1.0 + f64::from(percent) / 100.0))
            .round()
            .max(0.0) as usize,
    }
    .clamp(1, online.len().max(1));
    // Those it has stay first, so that caches stay warm.
    let mut cpus: BTreeSet<u32> = have.iter().copied().take(wanted).collect();
    cpus.extend(
        online
            .iter()
            .filter(|cpu| !have.contains(cpu))
            .take(wanted - cpus.len().min(wanted)),
    );
    CpuSet(cpus)
}

/// The values of all threads in words: one value, or the distinct ones.
fn summary<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let distinct: BTreeSet<String> = values.map(Value::to_string).collect();
    distinct.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::ledger::lease;

    fn host_with(threads: u32, nice: i32) -> (FakeHost, Identity) {
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        let mut process = Process::example(100, "burner");
        (process.threads, process.nice) = (threads, nice);
        let target = host.add(process);
        (host, target)
    }

    fn niceness(host: &FakeHost, pid: i32) -> Vec<i32> {
        host.processes[&pid]
            .threads
            .values()
            .map(|thread| thread.nice)
            .collect()
    }

    fn take(host: &mut FakeHost, id: u64, target: Identity, nice: i32) -> Lease {
        let prepared = prepare(host, target, &Change::To(Value::Nice(nice))).unwrap();
        let mut prior = prepared.prior;
        let mut value = prepared.value;
        let effected = set(host, target, &mut value, &mut prior);
        assert_eq!(effected.outcome, Outcome::Applied, "{effected:?}");
        Lease {
            id,
            rule: "calm".into(),
            fingerprint: "f".into(),
            target: target.into(),
            name: "burner".into(),
            effect: Effect::Value { value, prior },
            taken_at: host.now.boot,
            deadline: Duration::MAX,
            settled: true,
        }
    }

    fn give_back(host: &mut FakeHost, lease: &Lease, live: &[Lease]) -> Outcome {
        let table = host.processes().unwrap();
        let what = lease::undo(lease, live.iter());
        undo(host, lease, &what, &table, &BTreeSet::new()).outcome
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
            .nice = -3;
        let lease = take(&mut host, 1, target, 15);
        assert_eq!(niceness(&host, 100), [15, 15, 15]);
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::Restored);
        assert_eq!(niceness(&host, 100), [0, -3, 0]);
    }

    #[test]
    fn threads_and_children_born_during_the_lease_are_restored_too() {
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
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::Restored);
        assert_eq!(niceness(&host, 100), [0, 0]);
        assert_eq!((niceness(&host, 200), niceness(&host, 201)), (vec![0], vec![0]));
        assert_eq!(niceness(&host, 300), [15], "no descendant");
    }

    #[test]
    fn orphans_that_may_be_ours_are_told_and_left_alone() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.advance(Duration::from_secs(5));
        for (pid, nice) in [(300, 15), (301, 0)] {
            let mut orphan = Process::example(pid, "daemon");
            (orphan.parent, orphan.nice, orphan.age) = (1, nice, Duration::ZERO);
            host.add(orphan);
        }
        let table = host.processes().unwrap();
        let what = lease::undo(&lease, std::iter::empty());
        let effected = undo(&mut host, &lease, &what, &table, &BTreeSet::new());
        assert!(effected.reason.contains("300 with the same nice value"), "{effected:?}");
        assert!(!effected.reason.contains("301"), "{effected:?}");
        assert_eq!(niceness(&host, 300), [15]);
    }

    #[test]
    fn children_born_before_the_lease_keep_what_they_chose() {
        let (mut host, target) = host_with(1, 0);
        let mut child = Process::example(200, "child");
        (child.parent, child.nice) = (100, 15);
        host.add(child);
        host.advance(Duration::from_secs(5));
        let lease = take(&mut host, 1, target, 15);
        give_back(&mut host, &lease, &[]);
        assert_eq!(niceness(&host, 200), [15]);
    }

    #[test]
    fn what_somebody_else_changed_is_left_alone() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&100)
            .unwrap()
            .nice = 7;
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::Superseded);
        assert_eq!(niceness(&host, 100), [7]);
    }

    #[test]
    fn the_older_holder_applies_again() {
        let (mut host, target) = host_with(2, 0);
        let first = take(&mut host, 1, target, 10);
        let second = take(&mut host, 2, target, 15);
        assert_eq!(
            give_back(&mut host, &second, &[first.clone(), second.clone()]),
            Outcome::Restored
        );
        assert_eq!(niceness(&host, 100), [10, 10]);
        assert_eq!(
            give_back(&mut host, &first, std::slice::from_ref(&first)),
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
            .policy = Policy::RealTime;
        let lease = take(&mut host, 1, target, 15);
        assert_eq!(niceness(&host, 100), [15, 0]);
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::Restored);
        host.processes
            .get_mut(&100)
            .unwrap()
            .threads
            .get_mut(&100)
            .unwrap()
            .policy = Policy::RealTime;
        assert_eq!(
            prepare(&mut host, target, &Change::To(Value::Nice(5)))
                .unwrap_err()
                .outcome,
            Outcome::Denied
        );
    }

    #[test]
    fn a_target_that_is_gone_or_another_is_an_outcome() {
        let (mut host, target) = host_with(1, 0);
        let lease = take(&mut host, 1, target, 15);
        host.processes.clear();
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::Gone);
        host.advance(Duration::from_secs(60));
        host.add(Process {
            age: Duration::ZERO,
            nice: 15,
            ..Process::example(100, "another")
        });
        assert_eq!(give_back(&mut host, &lease, &[]), Outcome::ChangedIdentity);
        assert_eq!(niceness(&host, 100), [15]);
    }

    #[test]
    fn affinity_is_relative_to_what_the_process_has() {
        let have = Value::Affinity("2-3".parse().unwrap());
        let online: BTreeSet<u32> = (0..8).collect();
        for (change, expected) in [
            (AffinityChange::All, "0-7"),
            (AffinityChange::Cpus(2), "0-3"),
            (AffinityChange::Cpus(-1), "2"),
            (AffinityChange::Cpus(-9), "2"),
            (AffinityChange::Percent(-50), "2"),
            (AffinityChange::Percent(900), "0-7"),
        ] {
            assert_eq!(
                relative_affinity(change, &have, online.clone()).to_string(),
                expected,
                "{change:?}"
            );
        }
    }
}
