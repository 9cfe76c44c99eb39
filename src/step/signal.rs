//! `signal`: sends a signal to a process. Some signals kill, others are notifications, of which one can revert another.

use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, Span, nearest};
use crate::host::Host;
use crate::knob::Invalid;
use crate::process::ProcessFields;
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::yaml::{Content, Fields, Text};
use nix::sys::signal::Signal;
use std::fmt;

/// Signals that stop a process. `freeze` does that with a lease.
const STOPPING: [Signal; 4] = [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

pub const KEYS: &[Key] = &[optional(
    "signal",
    Kind::TextOr(&SIGNAL),
    "A signal by name. SIGTERM, SIGKILL, SIGINT, SIGQUIT and SIGABRT are irreversible; others are \
     notifications.",
)];
pub const TARGETS: Targets = Targets::Processes;

pub static SIGNAL: Object = Object::new(
    "a signal that is undone",
    &[
        required("send", Kind::Text, "The signal to send, by name."),
        required(
            "undo",
            Kind::Text,
            "The signal that reverts it when the alert resolves.",
        ),
    ],
);

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

impl StepType for Send {
    fn final_signal(&self) -> Option<Signal> {
        (self.kind() == SignalKind::Final).then_some(self.signal)
    }

    /// A notification needs to know which signals a process handles.
    fn fields(&self) -> ProcessFields {
        match self.kind() {
            SignalKind::Final => ProcessFields::empty(),
            SignalKind::Notice | SignalKind::Reversible => ProcessFields::SIGNALS,
        }
    }

    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::KILL
    }

    fn missing_privilege(&self, host: &dyn Host) -> Option<&'static str> {
        host.may_signal().err()
    }

    fn missing_reach(&self, host: &dyn Host) -> Option<&'static str> {
        host.may_reach_others(None).err()
    }
}

impl fmt::Display for Send {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signal {}", self.signal)?;
        match self.undo {
            Some(undo) => write!(f, ", undone by {undo}"),
            None => Ok(()),
        }
    }
}

pub(super) fn read(fields: &Fields, _: Span, findings: &mut Findings) -> Option<ReadStep> {
    let node = fields.get(KEYS[0].name)?;
    let (send, undo) = if let Content::Mapping(_) = node.content {
        let fields = Fields::open(node, &SIGNAL, findings)?;
        let (send, undo) = (fields.text("send", findings), fields.text("undo", findings));
        (send?, Some(undo?))
    } else {
        (node.text(KEYS[0].name, &KEYS[0].kind, findings)?, None)
    };
    let send = compile_signal(&send, undo.as_ref(), findings);
    Some(ReadStep::of(send.ok_or(Invalid)))
}

fn compile_signal(send: &Text, undo: Option<&Text>, findings: &mut Findings) -> Option<Send> {
    let signal = parse_signal(send, findings);
    let Some(undo) = undo else {
        return Some(Send {
            signal: signal?,
            undo: None,
        });
    };
    let (signal, undone) = (signal?, parse_signal(undo, findings)?);
    for (signal, text) in [(signal, send), (undone, undo)] {
        if (Send { signal, undo: None }).kind() == SignalKind::Final {
            let help = "only notices can be undone; write a final signal as `signal: NAME`";
            findings.error(
                text.span,
                format!("{signal} ends a process, which cannot be undone"),
                help,
            );
            return None;
        }
    }
    Some(Send {
        signal,
        undo: Some(undone),
    })
}

fn parse_signal(text: &Text, findings: &mut Findings) -> Option<Signal> {
    let written = text.value.as_str();
    match written.parse::<Signal>() {
        Ok(signal) if STOPPING.contains(&signal) => {
            let help = "write `freeze: true`: it is undone when the alert resolves";
            findings.error(
                text.span,
                format!("{signal} would stop the process and leave it so"),
                help,
            );
            None
        }
        Ok(signal) => Some(signal),
        Err(_) => {
            let help = match written.parse::<i32>().map(Signal::try_from) {
                Ok(Ok(signal)) => format!("numbers differ between machines: write {signal}"),
                Ok(Err(_)) => "write a name such as SIGTERM".to_owned(),
                Err(_) => {
                    let upper = written.to_uppercase();
                    let full = if upper.starts_with("SIG") {
                        upper
                    } else {
                        format!("SIG{upper}")
                    };
                    match nearest(&full, Signal::iterator().map(Signal::as_str)) {
                        Some(name) => format!("did you mean {name}?"),
                        None => "names are those of signal(7), such as SIGTERM; real-time signals have none".to_owned(),
                    }
                }
            };
            findings.error(text.span, format!("no signal `{written}`"), help);
            None
        }
    }
}
