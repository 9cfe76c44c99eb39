//! The trait of a knob of processes: what a file of this folder says about its knob. The defaults fit a knob whose
//! value is kept as it is written.

use super::Change;
use super::privileges::Privileges;
use super::thread_access::{Access, HostError};
use crate::diagnostic::Findings;
use crate::process::Process;
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::Key;
use crate::yaml::Fields;
use std::collections::BTreeSet;

/// Reads the processors that a process could have at most, for knobs that depend on them.
pub type Processors<'p> = &'p mut dyn FnMut() -> BTreeSet<u32>;

/// A value that is readable and makes no sense; a finding says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// How much effect a knob has on a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    Full,
    /// Little; the record of the step says why.
    Limited(String),
    /// None; the step fails with this reason.
    None(String),
}

/// A reversible property of a process or of each of its threads.
pub trait ProcessKnob {
    type Value: Clone + Default + Eq + Ord;

    /// Its key in a step of a rule. The name is the label value of `evenkeel_leases{knob}` as well.
    const KEY: Key;
    /// What the value of the key is in a test file, for the reference.
    const ABOUT_VALUE: &'static str;
    const TARGETS: Targets = Targets::Processes;
    /// Whether each thread has its own value, not the process (setpriority(2), "C library/kernel differences").
    const IS_PER_THREAD: bool;
    /// Whether a child process starts with a copy of the value, which has to be reverted as well.
    const IS_INHERITED: bool = true;
    /// What setting and reverting it on processes of all users takes.
    const CAPABILITIES: CapabilitySet;

    /// Reads the value of [`ProcessKnob::KEY`]. `None` if it has the wrong type.
    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>>;

    /// The value of a process that nothing has changed.
    fn initial() -> Self::Value {
        Self::Value::default()
    }

    /// # Errors
    /// When the process is gone or the kernel refuses.
    fn get(thread: &mut dyn Access) -> Result<Self::Value, HostError>;

    /// # Errors
    /// When the process is gone or the kernel refuses.
    fn set(thread: &mut dyn Access, value: &Self::Value) -> Result<(), HostError>;

    /// Whether evenkeel could set any value and revert it.
    ///
    /// # Errors
    /// With what is missing.
    fn may_undo(_: &Privileges) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether evenkeel could set it on processes of other users.
    ///
    /// # Errors
    /// With what is missing.
    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str>;

    /// How much effect a value has on a process.
    fn reach(_: &mut dyn Access) -> Reach {
        Reach::Full
    }

    /// A note on rules with this step on a host with these settings of the kernel, by their path below `/proc/sys`.
    fn note(_sysctl: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
        None
    }

    /// The value as far as the process table shows it, which saves a read.
    fn in_table(_: &Process) -> Option<Self::Value> {
        None
    }

    /// What the kernel keeps of a value that is written.
    fn kept(value: &Self::Value, _: Processors) -> Self::Value {
        value.clone()
    }

    /// Whether reading `found` back is what writing `wanted` may lead to.
    fn explains(wanted: &Self::Value, found: &Self::Value) -> bool {
        wanted == found
    }

    /// The value to save for the revert where a process had `found` of its own.
    fn to_save(found: Self::Value, _: Processors) -> Self::Value {
        found
    }

    /// Whether `found` means that `saved` is restored already.
    fn is_restored(found: &Self::Value, saved: &Self::Value, _: Processors) -> bool {
        found == saved
    }

    /// Whether a process with `value` is better off than with `other`, in a way that only root can arrange.
    fn favours(_value: &Self::Value, _other: &Self::Value) -> bool {
        false
    }

    /// Whether the kernel can keep a favourable value from children (SCHED_RESET_ON_FORK, sched(7)).
    fn is_reset_on_fork(_value: &Self::Value) -> bool {
        false
    }

    /// Whether a revert of `ours` writes `saved` without comparing what is found.
    fn is_always_written(_ours: &Self::Value, _saved: &Self::Value) -> bool {
        false
    }
}
