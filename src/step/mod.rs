//! The registry of step types: one file for each, with its keys, validation, needs and effect. `set` is the step of all
//! knobs.

pub mod allocate;
pub mod exec;
pub mod kill;
mod read;
pub mod reclaim;
pub mod result;
pub mod set;
pub mod signal;
pub mod step_type;
pub mod wait;

pub use crate::knob::{AffinityChange, Change, IoChange, Relative};
pub use read::read_json;
pub use result::StepResult;
pub use signal::{Send, SignalKind};
pub use step_type::{ReadStep, StepType};

use crate::diagnostic::{Findings, Span};
use crate::process::Target;
use crate::process::target::Targets;
use crate::schema::{Object, join};
use crate::yaml::Fields;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Makes the enum of steps from the table of step types.
macro_rules! step_types {
    ($($(#[$about:meta])* $step:ident($data:ty) in $file:ident,)*) => {
        /// One step of a rule.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Step {
            /// Reversible: sets a knob for as long as the lease lives.
            Set(Change),
            $($(#[$about])* $step($data),)*
        }

        /// A step answers a question as its type does.
        impl Deref for Step {
            type Target = dyn StepType;

            fn deref(&self) -> &Self::Target {
                match self {
                    Step::Set(change) => change,
                    $(Step::$step(step) => step,)*
                }
            }
        }

        impl Step {
            /// The closed label value of `evenkeel_actions_total{action}`.
            pub fn action(&self) -> &'static str {
                match self {
                    Step::Set(change) => change.knob().as_str(),
                    $(Step::$step(_) => $file::KEYS[0].name,)*
                }
            }

            pub fn targets(&self) -> Targets {
                match self {
                    Step::Set(change) => change.knob().targets(),
                    $(Step::$step(_) => $file::TARGETS,)*
                }
            }
        }

        impl From<Change> for Step {
            fn from(change: Change) -> Step {
                Step::Set(change)
            }
        }

        $(impl From<$data> for Step {
            fn from(step: $data) -> Step {
                Step::$step(step)
            }
        })*

        const COUNT: usize = set::KEYS.len() $(+ $file::KEYS.len())*;

        pub static STEP: Object = Object {
            title: "a step",
            keys: &join::<COUNT>(&[set::KEYS, $($file::KEYS),*]),
            one_of: true,
        };

        /// The targets of a step with this key of [`STEP`], even of one whose value makes no sense.
        pub fn targets_of(key: &str) -> Targets {
            $(if key == $file::KEYS[0].name {
                return $file::TARGETS;
            })*
            set::targets(key)
        }

        /// Reads the value of a key of [`STEP`]. `None` if it has the wrong type.
        pub fn read(fields: &Fields, key: &str, key_span: Span, findings: &mut Findings) -> Option<ReadStep> {
            $(if key == $file::KEYS[0].name {
                return $file::read(fields, key_span, findings);
            })*
            set::read(fields, key, findings)
        }
    };
}

// The order is that of the reference. A new step type needs a file with `KEYS`, `TARGETS`, `read` and a `StepType`, its
// `mod` line above, and a row here.
step_types! {
    Reclaim(reclaim::Reclaim) in reclaim,
    Kill(kill::Kill) in kill,
    Signal(Send) in signal,
    Allocate(Arc<allocate::Allocate>) in allocate,
    Exec(Arc<exec::Exec>) in exec,
    Wait(wait::Wait) in wait,
}

impl Step {
    /// Whether it is a job of the runner: a command, or a request to an allocator.
    pub fn is_job(&self) -> bool {
        matches!(self, Step::Allocate(_) | Step::Exec(_))
    }

    pub fn is_wait(&self) -> bool {
        matches!(self, Step::Wait(_))
    }

    /// Whether the step applies to such a target. A wait applies to all.
    pub fn is_for(&self, target: Target) -> bool {
        self.targets().includes(target)
    }

    /// Whether the step applies to processes or cgroups.
    pub fn is_for_processes(&self) -> bool {
        !matches!(self.targets(), Targets::Host | Targets::All)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
