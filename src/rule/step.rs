//! The steps of a ladder, as data.

use crate::host::knob::{Knob, Value};
use crate::process::Target;
use nix::sys::signal::Signal;
use std::fmt;
use std::time::Duration;

/// One rung of a rule's ladder.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Reversible: sets a knob for as long as the lease lives.
    Set(Change),
    Signal(Send),
    /// Later steps run only if alert, process and selector still hold after this time.
    Wait(Duration),
}

/// What a reversible step sets.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    To(Value),
    Affinity(AffinityChange),
}

/// Affinity relative to what the process has.
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

/// What a signal step means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// Ends the process, now or when it gets to it.
    Final,
    /// Tells a process that has a handler for it; refused where it has none.
    Notice,
    /// A notice that is undone by another one.
    Reversible,
}

/// Signals that people send to end a process. All others are notices.
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
            Step::Wait(_) => "wait",
        }
    }

    /// Whether this is a step for such a target. A wait is one for all.
    pub fn is_for(&self, target: Target) -> bool {
        match self {
            Step::Wait(_) => true,
            Step::Set(_) | Step::Signal(_) => matches!(target, Target::Process(_)),
        }
    }

    pub fn is_final(&self) -> bool {
        matches!(self, Step::Signal(send) if send.kind() == SignalKind::Final)
    }
}

impl Change {
    pub fn knob(&self) -> Knob {
        match self {
            Change::To(value) => value.knob(),
            Change::Affinity(_) => Knob::Affinity,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set(Change::To(value)) => write!(f, "{} {value}", value.knob()),
            Step::Set(Change::Affinity(AffinityChange::All)) => f.write_str("affinity all"),
            Step::Set(Change::Affinity(AffinityChange::Cpus(cpus))) => write!(f, "affinity {cpus:+}"),
            Step::Set(Change::Affinity(AffinityChange::Percent(percent))) => write!(f, "affinity {percent:+}%"),
            Step::Signal(Send { signal, undo: None }) => write!(f, "signal {signal}"),
            Step::Signal(Send {
                signal,
                undo: Some(undo),
            }) => write!(f, "signal {signal}, undone by {undo}"),
            Step::Wait(time) => write!(f, "wait {}s", time.as_secs_f64()),
        }
    }
}
