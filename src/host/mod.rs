//! The host: what can be set on its processes, and the one place where it is set. Policy is elsewhere: this room
//! obeys, but never acts on a process other than the one whose identity it was given.

pub mod errand;
pub mod fake;
#[cfg(test)]
pub mod fault;
pub mod knob;
pub mod linux;

pub use knob::{Knob, Value};
pub use linux::LinuxHost;

use crate::process::{Identity, Needs, Process};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// One moment on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME: never set, counts through suspend, survives a restart of the daemon. Rules all deadlines.
    pub boot: Duration,
    /// The calendar, for people and for what Alertmanager says. May jump.
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

/// Everything the engine sees of the world and does to it.
pub trait Host {
    fn now(&self) -> Moment;

    /// Every process, as `/proc/PID/stat` tells.
    ///
    /// # Errors
    /// When the process table cannot be listed at all.
    fn processes(&mut self) -> io::Result<Vec<Process>>;

    /// One process anew, whoever has the pid now.
    fn process(&mut self, pid: i32) -> Option<Process>;

    /// Reads dearer fields. False when the pid belongs to somebody else by now.
    fn read_details(&mut self, process: &mut Process, needs: Needs) -> bool;

    /// The live threads of a process.
    ///
    /// # Errors
    /// When the process is gone or the pid is somebody else's.
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
    /// When it is gone, the pid is somebody else's, or the kernel refuses.
    fn signal(&mut self, process: Identity, signal: Signal) -> Result<(), HostError>;

    /// Asks to be told, by the means the host was made with, when this process ends.
    fn watch_exit(&mut self, process: Identity);

    /// Pids of evenkeel itself and of all its ancestors.
    fn own_line(&self) -> BTreeSet<i32>;

    /// Processors that can be used.
    fn online_cpus(&self) -> BTreeSet<u32>;

    /// Whether this process may set the knob to any value on any process, and put it back.
    fn may_undo(&self, knob: Knob) -> Result<(), &'static str>;

    /// Whether the very process still lives.
    fn is_alive(&mut self, process: Identity) -> bool {
        self.process(process.pid)
            .is_some_and(|now| now.identity == process && !now.is_dead())
    }
}
