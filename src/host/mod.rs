//! The interface to the host: reads and sets knobs, sends signals and starts jobs. No other module changes the host.
//! Policy is in the layers above. A change affects only the process with the given identity.

pub mod cgroup;
pub mod file_limit;
pub mod job;
pub mod job_runner;
pub mod fake;
#[cfg(test)]
pub mod fault;
mod cgroup_limits;
pub mod linux;
pub mod fork;
pub mod own_processes;
mod pageout;
pub mod program_pages;
pub mod runner;
pub mod self_priority;
mod suspension;
mod systemd;
pub mod umask;
pub mod unit;

pub use crate::knob::{HostError, Knob, Reach, Value};
pub use crate::process::Thread;
pub use cgroup::CgroupError;
pub use job::{Job, Report};
pub use linux::LinuxHost;
pub use runner::RunnerClient;
pub use suspension::Suspension;
pub use unit::UnitState;

use crate::knob::limit::{CgroupFile, Device, Setting};
use crate::process::selector::SelectorMatch;
use crate::process::{Cgroup, Identity, Process, ProcessFields, Selector};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// One moment on two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME: never stepped, counts during suspend, and continues across restarts of the daemon. All deadlines
    /// use it.
    pub boot: Duration,
    /// The wall clock, for display and for times from Alertmanager. It may be stepped.
    pub wall: Timestamp,
}

/// The value of a cgroup's knob, and the record of systemd if a unit owns the cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub value: Value,
    pub unit: Option<UnitState>,
}

/// Whether a limit of a unit's cgroup is still in place, and what changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitState {
    Holds,
    /// systemd restored the former value, as a reload does for a unit with a persistent drop-in for the same property.
    ResetBySystemd,
    /// Another program wrote the cgroup's file; the property in systemd is unchanged.
    Overwritten,
    /// Another program changed the property of the unit.
    Changed,
}

/// Bytes in use before and after a reclaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaimed {
    pub before: u64,
    pub after: u64,
}

/// The interface through which the engine reads and changes the host.
pub trait Host {
    fn now(&self) -> Moment;

    /// Every process, with the fields of `/proc/PID/stat`.
    ///
    /// # Errors
    /// When the process table cannot be listed.
    fn processes(&mut self) -> io::Result<Vec<Process>>;

    /// Reads one process again, whichever process has the pid now; `None` if there is none or it cannot be read.
    fn process(&mut self, pid: i32) -> Option<Process>;

    /// The same, for those who must not take a process that cannot be read for one that is gone.
    ///
    /// # Errors
    /// When a process with the pid may run and cannot be read, for example without a free descriptor.
    fn find_process(&mut self, pid: i32) -> io::Result<Option<Process>> {
        Ok(self.process(pid))
    }

    /// Reads more expensive fields, and the name again. False when the pid belongs to another process by now;
    /// [`crate::process::Details::unread`] says whether the fields can be relied on.
    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool;

    /// Looks up the users that selectors name, because a look-up may take long.
    fn prepare_users(&mut self, _names: &[&str]) {}

    /// The same for one of many processes. A command line that is not read within a budget of time is unread.
    fn read_details_in_time(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        self.read_details(process, needs)
    }

    /// Reads the fields of a selector and returns whether the process matches. Where it does, reads `more` as well. Of
    /// a process that does not match, fields may stay unread, and of any process the command line, as above.
    fn satisfies(&mut self, process: &mut Process, selector: &Selector, more: ProcessFields) -> bool {
        self.read_details(process, selector.needs())
            && selector.judge(process) == SelectorMatch::Holds
            && self.read_details(process, more)
            && process.details.unread.is_none()
            && selector.judge(process) == SelectorMatch::Holds
    }

    /// The live threads of a process.
    ///
    /// # Errors
    /// When the process is gone or the pid belongs to another process.
    fn threads(&mut self, process: Identity) -> Result<Vec<Thread>, HostError>;

    /// The value of a knob on a thread; of the process where the knob belongs to it.
    ///
    /// # Errors
    /// When thread or process is gone, or the kernel refuses.
    fn get(&mut self, process: Identity, thread: Thread, knob: Knob) -> Result<Value, HostError>;

    /// Sets a knob on a thread; on the process where the knob belongs to it.
    ///
    /// # Errors
    /// When thread or process is gone, or the kernel refuses.
    fn set(&mut self, process: Identity, thread: Thread, value: &Value) -> Result<(), HostError>;

    /// Whether the kernel resets a favourable nice value in children of a thread (SCHED_RESET_ON_FORK).
    ///
    /// # Errors
    /// As for [`Host::get`].
    fn resets_on_fork(&mut self, process: Identity, thread: Thread) -> Result<bool, HostError>;

    /// Makes the kernel reset a favourable nice value in children of a thread, or not.
    ///
    /// # Errors
    /// As for [`Host::set`].
    fn set_reset_on_fork(&mut self, process: Identity, thread: Thread, resets: bool) -> Result<(), HostError>;

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// When it is gone, the pid belongs to another process, or the kernel refuses.
    fn signal(&mut self, process: Identity, signal: Signal) -> Result<(), HostError>;

    /// The reason why a process does not run, and so receives no signals.
    fn suspensions(&mut self, process: Identity) -> Vec<Suspension> {
        let now = self.process(process.pid).filter(|now| now.identity == process);
        now.as_ref().and_then(Suspension::of_state).into_iter().collect()
    }

    /// Makes the kernel page out up to this many bytes of a process.
    ///
    /// # Errors
    /// When it is gone, the pid belongs to another process, or the kernel refuses.
    fn page_out(&mut self, process: Identity, bytes: u64) -> Result<Reclaimed, HostError>;

    /// Every cgroup of the cgroup v2 hierarchy.
    ///
    /// # Errors
    /// When there is no hierarchy.
    fn cgroups(&mut self) -> Result<Vec<Cgroup>, CgroupError>;

    /// The cgroup that has this path now.
    fn cgroup(&mut self, path: &str) -> Option<Cgroup>;

    /// Pids of all processes in a cgroup and below it. A process of another pid namespace has the pid 0.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced.
    fn members(&mut self, cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError>;

    /// Reads a knob of a cgroup.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, has no such file, or systemd cannot be asked.
    fn read_cgroup(&mut self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, CgroupError>;

    /// Sets a knob of a cgroup, through systemd where `unit` is given.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, has no such file, or kernel or systemd refuse.
    fn set_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError>;

    /// Restores the value of a cgroup's knob, and the record of systemd.
    ///
    /// # Errors
    /// As for [`Host::set_cgroup`].
    fn restore_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError>;

    /// Whether a limit of a unit's cgroup is still in place.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or systemd cannot be asked.
    fn limit_state(&mut self, cgroup: &Cgroup, value: &Value, unit: &UnitState) -> Result<LimitState, CgroupError>;

    /// The value that a unit's record gives to a file of its next cgroup, if known.
    fn recorded(&self, file: CgroupFile, unit: &UnitState) -> Option<Setting> {
        unit::recorded(file, unit)
    }

    /// For a unit whose cgroup is gone or was changed by another program: replaces `ours` in systemd's record of the
    /// unit by `next` or, without `next`, by the former value. Changes by another program stay; returns false if there
    /// are any.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    fn restore_unit(&mut self, unit: &UnitState, ours: &Value, next: Option<&Value>) -> Result<bool, CgroupError>;

    /// Makes the kernel reclaim up to this many bytes of a cgroup.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or the kernel refuses.
    fn reclaim(&mut self, cgroup: &Cgroup, bytes: u64) -> Result<Reclaimed, CgroupError>;

    /// Kills every process in a cgroup and below it.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or the kernel refuses.
    fn kill_cgroup(&mut self, cgroup: &Cgroup) -> Result<(), CgroupError>;

    /// Whether any process is in a cgroup or below it; an error if it is gone or was replaced.
    ///
    /// # Errors
    /// When that is unknown.
    fn is_populated(&mut self, cgroup: &Cgroup) -> Result<bool, CgroupError>;

    /// Whether evenkeel may change and restore cgroups; the missing privilege, if not.
    fn may_change_cgroups(&self) -> Result<(), &'static str>;

    /// The number of a block device that a rule names by its path below `/dev`.
    fn device(&self, path: &str) -> Option<Device>;

    /// Physical memory of the host.
    fn memory_bytes(&self) -> u64;

    /// Watches for the exit of this process, which the callback of the host reports. The memory of a process with a
    /// pending SIGKILL is freed at once, even if its exit takes long (process_mrelease(2)).
    fn watch_exit(&mut self, process: Identity);

    /// Starts a job and returns at once. The callback of the host receives its report, with the ticket.
    fn begin(&mut self, ticket: u64, job: Job);

    /// Pids of evenkeel's processes and of all their ancestors.
    fn own_ancestors(&self) -> BTreeSet<i32>;

    /// The same, for those who know them from before.
    ///
    /// # Errors
    /// When one of them cannot be read.
    fn find_own_ancestors(&self) -> io::Result<BTreeSet<i32>> {
        Ok(self.own_ancestors())
    }

    /// Available memory (`MemAvailable` of proc(5)) in bytes; `None` if unreadable.
    fn available_memory(&mut self) -> Option<u64>;

    /// Online processors of the host, regardless of evenkeel's own affinity.
    fn online_cpus(&self) -> BTreeSet<u32>;

    /// The online processors of a process's cpuset (cpuset(7)), which bound its affinity.
    fn processors_of(&mut self, process: Identity) -> BTreeSet<u32>;

    /// The online processors of a cgroup's cpuset.
    fn processors_of_cgroup(&mut self, cgroup: &Cgroup) -> BTreeSet<u32>;

    /// How much effect a knob has on a process.
    fn reach(&mut self, _process: Identity, _knob: Knob) -> Reach {
        Reach::Full
    }

    /// Whether signals can be sent to exactly one process.
    ///
    /// # Errors
    /// With the missing system call.
    fn may_signal(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether evenkeel may set and restore the knob on any process; the missing privilege, if not.
    fn may_undo(&self, knob: Knob) -> Result<(), &'static str>;

    /// Whether evenkeel may set a knob of other users' processes, or, with `None`, send them signals.
    ///
    /// # Errors
    /// With the missing privilege.
    fn may_reach_others(&self, _knob: Option<Knob>) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether the executables of other users' processes are readable, because rules select only identified processes.
    ///
    /// # Errors
    /// With the missing capability.
    fn may_identify_others(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether a process belongs to the user that evenkeel runs as. Used only without access to other users' processes.
    fn is_own(&self, _process: Identity) -> bool {
        true
    }

    /// Whether a process has exited or is in exit(2), so that its program no longer runs.
    fn is_ending(&mut self, process: Identity) -> bool {
        !self.is_alive(process)
    }

    /// Whether the process with this identity is alive, as one that cannot be read may be.
    fn is_alive(&mut self, process: Identity) -> bool {
        let is_it = |now: Process| now.identity == process && !now.is_dead();
        self.find_process(process.pid)
            .map_or(true, |now| now.is_some_and(is_it))
    }
}
