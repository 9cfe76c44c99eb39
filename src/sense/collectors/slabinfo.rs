//! `slabinfo`: caches of the kernel's objects, from `/proc/slabinfo` (slabinfo(5)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_slabinfo_active_objects node_slabinfo_object_size_bytes node_slabinfo_objects \
    node_slabinfo_objects_per_slab node_slabinfo_pages_per_slab";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "slabinfo",
    Pace::Scrape,
    "caches of kernel objects",
    METRICS,
    |options| {
        let slabs = options.slabs.clone();
        Box::new(move |roots| read_slabinfo(roots, &slabs))
    },
);

/// Metric and help of the columns after the name.
const COLUMNS: [(&str, &str); 5] = [
    ("node_slabinfo_active_objects", "Objects in use."),
    ("node_slabinfo_objects", "Objects, in use or not."),
    ("node_slabinfo_object_size_bytes", "Size of an object."),
    ("node_slabinfo_objects_per_slab", "Objects in a slab."),
    ("node_slabinfo_pages_per_slab", "Pages of a slab."),
];

/// Name and the five first numbers of a cache.
type Slab = (String, [f64; 5]);

fn parse_slab(line: &str) -> Result<Slab, ParseError> {
    let mut fields = line.split_ascii_whitespace();
    let name = fields.next().unwrap_or_default().to_owned();
    let numbers: Option<Vec<f64>> = fields.take(COLUMNS.len()).map(|field| field.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    Ok((
        name,
        numbers.ok_or_else(|| ParseError::text(line, "is not a name with five numbers"))?,
    ))
}

pub fn parse_slabinfo(text: &str, bad: &mut BadLines) -> Result<Vec<Slab>, ParseError> {
    let rows = lines(text).filter(|line| !line.starts_with("slabinfo - version") && !line.starts_with('#'));
    Ok(rows.filter_map(|line| bad.keep(parse_slab(line))).collect())
}

pub fn read_slabinfo(roots: &Roots, slabs: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    for (name, numbers) in roots.parse_lines_once("slabinfo", parse_slabinfo)? {
        if slabs.allows(&name) {
            let labels = [label("slab", name)];
            for ((metric, help), number) in COLUMNS.iter().zip(numbers) {
                set.add(*metric, *help, &labels, number);
            }
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;

    #[test]
    fn caches_have_five_numbers() {
        let tree = Tree::new();
        tree.proc(
            "slabinfo",
            "slabinfo - version: 2.1\n# name <active_objs>\ndentry 1 2 192 21 1 : tunables 0\nbad 1 2\nother 1 1 1 1 1\n",
        );
        let filter = NameFilter::exclude(Regex::new("other").unwrap());
        let lines = text_of(&read_slabinfo(&tree.roots, &filter).unwrap(), "");
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[2], "node_slabinfo_object_size_bytes{slab=\"dentry\"} 192");
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
