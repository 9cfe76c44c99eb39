//! `cpu.max`: processor time of a cgroup in each period.

use super::limit_file::{Capacity, LimitFile, Relative};
use super::notation::{Limit, NotALimit, as_text, not, percent};
use super::property::{INFINITY, Property};
use super::{CgroupFile, Setting};
use crate::knob::Change;
use crate::schema::{Key, Kind, optional};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// No machine has more processors (CONFIG_NR_CPUS).
const MAX_CPUS: i32 = 8192;
/// The kernel's own period of `cpu.max`, and what a quota without a period means.
const DEFAULT_PERIOD_MICROS: u64 = 100_000;
/// Bounds of a period, and the least quota (`min_cfs_quota_period`, `max_cfs_quota_period` of kernel/sched/core.c).
const MIN_PERIOD_MICROS: u64 = 1_000;
const MAX_PERIOD_MICROS: u64 = 1_000_000;

/// `cpu.max`: the processor time in each period, summed over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bandwidth {
    /// `None` is no limit.
    pub quota_micros: Option<u64>,
    pub period_micros: u64,
}

impl Bandwidth {
    /// The quota as a number of processors.
    pub fn processors(self) -> Option<f64> {
        self.quota_micros.map(|quota| quota as f64 / self.period_micros as f64)
    }
}

impl FromStr for Bandwidth {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        let wrong = || {
            not(
                text,
                "a quota and a period in microseconds, such as \"50000 100000\", or max",
            )
        };
        let mut words = text.split_whitespace();
        let Limit(quota_micros) = words.next().unwrap_or_default().parse().map_err(|_| wrong())?;
        let period_micros = match words.next() {
            Some(period) => period.parse().map_err(|_| wrong())?,
            None => DEFAULT_PERIOD_MICROS,
        };
        let is_sound = (MIN_PERIOD_MICROS..=MAX_PERIOD_MICROS).contains(&period_micros)
            && quota_micros.is_none_or(|quota| quota >= MIN_PERIOD_MICROS)
            && words.next().is_none();
        is_sound
            .then_some(Bandwidth {
                quota_micros,
                period_micros,
            })
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Limit(self.quota_micros), self.period_micros)
    }
}

as_text!(Bandwidth);

pub struct CpuMax;

impl LimitFile for CpuMax {
    type Value = Bandwidth;

    const KEY: Key = optional(
        "cpu.max",
        Kind::Text,
        "Processor time: \"50000 100000\" (microseconds in each period), max, 50% (of one processor), or relative \
         to the current limit, +2, +100%, -50%.",
    );
    const HELP: &'static str = "write quota and period in microseconds (\"50000 100000\"), max, processors in per cent \
        (50%, 200%), or what to add or take away: +2, -1, +100%, -50%";
    const PROPERTIES: &'static [&'static str] = &["CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"];

    fn compile(text: &str) -> Option<Vec<Change>> {
        if text.starts_with(['+', '-']) {
            let cpus = || {
                text.parse::<i32>()
                    .ok()
                    .filter(|cpus| *cpus != 0 && cpus.abs() <= MAX_CPUS)
            };
            let by = percent(text)
                .map(Relative::Percent)
                .or_else(|| cpus().map(Relative::Processors))?;
            return Some(vec![Change::Limit {
                file: CgroupFile::CpuMax,
                by,
            }]);
        }
        if let Some(percent) = text.strip_suffix('%') {
            // As CPUQuota= of systemd: of one processor.
            let percent: u64 = percent
                .parse()
                .ok()
                .filter(|percent| (1..=100 * MAX_CPUS as u64).contains(percent))?;
            let bandwidth = Bandwidth {
                quota_micros: Some(percent * DEFAULT_PERIOD_MICROS / 100),
                period_micros: DEFAULT_PERIOD_MICROS,
            };
            return Some(vec![Setting::CpuMax(bandwidth).into()]);
        }
        Some(vec![Setting::CpuMax(text.parse().ok()?).into()])
    }

    fn parse(text: &str) -> Result<Bandwidth, NotALimit> {
        text.parse()
    }

    /// systemd keeps quotas in microseconds per second.
    fn explains(wanted: &Bandwidth, found: &Bandwidth) -> bool {
        match (wanted.processors(), found.processors()) {
            (Some(wanted), Some(found)) => (wanted - found).abs() <= wanted / 100.0,
            (wanted, found) => wanted == found,
        }
    }

    /// Without a limit the cgroup has all processors; a result of all processors or more stays without a limit.
    fn relative(by: Relative, now: &Bandwidth, capacity: Capacity) -> Option<Bandwidth> {
        let all = capacity.processors as f64;
        let have = now.processors().unwrap_or(all);
        let wanted = match by {
            Relative::Percent(percent) => have * (1.0 + f64::from(percent) / 100.0),
            Relative::Processors(processors) => have + f64::from(processors),
            Relative::Bytes(_) | Relative::OfHost(_) => have,
        };
        if now.quota_micros.is_none() && wanted >= all {
            return Some(*now);
        }
        let quota = (wanted.min(all.max(have)) * now.period_micros as f64).round().max(0.0) as u64;
        Some(Bandwidth {
            quota_micros: Some(quota.max(MIN_PERIOD_MICROS)),
            ..*now
        })
    }

    fn is_more(value: &Bandwidth, other: &Bandwidth) -> bool {
        let processors = |bandwidth: &Bandwidth| bandwidth.processors().unwrap_or(f64::INFINITY);
        processors(value) > processors(other)
    }

    fn properties(bandwidth: &Bandwidth) -> Vec<Property> {
        let Bandwidth {
            quota_micros,
            period_micros,
        } = *bandwidth;
        let per_second = |quota: u64| (u128::from(quota) * 1_000_000 / u128::from(period_micros)) as u64;
        let period = if period_micros == DEFAULT_PERIOD_MICROS {
            INFINITY
        } else {
            period_micros
        };
        vec![
            Property::Number(quota_micros.map_or(INFINITY, per_second)),
            Property::Number(period),
        ]
    }

    fn recorded(properties: &[u64]) -> Option<Bandwidth> {
        let [per_second, period] = *properties else {
            return None;
        };
        let period_micros = if period == INFINITY {
            DEFAULT_PERIOD_MICROS
        } else {
            period
        };
        let quota = |per_second: u64| (u128::from(per_second) * u128::from(period_micros) / 1_000_000) as u64;
        let set = (per_second != INFINITY).then_some(per_second);
        Some(Bandwidth {
            quota_micros: set.map(|set| quota(set).max(MIN_PERIOD_MICROS)),
            period_micros,
        })
    }

    /// A quota in whole per cents of a processor.
    fn kept_in_drop_in(bandwidth: &Bandwidth) -> Bandwidth {
        let Bandwidth {
            quota_micros: Some(quota),
            period_micros,
        } = *bandwidth
        else {
            return *bandwidth;
        };
        let percent = (quota.saturating_mul(100) / period_micros).max(1);
        let quota = percent.saturating_mul(period_micros).div_ceil(100);
        Bandwidth {
            quota_micros: Some(quota.max(MIN_PERIOD_MICROS)),
            period_micros,
        }
    }
}
