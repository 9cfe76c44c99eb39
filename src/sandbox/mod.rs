//! The sandbox of a process: what it gives up for good, before its first thread starts. Each measure is independent of
//! the others, and one that cannot be had says why.

mod allowed_calls;
pub mod capabilities;
mod own_user;
mod system_calls;
mod write_paths;

pub use own_user::{OwnUser, OwnUserError};
pub use rustix::thread::CapabilitySet;

use rustix::process::{DumpableBehavior, Pid, Signal, getppid, set_dumpable_behavior, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A measure of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// No capability that the loaded rules do not need.
    Capabilities,
    /// No privilege from an executable file (PR_SET_NO_NEW_PRIVS).
    NoNewPrivs,
    /// No system call that evenkeel does not need.
    Seccomp,
    /// No write outside of a few directories.
    Landlock,
    /// A user of its own, in a process that serves the network.
    User,
}

impl Measure {
    /// Those of every process, in the order in which they are applied: seccomp is last because it may deny what the others
    /// need.
    pub const ALL: [Measure; 4] = [
        Measure::NoNewPrivs,
        Measure::Capabilities,
        Measure::Landlock,
        Measure::Seccomp,
    ];

    /// Those of a process that serves the network.
    pub const OF_SERVER: [Measure; 5] = [
        Measure::User,
        Measure::NoNewPrivs,
        Measure::Capabilities,
        Measure::Landlock,
        Measure::Seccomp,
    ];

    /// The closed label value of `evenkeel_sandbox{measure}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::Capabilities => "capabilities",
            Measure::NoNewPrivs => "no_new_privs",
            Measure::Seccomp => "seccomp",
            Measure::Landlock => "landlock",
            Measure::User => "user",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process must still be able to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    pub capabilities: CapabilitySet,
    /// Whether it reads what ptrace(2) guards, such as the executables of other processes.
    pub inspects_processes: bool,
    /// The directories in which it writes. Those that do not exist are left out.
    pub write_paths: Vec<PathBuf>,
    /// The directory among them without which it could not work.
    pub storage: Option<PathBuf>,
}

/// The measures of one process: `Ok` is in force, and `Err` says why one is not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub measures: Vec<(Measure, Result<(), String>)>,
    /// The effective capabilities.
    #[serde(with = "capabilities::bits")]
    pub capabilities: CapabilitySet,
}

impl Report {
    /// No measure, for one reason.
    pub fn without_any(reason: &str) -> Report {
        Report {
            measures: Measure::ALL.map(|measure| (measure, Err(reason.to_owned()))).into(),
            capabilities: capabilities::effective(),
        }
    }

    /// The measures that are in force, separated by spaces.
    pub fn in_force(&self) -> String {
        let in_force = self.measures.iter().filter(|(_, result)| result.is_ok());
        let names: Vec<&str> = in_force.map(|(measure, _)| measure.as_str()).collect();
        names.join(" ")
    }

    /// The others, each with its reason.
    pub fn missing(&self) -> String {
        let missing = self.measures.iter().filter_map(|(measure, result)| {
            let reason = result.as_ref().err()?;
            Some(format!("{measure}: {reason}"))
        });
        missing.collect::<Vec<_>>().join("; ")
    }

    pub fn is_in_force(&self, measure: Measure) -> bool {
        self.measures
            .iter()
            .any(|(other, result)| *other == measure && result.is_ok())
    }
}

/// Applies all measures that the needs permit, to the calling thread and the threads that it starts. Call it before any
/// other thread starts. It cannot be undone.
pub fn apply(needs: &Needs) -> Report {
    let apply_one = |measure| match obstacle(measure, needs) {
        Some(reason) => Err(reason.to_owned()),
        None => match measure {
            Measure::NoNewPrivs => rustix::thread::set_no_new_privs(true).map_err(|errno| errno.to_string()),
            Measure::Capabilities => capabilities::keep_only(needs.capabilities).map_err(|error| error.to_string()),
            Measure::Landlock => write_paths::allow_only(&needs.write_paths).map_err(|error| error.to_string()),
            Measure::Seccomp => system_calls::deny().map_err(|error| error.to_string()),
            Measure::User => Err("it acts on processes of all users".to_owned()),
        },
    };
    Report {
        measures: Measure::ALL.map(|measure| (measure, apply_one(measure))).into(),
        capabilities: capabilities::effective(),
    }
}

/// Leaves the calling thread, and the threads that it starts, nothing but memory, time and its open sockets. The process
/// ends with its parent. Call it before any other thread starts. It cannot be undone.
/// `None` when its parent, the process with this id, has ended already.
pub fn isolate(user: Result<OwnUser, OwnUserError>, parent: Pid) -> Option<Report> {
    // The bounding set goes first, because only root can drop it.
    capabilities::empty_bounding_set();
    let mut user = Some(user);
    let mut apply_one = |measure| match measure {
        Measure::User => match user.take() {
            Some(user) => user.and_then(OwnUser::switch).map_err(|error| error.to_string()),
            None => Ok(()),
        },
        Measure::NoNewPrivs => {
            // A change of the user has reset both. A core dump would hold tokens and keys.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            rustix::thread::set_no_new_privs(true).map_err(|errno| errno.to_string())
        }
        Measure::Capabilities => capabilities::keep_only(CapabilitySet::empty()).map_err(|errno| errno.to_string()),
        Measure::Landlock => write_paths::deny_all().map_err(|error| error.to_string()),
        Measure::Seccomp => allowed_calls::allow_only().map_err(|error| error.to_string()),
    };
    // seccomp denies the call that reads the capabilities.
    let [rest @ .., Measure::Seccomp] = Measure::OF_SERVER else {
        unreachable!("seccomp comes last")
    };
    let mut measures: Vec<_> = rest.into_iter().map(|measure| (measure, apply_one(measure))).collect();
    // A parent that ended before the process asked for the signal sends none.
    if getppid() != Some(parent) {
        return None;
    }
    let capabilities = capabilities::effective();
    measures.push((Measure::Seccomp, apply_one(Measure::Seccomp)));
    Some(Report { measures, capabilities })
}

/// Why the needs exclude a measure.
fn obstacle(measure: Measure, needs: &Needs) -> Option<&'static str> {
    match measure {
        // Landlock denies every access that ptrace(2) guards, also for reading (domain_ptrace() of the kernel).
        Measure::Landlock if needs.inspects_processes => {
            Some("it would hide the executables of processes, which rules and process groups need")
        }
        Measure::Landlock if !needs.storage.as_deref().is_some_and(std::path::Path::is_dir) => {
            Some("the storage directory cannot be used")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            capabilities: CapabilitySet::empty(),
            inspects_processes: false,
            write_paths: Vec::new(),
            storage: Some("/".into()),
        }
    }

    #[test]
    fn needs_exclude_measures() {
        let excluded = |needs: &Needs| -> Vec<Measure> {
            let is_excluded = |measure: &Measure| obstacle(*measure, needs).is_some();
            Measure::ALL.into_iter().filter(is_excluded).collect()
        };
        assert_eq!(excluded(&needs()), []);
        let inspects = Needs {
            inspects_processes: true,
            ..needs()
        };
        assert_eq!(excluded(&inspects), [Measure::Landlock]);
        let without_storage = Needs {
            storage: None,
            ..needs()
        };
        assert_eq!(excluded(&without_storage), [Measure::Landlock]);
    }

    #[test]
    fn report_without_any_names_the_reason() {
        let report = Report::without_any("--no-sandbox");
        assert_eq!(report.measures.len(), Measure::ALL.len());
        assert!(Measure::ALL.iter().all(|&measure| !report.is_in_force(measure)));
    }
}
