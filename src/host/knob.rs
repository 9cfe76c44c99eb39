//! The knobs of a process or a cgroup, and their values. Data only.

use super::limit::{CgroupFile, Device, IoKind, Setting};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A property of a process or a cgroup that has a value before and a value after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    Nice,
    Affinity,
    Ionice,
    Sched,
    OomScoreAdj,
    /// Of a process, or of all that is in a cgroup.
    Freeze,
    /// Of a cgroup.
    Cgroup(CgroupFile),
    /// One limit of one device in `io.max` of a cgroup: what rules set on others are other knobs.
    Io(Device, IoKind),
}

impl Knob {
    /// Those of processes.
    pub const ALL: [Knob; 6] = [
        Knob::Nice,
        Knob::Affinity,
        Knob::Ionice,
        Knob::Sched,
        Knob::OomScoreAdj,
        Knob::Freeze,
    ];

    /// The word in rules and the closed label value of `evenkeel_leases{knob}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Knob::Nice => "nice",
            Knob::Affinity => "affinity",
            Knob::Ionice => "ionice",
            Knob::Sched => "sched",
            Knob::OomScoreAdj => "oom_score_adj",
            Knob::Freeze => "freeze",
            Knob::Cgroup(file) => file.as_str(),
            Knob::Io(..) => CgroupFile::IoMax.as_str(),
        }
    }

    /// Whether it is a limit of a cgroup.
    pub fn is_limit(self) -> bool {
        matches!(self, Knob::Cgroup(_) | Knob::Io(..))
    }

    /// On Linux these belong to each thread, not to the process (setpriority(2), "C library/kernel differences").
    pub fn is_per_thread(self) -> bool {
        matches!(self, Knob::Nice | Knob::Affinity | Knob::Ionice | Knob::Sched)
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of a knob as it is read from or set on a process or thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// -20 (most favoured) to 19.
    Nice(i32),
    Affinity(CpuSet),
    Ionice(IoPriority),
    Sched(Policy),
    /// -1000 to 1000.
    OomScoreAdj(i32),
    /// Whether the process is stopped, or the cgroup frozen.
    Freeze(bool),
    Cgroup(Setting),
}

impl Value {
    pub fn knob(&self) -> Knob {
        match self {
            Value::Nice(_) => Knob::Nice,
            Value::Affinity(_) => Knob::Affinity,
            Value::Ionice(_) => Knob::Ionice,
            Value::Sched(_) => Knob::Sched,
            Value::OomScoreAdj(_) => Knob::OomScoreAdj,
            Value::Freeze(_) => Knob::Freeze,
            Value::Cgroup(Setting::IoLimit(limit)) => Knob::Io(limit.device, limit.kind),
            Value::Cgroup(setting) => Knob::Cgroup(setting.file()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nice(nice) => write!(f, "{nice}"),
            Value::Affinity(cpus) => write!(f, "{cpus}"),
            Value::Ionice(priority) => write!(f, "{priority}"),
            Value::Sched(policy) => f.write_str(policy.as_str()),
            Value::OomScoreAdj(score) => write!(f, "{score}"),
            Value::Freeze(frozen) => write!(f, "{frozen}"),
            Value::Cgroup(setting) => write!(f, "{setting}"),
        }
    }
}

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

impl Serialize for CpuSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// I/O scheduling class and level (ioprio_set(2)). `None` is the kernel's default: it follows nice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoPriority {
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

/// CPU scheduling policy (sched(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Other,
    Batch,
    Idle,
    /// Real-time and deadline policies are read so that they can be left alone; they are never set.
    RealTime,
}

impl Policy {
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Other => "other",
            Policy::Batch => "batch",
            Policy::Idle => "idle",
            Policy::RealTime => "real-time",
        }
    }
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
}
