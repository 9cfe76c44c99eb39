//! `nice`: the nice value of each thread (setpriority(2)). The kernel lowers a nice value for CAP_SYS_NICE only.

use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob, Reach};
use super::scheduling;
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::process::Process;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use rustix::process::Pid;

pub struct Nice;

impl ProcessKnob for Nice {
    /// -20 (most favoured) to 19.
    type Value = i32;

    const KEY: Key = optional("nice", Kind::Integer(-20, 19), "Nice value of every thread. Reverted.");
    const ABOUT_VALUE: &'static str = "Nice value of every thread.";
    const IS_PER_THREAD: bool = true;
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_NICE;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let nice = fields.integer(Self::KEY.name, findings)?;
        Some(Ok(Change::To(Value::Nice(i32::try_from(nice.value).ok()?))))
    }

    fn get(thread: &mut dyn Access) -> Result<i32, HostError> {
        let tid = thread.tid();
        let nice = rustix::process::getpriority_process(Pid::from_raw(tid));
        scheduling::called("getpriority", tid, nice)
    }

    fn set(thread: &mut dyn Access, nice: &i32) -> Result<(), HostError> {
        let tid = thread.tid();
        let result = rustix::process::setpriority_process(Pid::from_raw(tid), *nice);
        scheduling::called("setpriority", tid, result)
    }

    fn may_undo(privileges: &Privileges) -> Result<(), &'static str> {
        // A filter of system calls may forbid what the capability allows.
        privileges.nice.and(privileges.need(CAP_SYS_NICE))
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }

    /// A cgroup with a share of its own, or a session with one, competes with others by that share (sched(7), "The nice
    /// value and group scheduling").
    fn reach(thread: &mut dyn Access) -> Reach {
        limit_of_reach(thread).map_or(Reach::Full, Reach::Limited)
    }

    fn note(sysctl: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
        scheduling::has_autogroups(sysctl(scheduling::AUTOGROUPS)).then_some(
            "note: kernel.sched_autogroup_enabled is 1 on this host, so outside of cgroups nice counts only among the \
             processes of one session; the step `autogroup` sets the nice value of a session, and `evenkeel explain` \
             shows which processes it concerns",
        )
    }

    fn favours(nice: &i32, other: &i32) -> bool {
        nice < other
    }

    /// The kernel resets negative values only.
    fn is_reset_on_fork(nice: &i32) -> bool {
        *nice < 0
    }

    fn in_table(process: &Process) -> Option<i32> {
        Some(process.nice)
    }
}

fn limit_of_reach(thread: &mut dyn Access) -> Option<String> {
    if let Some(path) = scheduling::cgroup_with_share(thread) {
        return Some(format!(
            "its cgroup {path} has a share of the processors of its own (cpu.weight): nice counts only among the \
             processes in it"
        ));
    }
    scheduling::has_autogroups(thread.sysctl(scheduling::AUTOGROUPS)).then_some(())?;
    thread.read("autogroup").ok()?;
    let session = thread.process().ok()?.session;
    Some(format!(
        "kernel.sched_autogroup_enabled is 1: nice counts only among the processes of its session {session}, and the \
         step `autogroup` sets the nice value of the session (sched(7))"
    ))
}
