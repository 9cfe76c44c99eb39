//! The trait of a step type: what a file of this folder says about its step. The defaults fit a step that needs
//! nothing.

use super::Step;
use crate::host::Host;
use crate::knob::Invalid;
use crate::ledger::{Effect, Episode};
use crate::process::ProcessFields;
use crate::sandbox::CapabilitySet;
use crate::yaml::Text;
use nix::sys::signal::Signal;
use std::fmt;

/// One step of a rule; as a string it is what the history shows.
pub trait StepType: fmt::Display {
    /// The kind of kill, if the step kills processes.
    fn final_signal(&self) -> Option<Signal> {
        None
    }

    /// Whether the step is irreversible.
    fn is_final(&self) -> bool {
        self.final_signal().is_some()
    }

    /// Whether `hold` bounds its effect.
    fn is_lease(&self) -> bool {
        false
    }

    /// Whether the step needs a grant.
    fn wants_resource(&self) -> bool {
        false
    }

    /// The lease of a step for the host, whose job is to be started. `resource` is the grant of an earlier step; `key`
    /// makes the key of a request. `None` for other steps.
    fn host_effect(
        &self,
        _episode: &Episode,
        _resource: Option<&str>,
        _key: &dyn Fn() -> String,
    ) -> Option<Result<Effect, String>> {
        None
    }

    /// What a step for the host would do, for `explain`.
    fn preview(&self, _episode: &Episode, _resource: Option<&str>) -> Option<Result<String, String>> {
        None
    }

    /// Whether it runs a command, which the configuration must allow.
    fn is_command(&self) -> bool {
        false
    }

    /// The capabilities that it takes on processes of all users; limits of cgroups take those of every step on cgroups.
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::empty()
    }

    /// The fields of a process that the guard needs for it.
    fn fields(&self) -> ProcessFields {
        ProcessFields::empty()
    }

    /// What is missing, if this host could not do it or could not undo it.
    fn missing_privilege(&self, _host: &dyn Host) -> Option<&'static str> {
        None
    }

    /// What is missing, if it reaches no processes of other users on this host.
    fn missing_reach(&self, _host: &dyn Host) -> Option<&'static str> {
        None
    }
}

/// An entry of `actions` whose value has the right type.
#[derive(Debug)]
pub struct ReadStep {
    /// Empty if the value makes no sense, which is among the findings.
    pub steps: Vec<Step>,
    /// The path of the cgroup that the step names, in a rule without `select`.
    pub cgroup: Option<Text>,
}

impl ReadStep {
    pub(super) fn of<T: Into<Step>>(step: Result<T, Invalid>) -> ReadStep {
        ReadStep {
            steps: step.into_iter().map(Into::into).collect(),
            cgroup: None,
        }
    }

    pub(super) fn valid(step: impl Into<Step>) -> ReadStep {
        ReadStep::of(Ok(step))
    }
}
