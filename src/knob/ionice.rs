//! `ionice`: the I/O scheduling class and level of each thread (ioprio_set(2)).

use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob};
use super::scheduling::called;
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::{Fields, Text};
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::fmt;

/// ioprio_set(2): class in the bits from 13 up, level below.
const IOPRIO_CLASS_SHIFT: u32 = 13;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// I/O scheduling class and level. `None` is the kernel's default: it follows nice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoPriority {
    #[default]
    None,
    /// 0 (highest) to 7.
    RealTime(u8),
    /// 0 (highest) to 7.
    BestEffort(u8),
    Idle,
}

impl fmt::Display for IoPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoPriority::None => f.write_str("none"),
            IoPriority::RealTime(level) => write!(f, "realtime/{level}"),
            IoPriority::BestEffort(level) => write!(f, "best-effort/{level}"),
            IoPriority::Idle => f.write_str("idle"),
        }
    }
}

pub struct Ionice;

impl ProcessKnob for Ionice {
    type Value = IoPriority;

    const KEY: Key = optional(
        "ionice",
        Kind::Text,
        "I/O priority of every thread: idle, or best-effort/0 to best-effort/7. Reverted.",
    );
    const ABOUT_VALUE: &'static str = "I/O priority of every thread.";
    const IS_PER_THREAD: bool = true;
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_NICE;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let text = fields.text(Self::KEY.name, findings)?;
        let priority = parse(&text, findings).ok_or(Invalid);
        Some(priority.map(|priority| Change::To(Value::Ionice(priority))))
    }

    fn get(thread: &mut dyn Access) -> Result<IoPriority, HostError> {
        let tid = thread.tid();
        // SAFETY: takes two integers, touches no memory of ours.
        let answer = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
        let answer = called("ioprio_get", tid, Errno::result(answer))?;
        let level = (answer & 7) as u8;
        Ok(match answer >> IOPRIO_CLASS_SHIFT {
            1 => IoPriority::RealTime(level),
            2 => IoPriority::BestEffort(level),
            3 => IoPriority::Idle,
            _ => IoPriority::None,
        })
    }

    fn set(thread: &mut dyn Access, priority: &IoPriority) -> Result<(), HostError> {
        let tid = thread.tid();
        let (class, level) = match *priority {
            IoPriority::None => (0, 0),
            IoPriority::RealTime(level) => (1, level),
            IoPriority::BestEffort(level) => (2, level),
            IoPriority::Idle => (3, 0),
        };
        let number = (class << IOPRIO_CLASS_SHIFT) | libc::c_int::from(level);
        // SAFETY: takes three integers, touches no memory of ours.
        let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, number) };
        called("ioprio_set", tid, Errno::result(answer)).map(drop)
    }

    /// A process may give itself any level but a real-time one (ioprio_set(2)).
    fn favours(priority: &IoPriority, other: &IoPriority) -> bool {
        match (priority, other) {
            (IoPriority::RealTime(level), IoPriority::RealTime(other)) => level < other,
            (IoPriority::RealTime(_), _) => true,
            _ => false,
        }
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }
}

fn parse(text: &Text, findings: &mut Findings) -> Option<IoPriority> {
    if text.value == "idle" {
        return Some(IoPriority::Idle);
    }
    let level = text
        .value
        .strip_prefix("best-effort/")
        .and_then(|level| level.parse::<u8>().ok());
    let priority = level.filter(|level| *level <= 7).map(IoPriority::BestEffort);
    if priority.is_none() {
        let help = match text.value.as_str() {
            realtime if realtime.starts_with("realtime") || realtime.starts_with("real-time") => {
                "real-time I/O can starve the host and is never set; use best-effort/0"
            }
            "best-effort" => "give the level: best-effort/0 (first) to best-effort/7 (last)",
            _ => "write idle, or best-effort/0 (first) to best-effort/7 (last)",
        };
        findings.error(text.span, format!("`{}` is no I/O priority", text.value), help);
    }
    priority
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_real_time_level_is_a_favour() {
        let all = [
            IoPriority::RealTime(0),
            IoPriority::RealTime(7),
            IoPriority::BestEffort(0),
            IoPriority::None,
            IoPriority::Idle,
        ];
        for (place, priority) in all.iter().enumerate() {
            for (other_place, other) in all.iter().enumerate() {
                let expected = place < 2 && place < other_place;
                assert_eq!(Ionice::favours(priority, other), expected, "{priority} {other}");
            }
        }
    }
}
