//! The access that a host gives a knob to one thread of one process, and the errors of such an access. Data and a
//! trait.

use crate::process::Process;
use nix::libc;
use nix::sys::signal::Signal;
use std::io;

/// A read or a write that the host did not do.
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

impl HostError {
    /// The error of a call named `what` on a process or thread, which needs the capability `missing` where it is
    /// denied.
    pub fn of_call(what: &'static str, missing: &'static str, pid: i32, source: io::Error) -> HostError {
        match source.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => HostError::Gone { pid },
            Some(libc::EPERM | libc::EACCES) => HostError::Denied { what, pid, missing },
            _ => HostError::Failed { what, pid, source },
        }
    }
}

/// One thread of one process on the real host. The host compares the identity of the thread before and after each use.
pub trait Access {
    fn pid(&self) -> i32;

    fn tid(&self) -> i32;

    /// The process as it is now.
    ///
    /// # Errors
    /// When it is gone, or the pid belongs to another process.
    fn process(&mut self) -> Result<Process, HostError>;

    /// The text of `/proc/PID/NAME`.
    ///
    /// # Errors
    /// Those of open(2) and read(2).
    fn read(&mut self, name: &str) -> io::Result<String>;

    /// Writes to `/proc/PID/NAME`, through a descriptor whose process is compared after it was opened.
    ///
    /// # Errors
    /// When the process is gone or another, or the kernel refuses, for example without the capability `missing`.
    fn write(&mut self, name: &'static str, missing: &'static str, text: &str) -> Result<(), HostError>;

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// As [`Access::write`].
    fn signal(&mut self, signal: Signal) -> Result<(), HostError>;

    /// A setting of the kernel by its path below `/proc/sys`; `None` where the kernel does not have it.
    fn sysctl(&mut self, name: &str) -> Option<String>;

    /// Whether a cgroup has this file, that is, whether its controller is enabled.
    fn has_cgroup_file(&mut self, cgroup: &str, file: &str) -> bool;
}
