//! `zfs`: caches and pools of ZFS, from `/proc/spl/kstat/zfs`.

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, MetricKind, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, if_present, list_names, or_without, read_attribute};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics. The module names the counters of its caches and pools.
const METRICS: &str = "node_zfs_zpool_state node_zfs_*";

pub const INFO: CollectorInfo = CollectorInfo::on("zfs", Pace::Scrape, "caches and pools of ZFS", METRICS, |_| {
    Box::new(read_zfs)
});

/// File, and its part of the names of metrics.
const FILES: [(&str, &str); 11] = [
    ("abdstats", "abd"),
    ("arcstats", "arc"),
    ("dbufstats", "dbuf"),
    ("dmu_tx", "dmu_tx"),
    ("dnodestats", "dnode"),
    ("fm", "fm"),
    ("vdev_cache_stats", "vdev_cache"),
    ("vdev_mirror_stats", "vdev_mirror"),
    ("xuio_stats", "xuio"),
    ("zfetchstats", "zfetch"),
    ("zil", "zil"),
];

/// The states of a pool.
const STATES: [&str; 7] = [
    "online",
    "degraded",
    "faulted",
    "offline",
    "removed",
    "unavail",
    "suspended",
];

/// Types of numbers: signed and unsigned of 64 bits.
const NUMBER_TYPES: [&str; 2] = ["3", "4"];

/// The dataset that a table names, and its numbers.
type Table = (Option<String>, Vec<(String, f64)>);

/// A table of names, types and data.
pub fn parse_table(text: &str, bad: &mut BadLines) -> Result<Table, ParseError> {
    let mut rows = lines(text).skip_while(|line| !line.split_ascii_whitespace().eq(["name", "type", "data"]));
    rows.next().ok_or(ParseError::File("has no table"))?;
    let mut dataset = None;
    let mut numbers = Vec::new();
    for line in rows {
        let mut fields = line.split_ascii_whitespace();
        let (Some(name), Some(kind), Some(data)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if name == "dataset_name" {
            // The name may hold blanks.
            dataset = line.find(data).map(|at| line[at..].to_owned());
        } else if NUMBER_TYPES.contains(&kind) {
            let number = data
                .parse()
                .map_err(|_| ParseError::field(data, "is not a number", line));
            numbers.extend(bad.keep(number).map(|number| (name.to_owned(), number)));
        }
    }
    Ok((dataset, numbers))
}

/// The older file `io` of a pool: a line of names and one of numbers.
pub fn parse_io(text: &str, bad: &mut BadLines) -> Result<Vec<(String, f64)>, ParseError> {
    let mut rows = lines(text).skip_while(|line| !line.starts_with("nread"));
    let (Some(names), Some(numbers)) = (rows.next(), rows.next()) else {
        return Err(ParseError::File("has no line of numbers"));
    };
    let both = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
    let numbers = both.filter_map(|(name, number)| {
        let number = number
            .parse()
            .map_err(|_| ParseError::field(number, "is not a number", numbers));
        Some((name.to_owned(), bad.keep(number)?))
    });
    Ok(numbers.collect())
}

fn add_pool(roots: &Roots, pool: &str, set: &mut FamilySet) -> Result<(), ReadError> {
    let base = format!("spl/kstat/zfs/{pool}");
    let zpool = label("zpool", pool.to_owned());
    let files = list_names(&roots.proc(&base))?;
    let has = |file: &str| files.iter().any(|name| name == file);
    if has("io") {
        let numbers = or_without(roots.parse_lines_once(&format!("{base}/io"), parse_io))?;
        for (name, number) in numbers.unwrap_or_default() {
            let metric = format!("node_zfs_zpool_{}", metric_part(&name));
            let help = format!("Number {name} of a pool.");
            set.add_as(MetricKind::Untyped, metric, help, std::slice::from_ref(&zpool), number);
        }
    }
    for file in files.iter().filter(|name| name.starts_with("objset-")) {
        let Some((dataset, numbers)) = or_without(roots.parse_lines_once(&format!("{base}/{file}"), parse_table))?
        else {
            continue;
        };
        let labels = [zpool.clone(), label("dataset", dataset.unwrap_or_default())];
        for (name, number) in numbers {
            let metric = format!("node_zfs_zpool_dataset_{}", metric_part(&name));
            let help = format!("Number {name} of a dataset.");
            set.add_as(MetricKind::Untyped, metric, help, &labels, number);
        }
    }
    if let Some(state) = read_attribute(&roots.proc(&format!("{base}/state"))) {
        let state = state.trim().to_lowercase();
        for known in STATES {
            let labels = [zpool.clone(), label("state", known)];
            let help = "1 for the state that a pool is in.";
            set.add("node_zfs_zpool_state", help, &labels, f64::from(state == known));
        }
    }
    Ok(())
}

pub fn read_zfs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.proc("spl/kstat/zfs");
    let entries = list_names(&base).map_err(|error| error.or_absent("no ZFS"))?;
    let mut set = FamilySet::default();
    for (file, prefix) in FILES {
        let read = roots.parse_lines_once(&format!("spl/kstat/zfs/{file}"), parse_table);
        for (name, number) in if_present(or_without(read))?.flatten().unwrap_or_default().1 {
            let metric = format!("node_zfs_{prefix}_{}", metric_part(&name));
            let help = format!("Number {name} of {file}.");
            set.add_as(MetricKind::Untyped, metric, help, &[], number);
        }
    }
    for pool in entries.iter().filter(|name| base.join(name).is_dir()) {
        add_pool(roots, pool, &mut set)?;
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn caches_pools_and_datasets_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_zfs(&tree.roots), Err(ReadError::Absent(_))));
        let base = "spl/kstat/zfs";
        let head = "7 1 0x01 2 1 1 1\nname type data\n";
        tree.proc(
            &format!("{base}/arcstats"),
            format!("{head}hits 4 10\nmemory_available_bytes 3 -922337203685\nevict-skip 4 x\nname 7 text\n"),
        );
        tree.proc(&format!("{base}/zil"), "no table\n");
        tree.proc(&format!("{base}/tank/io"), "12 3 0x00\nnread nwritten\n7 8\n");
        tree.proc(
            &format!("{base}/tank/objset-0x36"),
            format!("{head}dataset_name 7 tank/my  data\nwrites 4 3\n"),
        );
        tree.proc(&format!("{base}/tank/state"), "DEGRADED\n");
        let families = read_zfs(&tree.roots).unwrap();
        let mut lines = text_of(&families, "");
        lines.retain(|line| !line.ends_with("} 0"));
        assert_eq!(
            lines,
            [
                "node_zfs_arc_hits 10",
                "node_zfs_arc_memory_available_bytes -922337203685",
                "node_zfs_zpool_nread{zpool=\"tank\"} 7",
                "node_zfs_zpool_nwritten{zpool=\"tank\"} 8",
                "node_zfs_zpool_dataset_writes{zpool=\"tank\",dataset=\"tank/my  data\"} 3",
                "node_zfs_zpool_state{zpool=\"tank\",state=\"degraded\"} 1",
            ]
        );
        assert_eq!(text_of(&families, "zpool_state").len(), 7);
        assert_eq!(tree.roots.take_bad_lines().count, 2);
    }
}
