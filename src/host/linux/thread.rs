//! One thread of a process, as a knob reaches it.

use super::LinuxHost;
use crate::host::{Host, HostError, Thread};
use crate::knob::Access;
use crate::process::{Identity, Process};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{self, Write};

/// One thread, as a knob reaches it.
pub(super) struct LinuxThread<'h> {
    pub host: &'h mut LinuxHost,
    pub id: Identity,
    pub thread: Thread,
}

impl Access for LinuxThread<'_> {
    fn pid(&self) -> i32 {
        self.id.pid
    }

    fn tid(&self) -> i32 {
        self.thread.tid
    }

    fn process(&mut self) -> Result<Process, HostError> {
        self.host.verify(self.id)
    }

    fn read(&mut self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.host.procfs().root.join(format!("{}/{name}", self.id.pid)))
    }

    fn write(&mut self, name: &'static str, missing: &'static str, text: &str) -> Result<(), HostError> {
        let pid = self.id.pid;
        let failed = |error| HostError::of_call(name, missing, pid, error);
        // The open file belongs to the process it was opened for; a write after its death fails.
        let path = self.host.procfs().root.join(format!("{pid}/{name}"));
        let mut file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        self.process()?;
        file.write_all(text.as_bytes()).map_err(failed)
    }

    fn signal(&mut self, signal: Signal) -> Result<(), HostError> {
        self.host.signal(self.id, signal)
    }

    fn sysctl(&mut self, name: &str) -> Option<String> {
        super::sysctl(&self.host.procfs().root, name)
    }

    fn has_cgroup_file(&mut self, cgroup: &str, file: &str) -> bool {
        let folder = self.host.cgroup_mount().join(cgroup.trim_start_matches('/'));
        fs::exists(folder.join(file)).unwrap_or(false)
    }
}
