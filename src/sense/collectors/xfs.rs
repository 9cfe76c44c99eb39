//! `xfs`: operations of each file system of type XFS, from `/sys/fs/xfs/*/stats/stats`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, if_present, list_names, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_xfs_allocation_btree_compares_total node_xfs_allocation_btree_lookups_total \
    node_xfs_allocation_btree_records_deleted_total node_xfs_allocation_btree_records_inserted_total \
    node_xfs_block_map_btree_compares_total node_xfs_block_map_btree_lookups_total \
    node_xfs_block_map_btree_records_deleted_total node_xfs_block_map_btree_records_inserted_total \
    node_xfs_block_mapping_extent_list_compares_total node_xfs_block_mapping_extent_list_deletions_total \
    node_xfs_block_mapping_extent_list_insertions_total node_xfs_block_mapping_extent_list_lookups_total \
    node_xfs_block_mapping_reads_total node_xfs_block_mapping_unmaps_total node_xfs_block_mapping_writes_total \
    node_xfs_directory_operation_create_total node_xfs_directory_operation_getdents_total \
    node_xfs_directory_operation_lookup_total node_xfs_directory_operation_remove_total \
    node_xfs_extent_allocation_blocks_allocated_total node_xfs_extent_allocation_blocks_freed_total \
    node_xfs_extent_allocation_extents_allocated_total node_xfs_extent_allocation_extents_freed_total \
    node_xfs_inode_operation_attempts_total node_xfs_inode_operation_attribute_changes_total \
    node_xfs_inode_operation_duplicates_total node_xfs_inode_operation_found_total \
    node_xfs_inode_operation_missed_total node_xfs_inode_operation_reclaims_total \
    node_xfs_inode_operation_recycled_total node_xfs_read_calls_total node_xfs_vnode_active_total \
    node_xfs_vnode_allocate_total node_xfs_vnode_get_total node_xfs_vnode_hold_total node_xfs_vnode_reclaim_total \
    node_xfs_vnode_release_total node_xfs_vnode_remove_total node_xfs_write_calls_total";

pub const INFO: CollectorInfo = CollectorInfo::on("xfs", Pace::Scrape, "file systems of type XFS", METRICS, |_| {
    Box::new(read_xfs)
});

/// Metric and help of a column.
type Column = (&'static str, &'static str);

/// The lines of the file, each with its columns.
const LINES: [(&str, &[Column]); 8] = [
    (
        "extent_alloc",
        &[
            (
                "node_xfs_extent_allocation_extents_allocated_total",
                "Extents allocated.",
            ),
            ("node_xfs_extent_allocation_blocks_allocated_total", "Blocks allocated."),
            ("node_xfs_extent_allocation_extents_freed_total", "Extents freed."),
            ("node_xfs_extent_allocation_blocks_freed_total", "Blocks freed."),
        ],
    ),
    (
        "abt",
        &[
            (
                "node_xfs_allocation_btree_lookups_total",
                "Lookups in the trees of free space.",
            ),
            (
                "node_xfs_allocation_btree_compares_total",
                "Comparisons in the trees of free space.",
            ),
            (
                "node_xfs_allocation_btree_records_inserted_total",
                "Records inserted into the trees of free space.",
            ),
            (
                "node_xfs_allocation_btree_records_deleted_total",
                "Records deleted from the trees of free space.",
            ),
        ],
    ),
    (
        "blk_map",
        &[
            ("node_xfs_block_mapping_reads_total", "Maps read for reads."),
            ("node_xfs_block_mapping_writes_total", "Maps read for writes."),
            ("node_xfs_block_mapping_unmaps_total", "Maps removed."),
            (
                "node_xfs_block_mapping_extent_list_insertions_total",
                "Insertions into lists of extents.",
            ),
            (
                "node_xfs_block_mapping_extent_list_deletions_total",
                "Deletions from lists of extents.",
            ),
            (
                "node_xfs_block_mapping_extent_list_lookups_total",
                "Lookups in lists of extents.",
            ),
            (
                "node_xfs_block_mapping_extent_list_compares_total",
                "Comparisons in lists of extents.",
            ),
        ],
    ),
    (
        "bmbt",
        &[
            (
                "node_xfs_block_map_btree_lookups_total",
                "Lookups in the trees of block maps.",
            ),
            (
                "node_xfs_block_map_btree_compares_total",
                "Comparisons in the trees of block maps.",
            ),
            (
                "node_xfs_block_map_btree_records_inserted_total",
                "Records inserted into the trees of block maps.",
            ),
            (
                "node_xfs_block_map_btree_records_deleted_total",
                "Records deleted from the trees of block maps.",
            ),
        ],
    ),
    (
        "dir",
        &[
            ("node_xfs_directory_operation_lookup_total", "Lookups of file names."),
            (
                "node_xfs_directory_operation_create_total",
                "Directory entries created.",
            ),
            (
                "node_xfs_directory_operation_remove_total",
                "Directory entries removed.",
            ),
            ("node_xfs_directory_operation_getdents_total", "Directories listed."),
        ],
    ),
    (
        "ig",
        &[
            (
                "node_xfs_inode_operation_attempts_total",
                "Lookups of inodes in the cache.",
            ),
            ("node_xfs_inode_operation_found_total", "Inodes found in the cache."),
            (
                "node_xfs_inode_operation_recycled_total",
                "Inodes found while they were reclaimed.",
            ),
            (
                "node_xfs_inode_operation_missed_total",
                "Inodes that the cache did not hold.",
            ),
            (
                "node_xfs_inode_operation_duplicates_total",
                "Inodes that another task added first.",
            ),
            (
                "node_xfs_inode_operation_reclaims_total",
                "Inodes reclaimed from the cache.",
            ),
            (
                "node_xfs_inode_operation_attribute_changes_total",
                "Changes of attributes.",
            ),
        ],
    ),
    (
        "rw",
        &[
            ("node_xfs_write_calls_total", "Writes of files."),
            ("node_xfs_read_calls_total", "Reads of files."),
        ],
    ),
    (
        "vnodes",
        &[
            ("node_xfs_vnode_active_total", "Vnodes that are not free."),
            ("node_xfs_vnode_allocate_total", "Vnodes allocated."),
            ("node_xfs_vnode_get_total", "References taken by name."),
            ("node_xfs_vnode_hold_total", "References taken."),
            ("node_xfs_vnode_release_total", "References released."),
            ("node_xfs_vnode_reclaim_total", "Vnodes reclaimed."),
            ("node_xfs_vnode_remove_total", "Vnodes removed."),
        ],
    ),
];

/// The columns that are shown, with their counts.
pub fn parse_xfs(text: &str, bad: &mut BadLines) -> Result<Vec<(Column, f64)>, ParseError> {
    let known = lines(text).filter_map(|line| {
        let name = line.split_ascii_whitespace().next()?;
        let (_, columns) = LINES.iter().find(|(known, _)| *known == name)?;
        Some((line, *columns))
    });
    let counts = |(line, columns): (&str, &'static [Column])| {
        let counts = line.split_ascii_whitespace().skip(1).map(str::parse::<f64>);
        let counts = counts
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ParseError::text(line, "is not a name with numbers"))?;
        match counts.len() < columns.len() {
            true => Err(ParseError::text(line, "is too short")),
            false => Ok(columns.iter().copied().zip(counts).collect::<Vec<_>>()),
        }
    };
    Ok(known.filter_map(|line| bad.keep(counts(line))).flatten().collect())
}

pub fn read_xfs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("fs/xfs");
    let mut set = FamilySet::default();
    for name in if_present(list_names(&base))?.unwrap_or_default() {
        // The directory `stats` has the sums of all file systems.
        let path = base.join(&name).join("stats/stats");
        let Some(counts) = if_present(or_without(roots.parse_file(path, parse_xfs)))?.flatten() else {
            continue;
        };
        let device = [label("device", name)];
        for ((name, help), count) in counts {
            set.add(name, help, &device, count);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn columns_belong_to_their_line() {
        let tree = Tree::new();
        assert_eq!(text_of(&read_xfs(&tree.roots).unwrap(), ""), [""; 0]);
        tree.sys(
            "fs/xfs/sda1/stats/stats",
            "extent_alloc 1 2 3 4\nabt 1 2\ntrans 9 9 9\nrw 5 6\nvnodes 1 2 3 4 5 6 7 8\n",
        );
        tree.sys("fs/xfs/debug/log", "0\n");
        // The sums of all file systems.
        tree.sys("fs/xfs/stats/stats", "extent_alloc 1 2 3 4\n");
        let families = read_xfs(&tree.roots).unwrap();
        let lines = text_of(&families, "");
        assert_eq!(lines.len(), 13);
        for expected in [
            "node_xfs_extent_allocation_blocks_freed_total{device=\"sda1\"} 4",
            "node_xfs_write_calls_total{device=\"sda1\"} 5",
            "node_xfs_read_calls_total{device=\"sda1\"} 6",
            "node_xfs_vnode_remove_total{device=\"sda1\"} 7",
        ] {
            assert!(lines.contains(&expected.to_owned()), "{expected} in {lines:?}");
        }
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
