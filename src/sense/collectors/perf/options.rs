//! The options of the collector `perf`, in the syntax of node_exporter's flags.

use super::events::{EVENTS, EventGroup};
use crate::sense::collectors::cpu_list::MAX_CPU;
use std::collections::BTreeSet;

/// The wanted events of a group.
#[derive(Debug, Clone, Default)]
pub struct GroupChoice {
    pub is_disabled: bool,
    /// Names as in the flags; none means all.
    names: Vec<String>,
}

impl GroupChoice {
    pub fn wants(&self, name: &str) -> bool {
        !self.is_disabled && (self.names.is_empty() || self.names.iter().any(|wanted| wanted == name))
    }
}

/// A static probe of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracepoint {
    pub subsystem: String,
    pub event: String,
}

/// What `--collector.perf.*` chooses.
#[derive(Debug, Clone, Default)]
pub struct PerfOptions {
    /// `--collector.perf.cpus`; none means all that are online.
    pub cpus: BTreeSet<u32>,
    pub tracepoints: Vec<Tracepoint>,
    pub hardware: GroupChoice,
    pub software: GroupChoice,
    pub cache: GroupChoice,
}

/// What is wrong with a value of a flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPerfOption {
    #[error("{0:?} is no list of processors such as 0,2-5 or 0-8:2")]
    Cpus(String),
    #[error("{0:?} is no tracepoint such as sched:sched_process_exec")]
    Tracepoint(String),
}

impl PerfOptions {
    pub fn group(&self, group: EventGroup) -> &GroupChoice {
        match group {
            EventGroup::Hardware => &self.hardware,
            EventGroup::Software => &self.software,
            EventGroup::Cache => &self.cache,
        }
    }

    pub fn group_mut(&mut self, group: EventGroup) -> &mut GroupChoice {
        match group {
            EventGroup::Hardware => &mut self.hardware,
            EventGroup::Software => &mut self.software,
            EventGroup::Cache => &mut self.cache,
        }
    }

    /// Chooses an event of a group. Returns whether there is one of this name.
    pub fn choose(&mut self, group: EventGroup, name: String) -> bool {
        let is_known = EVENTS.iter().any(|event| event.group == group && event.flag == name);
        self.group_mut(group).names.push(name);
        is_known
    }

    /// # Errors
    /// When the text is no list.
    pub fn set_cpus(&mut self, text: &str) -> Result<(), InvalidPerfOption> {
        let parts = text.split(',').filter(|_| !text.is_empty());
        let cpus: Option<Vec<Vec<u32>>> = parts.map(parse_cpus).collect();
        let cpus = cpus.ok_or_else(|| InvalidPerfOption::Cpus(text.to_owned()))?;
        self.cpus = cpus.into_iter().flatten().collect();
        Ok(())
    }

    /// # Errors
    /// When the text is not of the form `SUBSYSTEM:EVENT`.
    pub fn add_tracepoint(&mut self, text: &str) -> Result<(), InvalidPerfOption> {
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let parts = text
            .split_once(':')
            .filter(|(subsystem, event)| is_name(subsystem) && is_name(event));
        let (subsystem, event) = parts.ok_or_else(|| InvalidPerfOption::Tracepoint(text.to_owned()))?;
        self.tracepoints.push(Tracepoint {
            subsystem: subsystem.to_owned(),
            event: event.to_owned(),
        });
        Ok(())
    }
}

/// A number, a range, or a range with a stride (`1-10:5` is 1 and 6).
fn parse_cpus(part: &str) -> Option<Vec<u32>> {
    let (range, stride) = match part.split_once(':') {
        Some((range, stride)) => (range, stride.parse().ok().filter(|stride| *stride > 0)?),
        None => (part, 1),
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    (last <= MAX_CPU).then(|| (first..=last).step_by(stride).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_with_strides() {
        let mut options = PerfOptions::default();
        for (text, expected) in [
            ("", vec![]),
            ("3", vec![3]),
            ("4,0-2,1", vec![0, 1, 2, 4]),
            ("1-10:5", vec![1, 6]),
        ] {
            options.set_cpus(text).unwrap();
            assert_eq!(options.cpus.iter().copied().collect::<Vec<_>>(), expected, "{text}");
        }
        for wrong in ["x", "1,", "1-", "-1", "0-9:0", "0-9:", "0-4294967295"] {
            assert!(options.set_cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tracepoint_has_subsystem_and_event() {
        let mut options = PerfOptions::default();
        options.add_tracepoint("sched:sched_switch").unwrap();
        assert_eq!(options.tracepoints[0].event, "sched_switch");
        for wrong in ["", "sched", "sched:", ":x", "a:b:c", "../..:id"] {
            assert!(options.add_tracepoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn named_events_are_the_only_ones() {
        let mut options = PerfOptions::default();
        assert!(options.software.wants("PageFault"));
        assert!(options.choose(EventGroup::Software, "PageFault".to_owned()));
        assert!(!options.choose(EventGroup::Cache, "PageFault".to_owned()));
        assert!(options.software.wants("PageFault") && !options.software.wants("MajorFault"));
        assert!(!options.cache.wants("LLReadHit"), "an unknown name is none");
        options.software.is_disabled = true;
        assert!(!options.software.wants("PageFault"));
    }
}
