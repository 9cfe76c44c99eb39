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
        let (call, tid) = ("sched_setattr", thread.tid());
        let number = match policy {
            Policy::Other => libc::SCHED_OTHER,
            Policy::Batch => libc::SCHED_BATCH,
            Policy::Idle => libc::SCHED_IDLE,
            Policy::RealTime => return called(call, tid, Err(io::ErrorKind::InvalidInput)),
        };
        let set = change_attributes(tid, |attributes| attributes.sched_policy = number as u32);
        called(call, tid, set)
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
    let flag = libc::SCHED_FLAG_RESET_ON_FORK as u64;
    let set = change_attributes(tid, |attributes| match resets {
        true => attributes.sched_flags |= flag,
        false => attributes.sched_flags &= !flag,
    });
    called("sched_setattr", tid, set)
}

/// Changes scheduling attributes of a thread, and keeps the others. It uses sched_setattr(2), because systemd's
/// `RestrictRealtime=` refuses SCHED_RESET_ON_FORK to callers of sched_setscheduler(2).
fn change_attributes(tid: i32, change: impl FnOnce(&mut libc::sched_attr)) -> Result<(), Errno> {
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the struct consists of integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to a struct of ours that lives through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attributes, size, 0) })?;
    // Flags beyond these describe fields that this struct lacks.
    attributes.sched_flags &= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    change(&mut attributes);
    // SAFETY: the kernel reads a struct of ours that lives through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attributes, 0) }).map(drop)
}
