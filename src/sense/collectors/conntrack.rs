//! `conntrack`: tracked connections from `/proc/sys/net/netfilter` and `/proc/net/stat/nf_conntrack`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, MetricKind, unlabelled_descriptors, unlabelled_families};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError, or_without, parse_number};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "\
    node_nf_conntrack_entries node_nf_conntrack_entries_limit node_nf_conntrack_stat_drop \
    node_nf_conntrack_stat_early_drop node_nf_conntrack_stat_found node_nf_conntrack_stat_ignore \
    node_nf_conntrack_stat_insert node_nf_conntrack_stat_insert_failed node_nf_conntrack_stat_invalid \
    node_nf_conntrack_stat_search_restart";

pub const INFO: CollectorInfo = CollectorInfo::on("conntrack", Pace::Fast, "tracked connections", METRICS, |_| {
    Box::new(read_conntrack)
});

/// Columns of `/proc/net/stat/nf_conntrack` that are summed over processors, with the help of their metrics.
const CONNTRACK: [(&str, &str); 8] = [
    ("found", "Lookups that found an entry."),
    ("invalid", "Packets that cannot be tracked."),
    ("ignore", "Packets that already belonged to an entry."),
    ("insert", "Entries put into the table."),
    ("insert_failed", "Entries that could not be put into the table."),
    ("drop", "Packets dropped because tracking failed."),
    ("early_drop", "Entries dropped to make room for new ones."),
    ("search_restart", "Lookups begun again because the table was resized."),
];

static CONNECTIONS: LazyLock<Vec<Arc<Descriptor>>> = LazyLock::new(|| {
    let table = [
        ("node_nf_conntrack_entries", "Connections that are tracked."),
        ("node_nf_conntrack_entries_limit", "Connections that can be tracked."),
    ];
    // Gauges, as in node_exporter, although they only grow.
    let sums = CONNTRACK.map(|(column, help)| {
        let name = format!("node_nf_conntrack_stat_{column}");
        Descriptor::single(name, help, MetricKind::Gauge)
    });
    unlabelled_descriptors(table).into_iter().chain(sums).collect()
});

/// Sums of the columns in the order of `CONNTRACK`. The first line holds names, then a hexadecimal line per processor.
pub fn parse_conntrack(text: &str, bad: &mut BadLines) -> Result<[f64; 8], ParseError> {
    let mut lines = lines(text);
    let names: Vec<&str> = lines.next().unwrap_or("").split_ascii_whitespace().collect();
    let mut sums = [0.0; 8];
    for line in lines {
        let Some(counts) = bad.keep(parse_processor(line, &names)) else {
            continue;
        };
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    Ok(sums)
}

/// The wanted columns of one processor.
fn parse_processor(line: &str, names: &[&str]) -> Result<[f64; 8], ParseError> {
    let values: Vec<&str> = line.split_ascii_whitespace().collect();
    let mut counts = [0.0; 8];
    for (count, (wanted, ..)) in counts.iter_mut().zip(CONNTRACK) {
        // Later kernels lack some columns.
        let Some(index) = names.iter().position(|name| *name == wanted) else {
            continue;
        };
        let value = values.get(index).and_then(|value| u64::from_str_radix(value, 16).ok());
        *count = value.ok_or_else(|| ParseError::missing(&format!("number under {wanted}"), line))? as f64;
    }
    Ok(counts)
}

pub fn read_conntrack(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = || -> Result<_, ReadError> {
        let number = |path| {
            let parse = |text: &str, bad: &mut BadLines| Ok(bad.keep(parse_number(text)));
            Ok::<_, ReadError>(or_without(roots.parse_lines(path, FileLayout::Value, parse))?.flatten())
        };
        let sums = or_without(roots.parse_lines("net/stat/nf_conntrack", FileLayout::Rows, parse_conntrack))?;
        let count = number("sys/net/netfilter/nf_conntrack_count")?;
        Ok((count, number("sys/net/netfilter/nf_conntrack_max")?, sums))
    };
    let (count, maximum, sums) = read().map_err(|error| error.or_absent("no connection tracking"))?;
    let sums = sums.map_or([None; 8], |sums| sums.map(Some));
    Ok(unlabelled_families(
        CONNECTIONS.iter(),
        [count, maximum].into_iter().chain(sums),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};

    #[test]
    fn connections_are_summed_for_any_set_of_columns() {
        let tree = Tree::new();
        assert!(matches!(read_conntrack(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc("sys/net/netfilter/nf_conntrack_count", "5\n");
        tree.proc("sys/net/netfilter/nf_conntrack_max", "9\n");
        tree.proc(
            "net/stat/nf_conntrack",
            "entries found  early_drop\n00000005 0000000a 1\n00000005 00000001 2\n",
        );
        let families = read_conntrack(&tree.roots).unwrap();
        assert_eq!(families.len(), 10);
        for line in [
            "node_nf_conntrack_stat_found 11",
            "node_nf_conntrack_stat_early_drop 3",
            "node_nf_conntrack_entries 5",
        ] {
            assert_eq!(text_of(&families, line), [line]);
        }
        assert!(parsed("found\nzz\n", parse_conntrack).is_err());
    }
}
