//! `ksmd`: merging of equal pages of memory, from `/sys/kernel/mm/ksm` (Documentation/admin-guide/mm/ksm.rst).

use super::family_set::{AttributeRow, FamilySet};
use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_ksmd_full_scans_total node_ksmd_general_profit_bytes node_ksmd_merge_across_nodes node_ksmd_pages_shared \
    node_ksmd_pages_sharing node_ksmd_pages_to_scan node_ksmd_pages_unshared node_ksmd_pages_volatile node_ksmd_run \
    node_ksmd_sleep_seconds";

pub const INFO: CollectorInfo = CollectorInfo::off("ksmd", Pace::Scrape, "merging of equal pages", METRICS, |_| {
    Box::new(read_ksmd)
});

const FILES: [AttributeRow; 10] = [
    (
        "full_scans",
        "node_ksmd_full_scans_total",
        "Scans of all areas that may be merged.",
        1.0,
    ),
    (
        "general_profit",
        "node_ksmd_general_profit_bytes",
        "Saved memory less the memory that merging takes.",
        1.0,
    ),
    (
        "merge_across_nodes",
        "node_ksmd_merge_across_nodes",
        "1 if pages of several NUMA nodes are merged.",
        1.0,
    ),
    ("pages_shared", "node_ksmd_pages_shared", "Shared pages in use.", 1.0),
    (
        "pages_sharing",
        "node_ksmd_pages_sharing",
        "Pages that shared ones save.",
        1.0,
    ),
    (
        "pages_to_scan",
        "node_ksmd_pages_to_scan",
        "Pages to scan before a pause.",
        1.0,
    ),
    (
        "pages_unshared",
        "node_ksmd_pages_unshared",
        "Pages that were compared and are unique.",
        1.0,
    ),
    (
        "pages_volatile",
        "node_ksmd_pages_volatile",
        "Pages that change too fast to be merged.",
        1.0,
    ),
    ("run", "node_ksmd_run", "1 if pages are merged.", 1.0),
    (
        "sleep_millisecs",
        "node_ksmd_sleep_seconds",
        "Pause between two scans.",
        1e-3,
    ),
];

pub fn read_ksmd(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    set.add_attributes(&roots.sys("kernel/mm/ksm"), &FILES, &[]);
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn files_become_metrics() {
        let tree = Tree::new();
        assert_eq!(text_of(&read_ksmd(&tree.roots).unwrap(), ""), [""; 0]);
        for (file, text) in [
            ("run", "1\n"),
            ("sleep_millisecs", "20\n"),
            ("general_profit", "-4096\n"),
        ] {
            tree.sys(&format!("kernel/mm/ksm/{file}"), text);
        }
        assert_eq!(
            text_of(&read_ksmd(&tree.roots).unwrap(), ""),
            [
                "node_ksmd_general_profit_bytes -4096",
                "node_ksmd_run 1",
                "node_ksmd_sleep_seconds 0.02"
            ]
        );
    }
}
