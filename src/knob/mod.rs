//! The registry of knobs, which are the reversible properties of processes and cgroups. A file holds all that is
//! particular to one knob: its key in a rule, its values, how the kernel reads and writes it, and what it needs.

pub mod thread_access;
pub mod affinity;
pub mod autogroup;
pub mod freeze;
pub mod ionice;
pub mod limit;
pub mod nice;
pub mod oom_score_adj;
pub mod privileges;
pub mod process_knob;
pub mod sched;
mod scheduling;

pub use affinity::{AffinityChange, CpuSet};
pub use ionice::IoPriority;
pub use limit::{IoChange, Relative};
pub use privileges::Privileges;
pub use process_knob::{Invalid, Processors, Reach};
pub use sched::Policy;
pub use thread_access::{Access, HostError};

use crate::diagnostic::Findings;
use crate::process::Process;
use crate::process::target::Targets;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use limit::{Capacity, CgroupFile, Device, IoKind, IoLimit, Setting};
use process_knob::ProcessKnob;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Makes the enums of knobs and values from the table of knobs of processes, and passes each question on to the knob's
/// file.
macro_rules! knobs_of_processes {
    ($($knob:ident in $file:ident,)*) => {
        /// A property of a process or a cgroup that has a value before and a value after.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Knob {
            $($knob,)*
            /// Of a cgroup.
            Cgroup(CgroupFile),
            /// One limit of one device in `io.max` of a cgroup: what rules set on others are other knobs.
            Io(Device, IoKind),
        }

        /// A value of a knob as it is read from or set on a process or thread.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Value {
            $($knob(<$file::$knob as ProcessKnob>::Value),)*
            Cgroup(Setting),
        }

        impl Knob {
            /// Those of processes, in the order of the reference.
            pub const ALL: [Knob; KEYS.len()] = [$(Knob::$knob,)*];

            /// The word in rules and the closed label value of `evenkeel_leases{knob}`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Knob::$knob => $file::$knob::KEY.name,)*
                    Knob::Cgroup(file) => file.as_str(),
                    Knob::Io(..) => CgroupFile::IoMax.as_str(),
                }
            }

            /// The targets that have the knob.
            pub fn targets(self) -> Targets {
                match self {
                    $(Knob::$knob => $file::$knob::TARGETS,)*
                    Knob::Cgroup(_) | Knob::Io(..) => Targets::Cgroups,
                }
            }

            /// Whether each thread has its own value, not the process.
            pub fn is_per_thread(self) -> bool {
                match self {
                    $(Knob::$knob => $file::$knob::IS_PER_THREAD,)*
                    Knob::Cgroup(_) | Knob::Io(..) => false,
                }
            }

            /// Whether a child process starts with a copy of the value.
            pub fn is_inherited(self) -> bool {
                match self {
                    $(Knob::$knob => $file::$knob::IS_INHERITED,)*
                    Knob::Cgroup(_) | Knob::Io(..) => false,
                }
            }

            /// The capabilities that setting and reverting it takes, on processes or cgroups of all users.
            pub fn capabilities(self) -> CapabilitySet {
                match self {
                    $(Knob::$knob => $file::$knob::CAPABILITIES,)*
                    Knob::Cgroup(_) | Knob::Io(..) => limit::CAPABILITIES,
                }
            }

            /// Reads the change of a step whose key is this knob. `None` if it has the wrong type.
            pub fn read(self, fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
                match self {
                    $(Knob::$knob => $file::$knob::read(fields, findings),)*
                    Knob::Cgroup(_) | Knob::Io(..) => None,
                }
            }

            /// The value of a process that nothing has changed; `None` for knobs of cgroups.
            pub fn initial(self) -> Option<Value> {
                match self {
                    $(Knob::$knob => Some(Value::$knob($file::$knob::initial())),)*
                    Knob::Cgroup(_) | Knob::Io(..) => None,
                }
            }

            /// # Errors
            /// When the process is gone, the kernel refuses, or it is a knob of cgroups.
            pub fn get(self, thread: &mut dyn Access) -> Result<Value, HostError> {
                match self {
                    $(Knob::$knob => $file::$knob::get(thread).map(Value::$knob),)*
                    Knob::Cgroup(_) | Knob::Io(..) => Err(not_of_processes(thread.pid())),
                }
            }

            /// Whether evenkeel could set any value on a process and revert it.
            ///
            /// # Errors
            /// With what is missing.
            pub fn may_undo(self, privileges: &Privileges) -> Result<(), &'static str> {
                match self {
                    $(Knob::$knob => $file::$knob::may_undo(privileges),)*
                    Knob::Cgroup(_) | Knob::Io(..) => privileges.cgroups,
                }
            }

            /// Whether evenkeel could set it on processes of other users.
            ///
            /// # Errors
            /// With what is missing.
            pub fn may_reach_others(self, privileges: &Privileges) -> Result<(), &'static str> {
                match self {
                    $(Knob::$knob => $file::$knob::may_reach_others(privileges),)*
                    Knob::Cgroup(_) | Knob::Io(..) => Ok(()),
                }
            }

            /// How much effect a value has on a process.
            pub fn reach(self, main_thread: &mut dyn Access) -> Reach {
                match self {
                    $(Knob::$knob => $file::$knob::reach(main_thread),)*
                    Knob::Cgroup(_) | Knob::Io(..) => Reach::Full,
                }
            }

            /// A note on rules that set it on a host with these settings of the kernel, by their path below
            /// `/proc/sys`.
            pub fn note(self, sysctl: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
                match self {
                    $(Knob::$knob => $file::$knob::note(sysctl),)*
                    Knob::Cgroup(_) | Knob::Io(..) => None,
                }
            }

            /// The value as far as the process table shows it, which saves a read.
            pub fn in_table(self, process: &Process) -> Option<Value> {
                match self {
                    $(Knob::$knob => $file::$knob::in_table(process).map(Value::$knob),)*
                    Knob::Cgroup(_) | Knob::Io(..) => None,
                }
            }
        }

        impl Value {
            pub fn knob(&self) -> Knob {
                match self {
                    $(Value::$knob(_) => Knob::$knob,)*
                    Value::Cgroup(Setting::IoLimit(limit)) => Knob::Io(limit.device, limit.kind),
                    Value::Cgroup(setting) => Knob::Cgroup(setting.file()),
                }
            }

            /// # Errors
            /// When the process is gone, the kernel refuses, or it is a value of a cgroup.
            pub fn set(&self, thread: &mut dyn Access) -> Result<(), HostError> {
                match self {
                    $(Value::$knob(value) => $file::$knob::set(thread, value),)*
                    Value::Cgroup(_) => Err(not_of_processes(thread.pid())),
                }
            }

            /// What the kernel keeps of the value when it is written to a process with these processors.
            #[must_use]
            pub fn kept(&self, processors: Processors) -> Value {
                match self {
                    $(Value::$knob(value) => Value::$knob($file::$knob::kept(value, processors)),)*
                    Value::Cgroup(_) => self.clone(),
                }
            }

            /// Whether reading `found` back is what writing this may lead to.
            pub fn explains(&self, found: &Value) -> bool {
                match (self, found) {
                    $((Value::$knob(wanted), Value::$knob(found)) => $file::$knob::explains(wanted, found),)*
                    (Value::Cgroup(wanted), Value::Cgroup(found)) => wanted.explains(found),
                    _ => false,
                }
            }

            /// The value to save for the revert where a process had this of its own.
            #[must_use]
            pub fn to_save(self, processors: Processors) -> Value {
                match self {
                    $(Value::$knob(found) => Value::$knob($file::$knob::to_save(found, processors)),)*
                    Value::Cgroup(_) => self,
                }
            }

            /// Whether finding this means that `saved` is restored already.
            pub fn is_restored(&self, saved: &Value, processors: Processors) -> bool {
                match (self, saved) {
                    $((Value::$knob(found), Value::$knob(saved)) => {
                        $file::$knob::is_restored(found, saved, processors)
                    })*
                    _ => self == saved,
                }
            }

            /// Whether a target with this value is better off than with `other`, in a way that only root can arrange.
            pub fn favours(&self, other: &Value) -> bool {
                match (self, other) {
                    $((Value::$knob(value), Value::$knob(other)) => $file::$knob::favours(value, other),)*
                    (Value::Cgroup(value), Value::Cgroup(other)) => value.is_more_than(other),
                    _ => false,
                }
            }

            /// Whether the kernel can keep it from children (SCHED_RESET_ON_FORK, sched(7)).
            pub fn is_reset_on_fork(&self) -> bool {
                match self {
                    $(Value::$knob(value) => $file::$knob::is_reset_on_fork(value),)*
                    Value::Cgroup(_) => false,
                }
            }

            /// Whether a revert of this writes `saved` without comparing what is found.
            pub fn is_always_reverted_to(&self, saved: &Value) -> bool {
                match (self, saved) {
                    $((Value::$knob(ours), Value::$knob(saved)) => $file::$knob::is_always_written(ours, saved),)*
                    _ => false,
                }
            }
        }

        impl fmt::Display for Value {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Value::$knob(value) => write!(f, "{value}"),)*
                    Value::Cgroup(setting) => write!(f, "{setting}"),
                }
            }
        }

        /// The keys of steps that set a knob of a process.
        pub const KEYS: &[Key] = &[$($file::$knob::KEY,)*];
        /// The keys of the same knobs in a test file, for their values.
        pub const VALUE_KEYS: &[Key] =
            &[$(optional($file::$knob::KEY.name, Kind::Text, $file::$knob::ABOUT_VALUE),)*];
    };
}

// The order is that of the reference. A new knob needs a file, its `mod` line above, and a row here.
knobs_of_processes! {
    Nice in nice,
    Autogroup in autogroup,
    Ionice in ionice,
    Affinity in affinity,
    Sched in sched,
    OomScoreAdj in oom_score_adj,
    Freeze in freeze,
}

impl Knob {
    /// The knob of a process or the limit of a cgroup with this name in rules.
    pub fn named(name: &str) -> Option<Knob> {
        let limits = CgroupFile::ALL.map(Knob::Cgroup);
        Knob::ALL.into_iter().chain(limits).find(|knob| knob.as_str() == name)
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Value {
    /// Whether the kernel may kill processes when it is written to a cgroup.
    pub fn may_kill(&self) -> bool {
        matches!(self, Value::Cgroup(setting) if setting.file().may_kill())
    }

    /// Bytes in use above which the kernel kills processes when it is written to a cgroup.
    pub fn kills_above(&self) -> Option<u64> {
        match self {
            Value::Cgroup(setting) => setting.kills_above(),
            _ => None,
        }
    }
}

/// The change of a reversible step. A knob that has a relative form has a variant here.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    To(Value),
    Affinity(AffinityChange),
    /// A limit of a cgroup, relative to the present one.
    Limit {
        file: CgroupFile,
        by: Relative,
    },
    /// One limit of one device in `io.max`; all others stay.
    Io(IoChange),
}

impl Change {
    /// The knob, without the number of its device, which only the host knows.
    pub fn knob(&self) -> Knob {
        match self {
            Change::To(value) => value.knob(),
            Change::Affinity(_) => Knob::Affinity,
            Change::Limit { file, .. } => Knob::Cgroup(*file),
            Change::Io(_) => Knob::Cgroup(CgroupFile::IoMax),
        }
    }

    /// The new value of a process. `underlying` is the value without the leases of other alerts. `None` for a limit of a
    /// cgroup.
    pub fn of_process(&self, underlying: &Value, processors: Processors) -> Option<Value> {
        match (self, underlying) {
            (Change::To(value), _) => Some(value.kept(processors)),
            (Change::Affinity(change), Value::Affinity(underlying)) => {
                Some(Value::Affinity(change.applied(underlying, &processors())))
            }
            _ => None,
        }
    }

    /// The new value of a cgroup, with the same underlying value. `None` if the knob has no relative form.
    pub fn of_cgroup(&self, underlying: &Value, capacity: Capacity) -> Option<Value> {
        match (self, underlying) {
            (Change::To(value), _) => Some(value.clone()),
            (Change::Limit { by, .. }, Value::Cgroup(underlying)) => {
                underlying.relative(*by, capacity).map(Value::Cgroup)
            }
            (Change::Io(IoChange { limit, .. }), Value::Cgroup(Setting::IoLimit(now))) => {
                Some(Value::Cgroup(Setting::IoLimit(IoLimit { limit: *limit, ..*now })))
            }
            _ => None,
        }
    }

    /// Whether the new value depends on the present one.
    pub fn is_relative(&self) -> bool {
        match self {
            Change::To(_)
            | Change::Io(_)
            | Change::Limit {
                by: Relative::OfHost(_),
                ..
            } => false,
            Change::Affinity(_) | Change::Limit { .. } => true,
        }
    }
}

/// As in `nice 5`, `affinity +2`, `cpu.max +50%`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.knob())?;
        match self {
            Change::To(value) => write!(f, "{value}"),
            Change::Affinity(change) => write!(f, "{change}"),
            Change::Limit { by, .. } => write!(f, "{by}"),
            Change::Io(change) => write!(f, "{change}"),
        }
    }
}

fn not_of_processes(pid: i32) -> HostError {
    HostError::Failed {
        what: "a limit of a cgroup",
        pid,
        source: io::ErrorKind::InvalidInput.into(),
    }
}
