//! What tests see of the calls to the fake host, and what they let happen between these.

use super::FakeHost;
use crate::host::fault;
use crate::process::Process;
use nix::sys::signal::Signal;
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

/// An event on the host.
pub type Event = fn(&mut FakeHost);

/// A change or a signal that reached a process.
#[derive(Debug, Clone)]
pub struct HostAction {
    pub at: Duration,
    pub process: Process,
    /// `None` where a value was set.
    pub signal: Option<Signal>,
}

#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Every change and signal, with the process at that moment.
    pub host_actions: Vec<HostAction>,
    /// Events on the host just before a knob is set, one for each call.
    pub before_set: VecDeque<Event>,
    /// Events on the host just after a change of a cgroup through systemd, one for each change.
    pub after_unit_set: VecDeque<Event>,
    /// Reuses the pid for a stranger just before each such number of calls about a process; 0 is never.
    pub reused_every: usize,
    looks: usize,
    /// Number of strangers that got a reused pid.
    pub strangers: usize,
    /// Events on the host just before the details of a process are read, one for each call.
    pub before_details: VecDeque<Event>,
    /// Whether the process table cannot be read, as without a free descriptor.
    pub table_fails: bool,
    /// Number of calls.
    pub calls: Cell<usize>,
    /// Events on the host just before the next calls about single processes, one for each call.
    pub meanwhile: VecDeque<Event>,
}

impl FakeHost {
    /// Lets the next event of a queue happen.
    pub(super) fn happen(&mut self, queue: impl Fn(&mut Hooks) -> &mut VecDeque<Event>) {
        if let Some(event) = queue(&mut self.hooks).pop_front() {
            event(self);
        }
    }

    /// Counts a call, and the process that it is about.
    pub(super) fn note_call(&mut self, pid: Option<i32>) {
        fault::point();
        self.hooks.calls.set(self.hooks.calls.get() + 1);
        let Some(found) = pid.and_then(|pid| self.processes.get(&pid)) else {
            return;
        };
        self.hooks.looks += 1;
        // No number but 0 is a multiple of 0.
        if !self.hooks.looks.is_multiple_of(self.hooks.reused_every) || found.process.name == "stranger" {
            return;
        }
        // The stranger equals the former process except for its name, and starts a tick later.
        self.now.boot += Duration::from_millis(10);
        let mut stranger = found.process.clone();
        stranger.name = "stranger".into();
        stranger.age = Duration::ZERO;
        self.hooks.strangers += 1;
        self.add(stranger);
    }

    pub(super) fn record_action(&mut self, pid: i32, signal: Option<Signal>) {
        let (at, process) = (self.now.boot, self.processes[&pid].process.clone());
        self.hooks.host_actions.push(HostAction { at, process, signal });
    }
}
