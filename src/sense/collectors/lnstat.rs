//! `lnstat`: caches of the network per processor, from `/proc/net/stat` (lnstat(8)).

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, list_names, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics. The heads of the tables name them.
const METRICS: &str = "node_lnstat_*";

pub const INFO: CollectorInfo = CollectorInfo::off("lnstat", Pace::Scrape, "caches of the network", METRICS, |_| {
    Box::new(read_lnstat)
});

/// The columns of a table, and a row of numbers per processor.
pub fn parse_lnstat(text: &str, bad: &mut BadLines) -> Result<(Vec<String>, Vec<Vec<f64>>), ParseError> {
    let mut lines = lines(text);
    let head = lines.next().ok_or(ParseError::File("the file is empty"))?;
    let columns: Vec<String> = head.split_ascii_whitespace().map(str::to_owned).collect();
    let row = |line: &str| {
        let numbers = line
            .split_ascii_whitespace()
            .map(|field| u64::from_str_radix(field, 16));
        let numbers: Result<Vec<u64>, _> = numbers.collect();
        let numbers = numbers.map_err(|_| ParseError::text(line, "is not hexadecimal"))?;
        Ok(numbers.into_iter().map(|number| number as f64).collect())
    };
    let rows = lines.filter_map(|line| bad.keep(row(line))).collect();
    Ok((columns, rows))
}

pub fn read_lnstat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let names = list_names(&roots.proc("net/stat")).map_err(|error| error.or_absent("no network statistics"))?;
    let mut set = FamilySet::default();
    for name in names {
        let table = or_without(roots.parse_lines_once(&format!("net/stat/{name}"), parse_lnstat))?;
        let (columns, rows) = table.unwrap_or_default();
        for (column, title) in columns.iter().enumerate() {
            for (cpu, row) in rows.iter().enumerate() {
                let Some(number) = row.get(column) else { continue };
                let labels = [label("subsystem", name.clone()), label("cpu", cpu.to_string())];
                let metric = format!("node_lnstat_{}_total", metric_part(title));
                set.add(metric, "A counter of a cache of the network.", &labels, *number);
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
    fn tables_are_hexadecimal() {
        let tree = Tree::new();
        assert!(matches!(read_lnstat(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc("net/stat/arp_cache", "entries  allocs\n0000001f 1\nzz 1\n00000002 3\n");
        let of = |name: &str, cpu: u32, value: u32| {
            format!("node_lnstat_{name}_total{{subsystem=\"arp_cache\",cpu=\"{cpu}\"}} {value}")
        };
        assert_eq!(
            text_of(&read_lnstat(&tree.roots).unwrap(), ""),
            [
                of("entries", 0, 31),
                of("entries", 1, 2),
                of("allocs", 0, 1),
                of("allocs", 1, 3)
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
