//! `freeze`: whether a process is stopped (SIGSTOP, SIGCONT), or everything in a cgroup (`cgroup.freeze`).

use super::privileges::Privileges;
use super::process_knob::{Invalid, ProcessKnob};
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A stop is delivered when the process next runs in user mode or sleeps interruptibly; longer is not waited for.
const STOP_WAIT: Duration = Duration::from_millis(50);

pub struct Freeze;

impl ProcessKnob for Freeze {
    type Value = bool;

    const KEY: Key = optional(
        "freeze",
        Kind::Flag,
        "Stop the process, or everything in the cgroup. Reverted by letting it continue.",
    );
    const ABOUT_VALUE: &'static str = "Whether it is stopped: true or false.";
    const TARGETS: Targets = Targets::ProcessesOrCgroups;
    const IS_PER_THREAD: bool = false;
    /// The children of a stopped process run.
    const IS_INHERITED: bool = false;
    const CAPABILITIES: CapabilitySet = CapabilitySet::KILL;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let flag = fields.flag(Self::KEY.name, findings)?;
        if !flag.value {
            let help = "leave the step out; what was frozen continues when the alert resolves";
            findings.error(flag.span, "`freeze: false` does nothing", help);
            return Some(Err(Invalid));
        }
        Some(Ok(Change::To(Value::Freeze(true))))
    }

    fn get(thread: &mut dyn Access) -> Result<bool, HostError> {
        Ok(thread.process()?.state == 'T')
    }

    fn set(thread: &mut dyn Access, is_stopped: &bool) -> Result<(), HostError> {
        if !is_stopped {
            return thread.signal(Signal::SIGCONT);
        }
        thread.signal(Signal::SIGSTOP)?;
        let until = Instant::now() + STOP_WAIT;
        while thread.process()?.state != 'T' && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn may_undo(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.signal
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.others_signal
    }

    /// A stop may be pending on a process that is blocked in the kernel; only SIGCONT cancels it.
    fn is_always_written(ours: &bool, saved: &bool) -> bool {
        *ours && !*saved
    }
}
