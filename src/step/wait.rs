//! `wait`: a delay, after which later steps run only if the alert fires and the process matches.

use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, Span};
use crate::knob::Invalid;
use crate::process::target::Targets;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use std::fmt;
use std::time::Duration;

pub const KEYS: &[Key] = &[optional(
    "wait",
    Kind::Duration,
    "Delay. Later steps run only if the alert still fires and the process still matches the selector.",
)];
pub const TARGETS: Targets = Targets::All;

/// A delay of this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl StepType for Wait {}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait {}s", self.0.as_secs_f64())
    }
}

pub(super) fn read(fields: &Fields, key_span: Span, findings: &mut Findings) -> Option<ReadStep> {
    let time = fields.duration(KEYS[0].name, findings)?.value;
    if time.is_zero() {
        let help = "leave it out, or give it a time such as 10s";
        findings.error(key_span, "a wait of no time", help);
        return Some(ReadStep::of::<Wait>(Err(Invalid)));
    }
    Some(ReadStep::valid(Wait(time)))
}
