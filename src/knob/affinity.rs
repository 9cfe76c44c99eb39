//! `affinity`: the processors on which each thread may run (sched_setaffinity(2)), as a list or relative to the present
//! ones. The kernel keeps only processors of the cpuset (cpuset(7)), so a value that is read back may be a part of
//! what was written.

use super::limit::notation::as_text;
use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob, Processors};
use super::scheduling::called;
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::{Fields, Text};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// No machine has more processors (CONFIG_NR_CPUS).
const MAX_CPUS: i32 = 8192;
/// An increase by more than this is a typo.
const MAX_PERCENT: i32 = 1000;

/// Processor numbers; in kernel list format (`0-2,5`) as text. Kept as runs from first to last, ascending and with gaps
/// between them: every processor is one run, and each lease may hold that for many threads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CpuSet(Vec<(u32, u32)>);

impl CpuSet {
    /// Every processor that there is or will be. The kernel cuts it down to the cpuset (sched_setaffinity(2)), and what
    /// is plugged in later belongs to it.
    pub fn every() -> CpuSet {
        CpuSet(vec![(0, MAX_CPU)])
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    fn of_runs(mut runs: Vec<(u32, u32)>) -> CpuSet {
        runs.sort_unstable();
        runs.dedup_by(|next, former| {
            let touches = next.0 <= former.1.saturating_add(1);
            if touches {
                former.1 = former.1.max(next.1);
            }
            touches
        });
        CpuSet(runs)
    }

    pub fn contains(&self, cpu: u32) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&cpu))
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        CpuSet::of_runs(cpus.into_iter().map(|cpu| (cpu, cpu)).collect())
    }
}

/// A list of processors that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of processors such as \"0-2,5\"")]
pub struct NotACpuList(String);

/// Highest processor number that is accepted; CONFIG_NR_CPUS ends at 8192.
const MAX_CPU: u32 = 8191;
/// [`CpuSet::every`] as text.
const ALL: &str = "all";

impl std::str::FromStr for CpuSet {
    type Err = NotACpuList;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotACpuList(text.to_owned());
        if text == ALL {
            return Ok(CpuSet::every());
        }
        let mut runs = Vec::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| wrong())?;
            let last: u32 = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last > MAX_CPU {
                return Err(wrong());
            }
            runs.push((first, last));
        }
        Ok(CpuSet::of_runs(runs))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == CpuSet::every() {
            return f.write_str(ALL);
        }
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

as_text!(CpuSet);

/// Affinity relative to the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffinityChange {
    /// All processors of the cpuset.
    All,
    /// That many processors more (or fewer).
    Cpus(i32),
    /// That many per cent more (or fewer).
    Percent(i32),
}

impl fmt::Display for AffinityChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AffinityChange::All => f.write_str(ALL),
            AffinityChange::Cpus(cpus) => write!(f, "{cpus:+}"),
            AffinityChange::Percent(percent) => write!(f, "{percent:+}%"),
        }
    }
}

impl AffinityChange {
    /// The processors after this change of `underlying`. `most` are the possible processors of the target.
    pub fn applied(self, underlying: &CpuSet, most: &BTreeSet<u32>) -> CpuSet {
        // Without a mask a target has all of them.
        let have: BTreeSet<u32> = most.iter().copied().filter(|cpu| underlying.contains(*cpu)).collect();
        let wanted = match self {
            AffinityChange::All => most.len(),
            AffinityChange::Cpus(cpus) => have.len().saturating_add_signed(cpus as isize),
            AffinityChange::Percent(percent) => (have.len() as f64 * (1.0 + f64::from(percent) / 100.0))
                .round()
                .max(0.0) as usize,
        }
        .clamp(1, most.len().max(1));
        // Present processors come first, because their caches are warm.
        let mut cpus: BTreeSet<u32> = have.iter().copied().take(wanted).collect();
        cpus.extend(
            most.iter()
                .filter(|cpu| !have.contains(cpu))
                .take(wanted - cpus.len().min(wanted)),
        );
        cpus.into_iter().collect()
    }
}

pub struct Affinity;

impl ProcessKnob for Affinity {
    type Value = CpuSet;

    const KEY: Key = optional(
        "affinity",
        Kind::Text,
        "Processors: a list such as \"0-1\", all, or relative to the current set, +2 or -50%. Reverted.",
    );
    const ABOUT_VALUE: &'static str = "Processors of every thread, as a list.";
    const IS_PER_THREAD: bool = true;
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_NICE;

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let text = fields.text(Self::KEY.name, findings)?;
        Some(parse(&text, findings).ok_or(Invalid))
    }

    fn initial() -> CpuSet {
        CpuSet::every()
    }

    fn get(thread: &mut dyn Access) -> Result<CpuSet, HostError> {
        let tid = thread.tid();
        called("sched_getaffinity", tid, of_thread(tid))
    }

    fn set(thread: &mut dyn Access, cpus: &CpuSet) -> Result<(), HostError> {
        let tid = thread.tid();
        let mut set = rustix::thread::CpuSet::new();
        let known = |cpu: &u32| (*cpu as usize) < rustix::thread::CpuSet::MAX_CPU;
        for cpu in cpus.iter().take_while(known) {
            set.set(cpu as usize);
        }
        let result = rustix::thread::sched_setaffinity(Pid::from_raw(tid), &set);
        called("sched_setaffinity", tid, result)
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }

    /// The kernel drops missing processors.
    fn kept(cpus: &CpuSet, processors: Processors) -> CpuSet {
        processors().into_iter().filter(|cpu| cpus.contains(*cpu)).collect()
    }

    /// A cpuset reduces a mask.
    fn explains(wanted: &CpuSet, found: &CpuSet) -> bool {
        wanted == found || (found.iter().next().is_some() && found.iter().all(|cpu| wanted.contains(cpu)))
    }

    /// Treats a mask of all possible processors as no mask, and restores it as such, so that it includes processors
    /// that are added meanwhile (cpuset(7)).
    fn to_save(found: CpuSet, processors: Processors) -> CpuSet {
        let is_no_mask = processors().iter().all(|cpu| found.contains(*cpu));
        if is_no_mask { CpuSet::every() } else { found }
    }

    fn is_restored(found: &CpuSet, saved: &CpuSet, processors: Processors) -> bool {
        match *saved == CpuSet::every() {
            true => processors().into_iter().all(|cpu| found.contains(cpu)),
            false => found == saved,
        }
    }
}

/// The processors on which a thread may run; 0 is the calling one.
///
/// # Errors
/// When the thread is gone.
pub fn of_thread(tid: i32) -> rustix::io::Result<CpuSet> {
    let set = rustix::thread::sched_getaffinity(Pid::from_raw(tid))?;
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .map(|cpu| cpu as u32);
    Ok(cpus.collect())
}

fn parse(text: &Text, findings: &mut Findings) -> Option<Change> {
    let change = if text.value == ALL {
        Some(Change::Affinity(AffinityChange::All))
    } else if text.value.starts_with(['+', '-']) {
        let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number != 0);
        match text.value.strip_suffix('%') {
            Some(percent) => number(percent)
                .filter(|percent| *percent > -100 && *percent <= MAX_PERCENT)
                .map(|percent| Change::Affinity(AffinityChange::Percent(percent))),
            None => number(&text.value)
                .filter(|cpus| cpus.abs() <= MAX_CPUS)
                .map(|cpus| Change::Affinity(AffinityChange::Cpus(cpus))),
        }
    } else {
        text.value
            .parse::<CpuSet>()
            .ok()
            .map(|cpus| Change::To(Value::Affinity(cpus)))
    };
    if change.is_none() {
        let help = "write a list such as \"0-1,4\", or all, or what to add or take away: +2, -1, -50%";
        findings.error(text.span, format!("`{}` is no set of processors", text.value), help);
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_read_what_they_write() {
        assert_eq!(CpuSet::every().to_string(), "all");
        for (text, canonical) in [
            ("all", "all"),
            ("0", "0"),
            ("0-2,5", "0-2,5"),
            ("3,1,2", "1-3"),
            ("4-6,0-9,2", "0-9"),
            ("0-8191", "all"),
            ("0,2,4", "0,2,4"),
        ] {
            let cpus: CpuSet = text.parse().unwrap();
            assert_eq!(cpus.to_string(), canonical);
            assert_eq!(cpus.iter().collect::<CpuSet>(), cpus);
            assert!(cpus.iter().all(|cpu| cpus.contains(cpu)) && !cpus.contains(MAX_CPU + 1));
        }
        for wrong in ["", "a", "3-1", "0-", "0,,1", "0-99999"] {
            assert!(wrong.parse::<CpuSet>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn affinity_is_relative_to_what_the_process_has() {
        let have = "2-3".parse::<CpuSet>().unwrap();
        let most: BTreeSet<u32> = (0..8).collect();
        for (change, expected) in [
            (AffinityChange::All, "0-7"),
            (AffinityChange::Cpus(2), "0-3"),
            (AffinityChange::Cpus(-1), "2"),
            (AffinityChange::Cpus(-9), "2"),
            (AffinityChange::Percent(-50), "2"),
            (AffinityChange::Percent(900), "0-7"),
        ] {
            assert_eq!(change.applied(&have, &most).to_string(), expected, "{change:?}");
        }
    }
}
