//! `sched`: the CPU scheduling policy of each thread (sched(7)).

use super::access::{Access, HostError};
use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// CPU scheduling policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Other,
    Batch,
    Idle,
    /// Real-time and deadline policies are read so that they can be left alone; they are never set.
    RealTime,
}

impl Policy {
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Other => "other",
            Policy::Batch => "batch",
            Policy::Idle => "idle",
            Policy::RealTime => "real-time",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub struct Sched;

impl ProcessKnob for Sched {
    type Value = Policy;

    const KEY: Key = optional(
        "sched",
        Kind::Choice(&["batch", "idle", "other"]),
        "Scheduling policy of every thread. Reverted.",
    );
    const ABOUT_VALUE: &'static str = "Scheduling policy of every thread.";
    const IS_PER_THREAD: bool = true;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let policy = fields.choice(Self::KEY.name, findings)?;
        Some(Ok(Change::To(Value::Sched(match policy.value {
            "batch" => Policy::Batch,
            "idle" => Policy::Idle,
            _ => Policy::Other,
        }))))
    }

    fn initial() -> Policy {
        Policy::Other
    }

    fn get(thread: &mut dyn Access) -> Result<Policy, HostError> {
        let tid = thread.tid();
        // SAFETY: takes an integer, touches no memory of ours.
        let answer = unsafe { libc::sched_getscheduler(tid) };
        if answer < 0 {
            return Err(failed("sched_getscheduler", tid, io::Error::last_os_error()));
        }
        Ok(match answer & !libc::SCHED_RESET_ON_FORK {
            libc::SCHED_OTHER => Policy::Other,
            libc::SCHED_BATCH => Policy::Batch,
            libc::SCHED_IDLE => Policy::Idle,
            _ => Policy::RealTime,
        })
    }

    fn set(thread: &mut dyn Access, policy: &Policy) -> Result<(), HostError> {
        let (call, tid) = ("sched_setscheduler", thread.tid());
        let number = match policy {
            Policy::Other => libc::SCHED_OTHER,
            Policy::Batch => libc::SCHED_BATCH,
            Policy::Idle => libc::SCHED_IDLE,
            Policy::RealTime => return Err(failed(call, tid, io::ErrorKind::InvalidInput.into())),
        };
        // SAFETY: reads the flag of the thread, then a struct of ours that lives through the call.
        let answer = unsafe {
            let reset_on_fork = libc::sched_getscheduler(tid).max(0) & libc::SCHED_RESET_ON_FORK;
            let parameters = libc::sched_param { sched_priority: 0 };
            libc::sched_setscheduler(tid, number | reset_on_fork, &parameters)
        };
        if answer < 0 {
            return Err(failed(call, tid, io::Error::last_os_error()));
        }
        Ok(())
    }

    fn may_undo(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }
}

/// Whether the kernel resets the policy and a negative nice value of children of a thread (SCHED_RESET_ON_FORK).
pub fn resets_on_fork(tid: i32) -> Result<bool, HostError> {
    // SAFETY: takes an integer, touches no memory of ours.
    let answer = unsafe { libc::sched_getscheduler(tid) };
    match answer < 0 {
        true => Err(failed("sched_getscheduler", tid, io::Error::last_os_error())),
        false => Ok(answer & libc::SCHED_RESET_ON_FORK != 0),
    }
}

/// Makes the kernel reset children of a thread, or not. The policy and the nice value of the thread stay.
pub fn set_reset_on_fork(tid: i32, resets: bool) -> Result<(), HostError> {
    let flag = if resets { libc::SCHED_RESET_ON_FORK } else { 0 };
    // SAFETY: reads the policy of the thread, then a struct of ours that lives through the call.
    let answer = unsafe {
        let policy = libc::sched_getscheduler(tid);
        let parameters = libc::sched_param { sched_priority: 0 };
        match policy < 0 {
            true => policy,
            false => libc::sched_setscheduler(tid, (policy & !libc::SCHED_RESET_ON_FORK) | flag, &parameters),
        }
    };
    match answer < 0 {
        true => Err(failed("sched_setscheduler", tid, io::Error::last_os_error())),
        false => Ok(()),
    }
}

fn failed(call: &'static str, tid: i32, source: io::Error) -> HostError {
    HostError::of_call(call, "CAP_SYS_NICE", tid, source)
}
