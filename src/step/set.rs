//! The step that sets a knob of a process or of a cgroup for as long as the lease lives. `knob` has what is particular
//! to each knob.

use super::Step;
use super::step_type::{ReadStep, StepType};
use crate::diagnostic::Findings;
use crate::host::Host;
use crate::knob::{self, Change, Knob, limit};
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, join, optional};
use crate::yaml::Fields;

/// The key of the limits of a cgroup.
const LIMITS: Key = optional(
    "cgroup",
    Kind::Object(&limit::LIMITS),
    "Limits of the cgroup. Each one is applied and reverted separately.",
);
pub const KEYS: &[Key] = &join::<{ knob::KEYS.len() + 1 }>(&[knob::KEYS, &[LIMITS]]);

impl StepType for Change {
    fn is_lease(&self) -> bool {
        true
    }

    fn capabilities(&self) -> CapabilitySet {
        self.knob().capabilities()
    }

    fn missing_privilege(&self, host: &dyn Host) -> Option<&'static str> {
        host.may_undo(self.knob()).err()
    }

    fn missing_reach(&self, host: &dyn Host) -> Option<&'static str> {
        host.may_reach_others(Some(self.knob())).err()
    }
}

/// The targets of a step with this key.
pub(super) fn targets(key: &str) -> Targets {
    knob_of(key).map_or(Targets::Cgroups, Knob::targets)
}

fn knob_of(key: &str) -> Option<Knob> {
    Knob::ALL.into_iter().find(|knob| knob.as_str() == key)
}

pub(super) fn read(fields: &Fields, key: &str, findings: &mut Findings) -> Option<ReadStep> {
    if let Some(knob) = knob_of(key) {
        return knob.read(fields, findings).map(ReadStep::of);
    }
    // One step for each limit, so that each has its own lease.
    let changes = limit::read(fields.get(LIMITS.name)?, findings)?;
    Some(ReadStep {
        steps: changes.into_iter().map(Step::Set).collect(),
        cgroup: None,
    })
}
