//! `sched`: the CPU scheduling policy of each thread (sched(7)).

use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob};
use super::scheduling::called;
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// CPU scheduling policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    Other,
    Batch,
    Idle,
    /// Real-time and deadline policies are read so that they can be left alone; they are never set.
    RealTime,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Other => "other",
            Policy::Batch => "batch",
            Policy::Idle => "idle",
            Policy::RealTime => "real-time",
        })
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
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_NICE;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let policy = fields.choice(Self::KEY.name, findings)?;
        Some(Ok(Change::To(Value::Sched(match policy.value {
            "batch" => Policy::Batch,
            "idle" => Policy::Idle,
            _ => Policy::Other,
        }))))
    }

    fn get(thread: &mut dyn Access) -> Result<Policy, HostError> {
        let tid = thread.tid();
        // SAFETY: takes an integer, touches no memory of ours.
        let answer = unsafe { libc::sched_getscheduler(tid) };
        let answer = called("sched_getscheduler", tid, Errno::result(answer))?;
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
            Policy::RealTime => return called(call, tid, Err(io::ErrorKind::InvalidInput)),
        };
        // SAFETY: reads the flag of the thread, then a struct of ours that lives through the call.
        let answer = unsafe {
            let reset_on_fork = libc::sched_getscheduler(tid).max(0) & libc::SCHED_RESET_ON_FORK;
            let parameters = libc::sched_param { sched_priority: 0 };
            libc::sched_setscheduler(tid, number | reset_on_fork, &parameters)
        };
        called(call, tid, Errno::result(answer)).map(drop)
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
    let answer = called("sched_getscheduler", tid, Errno::result(answer))?;
    Ok(answer & libc::SCHED_RESET_ON_FORK != 0)
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
    called("sched_setscheduler", tid, Errno::result(answer)).map(drop)
}
