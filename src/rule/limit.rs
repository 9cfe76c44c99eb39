//! The conversion of cgroup limits as written into changes of a file's value.

use super::step::{Change, IoChange, Relative};
use crate::diagnostic::Findings;
use crate::host::knob::Value;
use crate::host::limit::{Bandwidth, CgroupFile, DEFAULT_PERIOD_MICROS, Limit, Setting, WEIGHTS};
use crate::yaml::{Text, parse_size};

/// No machine has more processors (CONFIG_NR_CPUS).
const MAX_CPUS: i32 = 8192;
/// An increase by more than this is a typo.
const MAX_PERCENT: i32 = 1000;

/// Compiles one entry of `cgroup:`. Each limit in `io.max` is a change of its own.
pub(super) fn compile_limit(file: CgroupFile, text: &Text, findings: &mut Findings) -> Vec<Change> {
    let written = text.value.trim();
    if let (CgroupFile::IoMax, Some(changes)) = (file, io_max(written)) {
        return changes;
    }
    let change = match file {
        CgroupFile::CpuMax => cpu_max(written),
        CgroupFile::CpuWeight => weight(written).map(Setting::CpuWeight).map(to),
        CgroupFile::IoWeight => weight(written).map(Setting::IoWeight).map(to),
        CgroupFile::PidsMax => written.parse().ok().map(Setting::PidsMax).map(to),
        CgroupFile::MemorySwapMax => size(written).map(Setting::MemorySwapMax).map(to),
        CgroupFile::MemoryHigh => memory(file, written, Setting::MemoryHigh),
        CgroupFile::MemoryMax => memory(file, written, Setting::MemoryMax),
        CgroupFile::IoMax => None,
    };
    if change.is_none() {
        let help = match file {
            CgroupFile::CpuMax => {
                "write quota and period in microseconds (\"50000 100000\"), max, processors in per cent (50%, 200%), \
                 or what to add or take away: +2, -1, +100%, -50%"
            }
            CgroupFile::CpuWeight | CgroupFile::IoWeight => "a weight is a number from 1 to 10000; 100 is the default",
            CgroupFile::PidsMax => "write a number of processes, or max",
            CgroupFile::MemorySwapMax => "write a size such as 1GiB, 0, or max",
            CgroupFile::MemoryHigh | CgroupFile::MemoryMax => {
                "write a size such as 1GiB, max, a part of the host's memory (50%), or what to add or take away: \
                 +512MiB, +100%, -50%"
            }
            CgroupFile::IoMax => {
                "write a device and its limits, as in \"/dev/sda wbps=10MiB riops=max\"; limits are rbps, wbps, riops, wiops"
            }
        };
        // For a typo in the unit of a size, a suggestion is a better hint than the list of forms.
        let slip = match file {
            CgroupFile::MemoryHigh | CgroupFile::MemoryMax | CgroupFile::MemorySwapMax => {
                parse_size(written.trim_start_matches(['+', '-'])).err()
            }
            _ => None,
        };
        let slip = slip.filter(|slip| slip.starts_with("did you mean"));
        let message = format!("`{}` cannot be {:?}", file, text.value);
        findings.error(text.span, message, slip.unwrap_or_else(|| help.to_owned()));
    }
    change.into_iter().collect()
}

fn to(setting: Setting) -> Change {
    Change::To(Value::Cgroup(setting))
}

fn weight(text: &str) -> Option<u32> {
    text.parse().ok().filter(|weight| WEIGHTS.contains(weight))
}

fn size(text: &str) -> Option<Limit> {
    match text {
        "max" => Some(Limit(None)),
        size => parse_size(size).ok().map(|bytes| Limit(Some(bytes))),
    }
}

/// Parses a change by a percentage. A change to 0 or by 0 is invalid.
fn percent(text: &str) -> Option<i32> {
    let percent: i32 = text.strip_suffix('%')?.parse().ok()?;
    (percent != 0 && percent > -100 && percent <= MAX_PERCENT).then_some(percent)
}

fn is_relative(text: &str) -> bool {
    text.starts_with(['+', '-'])
}

fn cpu_max(text: &str) -> Option<Change> {
    let file = CgroupFile::CpuMax;
    if is_relative(text) {
        let cpus = || {
            text.parse::<i32>()
                .ok()
                .filter(|cpus| *cpus != 0 && cpus.abs() <= MAX_CPUS)
        };
        let by = percent(text)
            .map(Relative::Percent)
            .or_else(|| cpus().map(Relative::Processors))?;
        return Some(Change::Limit { file, by });
    }
    if let Some(percent) = text.strip_suffix('%') {
        // As CPUQuota= of systemd: of one processor.
        let percent: u64 = percent
            .parse()
            .ok()
            .filter(|percent| (1..=100 * MAX_CPUS as u64).contains(percent))?;
        return Some(to(Setting::CpuMax(Bandwidth {
            quota_micros: Some(percent * DEFAULT_PERIOD_MICROS / 100),
            period_micros: DEFAULT_PERIOD_MICROS,
        })));
    }
    text.parse().ok().map(Setting::CpuMax).map(to)
}

fn memory(file: CgroupFile, text: &str, setting: impl Fn(Limit) -> Setting) -> Option<Change> {
    if let Some(amount) = text.strip_prefix(['+', '-']) {
        let bytes = || {
            let bytes = parse_size(amount).ok().filter(|bytes| *bytes > 0)? as i64;
            Some(Relative::Bytes(if text.starts_with('-') { -bytes } else { bytes }))
        };
        let by = percent(text).map(Relative::Percent).or_else(bytes)?;
        return Some(Change::Limit { file, by });
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u8 = percent.parse().ok().filter(|percent| (1..=100).contains(percent))?;
        let by = Relative::OfHost(percent);
        return Some(Change::Limit { file, by });
    }
    size(text).map(|limit| to(setting(limit)))
}

/// Parses a device with one limit or several.
fn io_max(text: &str) -> Option<Vec<Change>> {
    let mut words = text.split_whitespace();
    let device = words
        .next()
        .filter(|device| device.starts_with("/dev/") || device.contains(':'))?;
    let changes: Option<Vec<Change>> = words
        .map(|word| {
            let (kind, limit) = word.split_once('=')?;
            let device = device.to_owned();
            let (kind, limit) = (kind.parse().ok()?, size(limit)?);
            Some(Change::Io(IoChange { device, kind, limit }))
        })
        .collect();
    changes.filter(|changes| !changes.is_empty())
}
