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

impl Default for SystemdOptions {
    fn default() -> Self {
        // These patterns match whole names, as in node_exporter.
        let pattern = |text| Some(Regex::new(&format!("^(?:{text})$")).expect("a constant that tests compile"));
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
