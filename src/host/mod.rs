//! The host: its knobs, and the only place that sets them. Policy is in the layers above. The host acts only on the
//! process whose identity it was given.

pub mod cgroup;
pub mod job;
pub mod jobs;
pub mod fake;
#[cfg(test)]
pub mod fault;
pub mod knob;
pub mod limit;
mod limits;
pub mod linux;
mod pageout;
pub mod self_priority;
mod suspension;
mod systemd;
mod trial;
pub mod unit;

pub use cgroup::CgroupError;
pub use job::{Job, Report};
pub use jobs::JobRunner;
pub use knob::{Knob, Value};
use limit::Device;
pub use linux::LinuxHost;
pub use suspension::Suspension;
pub use unit::UnitState;

use crate::process::selector::Judgement;
use crate::process::{Cgroup, Identity, Process, ProcessFields, Selector};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// One moment on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME: it is never stepped, counts through suspend, and survives a restart of the daemon. All deadlines use it.
    pub boot: Duration,
    /// The wall clock, for people and for times of Alertmanager. It may be stepped.
    pub wall: Timestamp,
}

/// A thread, which is where Linux keeps most knobs. Thread ids are handed out again, hence the start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thread {
    pub tid: i32,
    pub start_ticks: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("process {pid} is gone")]
    Gone { pid: i32 },
    #[error("pid {pid} belongs to another process by now")]
    ChangedIdentity { pid: i32 },
    #[error("{what} of {pid}: not permitted ({missing} is needed)")]
    Denied {
        what: &'static str,
        pid: i32,
        missing: &'static str,
    },
    #[error("{what} of {pid}: {source}")]
    Failed {
        what: &'static str,
        pid: i32,
        source: io::Error,
    },
}

/// The value of a cgroup's knob, and the record of systemd if a unit owns the cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub value: Value,
    pub unit: Option<UnitState>,
}

/// Whether a limit of a unit's cgroup is still in place, and what changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Holds,
    /// systemd put back what was there before, as a reload does where the unit has a persistent drop-in for the same.
    TakenBySystemd,
    /// Another program wrote the file of the cgroup; systemd still has what was set.
    Overwritten,
    /// Another program changed the unit.
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

    /// Every process, as `/proc/PID/stat` tells.
    ///
    /// # Errors
    /// When the process table cannot be listed at all.
    fn processes(&mut self) -> io::Result<Vec<Process>>;

    /// Reads one process again, whichever process has the pid now.
    fn process(&mut self, pid: i32) -> Option<Process>;

    /// Reads more expensive fields. False when the pid belongs to another process by now.
    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool;

    /// Reads the fields of a selector, and returns whether the process matches. Fields that are not needed for that may stay unread.
    fn satisfies(&mut self, process: &mut Process, selector: &Selector) -> bool {
        self.read_details(process, selector.needs()) && selector.judge(process) == Judgement::Holds
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

    // The default is a host without cgroup v2.

    /// Every cgroup of the hierarchy of cgroup v2.
    ///
    /// # Errors
    /// When there is none.
    fn cgroups(&mut self) -> Result<Vec<Cgroup>, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// The present cgroup with a path.
    fn cgroup(&mut self, _path: &str) -> Option<Cgroup> {
        None
    }

    /// Pids of all processes in a cgroup and below it; 0 stands for one of another pid namespace.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced.
    fn members(&mut self, _cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Reads a knob of a cgroup.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, has no such file, or systemd cannot be asked.
    fn read_cgroup(&mut self, _cgroup: &Cgroup, _knob: Knob) -> Result<Reading, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Sets a knob of a cgroup, through systemd where `unit` is given.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, has no such file, or kernel or systemd refuse.
    fn set_cgroup(&mut self, _cgroup: &Cgroup, _value: &Value, _unit: Option<&UnitState>) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Restores the value of a cgroup's knob, and the record of systemd.
    ///
    /// # Errors
    /// As for [`Host::set_cgroup`].
    fn restore_cgroup(
        &mut self,
        _cgroup: &Cgroup,
        _value: &Value,
        _unit: Option<&UnitState>,
    ) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Whether a limit of a unit's cgroup is still in place.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or systemd cannot be asked.
    fn standing(&mut self, _cgroup: &Cgroup, _value: &Value, _unit: &UnitState) -> Result<Standing, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// The value that a unit's record gives to a file of its next cgroup, if known.
    fn recorded(&self, file: limit::CgroupFile, unit: &UnitState) -> Option<limit::Setting> {
        unit::recorded(file, unit)
    }

    /// For a unit whose cgroup is gone or was changed by another program: takes `ours` out of what systemd has on record for
    /// it, for `next` or, without that, for what was there before. What another program changed there stays; false where
    /// that is so.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    fn restore_unit(&mut self, _unit: &UnitState, _ours: &Value, _next: Option<&Value>) -> Result<bool, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Makes the kernel reclaim up to so many bytes that a cgroup uses.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or the kernel refuses.
    fn reclaim(&mut self, _cgroup: &Cgroup, _bytes: u64) -> Result<Reclaimed, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Kills every process in a cgroup and below it.
    ///
    /// # Errors
    /// When the cgroup is gone or was replaced, or the kernel refuses.
    fn kill_cgroup(&mut self, _cgroup: &Cgroup) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Whether any process is in a cgroup or below it; an error if it is gone or was replaced.
    ///
    /// # Errors
    /// When that is unknown.
    fn is_populated(&mut self, _cgroup: &Cgroup) -> Result<bool, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }

    /// Whether this process may change cgroups, and put them back.
    fn may_change_cgroups(&self) -> Result<(), &'static str> {
        Err("cgroup v2")
    }

    /// The number of a block device that a rule names by its path below `/dev`.
    fn device(&self, _path: &str) -> Option<Device> {
        None
    }

    /// Physical memory of the host.
    fn memory_bytes(&self) -> u64;

    /// Watches for the exit of this process, which the callback of the host reports. The memory of a process with a pending SIGKILL is
    /// freed at once, even if its exit takes long (process_mrelease(2)).
    fn watch_exit(&mut self, process: Identity);

    /// Starts a job and returns at once. The callback of the host receives its report, with the ticket.
    fn begin(&mut self, ticket: u64, job: Job);

    /// Pids of evenkeel itself and of all its ancestors.
    fn own_ancestors(&self) -> BTreeSet<i32>;

    /// Available memory (`MemAvailable` of proc(5)) in bytes; `None` if unreadable.
    fn available_memory(&mut self) -> Option<u64>;

    /// Processors of the host that are online, whichever evenkeel itself may run on.
    fn online_cpus(&self) -> BTreeSet<u32>;

    /// Processors that a process could have at most: those of its cpuset (cpuset(7)) that are online.
    fn processors_of(&mut self, _process: Identity) -> BTreeSet<u32> {
        self.online_cpus()
    }

    /// Processors that a cgroup could have at most: those of its cpuset that are online.
    fn processors_of_cgroup(&mut self, _cgroup: &Cgroup) -> BTreeSet<u32> {
        self.online_cpus()
    }

    /// The reason why the nice value of a process has little effect, if there is one.
    fn nice_reach(&mut self, _process: Identity) -> Option<String> {
        None
    }

    /// Whether signals can be sent to exactly one process; what is missing, if not.
    ///
    /// # Errors
    /// With the missing system call.
    fn may_signal(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether this process may set the knob to any value on any process, and put it back.
    fn may_undo(&self, knob: Knob) -> Result<(), &'static str>;

    /// Whether a knob of other users' processes can be set, and (`None`) signals be sent to them; what is missing, if not.
    ///
    /// # Errors
    /// Names it.
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

    /// Whether a process has ended, or is within exit(2): nothing of its program runs any more.
    fn is_ending(&mut self, process: Identity) -> bool {
        !self.is_alive(process)
    }

    /// Whether the very process still lives.
    fn is_alive(&mut self, process: Identity) -> bool {
        self.process(process.pid)
            .is_some_and(|now| now.identity == process && !now.is_dead())
    }
}
