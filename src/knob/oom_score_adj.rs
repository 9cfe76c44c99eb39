//! `oom_score_adj`: the adjustment of the kernel's choice of OOM victims (proc_pid_oom_score_adj(5)). The process has
//! one.

use super::privileges::{CAP_SYS_RESOURCE, Privileges};
use super::process_knob::{Invalid, ProcessKnob};
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use std::io;

pub struct OomScoreAdj;

impl ProcessKnob for OomScoreAdj {
    /// -1000 to 1000.
    type Value = i32;

    const KEY: Key = optional(
        "oom_score_adj",
        Kind::Integer(-1000, 1000),
        "Adjusts the kernel's choice of OOM victims. Reverted.",
    );
    const ABOUT_VALUE: &'static str = "The OOM score adjustment of the process.";
    const IS_PER_THREAD: bool = false;
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_RESOURCE.union(CapabilitySet::DAC_OVERRIDE);

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let score = fields.integer(Self::KEY.name, findings)?;
        Some(Ok(Change::To(Value::OomScoreAdj(i32::try_from(score.value).ok()?))))
    }

    fn get(thread: &mut dyn Access) -> Result<i32, HostError> {
        let text = thread.read(Self::KEY.name);
        let score = text.and_then(|text| text.trim().parse().map_err(|_| io::Error::other("no number")));
        score.map_err(|error| HostError::of_call(Self::KEY.name, "CAP_SYS_RESOURCE", thread.pid(), error))
    }

    fn set(thread: &mut dyn Access, score: &i32) -> Result<(), HostError> {
        thread.write(Self::KEY.name, "CAP_SYS_RESOURCE", &score.to_string())
    }

    fn favours(score: &i32, other: &i32) -> bool {
        score < other
    }

    /// The kernel lets a process return to the lowest score that root gave it, so the revert must write even where the
    /// process has raised its score meanwhile.
    fn is_always_written(ours: &i32, saved: &i32) -> bool {
        ours < saved
    }

    fn may_undo(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_RESOURCE)
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.others_files
    }
}
