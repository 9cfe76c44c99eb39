//! The application of a planned and allowed step. It decides nothing, because policy is in `plan` and `guard`. It
//! reads every outcome back from the host. `restore` reverts.

use super::guard;
use crate::host::{Host, HostError, Knob, Reach, Thread, Value};
use crate::knob::{Change, Policy};
use crate::ledger::lease::Favour;
use crate::ledger::{Outcome, SavedValue};
use crate::process::{Identity, ProcessFields};
pub use crate::step::StepResult;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

/// Number of passes over new threads; the step fails for a process that starts threads faster.
pub(super) const MAX_ROUNDS: usize = 16;

/// What a reversible step would set, and what each thread has now: the content of a lease before it is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub value: Value,
    pub saved: Vec<SavedValue>,
    /// Every thread has the value already.
    pub is_set_already: bool,
    /// Why the value has little effect; empty if it has its full effect.
    pub hint: String,
}

impl Prepared {
    /// Saves each value as the process's own, where no other lease has set it.
    pub fn save_as_own(&mut self, host: &mut impl Host, target: Identity) {
        for saved in &mut self.saved {
            saved.value = saved.value.clone().to_save(&mut || host.processors_of(target));
        }
    }
}

/// Reads the present value of every thread; never empty.
///
/// # Errors
/// With the outcome, when the process is gone or its values cannot be read.
pub fn read(host: &mut impl Host, target: Identity, knob: Knob) -> Result<Vec<SavedValue>, StepResult> {
    let threads = concerned(host, target, knob)?;
    if threads.is_empty() {
        return Err(StepResult::only(
            Outcome::Denied,
            "all threads are real-time, and evenkeel never changes those",
        ));
    }
    let mut saved = Vec::new();
    for thread in threads {
        match host.get(target, thread, knob) {
            Ok(value) => saved.push(SavedValue::of_thread(thread, value)),
            // A thread that exits meanwhile needs no restore.
            Err(HostError::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if saved.is_empty() {
        return Err(HostError::Gone { pid: target.pid }.into());
    }
    Ok(saved)
}

/// Applies a change to the underlying value, which is the one without the leases of other alerts.
///
/// # Errors
/// When it is not a change of a process.
pub fn prepare(
    host: &mut impl Host,
    target: Identity,
    change: &Change,
    underlying: &Value,
    saved: Vec<SavedValue>,
) -> Result<Prepared, StepResult> {
    let Some(value) = change.of_process(underlying, &mut || host.processors_of(target)) else {
        return Err(StepResult::only(Outcome::Failed, "a process has no limits of a cgroup"));
    };
    let hint = match host.reach(target, value.knob()) {
        Reach::Full => String::new(),
        Reach::Limited(reason) => reason,
        Reach::None(reason) => return Err(StepResult::only(Outcome::Failed, reason)),
    };
    let is_set_already = saved.iter().all(|saved| saved.value == value);
    Ok(Prepared {
        value,
        saved,
        is_set_already,
        hint,
    })
}

/// Sets `value` on every thread, including threads that start meanwhile, whose values are added to `saved`. `value` becomes the
/// one that the kernel kept.
pub fn set(host: &mut impl Host, target: Identity, value: &mut Value, saved: &mut Vec<SavedValue>) -> StepResult {
    let before = summary(saved.iter().map(|saved| &saved.value));
    let result = set_threads(host, target, value, saved).and_then(|()| read_back(host, target, value));
    let mut result = match result {
        // Another lease set it already. This lease is recorded anyway, so that the value outlives the other one.
        Ok(true) if saved.iter().all(|saved| saved.value == *value) => StepResult::only(Outcome::AlreadySet, ""),
        Ok(true) => StepResult::only(Outcome::Applied, ""),
        Ok(false) => StepResult::only(Outcome::NoEffect, "the kernel did not keep the value on every thread"),
        Err(result) => result,
    };
    result.before = Some(before);
    result.after = Some(value.to_string());
    result
}

fn set_threads(
    host: &mut impl Host,
    target: Identity,
    value: &Value,
    saved: &mut Vec<SavedValue>,
) -> Result<(), StepResult> {
    let inherited = saved.first().cloned();
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
    inherited: Option<&SavedValue>,
) -> Result<(), HostError> {
    let known = saved.iter().position(|saved| saved.thread() == thread);
    let place = known.unwrap_or(saved.len());
    if known.is_none() {
        let found = host.get(target, thread, value.knob())?;
        // Started by a thread with the new value during the lease, so its value is ours.
        let own = match inherited {
            Some(inherited) if found == *value => inherited.value.clone(),
            _ => found,
        };
        let favour = inherited.and_then(|inherited| inherited.favour.clone());
        let favour = favour.map(|favour| Favour {
            resets_on_fork: keeps_from_children(host, target, thread, value),
            ..favour
        });
        saved.push(SavedValue {
            favour,
            ..SavedValue::of_thread(thread, own)
        });
    }
    // First the flag, so that no child gets the value in between.
    if let Some(favour) = saved[place].favour.as_mut().filter(|favour| favour.resets_on_fork) {
        favour.resets_on_fork = host.set_reset_on_fork(target, thread, true).is_ok();
    }
    host.set(target, thread, value)
}

/// Whether evenkeel has to ask the kernel to keep a favourable value from the children of a thread.
pub fn keeps_from_children(host: &mut impl Host, target: Identity, thread: Thread, value: &Value) -> bool {
    value.is_reset_on_fork() && host.resets_on_fork(target, thread).is_ok_and(|resets| !resets)
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
    // The revert compares with the value that the kernel kept.
    if let (1, Some(now)) = (found.len(), found.first())
        && value.explains(now)
    {
        value.clone_from(now);
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

/// The threads with a knob, without real-time and deadline threads, which are never touched. Empty where all are such
/// threads; a process that exits meanwhile is gone.
pub(super) fn concerned(host: &mut impl Host, target: Identity, knob: Knob) -> Result<Vec<Thread>, HostError> {
    let threads = host.threads(target)?;
    if !knob.is_per_thread() {
        // The first thread stands for the process, also where it has exited and others run.
        return Ok(vec![target.main_thread()]);
    }
    let (mut normal, mut has_real_time) = (Vec::with_capacity(threads.len()), false);
    for thread in threads {
        match host.get(target, thread, Knob::Sched) {
            Ok(Value::Sched(Policy::RealTime)) => has_real_time = true,
            Ok(_) => normal.push(thread),
            Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // In a process that executes a program now, another thread becomes the first one.
    if normal.is_empty() && !has_real_time && !host.is_alive(target) {
        return Err(HostError::Gone { pid: target.pid });
    }
    Ok(normal)
}

/// The values of all threads as a string: one value, or the distinct ones.
fn summary<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let distinct: BTreeSet<String> = values.map(Value::to_string).collect();
    distinct.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::cgroup_limit;
    use crate::host::LinuxHost;
    use crate::host::fake::FakeHost;
    use crate::knob::{AffinityChange, CpuSet};
    use crate::process::table::Procfs;
    use crate::process::{Cgroup, CgroupIdentity, Process};
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

    /// The pid of a short-lived process goes to another one between two calls.
    #[test]
    fn process_that_exits_meanwhile_is_not_called_real_time() {
        for reused_every in 1..4 {
            let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
            let target = host.add(Process::example(100, "short"));
            host.hooks.reused_every = reused_every;
            let result = read(&mut host, target, Knob::Nice).unwrap_err();
            assert!(
                matches!(result.outcome, Outcome::Gone | Outcome::ChangedIdentity),
                "{result:?}"
            );
        }
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
            let underlying = saved[0].value.clone();
            let prepared = prepare(&mut host, target, &change, &underlying, saved).unwrap();
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
        assert!(cgroup_limit::capacity(&mut host, &here).processors >= most.iter().count());
    }
}
