//! `zoneinfo`: memory by zone, from `/proc/zoneinfo` (proc(5)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics, and the levels of protection.
const METRICS: &str = "\
    node_zoneinfo_high_pages node_zoneinfo_low_pages node_zoneinfo_managed_pages node_zoneinfo_min_pages \
    node_zoneinfo_nr_active_anon_pages node_zoneinfo_nr_active_file_pages node_zoneinfo_nr_anon_pages \
    node_zoneinfo_nr_anon_transparent_hugepages node_zoneinfo_nr_dirtied_total node_zoneinfo_nr_dirty_pages \
    node_zoneinfo_nr_file_pages node_zoneinfo_nr_free_pages node_zoneinfo_nr_inactive_anon_pages \
    node_zoneinfo_nr_inactive_file_pages node_zoneinfo_nr_isolated_anon_pages node_zoneinfo_nr_isolated_file_pages \
    node_zoneinfo_nr_kernel_stacks node_zoneinfo_nr_mapped_pages node_zoneinfo_nr_mlock_stack_pages \
    node_zoneinfo_nr_shmem_pages node_zoneinfo_nr_slab_reclaimable_pages node_zoneinfo_nr_slab_unreclaimable_pages \
    node_zoneinfo_nr_unevictable_pages node_zoneinfo_nr_writeback_pages node_zoneinfo_nr_written_total \
    node_zoneinfo_numa_foreign_total node_zoneinfo_numa_hit_total node_zoneinfo_numa_interleave_total \
    node_zoneinfo_numa_local_total node_zoneinfo_numa_miss_total node_zoneinfo_numa_other_total \
    node_zoneinfo_present_pages node_zoneinfo_scanned_pages node_zoneinfo_spanned_pages node_zoneinfo_protection_*";

pub const INFO: CollectorInfo = CollectorInfo::off("zoneinfo", Pace::Scrape, "memory by zone", METRICS, |_| {
    Box::new(read_zoneinfo)
});

/// Line, metric, help.
const NUMBERS: [(&str, &str, &str); 34] = [
    ("nr_free_pages", "node_zoneinfo_nr_free_pages", "Free pages."),
    (
        "min",
        "node_zoneinfo_min_pages",
        "Pages below which only urgent requests are served.",
    ),
    (
        "low",
        "node_zoneinfo_low_pages",
        "Pages below which the kernel begins to reclaim.",
    ),
    (
        "high",
        "node_zoneinfo_high_pages",
        "Pages above which the kernel stops to reclaim.",
    ),
    (
        "scanned",
        "node_zoneinfo_scanned_pages",
        "Pages scanned since the last reclaim.",
    ),
    (
        "spanned",
        "node_zoneinfo_spanned_pages",
        "Pages of the zone, holes included.",
    ),
    (
        "present",
        "node_zoneinfo_present_pages",
        "Pages of the zone that exist.",
    ),
    (
        "managed",
        "node_zoneinfo_managed_pages",
        "Pages of the zone that the allocator has.",
    ),
    (
        "nr_active_anon",
        "node_zoneinfo_nr_active_anon_pages",
        "Active anonymous pages.",
    ),
    (
        "nr_inactive_anon",
        "node_zoneinfo_nr_inactive_anon_pages",
        "Inactive anonymous pages.",
    ),
    (
        "nr_isolated_anon",
        "node_zoneinfo_nr_isolated_anon_pages",
        "Anonymous pages taken off the lists.",
    ),
    (
        "nr_anon_pages",
        "node_zoneinfo_nr_anon_pages",
        "Mapped anonymous pages.",
    ),
    (
        "nr_active_file",
        "node_zoneinfo_nr_active_file_pages",
        "Active pages of files.",
    ),
    (
        "nr_inactive_file",
        "node_zoneinfo_nr_inactive_file_pages",
        "Inactive pages of files.",
    ),
    (
        "nr_isolated_file",
        "node_zoneinfo_nr_isolated_file_pages",
        "Pages of files taken off the lists.",
    ),
    ("nr_file_pages", "node_zoneinfo_nr_file_pages", "Pages of files."),
    (
        "nr_slab_reclaimable",
        "node_zoneinfo_nr_slab_reclaimable_pages",
        "Reclaimable pages of kernel objects.",
    ),
    (
        "nr_slab_unreclaimable",
        "node_zoneinfo_nr_slab_unreclaimable_pages",
        "Other pages of kernel objects.",
    ),
    ("nr_mlock_stack", "node_zoneinfo_nr_mlock_stack_pages", "Locked pages."),
    ("nr_mapped", "node_zoneinfo_nr_mapped_pages", "Mapped pages of files."),
    (
        "nr_dirty",
        "node_zoneinfo_nr_dirty_pages",
        "Changed pages that are not written back.",
    ),
    (
        "nr_writeback",
        "node_zoneinfo_nr_writeback_pages",
        "Pages being written back.",
    ),
    (
        "nr_unevictable",
        "node_zoneinfo_nr_unevictable_pages",
        "Pages that cannot be evicted.",
    ),
    ("nr_shmem", "node_zoneinfo_nr_shmem_pages", "Pages of shared memory."),
    (
        "nr_anon_transparent_hugepages",
        "node_zoneinfo_nr_anon_transparent_hugepages",
        "Transparent huge pages.",
    ),
    (
        "nr_kernel_stack",
        "node_zoneinfo_nr_kernel_stacks",
        "Memory of kernel stacks.",
    ),
    (
        "nr_dirtied",
        "node_zoneinfo_nr_dirtied_total",
        "Pages that were changed.",
    ),
    (
        "nr_written",
        "node_zoneinfo_nr_written_total",
        "Pages that were written back.",
    ),
    (
        "numa_hit",
        "node_zoneinfo_numa_hit_total",
        "Pages allocated on the intended node.",
    ),
    (
        "numa_miss",
        "node_zoneinfo_numa_miss_total",
        "Pages allocated here that were intended for another node.",
    ),
    (
        "numa_foreign",
        "node_zoneinfo_numa_foreign_total",
        "Pages intended for this node and allocated on another.",
    ),
    (
        "numa_interleave",
        "node_zoneinfo_numa_interleave_total",
        "Pages allocated here by interleaving.",
    ),
    (
        "numa_local",
        "node_zoneinfo_numa_local_total",
        "Pages allocated by a process of this node.",
    ),
    (
        "numa_other",
        "node_zoneinfo_numa_other_total",
        "Pages allocated by a process of another node.",
    ),
];

/// Node and zone of `Node 0, zone      DMA`.
fn parse_head(line: &str) -> Option<[String; 2]> {
    let (node, zone) = line.strip_prefix("Node ")?.split_once(", zone")?;
    Some([node.trim().to_owned(), zone.trim().to_owned()])
}

/// The numbers of `(0, 2039, 31932)`.
fn parse_protection(text: &str) -> Option<Vec<f64>> {
    let list = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    list.split(',').map(|number| number.trim().parse().ok()).collect()
}

pub fn parse_zoneinfo(text: &str, bad: &mut BadLines) -> Result<Vec<Family>, ParseError> {
    let mut set = FamilySet::default();
    let mut zone: Option<[String; 2]> = None;
    for line in lines(text) {
        if let Some(head) = parse_head(line) {
            zone = Some(head);
            continue;
        }
        let Some([node, name]) = &zone else { continue };
        let labels = [label("node", node.clone()), label("zone", name.clone())];
        let (key, value) = line.trim().split_once(' ').unwrap_or_default();
        if key == "protection:" {
            let levels = parse_protection(value).ok_or_else(|| ParseError::text(line, "is not a list of numbers"));
            for (level, pages) in bad.keep(levels).into_iter().flatten().enumerate() {
                let metric = format!("node_zoneinfo_protection_{level}");
                set.add(metric, "Pages kept from allocations for lower zones.", &labels, pages);
            }
        } else if let Some((_, metric, help)) = NUMBERS.iter().find(|(known, ..)| *known == key) {
            let number = value
                .trim()
                .parse()
                .map_err(|_| ParseError::text(line, "has no number"));
            if let Some(number) = bad.keep(number) {
                set.add(*metric, *help, &labels, number);
            }
        }
    }
    Ok(set.into_families())
}

pub fn read_zoneinfo(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    roots.parse_lines_once("zoneinfo", parse_zoneinfo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn zones_have_pages_and_protection() {
        let tree = Tree::new();
        tree.proc(
            "zoneinfo",
            "Node 0, zone      DMA\n  per-node stats\n      nr_dirtied   11\n  pages free     2949\n        \
             min      8\n        protection: (0, 20)\n  pagesets\n    cpu: 0\n              high:  0\n\
             Node 0, zone   Normal\n      numa_hit     x\n",
        );
        let of = "{node=\"0\",zone=\"DMA\"}";
        assert_eq!(
            text_of(&read_zoneinfo(&tree.roots).unwrap(), ""),
            [
                format!("node_zoneinfo_nr_dirtied_total{of} 11"),
                format!("node_zoneinfo_min_pages{of} 8"),
                format!("node_zoneinfo_protection_0{of} 0"),
                format!("node_zoneinfo_protection_1{of} 20"),
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
