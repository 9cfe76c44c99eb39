//! The application of a planned and allowed step. It decides nothing, because policy is in `plan` and `guard`. It
//! reads every outcome back from the host. `restore` reverts.

use super::guard;
use crate::host::knob::{CpuSet, Policy};
use crate::host::{CgroupError, Host, HostError, Knob, Thread, Value};
use crate::ledger::{Outcome, SavedValue};
use crate::process::{Identity, ProcessFields};
use crate::rule::step::{AffinityChange, Change};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

/// Number of passes over new threads; the step fails for a process that starts threads faster.
pub(super) const MAX_ROUNDS: usize = 16;

/// The outcome of a step, with the values before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    pub outcome: Outcome,
    pub before: Option<String>,
    pub after: Option<String>,
    pub reason: String,
}

impl StepResult {
    pub fn only(outcome: Outcome, reason: impl Into<String>) -> StepResult {
        StepResult {
            outcome,
            before: None,
            after: None,
            reason: reason.into(),
        }
    }
}

impl From<HostError> for StepResult {
    fn from(error: HostError) -> StepResult {
        let outcome = match &error {
            HostError::Gone { .. } => Outcome::Gone,
            HostError::ChangedIdentity { .. } => Outcome::ChangedIdentity,
            HostError::Denied { .. } => Outcome::Denied,
            HostError::Failed { .. } => Outcome::Failed,
        };
        StepResult::only(outcome, error.to_string())
    }
}

impl From<CgroupError> for StepResult {
    fn from(error: CgroupError) -> StepResult {
        let outcome = match &error {
            CgroupError::Gone { .. } => Outcome::Gone,
            CgroupError::ChangedIdentity { .. } => Outcome::ChangedIdentity,
            CgroupError::Denied { .. } => Outcome::Denied,
            CgroupError::Missing { .. }
            | CgroupError::Failed { .. }
            | CgroupError::NoHierarchy
            | CgroupError::Systemd { .. } => Outcome::Failed,
        };
        StepResult::only(outcome, error.to_string())
    }
}

/// What a reversible step would set, and what each thread has now: the content of a lease before it is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub value: Value,
    pub saved: Vec<SavedValue>,
    /// Every thread has the value already.
    pub is_set_already: bool,
}

impl Prepared {
    /// Treats a mask of all possible processors as no mask, and restores it as such, so that it includes processors that are added
    /// meanwhile (cpuset(7)).
    pub fn widen(&mut self, processors: &BTreeSet<u32>) {
        for saved in &mut self.saved {
            if let Value::Affinity(cpus) = &mut saved.value
                && processors.iter().all(|cpu| cpus.contains(*cpu))
            {
                *cpus = CpuSet::every();
            }
        }
    }
}

/// Reads the present value of every thread; never empty.
///
/// # Errors
/// With the outcome, when the process is gone or its values cannot be read.
pub fn read(host: &mut impl Host, target: Identity, knob: Knob) -> Result<Vec<SavedValue>, StepResult> {
    let mut saved = Vec::new();
    for thread in concerned(host, target, knob)? {
        match host.get(target, thread, knob) {
            Ok(value) => saved.push(SavedValue {
                tid: thread.tid,
                start_ticks: thread.start_ticks,
                value,
                unit: None,
            }),
            // A thread that exits meanwhile needs no restore.
            Err(HostError::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if saved.is_empty() {
        return Err(StepResult::only(
            Outcome::Denied,
            "all threads are real-time, and evenkeel never changes those",
        ));
    }
    Ok(saved)
}

/// Applies a change to its base, which is the value without the leases of other alerts.
///
/// # Errors
/// When it is not a change of a process.
pub fn prepare(
    host: &mut impl Host,
    target: Identity,
    change: &Change,
    base: &Value,
    saved: Vec<SavedValue>,
) -> Result<Prepared, StepResult> {
    let value = match change {
        // The kernel drops missing processors, and a comparison with the value read back would fail.
        Change::To(Value::Affinity(cpus)) => {
            let most = host.processors_of(target);
            Value::Affinity(most.into_iter().filter(|cpu| cpus.contains(*cpu)).collect())
        }
        Change::To(value) => value.clone(),
        Change::Affinity(change) => {
            let most = host.processors_of(target);
            Value::Affinity(relative_affinity(*change, base, most))
        }
        Change::Limit { .. } | Change::Io(_) => {
            return Err(StepResult::only(Outcome::Failed, "a process has no limits of a cgroup"));
        }
    };
    let is_set_already = saved.iter().all(|saved| saved.value == value);
    Ok(Prepared {
        value,
        saved,
        is_set_already,
    })
}

/// Sets `value` on every thread, including threads that start meanwhile, whose values are added to `saved`. `value` becomes the
/// one that the kernel kept.
pub fn set(host: &mut impl Host, target: Identity, value: &mut Value, saved: &mut Vec<SavedValue>) -> StepResult {
    let before = summary(saved.iter().map(|saved| &saved.value));
    let result = set_threads(host, target, value, saved).and_then(|()| read_back(host, target, value));
    let mut effected = match result {
        // Another lease set it already. This lease is recorded anyway, so that the value outlives the other one.
        Ok(true) if saved.iter().all(|saved| saved.value == *value) => StepResult::only(Outcome::AlreadySet, ""),
        Ok(true) => StepResult::only(Outcome::Applied, ""),
        Ok(false) => StepResult::only(Outcome::NoEffect, "the kernel did not keep the value on every thread"),
        Err(effected) => effected,
    };
    effected.before = Some(before);
    effected.after = Some(value.to_string());
    effected
}

fn set_threads(
    host: &mut impl Host,
    target: Identity,
    value: &Value,
    saved: &mut Vec<SavedValue>,
) -> Result<(), StepResult> {
    let inherited = saved.first().map(|saved| saved.value.clone());
    let mut done = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let threads = concerned(host, target, value.knob())?;
        let new: Vec<Thread> = threads.into_iter().filter(|thread| !done.contains(thread)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for thread in new {
            done.insert(thread);
            match set_thread(host, target, thread, value, saved, inherited.as_ref()) {
                // An exited thread, whose id may be reused, is not a failure.
                Ok(()) | Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) if host.is_alive(target) => {}
                Ok(()) => return Err(HostError::Gone { pid: target.pid }.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(StepResult::only(
        Outcome::Failed,
        "new threads start faster than evenkeel can set the value",
    ))
}

fn set_thread(
    host: &mut impl Host,
    target: Identity,
    thread: Thread,
    value: &Value,
    saved: &mut Vec<SavedValue>,
    inherited: Option<&Value>,
) -> Result<(), HostError> {
    if !saved.iter().any(|saved| saved.thread() == thread) {
        let found = host.get(target, thread, value.knob())?;
        // Started by a thread with the new value during the lease, so its value is ours.
        let own = if found == *value {
            inherited.cloned().unwrap_or(found)
        } else {
            found
        };
        saved.push(SavedValue {
            tid: thread.tid,
            start_ticks: thread.start_ticks,
            value: own,
            unit: None,
        });
    }
    host.set(target, thread, value)
}

fn read_back(host: &mut impl Host, target: Identity, value: &mut Value) -> Result<bool, StepResult> {
    let mut found = BTreeSet::new();
    for thread in concerned(host, target, value.knob())? {
        match host.get(target, thread, value.knob()) {
            Ok(now) => found.insert(now),
            Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => false,
            Err(error) => return Err(error.into()),
        };
    }
    // A cpuset (cpuset(7)) reduces a mask. The revert compares with the value that the kernel kept.
    if let (Value::Affinity(wanted), 1, Some(Value::Affinity(now))) = (&*value, found.len(), found.first())
        && now.iter().next().is_some()
        && now.iter().all(|cpu| wanted.contains(cpu))
    {
        *value = Value::Affinity(now.clone());
    }
    Ok(found.iter().all(|now| now == value))
}

/// Checks that a process handles a signal now. After exec(2) a program has no handlers, and the signal would kill it.
///
/// # Errors
/// With the outcome, if it does not, or if that is unknown.
pub fn catches(host: &mut impl Host, target: Identity, signal: Signal) -> Result<(), StepResult> {
    let Some(mut process) = host.process(target.pid).filter(|process| process.identity == target) else {
        return Err(HostError::Gone { pid: target.pid }.into());
    };
    if !host.read_details(&mut process, ProcessFields::SIGNALS) {
        return Err(HostError::Gone { pid: target.pid }.into());
    }
    guard::notice(&process, signal).map_err(|denial| StepResult::only(Outcome::Superseded, denial.reason))
}

/// The threads with a knob, without real-time and deadline threads, which are never touched.
pub(super) fn concerned(host: &mut impl Host, target: Identity, knob: Knob) -> Result<Vec<Thread>, HostError> {
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

/// `most` are the possible processors of the target.
fn relative_affinity(change: AffinityChange, saved: &Value, most: BTreeSet<u32>) -> CpuSet {
    // Without a mask a target has all of them.
    let have: BTreeSet<u32> = match saved {
        Value::Affinity(cpus) => most.iter().copied().filter(|cpu| cpus.contains(*cpu)).collect(),
        _ => BTreeSet::new(),
    };
    let wanted = match change {
        AffinityChange::All => most.len(),
        AffinityChange::Cpus(cpus) => have.len().saturating_add_signed(cpus as isize),
        AffinityChange::Percent(percent) => (have.len() as f64 * (1.0 + f64::from(percent) / 100.0))
            .round()
            .max(0.0) as usize,
    }
    .clamp(1, most.len().max(1));
    // Present processors come first, because their caches are warm.
    let mut cpus: BTreeSet<u32> = have.iter().copied().take(wanted).collect();
    cpus.extend(
        most.iter()
            .filter(|cpu| !have.contains(cpu))
            .take(wanted - cpus.len().min(wanted)),
    );
    cpus.into_iter().collect()
}

/// The values of all threads as a string: one value, or the distinct ones.
fn summary<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let distinct: BTreeSet<String> = values.map(Value::to_string).collect();
    distinct.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::limit::Capacity;
    use crate::host::LinuxHost;
    use crate::process::table::Procfs;
    use crate::process::{Cgroup, CgroupIdentity};
    use std::path::Path;
    use std::sync::Arc;

    struct Sleeper(std::process::Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Pins the calling thread, which is evenkeel here, to the first processor that it has.
    fn pin_this_thread() {
        let has = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU)
            .find(|cpu| has.is_set(*cpu))
            .unwrap();
        let mut one = rustix::thread::CpuSet::new();
        one.set(first);
        rustix::thread::sched_setaffinity(None, &one).unwrap();
    }

    #[test]
    fn own_affinity_does_not_limit_a_real_target() {
        let child = Sleeper(std::process::Command::new("sleep").arg("600").spawn().unwrap());
        let mut host = LinuxHost::new(Procfs::open(Path::new("/proc")).unwrap(), Arc::new(|_| ()));
        let target = host.process(child.0.id() as i32).unwrap().identity;
        let main = host.threads(target).unwrap()[0];
        // The kernel cuts this down to what the target may have at most.
        host.set(target, main, &Value::Affinity(CpuSet::every())).unwrap();
        let most = host.get(target, main, Knob::Affinity).unwrap();
        pin_this_thread();
        for change in [
            Change::To(Value::Affinity(CpuSet::every())),
            Change::Affinity(AffinityChange::All),
            Change::Affinity(AffinityChange::Percent(100)),
        ] {
            let saved = read(&mut host, target, Knob::Affinity).unwrap();
            let base = saved[0].value.clone();
            let prepared = prepare(&mut host, target, &change, &base, saved).unwrap();
            assert_eq!(prepared.value, most, "{change:?}");
        }
        let Value::Affinity(most) = most else { panic!() };
        let here = Cgroup::at(
            CgroupIdentity {
                boot: target.boot,
                inode: 0,
            },
            "/".to_owned(),
        );
        assert!(Capacity::of(&mut host, &here).processors >= most.iter().count());
    }

    #[test]
    fn affinity_is_relative_to_what_the_process_has() {
        let have = Value::Affinity("2-3".parse().unwrap());
        let most: BTreeSet<u32> = (0..8).collect();
        for (change, expected) in [
            (AffinityChange::All, "0-7"),
            (AffinityChange::Cpus(2), "0-3"),
            (AffinityChange::Cpus(-1), "2"),
            (AffinityChange::Cpus(-9), "2"),
            (AffinityChange::Percent(-50), "2"),
            (AffinityChange::Percent(900), "0-7"),
        ] {
            assert_eq!(
                relative_affinity(change, &have, most.clone()).to_string(),
                expected,
                "{change:?}"
            );
        }
    }
}
