//! The options of the collector `cpu`.

use regex::Regex;

/// What the flags `--collector.cpu.*` choose.
#[derive(Debug, Clone)]
pub struct CpuOptions {
    pub has_guest: bool,
    /// Families of `/proc/cpuinfo`.
    pub has_info: bool,
    /// Frequencies of `/proc/cpuinfo`, where the collector `cpufreq` is on.
    pub has_frequency: bool,
    /// Flags and bugs of the first processor that have a series; `None` is none.
    pub flags: Option<Regex>,
    pub bugs: Option<Regex>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions {
            has_guest: true,
            has_info: false,
            has_frequency: true,
            flags: None,
            bugs: None,
        }
    }
}
