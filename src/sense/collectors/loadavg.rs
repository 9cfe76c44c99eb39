//! `loadavg`: the three load averages of `/proc/loadavg` (proc(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, unlabelled_descriptors, unlabelled_families};
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "node_load1 node_load15 node_load5";

pub const INFO: CollectorInfo = CollectorInfo::on("loadavg", Pace::Fast, "load averages", METRICS, |_| {
    Box::new(read_loadavg)
});

static DESCRIPTORS: LazyLock<[Arc<Descriptor>; 3]> = LazyLock::new(|| {
    unlabelled_descriptors([
        ("node_load1", "Load average over 1 minute."),
        ("node_load5", "Load average over 5 minutes."),
        ("node_load15", "Load average over 15 minutes."),
    ])
});

/// Load over 1, 5 and 15 minutes.
pub fn parse_loadavg(text: &str) -> Result<[f64; 3], ParseError> {
    let mut loads = [0.0; 3];
    let mut fields = text.split_ascii_whitespace();
    for load in &mut loads {
        let field = fields.next().unwrap_or("");
        *load = field
            .parse()
            .map_err(|_| ParseError::field(field, "is not a load", text))?;
    }
    Ok(loads)
}

pub fn read_loadavg(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let loads = roots.parse("loadavg", FileLayout::Record, parse_loadavg)?;
    Ok(unlabelled_families(&*DESCRIPTORS, loads.map(Some)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_loads_or_a_reason() {
        assert_eq!(parse_loadavg("0.21 0.37 19.50 1/719 19737\n"), Ok([0.21, 0.37, 19.5]));
        assert!(parse_loadavg("0.21 0.37").is_err());
    }
}
