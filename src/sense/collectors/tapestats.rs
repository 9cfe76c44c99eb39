//! `tapestats`: requests to tape drives, from `/sys/class/scsi_tape` (Documentation/scsi/st.rst).

use super::family_set::{AttributeRow, FamilySet};
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_tape_io_now node_tape_io_others_total node_tape_io_time_seconds_total node_tape_read_bytes_total \
    node_tape_read_time_seconds_total node_tape_reads_completed_total node_tape_residual_total \
    node_tape_write_time_seconds_total node_tape_writes_completed_total node_tape_written_bytes_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "tapestats",
    Pace::Scrape,
    "requests to tape drives",
    METRICS,
    |options| {
        let devices = options.tape_devices.clone();
        Box::new(move |roots| read_tapestats(roots, &devices))
    },
);

const STATISTICS: [AttributeRow; 10] = [
    ("in_flight", "node_tape_io_now", "Requests in flight.", 1.0),
    (
        "io_ns",
        "node_tape_io_time_seconds_total",
        "Time of all requests, movements of the tape included.",
        1e-9,
    ),
    (
        "other_cnt",
        "node_tape_io_others_total",
        "Requests other than reads and writes.",
        1.0,
    ),
    ("read_byte_cnt", "node_tape_read_bytes_total", "Bytes read.", 1.0),
    ("read_cnt", "node_tape_reads_completed_total", "Reads.", 1.0),
    ("read_ns", "node_tape_read_time_seconds_total", "Time of reads.", 1e-9),
    (
        "resid_cnt",
        "node_tape_residual_total",
        "Reads and writes that transferred less than asked for.",
        1.0,
    ),
    ("write_byte_cnt", "node_tape_written_bytes_total", "Bytes written.", 1.0),
    ("write_cnt", "node_tape_writes_completed_total", "Writes.", 1.0),
    (
        "write_ns",
        "node_tape_write_time_seconds_total",
        "Time of writes.",
        1e-9,
    ),
];

pub fn read_tapestats(roots: &Roots, devices: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/scsi_tape");
    let names = list_names(&base).map_err(|error| error.or_absent("no tape drive"))?;
    // Each drive has further names for its modes, such as `st0a` and `nst0`.
    let is_drive = |name: &String| {
        let number = name.strip_prefix("st").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut set = FamilySet::default();
    for name in names.into_iter().filter(|name| is_drive(name) && devices.allows(name)) {
        let directory = base.join(&name).join("stats");
        set.add_attributes(&directory, &STATISTICS, &[label("device", name)]);
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;

    #[test]
    fn drives_are_shown_once() {
        let tree = Tree::new();
        let all = NameFilter::default();
        assert!(matches!(read_tapestats(&tree.roots, &all), Err(ReadError::Absent(_))));
        for name in ["st0", "nst0", "st0a", "st1"] {
            tree.sys(&format!("class/scsi_tape/{name}/stats/read_ns"), "2500000000\n");
        }
        let filter = NameFilter::exclude(Regex::new("1$").unwrap());
        assert_eq!(
            text_of(&read_tapestats(&tree.roots, &filter).unwrap(), ""),
            ["node_tape_read_time_seconds_total{device=\"st0\"} 2.5"]
        );
        assert_eq!(text_of(&read_tapestats(&tree.roots, &all).unwrap(), "").len(), 2);
    }
}
