//! The target of a step: a process, a cgroup, or the host as a whole. Data only.

use super::identity::{BootId, Identity};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of a cgroup. A path alone is no identity, because systemd creates a unit's cgroup again at each start
/// of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupIdentity {
    pub boot: BootId,
    /// Inode of its directory. The kernel numbers the nodes of cgroup2 upwards and never reuses a number within a boot
    /// (`kernfs_node.id`, the id of bpf_get_current_cgroup_id(), see bpf-helpers(7)).
    pub inode: u64,
}

/// The target of a step. The ledger has a process as its identity, a cgroup as `{boot, inode}`, and the host as
/// `"host"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum Target {
    Process(Identity),
    Cgroup(CgroupIdentity),
    /// The target of steps without a process or cgroup: a request to an allocator, a command.
    Host,
}

impl Target {
    pub fn process(self) -> Option<Identity> {
        match self {
            Target::Process(identity) => Some(identity),
            Target::Cgroup(_) | Target::Host => None,
        }
    }

    pub fn cgroup(self) -> Option<CgroupIdentity> {
        match self {
            Target::Cgroup(identity) => Some(identity),
            Target::Process(_) | Target::Host => None,
        }
    }

    /// The pid, if the target is a process.
    pub fn pid(self) -> Option<i32> {
        self.process().map(|process| process.pid)
    }
}

/// What a step can be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    Processes,
    Cgroups,
    ProcessesOrCgroups,
    Host,
    All,
}

impl Targets {
    pub fn includes(self, target: Target) -> bool {
        match self {
            Targets::Processes => matches!(target, Target::Process(_)),
            Targets::Cgroups => matches!(target, Target::Cgroup(_)),
            Targets::ProcessesOrCgroups => target != Target::Host,
            Targets::Host => target == Target::Host,
            Targets::All => true,
        }
    }
}

impl From<Identity> for Target {
    fn from(process: Identity) -> Target {
        Target::Process(process)
    }
}

impl From<CgroupIdentity> for Target {
    fn from(cgroup: CgroupIdentity) -> Target {
        Target::Cgroup(cgroup)
    }
}

/// Writes `process 7@70`, `cgroup 4711` or `host`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Process(process) => write!(f, "process {process}"),
            Target::Cgroup(cgroup) => write!(f, "cgroup {}", cgroup.inode),
            Target::Host => f.write_str("host"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Process(Identity),
    Cgroup(CgroupIdentity),
    Host(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Host,
}

impl From<Written> for Target {
    fn from(written: Written) -> Target {
        match written {
            Written::Process(process) => Target::Process(process),
            Written::Cgroup(cgroup) => Target::Cgroup(cgroup),
            Written::Host(Word::Host) => Target::Host,
        }
    }
}

impl From<Target> for Written {
    fn from(target: Target) -> Written {
        match target {
            Target::Process(process) => Written::Process(process),
            Target::Cgroup(cgroup) => Written::Cgroup(cgroup),
            Target::Host => Written::Host(Word::Host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_reads_its_own_and_older_notations() {
        let boot = BootId(1);
        let process = r#"{"boot":"00000000-0000-0000-0000-000000000001","pid":7,"start_ticks":70}"#;
        let cgroup = r#"{"boot":"00000000-0000-0000-0000-000000000001","inode":4711}"#;
        for (target, text) in [
            (
                Target::Process(Identity {
                    boot,
                    pid: 7,
                    start_ticks: 70,
                }),
                process,
            ),
            (Target::Cgroup(CgroupIdentity { boot, inode: 4711 }), cgroup),
            (Target::Host, r#""host""#),
        ] {
            assert_eq!(serde_json::to_string(&target).unwrap(), text);
            assert_eq!(serde_json::from_str::<Target>(text).unwrap(), target);
        }
        assert!(serde_json::from_str::<Target>(r#""elsewhere""#).is_err());
    }
}
