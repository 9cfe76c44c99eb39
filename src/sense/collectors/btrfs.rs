//! `btrfs`: file systems of that type, from `/sys/fs/btrfs` and, for the errors of devices, from ioctls on their mounts.

mod ioctl;

use super::family_set::{AttributeRow, FamilySet};
use super::filesystem::mounts::parse_mountinfo;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{
    ParseError, ReadError, if_present, list_names, or_without, read_attribute, read_number,
};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use ioctl::{Device, ERRORS, read_devices};
use std::collections::HashMap;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_btrfs_allocation_ratio node_btrfs_commit_seconds_total node_btrfs_commits_total \
    node_btrfs_device_errors_total node_btrfs_device_size_bytes node_btrfs_device_unused_bytes \
    node_btrfs_global_rsv_size_bytes node_btrfs_info node_btrfs_last_commit_seconds node_btrfs_max_commit_seconds \
    node_btrfs_reserved_bytes node_btrfs_size_bytes node_btrfs_used_bytes";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "btrfs",
    Pace::IsolatedScrape,
    "file systems of type btrfs",
    METRICS,
    |_| Box::new(read_btrfs),
);

/// Bytes of the sectors in which the kernel states the size of a device.
const SECTOR_BYTES: f64 = 512.0;

/// Line of `commit_stats`, metric, help, factor. The kernel has the file since 6.0.
const COMMITS: [(&str, &str, &str, f64); 4] = [
    ("commits", "node_btrfs_commits_total", "Commits.", 1.0),
    (
        "last_commit_ms",
        "node_btrfs_last_commit_seconds",
        "Time of the last commit.",
        1e-3,
    ),
    (
        "max_commit_ms",
        "node_btrfs_max_commit_seconds",
        "Time of the slowest commit.",
        1e-3,
    ),
    (
        "total_commit_ms",
        "node_btrfs_commit_seconds_total",
        "Time of all commits.",
        1e-3,
    ),
];

const LAYOUT: [AttributeRow; 2] = [
    (
        "used_bytes",
        "node_btrfs_used_bytes",
        "Used space by kind of data and layout.",
        1.0,
    ),
    (
        "total_bytes",
        "node_btrfs_size_bytes",
        "Allocated space by kind of data and layout.",
        1.0,
    ),
];

const RESERVED: [AttributeRow; 1] = [(
    "bytes_reserved",
    "node_btrfs_reserved_bytes",
    "Space reserved for a kind of data.",
    1.0,
)];

const GLOBAL: [AttributeRow; 1] = [(
    "global_rsv_size",
    "node_btrfs_global_rsv_size_bytes",
    "Size of the global reserve.",
    1.0,
)];

/// The values of `commit_stats` in the order of the table; a missing one is 0.
fn parse_commits(text: &str, bad: &mut BadLines) -> Result<[f64; 4], ParseError> {
    let mut values = [0.0; 4];
    for line in lines(text) {
        let value = line
            .split_once(' ')
            .and_then(|(name, value)| Some((name, value.trim().parse::<f64>().ok()?)));
        let Some((name, value)) = bad.keep(value.ok_or_else(|| ParseError::text(line, "is no name with a number")))
        else {
            continue;
        };
        if let Some(row) = COMMITS.iter().position(|(file, ..)| *file == name) {
            values[row] = value * COMMITS[row].3;
        }
    }
    Ok(values)
}

/// Bytes on disk for a byte of data in a layout.
fn allocation_ratio(layout: &str, devices: usize) -> f64 {
    let devices = devices as f64;
    match layout {
        "single" | "raid0" => 1.0,
        "dup" | "raid1" | "raid10" => 2.0,
        "raid1c3" => 3.0,
        "raid1c4" => 4.0,
        "raid5" => devices / (devices - 1.0),
        "raid6" => devices / (devices - 2.0),
        _ => 0.0,
    }
}

fn add_file_system(
    roots: &Roots,
    directory: &Path,
    uuid: &Label,
    mounted: Option<&Vec<Device>>,
    set: &mut FamilySet,
) -> Result<(), ReadError> {
    let with = |more: Label| [uuid.clone(), more];
    let name = read_attribute(&directory.join("label")).unwrap_or_default();
    set.add(
        "node_btrfs_info",
        "A file system; the value is always 1.",
        &with(label("label", name)),
        1.0,
    );
    let uuid_only = std::slice::from_ref(uuid);
    set.add_attributes(&directory.join("allocation"), &GLOBAL, uuid_only);
    let commits = roots.parse_file(directory.join("commit_stats"), parse_commits);
    let commits = if_present(or_without(commits))?.flatten().unwrap_or_default();
    for ((_, name, help, _), value) in COMMITS.iter().zip(commits) {
        set.add(*name, *help, uuid_only, value);
    }
    let devices = if_present(list_names(&directory.join("devices")))?.unwrap_or_default();
    for kind in ["data", "metadata", "system"] {
        let allocation = directory.join("allocation").join(kind);
        let group = label("block_group_type", kind);
        set.add_attributes(&allocation, &RESERVED, &with(group.clone()));
        for layout in if_present(list_names(&allocation))?.unwrap_or_default() {
            let usage = allocation.join(&layout);
            // Beside the layouts there are files.
            if !usage.is_dir() {
                continue;
            }
            let ratio = allocation_ratio(&layout, devices.len());
            let labels = [uuid.clone(), group.clone(), label("mode", layout)];
            set.add_attributes(&usage, &LAYOUT, &labels);
            let help = "Bytes on disk for each byte of data.";
            set.add("node_btrfs_allocation_ratio", help, &labels, ratio);
        }
    }
    if let Some(mounted) = mounted {
        mounted.iter().for_each(|device| add_mounted(device, uuid, set));
        return Ok(());
    }
    // The sizes of the devices of a file system that is not mounted, or of whose mount the kernel says nothing.
    for device in devices {
        if let Some(sectors) = read_number(&directory.join("devices").join(&device).join("size")) {
            let help = "Size of a device of a file system.";
            let labels = with(label("device", device));
            set.add("node_btrfs_device_size_bytes", help, &labels, sectors * SECTOR_BYTES);
        }
    }
    Ok(())
}

fn add_mounted(device: &Device, uuid: &Label, set: &mut FamilySet) {
    let labels = [
        uuid.clone(),
        label("device", device.name.clone()),
        label("btrfs_dev_uuid", device.uuid.clone()),
    ];
    let help = "Size of a device of a file system.";
    set.add("node_btrfs_device_size_bytes", help, &labels, device.size);
    let help = "Unused part of a device of a file system.";
    set.add("node_btrfs_device_unused_bytes", help, &labels, device.unused);
    for (kind, count) in ERRORS.iter().zip(device.errors) {
        let labels = [&[uuid.clone(), label("type", *kind)], &labels[1..]].concat();
        set.add(
            "node_btrfs_device_errors_total",
            "Errors of a device by kind.",
            &labels,
            count,
        );
    }
}

/// The devices of the mounted file systems by UUID.
fn read_mounted(roots: &Roots) -> HashMap<String, Vec<Device>> {
    let mounts = roots.parse_bytes_once("1/mountinfo", parse_mountinfo);
    let mounts = mounts.or_else(|_| roots.parse_bytes_once("self/mountinfo", parse_mountinfo));
    let mut mounted = HashMap::new();
    let mut seen = Vec::new();
    for mount in mounts
        .unwrap_or_default()
        .into_iter()
        .filter(|mount| mount.fstype == "btrfs")
    {
        // One mount is enough of those of one device.
        if seen.contains(&mount.device) {
            continue;
        }
        let stripped = mount
            .mount_point
            .strip_prefix(&roots.rootfs)
            .unwrap_or(&mount.mount_point);
        match read_devices(&roots.host(stripped)) {
            Ok((uuid, devices)) => {
                mounted.insert(uuid, devices);
                seen.push(mount.device);
            }
            Err(error) => tracing::debug!(%error, "the devices of a btrfs mount are not known"),
        }
    }
    mounted
}

pub fn read_btrfs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("fs/btrfs");
    let mut set = FamilySet::default();
    let names = if_present(list_names(&base))?.unwrap_or_default();
    // Beside the file systems there is `features`.
    let names: Vec<String> = names.into_iter().filter(|name| name.contains('-')).collect();
    let mounted = if names.is_empty() {
        HashMap::new()
    } else {
        read_mounted(roots)
    };
    for name in names {
        let directory = base.join(&name);
        let uuid = read_attribute(&directory.join("metadata_uuid")).filter(|uuid| !uuid.is_empty());
        let uuid = uuid.unwrap_or(name);
        let devices = mounted.get(&uuid);
        add_file_system(roots, &directory, &label("uuid", uuid), devices, &mut set)?;
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn mounted_devices_have_errors() {
        let mut set = FamilySet::default();
        let device = Device {
            name: "sda".to_owned(),
            uuid: "01".to_owned(),
            size: 10.0,
            unused: 4.0,
            errors: [1.0, 2.0, 3.0, 4.0, 5.0],
        };
        add_mounted(&device, &label("uuid", "ab"), &mut set);
        let lines = text_of(&set.into_families(), "");
        assert_eq!(lines.len(), 7);
        assert_eq!(
            [&lines[1], &lines[5]],
            [
                "node_btrfs_device_unused_bytes{uuid=\"ab\",device=\"sda\",btrfs_dev_uuid=\"01\"} 4",
                "node_btrfs_device_errors_total{uuid=\"ab\",type=\"corruption\",device=\"sda\",btrfs_dev_uuid=\"01\"} 4",
            ]
        );
    }

    #[test]
    fn space_commits_and_devices_are_shown() {
        let tree = Tree::new();
        assert_eq!(text_of(&read_btrfs(&tree.roots).unwrap(), ""), [""; 0]);
        for (file, text) in [
            ("label", "backup\n"),
            ("metadata_uuid", "ab-cd\n"),
            ("allocation/global_rsv_size", "4096\n"),
            ("allocation/data/bytes_reserved", "100\n"),
            ("allocation/data/raid5/used_bytes", "10\n"),
            ("allocation/data/raid5/total_bytes", "30\n"),
            ("commit_stats", "commits 9\nlast_commit_ms 1500\nbroken\nunknown 1\n"),
            ("devices/sda/size", "8\n"),
            ("devices/sdb/size", "16\n"),
            ("devices/sdc/size", "16\n"),
        ] {
            tree.sys(&format!("fs/btrfs/12-34/{file}"), text);
        }
        tree.sys("fs/btrfs/features/raid56", "1\n");
        let lines = text_of(&read_btrfs(&tree.roots).unwrap(), "");
        let short: Vec<String> = lines
            .iter()
            .map(|line| {
                line.replace("node_btrfs_", "")
                    .replace("uuid=\"ab-cd\"", "")
                    .replace("{,", "{")
            })
            .collect();
        let data = "block_group_type=\"data\"";
        assert_eq!(
            short,
            [
                "info{label=\"backup\"} 1".to_owned(),
                "global_rsv_size_bytes{} 4096".to_owned(),
                "commits_total{} 9".to_owned(),
                "last_commit_seconds{} 1.5".to_owned(),
                "max_commit_seconds{} 0".to_owned(),
                "commit_seconds_total{} 0".to_owned(),
                format!("reserved_bytes{{{data}}} 100"),
                format!("used_bytes{{{data},mode=\"raid5\"}} 10"),
                format!("size_bytes{{{data},mode=\"raid5\"}} 30"),
                format!("allocation_ratio{{{data},mode=\"raid5\"}} 1.5"),
                "device_size_bytes{device=\"sda\"} 4096".to_owned(),
                "device_size_bytes{device=\"sdb\"} 8192".to_owned(),
                "device_size_bytes{device=\"sdc\"} 8192".to_owned(),
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
