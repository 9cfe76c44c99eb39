//! `kill`: kills every process in a cgroup at once (`cgroup.kill`). The step is irreversible.

use super::result::StepResult;
use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, Span};
use crate::host::Host;
use crate::knob::Invalid;
use crate::ledger::Outcome;
use crate::process::Cgroup;
use crate::process::target::Targets;
use crate::schema::{Key, Kind, optional};
use crate::yaml::{Content, Fields};
use nix::sys::signal::Signal;
use std::fmt;

pub const KEYS: &[Key] = &[optional(
    "kill",
    Kind::Flag,
    "Kill every process in the cgroup at once (cgroup.kill). Irreversible.",
)];
pub const TARGETS: Targets = Targets::Cgroups;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill;

impl StepType for Kill {
    fn final_signal(&self) -> Option<Signal> {
        Some(Signal::SIGKILL)
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEYS[0].name)
    }
}

pub(super) fn read(fields: &Fields, _: Span, findings: &mut Findings) -> Option<ReadStep> {
    let node = fields.get(KEYS[0].name)?;
    if let Content::Scalar { text, .. } = &node.content
        && !matches!(text.as_str(), "true" | "false")
    {
        let message = format!("`kill` must be {}, found `{text}`", Kind::Flag);
        let help =
            "it kills whole cgroups; for processes write `signal: SIGTERM`, or `signal: SIGKILL` to kill them at once";
        findings.error(node.span, message, help);
        return None;
    }
    let flag = fields.flag(KEYS[0].name, findings)?;
    if !flag.value {
        findings.error(flag.span, "`kill: false` does nothing", "leave the step out");
        return Some(ReadStep::of::<Kill>(Err(Invalid)));
    }
    Some(ReadStep::valid(Kill))
}

/// Kills every process in a cgroup.
pub fn apply(host: &mut impl Host, cgroup: &Cgroup) -> StepResult {
    match host.kill_cgroup(cgroup) {
        Ok(()) => StepResult::only(Outcome::Applied, ""),
        Err(error) => error.into(),
    }
}
