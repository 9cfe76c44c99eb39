//! A process of the fake host with its threads, and the values that knobs have on them.

use crate::host::{Knob, Value};
use crate::process::Process;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub struct FakeProcess {
    pub process: Process,
    pub threads: BTreeMap<i32, FakeThread>,
    /// Ignored signals among those that would kill the process. SIGKILL and SIGSTOP cannot be ignored.
    pub ignores: BTreeSet<i32>,
    /// Of the knobs that the process has, not each thread. Its state says whether it is stopped.
    pub values: BTreeMap<Knob, Value>,
    /// The part of its resident memory that the kernel can page out.
    pub movable_bytes: u64,
    /// A stop signal waits for the end of an uninterruptible sleep (state D).
    pub is_stop_pending: bool,
    /// A deadly signal waits for the end of an uninterruptible sleep, a stop or a freeze.
    pub is_end_pending: bool,
    /// A freezer of cgroup v1 holds it.
    pub is_in_freezer: bool,
    /// The process is in exit(2): memory and executable are gone, but its state does not show that yet.
    pub is_exiting: bool,
}

#[derive(Debug, Clone)]
pub struct FakeThread {
    pub start_ticks: u64,
    /// Of the knobs that each thread has.
    pub values: BTreeMap<Knob, Value>,
    /// SCHED_RESET_ON_FORK.
    pub resets_on_fork: bool,
}

impl FakeProcess {
    pub fn put(&mut self, value: Value) {
        self.values.insert(value.knob(), value);
    }
}

impl FakeThread {
    pub fn put(&mut self, value: Value) {
        self.values.insert(value.knob(), value);
    }

    /// Its nice value, which the process table shows as well.
    pub fn nice(&self) -> i32 {
        match self.values.get(&Knob::Nice) {
            Some(Value::Nice(nice)) => *nice,
            _ => 0,
        }
    }
}
