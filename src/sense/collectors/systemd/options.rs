//! The options of the collector `systemd`, with the defaults of node_exporter.

use crate::sense::collectors::name_filter::NameFilter;
use regex::Regex;

/// Defaults of `--collector.systemd.unit-include` and `…-exclude`.
pub const UNIT_INCLUDE: &str = ".+";
pub const UNIT_EXCLUDE: &str = r".+\.(automount|device|mount|scope|slice)";

/// The flags of this collector.
#[derive(Debug, Clone)]
pub struct SystemdOptions {
    pub units: NameFilter,
    pub start_times: bool,
    pub restarts: bool,
    pub tasks: bool,
}

/// A pattern that matches whole names, as these flags of node_exporter do.
///
/// # Errors
/// When the pattern is no regular expression.
pub fn whole_name(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

impl Default for SystemdOptions {
    fn default() -> Self {
        let pattern = |text| Some(whole_name(text).expect("a constant that tests compile"));
        SystemdOptions {
            units: NameFilter {
                include: pattern(UNIT_INCLUDE),
                exclude: pattern(UNIT_EXCLUDE),
            },
            start_times: false,
            restarts: false,
            tasks: false,
        }
    }
}
