//! The steps of a rule, as data.

use super::job::{Allocate, Exec};
use crate::host::knob::{Knob, Value};
use crate::host::limit::{CgroupFile, IoKind, Limit};
use crate::process::Target;
use crate::yaml::size_text;
use nix::sys::signal::Signal;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One step of a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Reversible: sets a knob for as long as the lease lives.
    Set(Change),
    Signal(Send),
    /// Makes the kernel reclaim up to this many bytes. It needs no revert, because used pages return by themselves.
    Reclaim(u64),
    /// Kills every process in a cgroup.
    Kill,
    /// Requests a resource from an allocator, and releases it.
    Allocate(Arc<Allocate>),
    /// Runs a command; with `undo` it is a lease.
    Exec(Arc<Exec>),
    /// A delay, after which later steps run only if the alert fires and the process matches.
    Wait(Duration),
}

/// The change of a reversible step.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    To(Value),
    Affinity(AffinityChange),
    /// A limit of a cgroup, relative to the present one.
    Limit {
        file: CgroupFile,
        by: Relative,
    },
    /// One limit of one device in `io.max`; all others stay.
    Io(IoChange),
}

/// The change of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relative {
    /// Percentage of the present limit, or of the host's total without a limit.
    Percent(i32),
    Processors(i32),
    Bytes(i64),
    /// Percentage of the host's total.
    OfHost(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoChange {
    /// A path below `/dev`, or a number such as `8:0`.
    pub device: String,
    pub kind: IoKind,
    pub limit: Limit,
}

/// Affinity relative to the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffinityChange {
    /// All processors of the cpuset.
    All,
    /// That many processors more (or fewer).
    Cpus(i32),
    /// That many per cent more (or fewer).
    Percent(i32),
}

/// A signal by name; with `undo` it is a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    pub signal: Signal,
    pub undo: Option<Signal>,
}

/// The effect of a signal on the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// Kills the process, at once or after its cleanup.
    Final,
    /// Notifies a process, which must have a handler for the signal.
    Notice,
    /// A notification with a reverting one.
    Reversible,
}

/// Signals that are meant to kill a process. All others are notifications.
const FINAL_SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGKILL,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGABRT,
];

impl Send {
    pub fn kind(&self) -> SignalKind {
        if self.undo.is_some() {
            SignalKind::Reversible
        } else if FINAL_SIGNALS.contains(&self.signal) {
            SignalKind::Final
        } else {
            SignalKind::Notice
        }
    }
}

impl Step {
    /// The closed label value of `evenkeel_actions_total{action}`.
    pub fn action(&self) -> &'static str {
        match self {
            Step::Set(change) => change.knob().as_str(),
            Step::Signal(_) => "signal",
            Step::Reclaim(_) => "reclaim",
            Step::Kill => "kill",
            Step::Allocate(_) => "allocate",
            Step::Exec(_) => "exec",
            Step::Wait(_) => "wait",
        }
    }

    /// Whether the step applies to such a target. A wait applies to all.
    pub fn is_for(&self, target: Target) -> bool {
        match self {
            Step::Wait(_) => true,
            Step::Set(change) if change.knob() == Knob::Freeze => target != Target::Host,
            Step::Set(change) if change.knob().is_limit() => matches!(target, Target::Cgroup(_)),
            Step::Set(_) | Step::Signal(_) => matches!(target, Target::Process(_)),
            Step::Reclaim(_) => target != Target::Host,
            Step::Kill => matches!(target, Target::Cgroup(_)),
            Step::Allocate(_) | Step::Exec(_) => target == Target::Host,
        }
    }

    /// Whether the step needs a grant.
    pub fn wants_resource(&self) -> bool {
        match self {
            Step::Allocate(allocate) => allocate.wants_resource(),
            Step::Exec(exec) => exec.wants_resource(),
            Step::Set(_) | Step::Signal(_) | Step::Reclaim(_) | Step::Kill | Step::Wait(_) => false,
        }
    }

    /// Whether the step applies to processes or cgroups.
    pub fn is_for_processes(&self) -> bool {
        matches!(self, Step::Set(_) | Step::Signal(_) | Step::Reclaim(_) | Step::Kill)
    }

    pub fn is_final(&self) -> bool {
        match self {
            Step::Exec(exec) => exec.undo.is_none(),
            _ => self.final_signal().is_some(),
        }
    }

    /// The kind of kill, if the step kills processes.
    pub fn final_signal(&self) -> Option<Signal> {
        match self {
            Step::Signal(send) if send.kind() == SignalKind::Final => Some(send.signal),
            Step::Kill => Some(Signal::SIGKILL),
            _ => None,
        }
    }
}

impl Change {
    /// The knob, without the number of its device, which only the host knows.
    pub fn knob(&self) -> Knob {
        match self {
            Change::To(value) => value.knob(),
            Change::Affinity(_) => Knob::Affinity,
            Change::Limit { file, .. } => Knob::Cgroup(*file),
            Change::Io(_) => Knob::Cgroup(CgroupFile::IoMax),
        }
    }

    /// Whether the new value depends on the present one.
    pub fn is_relative(&self) -> bool {
        match self {
            Change::To(_)
            | Change::Io(_)
            | Change::Limit {
                by: Relative::OfHost(_),
                ..
            } => false,
            Change::Affinity(_) | Change::Limit { .. } => true,
        }
    }
}

impl fmt::Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relative::Percent(percent) => write!(f, "{percent:+}%"),
            Relative::Processors(cpus) => write!(f, "{cpus:+}"),
            Relative::Bytes(bytes) => write!(f, "{bytes:+}"),
            Relative::OfHost(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for IoChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}={}", self.device, self.kind.as_str(), self.limit)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set(Change::To(value)) => write!(f, "{} {value}", value.knob()),
            Step::Set(Change::Affinity(AffinityChange::All)) => f.write_str("affinity all"),
            Step::Set(Change::Affinity(AffinityChange::Cpus(cpus))) => write!(f, "affinity {cpus:+}"),
            Step::Set(Change::Affinity(AffinityChange::Percent(percent))) => write!(f, "affinity {percent:+}%"),
            Step::Set(Change::Limit { file, by }) => write!(f, "{file} {by}"),
            Step::Set(Change::Io(change)) => write!(f, "io.max {change}"),
            Step::Reclaim(bytes) => write!(f, "reclaim {}", size_text(*bytes)),
            Step::Kill => f.write_str("kill"),
            Step::Signal(Send { signal, undo: None }) => write!(f, "signal {signal}"),
            Step::Signal(Send {
                signal,
                undo: Some(undo),
            }) => write!(f, "signal {signal}, undone by {undo}"),
            Step::Allocate(allocate) => write!(f, "{allocate}"),
            Step::Exec(exec) => write!(f, "{exec}"),
            Step::Wait(time) => write!(f, "wait {}s", time.as_secs_f64()),
        }
    }
}
