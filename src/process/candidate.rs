//! A candidate of a selector: a process, or a cgroup as a whole. Data only.

use super::{Cgroup, Process, Target};

/// A candidate with the fields that were read.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are processes, and a box for each would cost more than the few cgroups gain"
)]
pub enum Candidate {
    Process(Process),
    Cgroup(Cgroup),
}

impl Candidate {
    pub fn target(&self) -> Target {
        match self {
            Candidate::Process(process) => process.identity.into(),
            Candidate::Cgroup(cgroup) => cgroup.identity.into(),
        }
    }

    /// `comm` of a process, path of a cgroup.
    pub fn name(&self) -> &str {
        match self {
            Candidate::Process(process) => &process.name,
            Candidate::Cgroup(cgroup) => &cgroup.path,
        }
    }

    pub fn process(&self) -> Option<&Process> {
        match self {
            Candidate::Process(process) => Some(process),
            Candidate::Cgroup(_) => None,
        }
    }

    pub fn cgroup(&self) -> Option<&Cgroup> {
        match self {
            Candidate::Process(_) => None,
            Candidate::Cgroup(cgroup) => Some(cgroup),
        }
    }
}
