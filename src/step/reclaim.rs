//! `reclaim`: makes the kernel reclaim memory of a process or a cgroup. It needs no revert, because used pages return
//! by themselves.

use super::result::StepResult;
use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, Span};
use crate::host::{Host, Reclaimed};
use crate::knob::Invalid;
use crate::ledger::Outcome;
use crate::process::Candidate;
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::yaml::{Content, Fields, size_text};
use std::fmt;

pub const KEYS: &[Key] = &[optional(
    "reclaim",
    Kind::TextOr(&RECLAIM),
    "Make the kernel reclaim this much memory from the process or the cgroup.",
)];
pub const TARGETS: Targets = Targets::ProcessesOrCgroups;

pub static RECLAIM: Object = Object::new(
    "a reclaim of a named cgroup",
    &[
        required("size", Kind::Size, "Amount of memory."),
        required(
            "cgroup",
            Kind::Text,
            "Literal path of the cgroup. For rules without `select`.",
        ),
    ],
);

/// At most this much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    pub bytes: u64,
}

impl StepType for Reclaim {
    /// For process_madvise(2).
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::SYS_NICE
    }
}

impl fmt::Display for Reclaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reclaim {}", size_text(self.bytes))
    }
}

pub(super) fn read(fields: &Fields, key_span: Span, findings: &mut Findings) -> Option<ReadStep> {
    let node = fields.get(KEYS[0].name)?;
    let (bytes, cgroup) = if matches!(node.content, Content::Mapping(_)) {
        let fields = Fields::open(node, &RECLAIM, findings)?;
        let (size, cgroup) = (fields.size("size", findings), fields.text("cgroup", findings));
        (size?.value, Some(cgroup?))
    } else {
        (fields.size(KEYS[0].name, findings)?.value, None)
    };
    if bytes == 0 {
        findings.error(key_span, "`reclaim` of nothing", "give it a size such as 512MiB");
    }
    let reclaim = if bytes == 0 {
        Err(Invalid)
    } else {
        Ok(Reclaim { bytes })
    };
    Some(ReadStep {
        cgroup,
        ..ReadStep::of(reclaim)
    })
}

/// Reclaims memory of a cgroup, or pages out memory of a process.
pub fn apply(host: &mut impl Host, candidate: &Candidate, bytes: u64) -> StepResult {
    match candidate {
        Candidate::Process(process) => host
            .page_out(process.identity, bytes)
            .map_or_else(StepResult::from, reclaimed),
        Candidate::Cgroup(cgroup) => host.reclaim(cgroup, bytes).map_or_else(StepResult::from, reclaimed),
    }
}

/// Compares the memory in use, because the call succeeds even if nothing was reclaimed.
fn reclaimed(Reclaimed { before, after }: Reclaimed) -> StepResult {
    let result = if after < before {
        StepResult::only(Outcome::Applied, format!("{} bytes reclaimed", before - after))
    } else {
        StepResult::only(Outcome::NoEffect, "nothing reclaimed; there may be no swap")
    };
    StepResult {
        before: Some(before.to_string()),
        after: Some(after.to_string()),
        ..result
    }
}
