//! `bcache`: caches of block devices, from `/sys/fs/bcache` (Documentation/admin-guide/bcache.rst).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{Attributes, ParseError, ReadError, if_present, list_names, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_bcache_active_journal_entries node_bcache_average_key_size_sectors node_bcache_btree_cache_size_bytes \
    node_bcache_btree_nodes node_bcache_btree_read_average_duration_seconds node_bcache_bypassed_bytes_total \
    node_bcache_cache_available_percent node_bcache_cache_bypass_hits_total node_bcache_cache_bypass_misses_total \
    node_bcache_cache_hits_total node_bcache_cache_miss_collisions_total node_bcache_cache_misses_total \
    node_bcache_cache_read_races_total node_bcache_cache_readaheads_total node_bcache_congested \
    node_bcache_dirty_data_bytes node_bcache_dirty_target_bytes node_bcache_io_errors \
    node_bcache_metadata_written_bytes_total node_bcache_priority_stats_metadata_percent \
    node_bcache_priority_stats_unused_percent node_bcache_root_usage_percent node_bcache_tree_depth \
    node_bcache_writeback_change node_bcache_writeback_rate node_bcache_writeback_rate_integral_term \
    node_bcache_writeback_rate_proportional_term node_bcache_written_bytes_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "bcache",
    Pace::Scrape,
    "caches of block devices (bcache)",
    METRICS,
    |options| {
        let has_priority_stats = options.bcache_priority_stats;
        Box::new(move |roots| read_bcache(roots, has_priority_stats))
    },
);

/// File, metric, help, factor.
type Row = (&'static str, &'static str, &'static str, f64);

const CACHE_SET: [Row; 6] = [
    (
        "average_key_size",
        "node_bcache_average_key_size_sectors",
        "Mean size of the data of a key of the index.",
        1.0,
    ),
    (
        "btree_cache_size",
        "node_bcache_btree_cache_size_bytes",
        "Memory that the cached index takes.",
        1.0,
    ),
    (
        "cache_available_percent",
        "node_bcache_cache_available_percent",
        "Share of the cache without dirty data.",
        1.0,
    ),
    (
        "congested",
        "node_bcache_congested",
        "How congested the cache device is.",
        1.0,
    ),
    (
        "root_usage_percent",
        "node_bcache_root_usage_percent",
        "Used share of the root node of the index.",
        1.0,
    ),
    ("tree_depth", "node_bcache_tree_depth", "Depth of the index.", 1.0),
];

const INTERNAL: [Row; 4] = [
    (
        "active_journal_entries",
        "node_bcache_active_journal_entries",
        "Journal entries newer than the index.",
        1.0,
    ),
    ("btree_nodes", "node_bcache_btree_nodes", "Nodes of the index.", 1.0),
    // The file is named after microseconds and holds what node_exporter reads as nanoseconds.
    (
        "btree_read_average_duration_us",
        "node_bcache_btree_read_average_duration_seconds",
        "Mean time of a read of the index.",
        1e-9,
    ),
    (
        "cache_read_races",
        "node_bcache_cache_read_races_total",
        "Reads whose bucket was reused before they ended.",
        1.0,
    ),
];

const TOTAL: [Row; 7] = [
    (
        "bypassed",
        "node_bcache_bypassed_bytes_total",
        "Bytes that bypassed the cache.",
        1.0,
    ),
    (
        "cache_hits",
        "node_bcache_cache_hits_total",
        "Requests that the cache served.",
        1.0,
    ),
    (
        "cache_misses",
        "node_bcache_cache_misses_total",
        "Requests that the cache could not serve.",
        1.0,
    ),
    (
        "cache_bypass_hits",
        "node_bcache_cache_bypass_hits_total",
        "Hits of requests meant to bypass the cache.",
        1.0,
    ),
    (
        "cache_bypass_misses",
        "node_bcache_cache_bypass_misses_total",
        "Misses of requests meant to bypass the cache.",
        1.0,
    ),
    (
        "cache_miss_collisions",
        "node_bcache_cache_miss_collisions_total",
        "Misses whose data was written before the cache could add it.",
        1.0,
    ),
    (
        "cache_readaheads",
        "node_bcache_cache_readaheads_total",
        "Times that data was read ahead.",
        1.0,
    ),
];

const CACHE_DEVICE: [Row; 3] = [
    (
        "io_errors",
        "node_bcache_io_errors",
        "Errors of a cache device, weighted by age.",
        1.0,
    ),
    (
        "metadata_written",
        "node_bcache_metadata_written_bytes_total",
        "Bytes of metadata written to the cache.",
        1.0,
    ),
    (
        "written",
        "node_bcache_written_bytes_total",
        "Bytes of data written to the cache.",
        1.0,
    ),
];

/// Prefix of a line of `writeback_rate_debug`, metric, help.
const WRITEBACK: [(&str, &str, &str); 5] = [
    (
        "rate:",
        "node_bcache_writeback_rate",
        "Rate of writeback in bytes per second.",
    ),
    (
        "target:",
        "node_bcache_dirty_target_bytes",
        "Dirty data that writeback aims at.",
    ),
    (
        "proportional:",
        "node_bcache_writeback_rate_proportional_term",
        "Proportional part of the rate of writeback.",
    ),
    (
        "integral:",
        "node_bcache_writeback_rate_integral_term",
        "Integral part of the rate of writeback.",
    ),
    (
        "change:",
        "node_bcache_writeback_change",
        "Last change of the rate of writeback.",
    ),
];

/// A number as bcache writes it, such as `1.1M`. The digit after the point counts hundredths of 1,024ths, because the
/// driver divides the rest by 100.
fn parse_human(text: &str) -> Option<f64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let number = match text.find(|character: char| character.is_ascii_alphabetic()) {
        None => text.parse().ok()?,
        Some(at) => {
            let power = "kMGTPEZY".find(&text[at..])? + 1;
            let (whole, part) = text[..at].split_once('.').unwrap_or((&text[..at], "0"));
            let mantissa = whole.parse::<f64>().ok()? + part.parse::<f64>().ok()? / 10.24;
            mantissa * 1024f64.powi(i32::try_from(power).ok()?)
        }
    };
    Some(sign * number.trunc())
}

/// The values of `writeback_rate_debug` by row of the table.
fn parse_writeback(text: &str, bad: &mut BadLines) -> Result<Vec<(usize, f64)>, ParseError> {
    let values = lines(text).filter_map(|line| {
        let row = WRITEBACK.iter().position(|(prefix, ..)| line.starts_with(prefix))?;
        let last = line.split_ascii_whitespace().last().unwrap_or_default();
        let value = parse_human(last.trim_end_matches("/sec"));
        let value = bad.keep(value.ok_or_else(|| ParseError::text(line, "has no number")))?;
        Some((row, value))
    });
    Ok(values.collect())
}

/// Unused and metadata share of a cache.
fn parse_priority_stats(text: &str, bad: &mut BadLines) -> Result<Vec<(&'static str, f64)>, ParseError> {
    let values = lines(text).filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let metric = match name {
            "Unused" => "node_bcache_priority_stats_unused_percent",
            "Metadata" => "node_bcache_priority_stats_metadata_percent",
            _ => return None,
        };
        let share = rest.trim().trim_end_matches('%').parse();
        Some((
            metric,
            bad.keep(share.map_err(|_| ParseError::text(line, "has no share")))?,
        ))
    });
    Ok(values.collect())
}

pub fn read_bcache(roots: &Roots, has_priority_stats: bool) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("fs/bcache");
    let mut set = FamilySet::default();
    let names = if_present(list_names(&base))?.unwrap_or_default();
    // Beside the cache sets there are files such as `register`.
    for uuid in names.into_iter().filter(|name| name.contains('-')) {
        let directory = base.join(&uuid);
        let uuid = label("uuid", uuid);
        let mut add = |directory: &std::path::Path, table: &[Row], labels: &[_]| {
            let Some(attributes) = Attributes::open(directory) else {
                return;
            };
            for (file, name, help, factor) in table {
                let value = attributes.read(file).and_then(|text| parse_human(text.trim()));
                // Kernels since 5.17 count no readaheads.
                if let Some(value) = value.filter(|value| *file != "cache_readaheads" || *value != 0.0) {
                    set.add(*name, *help, labels, value * factor);
                }
            }
        };
        add(&directory, &CACHE_SET, std::slice::from_ref(&uuid));
        add(&directory.join("internal"), &INTERNAL, std::slice::from_ref(&uuid));
        let entries = list_names(&directory)?;
        let numbered = |prefix: &'static str| {
            let is_device = move |name: &&String| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            entries.iter().filter(is_device)
        };
        const DIRTY: [Row; 1] = [(
            "dirty_data",
            "node_bcache_dirty_data_bytes",
            "Dirty data of a device in the cache.",
            1.0,
        )];
        for name in numbered("bdev") {
            let device = directory.join(name);
            let labels = [uuid.clone(), label("backing_device", name.clone())];
            add(&device, &DIRTY, &labels);
            add(&device.join("stats_total"), &TOTAL, &labels);
        }
        for name in numbered("cache") {
            add(
                &directory.join(name),
                &CACHE_DEVICE,
                &[uuid.clone(), label("cache_device", name.clone())],
            );
        }
        for name in numbered("bdev") {
            let labels = [uuid.clone(), label("backing_device", name.clone())];
            let values = roots.parse_file(directory.join(name).join("writeback_rate_debug"), parse_writeback);
            for (row, value) in if_present(or_without(values))?.flatten().unwrap_or_default() {
                let (_, name, help) = WRITEBACK[row];
                set.add(name, help, &labels, value);
            }
        }
        for name in numbered("cache").filter(|_| has_priority_stats) {
            let labels = [uuid.clone(), label("cache_device", name.clone())];
            let values = roots.parse_file(directory.join(name).join("priority_stats"), parse_priority_stats);
            for (name, value) in if_present(or_without(values))?.flatten().unwrap_or_default() {
                set.add(name, "Share of a cache by use.", &labels, value);
            }
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn human_numbers_have_parts_of_1024() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("2.5k", Some(2548.0)),
            ("-1.1M", Some(-1_150_976.0)),
            ("100G", Some(107_374_182_400.0)),
            ("3q", None),
            ("", None),
        ] {
            assert_eq!(parse_human(text), expected, "{text}");
        }
    }

    #[test]
    fn sets_devices_and_caches_are_shown() {
        let tree = Tree::new();
        assert_eq!(text_of(&read_bcache(&tree.roots, true).unwrap(), ""), [""; 0]);
        let base = "fs/bcache/2b5f-01";
        for (file, text) in [
            ("tree_depth", "1\n"),
            ("internal/btree_read_average_duration_us", "1305\n"),
            ("bdev0/dirty_data", "4.0k\n"),
            ("bdev0/stats_total/cache_hits", "7\n"),
            ("bdev0/stats_total/cache_readaheads", "0\n"),
            (
                "bdev0/writeback_rate_debug",
                "rate:\t\t8.0k/sec\ntarget:\t\tlots\nchange:\t\t-3/sec\nnext io:\t1ms\n",
            ),
            ("cache0/written", "1.0M\n"),
            ("cache0/priority_stats", "Unused:\t\t98%\nClean:\t\t1%\nMetadata:\t1%\n"),
        ] {
            tree.sys(&format!("{base}/{file}"), text);
        }
        tree.sys("fs/bcache/register", "");
        let of = |name: &str, more: &str, value: &str| format!("node_bcache_{name}{{uuid=\"2b5f-01\"{more}}} {value}");
        let (device, cache) = (",backing_device=\"bdev0\"", ",cache_device=\"cache0\"");
        assert_eq!(
            text_of(&read_bcache(&tree.roots, true).unwrap(), ""),
            [
                of("tree_depth", "", "1"),
                of("btree_read_average_duration_seconds", "", "0.000001305"),
                of("dirty_data_bytes", device, "4096"),
                of("cache_hits_total", device, "7"),
                of("written_bytes_total", cache, "1048576"),
                of("writeback_rate", device, "8192"),
                of("writeback_change", device, "-3"),
                of("priority_stats_unused_percent", cache, "98"),
                of("priority_stats_metadata_percent", cache, "1"),
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
        assert_eq!(text_of(&read_bcache(&tree.roots, false).unwrap(), "priority"), [""; 0]);
    }
}
