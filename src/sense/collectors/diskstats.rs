//! `diskstats`: counters of block devices from `/proc/diskstats` (Documentation/admin-guide/iostats.rst), and their
//! properties from udev.

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{DescriptorCache, Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError, read_number, read_text};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The published metrics.
const METRICS: &str = "\
    node_disk_ata_rotation_rate_rpm node_disk_ata_write_cache node_disk_ata_write_cache_enabled \
    node_disk_device_mapper_info node_disk_discard_time_seconds_total node_disk_discarded_sectors_total \
    node_disk_discards_completed_total node_disk_discards_merged_total node_disk_filesystem_info \
    node_disk_flush_requests_time_seconds_total node_disk_flush_requests_total node_disk_info node_disk_io_now \
    node_disk_io_time_seconds_total node_disk_io_time_weighted_seconds_total node_disk_read_bytes_total \
    node_disk_read_time_seconds_total node_disk_reads_completed_total node_disk_reads_merged_total \
    node_disk_write_time_seconds_total node_disk_writes_completed_total node_disk_writes_merged_total \
    node_disk_written_bytes_total";

pub const INFO: CollectorInfo = CollectorInfo::on("diskstats", Pace::Fast, "block devices", METRICS, |options| {
    let mut diskstats = Diskstats::new(options.diskstats_devices.clone(), &options.udev_data);
    Box::new(move |roots| diskstats.read(roots))
});

/// The unit of sector counts, independent of the sector size of the device.
const SECTOR_BYTES: u64 = 512;

/// The family of each counter in the order of a line: name after `node_disk_`, help, factor.
const COUNTERS: [(&str, &str, f64); 17] = [
    ("reads_completed_total", "Reads completed.", 1.0),
    ("reads_merged_total", "Reads merged with a neighbour.", 1.0),
    ("read_bytes_total", "Bytes read.", SECTOR_BYTES as f64),
    ("read_time_seconds_total", "Seconds that all reads took.", 1e-3),
    ("writes_completed_total", "Writes completed.", 1.0),
    ("writes_merged_total", "Writes merged with a neighbour.", 1.0),
    ("written_bytes_total", "Bytes written.", SECTOR_BYTES as f64),
    ("write_time_seconds_total", "Seconds that all writes took.", 1e-3),
    ("io_now", "Requests in flight.", 1.0),
    (
        "io_time_seconds_total",
        "Seconds in which a request was in flight.",
        1e-3,
    ),
    (
        "io_time_weighted_seconds_total",
        "Seconds in flight, summed over requests.",
        1e-3,
    ),
    ("discards_completed_total", "Discards completed.", 1.0),
    ("discards_merged_total", "Discards merged with a neighbour.", 1.0),
    ("discarded_sectors_total", "Sectors discarded.", 1.0),
    ("discard_time_seconds_total", "Seconds that all discards took.", 1e-3),
    ("flush_requests_total", "Flushes completed.", 1.0),
    (
        "flush_requests_time_seconds_total",
        "Seconds that all flushes took.",
        1e-3,
    ),
];

/// One device with the counters that the kernel has (11 before 4.18, 15 with discards, 17 with flushes).
#[derive(Debug, Clone, PartialEq)]
pub struct Disk {
    pub major: u32,
    pub minor: u32,
    pub device: String,
    pub counters: SmallVec<[u64; COUNTERS.len()]>,
}

pub fn parse_diskstats(
    text: &str,
    bad: &mut BadLines,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Disk>, ParseError> {
    let lines = lines(text).filter(|line| !line.trim().is_empty());
    Ok(lines
        .filter_map(|line| bad.keep(parse_disk(line, &is_wanted)).flatten())
        .collect())
}

/// One device, unless it is not wanted.
fn parse_disk(line: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Option<Disk>, ParseError> {
    let bad = || ParseError::text(line, "is not of the form `major minor name counters`");
    let mut fields = line.split_ascii_whitespace();
    let mut next = || fields.next().ok_or_else(bad);
    let major = next()?.parse().map_err(|_| bad())?;
    let minor = next()?.parse().map_err(|_| bad())?;
    let device = next()?;
    // Loop devices and partitions are most of the lines.
    if !is_wanted(device) {
        return Ok(None);
    }
    let counters = fields.map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
    Ok(Some(Disk {
        major,
        minor,
        device: device.to_owned(),
        counters,
    }))
}

/// Bytes read and written per device; other lines are skipped.
pub fn bytes(text: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    lines(text).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let device = fields.nth(2)?;
        let read: u64 = fields.nth(2)?.parse().ok()?;
        let written: u64 = fields.nth(3)?.parse().ok()?;
        Some((
            device,
            [read, written].map(|sectors| sectors.saturating_mul(SECTOR_BYTES)),
        ))
    })
}

/// The properties (`E:KEY=value`) of a record in `/run/udev/data`.
pub fn parse_udev(text: &str) -> HashMap<String, String> {
    lines(text)
        .filter_map(|line| line.strip_prefix("E:")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The udev properties of a device; empty on a host without udev (a container, a small guest).
fn properties(udev_data: &Path, disk: &Disk) -> HashMap<String, String> {
    let record = udev_data.join(format!("b{}:{}", disk.major, disk.minor));
    read_text(&record).map(|text| parse_udev(&text)).unwrap_or_default()
}

/// A family per counter, with a series per device that has the counter.
fn describe(disks: &[(String, usize)]) -> Vec<Family> {
    let family = |(column, &(name, help, _)): (usize, &(_, _, f64))| {
        let mut family = Family::counter_or_gauge(format!("node_disk_{name}"), help);
        for (device, _) in disks.iter().filter(|(_, counters)| column < *counters) {
            family.push([label("device", device.clone())], 0.0);
        }
        family
    };
    COUNTERS.iter().enumerate().map(family).collect()
}

/// The serial number: SCSI's own, else the short one, else the one with vendor and model.
fn serial(properties: &HashMap<String, String>) -> String {
    let keys = ["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"];
    let mut serials = keys.into_iter().filter_map(|key| properties.get(key));
    serials.find(|serial| !serial.is_empty()).cloned().unwrap_or_default()
}

/// Devices with their properties of udev, and whether the kernel says that they rotate.
fn udev_families(disks: &[(&Disk, HashMap<String, String>, bool)]) -> Vec<Family> {
    let mut info = Family::gauge(
        "node_disk_info",
        "What udev knows of a block device; the value is always 1.",
    );
    let mut filesystem = Family::gauge(
        "node_disk_filesystem_info",
        "The file system that udev found on a device; the value is always 1.",
    );
    let mut mapper = Family::gauge(
        "node_disk_device_mapper_info",
        "A device-mapper device; the value is always 1.",
    );
    let mut ata = [
        (
            "node_disk_ata_write_cache",
            "1 where an ATA disk has a write cache.",
            "ID_ATA_WRITE_CACHE",
        ),
        (
            "node_disk_ata_write_cache_enabled",
            "1 where the write cache of an ATA disk is on.",
            "ID_ATA_WRITE_CACHE_ENABLED",
        ),
        (
            "node_disk_ata_rotation_rate_rpm",
            "Rotation of an ATA disk in turns per minute; 0 where nothing turns.",
            "ID_ATA_ROTATION_RATE_RPM",
        ),
    ]
    .map(|(name, help, key)| (Family::gauge(name, help), key));
    for (disk, properties, is_rotational) in disks {
        let property = |key: &str| properties.get(key).cloned().unwrap_or_default();
        let device = || label("device", disk.device.clone());
        info.push(
            vec![
                device(),
                label("major", disk.major.to_string()),
                label("minor", disk.minor.to_string()),
                label("path", property("ID_PATH")),
                label("wwn", property("ID_WWN")),
                label("model", property("ID_MODEL")),
                label("serial", serial(properties)),
                label("revision", property("ID_REVISION")),
                label("rotational", if *is_rotational { "1" } else { "0" }),
            ],
            1.0,
        );
        if !property("ID_FS_TYPE").is_empty() {
            filesystem.push(
                vec![
                    device(),
                    label("type", property("ID_FS_TYPE")),
                    label("usage", property("ID_FS_USAGE")),
                    label("uuid", property("ID_FS_UUID")),
                    label("version", property("ID_FS_VERSION")),
                ],
                1.0,
            );
        }
        if !property("DM_NAME").is_empty() {
            mapper.push(
                vec![
                    device(),
                    label("name", property("DM_NAME")),
                    label("uuid", property("DM_UUID")),
                    label("vg_name", property("DM_VG_NAME")),
                    label("lv_name", property("DM_LV_NAME")),
                    label("lv_layer", property("DM_LV_LAYER")),
                ],
                1.0,
            );
        }
        if !property("ID_ATA").is_empty() {
            for (family, key) in &mut ata {
                if let Ok(value) = property(key).parse() {
                    family.push(vec![device()], value);
                }
            }
        }
    }
    let mut families = vec![info, filesystem, mapper];
    families.extend(ata.map(|(family, _)| family));
    families.retain(|family| !family.is_empty());
    families
}

/// The state between two reads.
pub struct Diskstats {
    devices: NameFilter,
    udev_data: PathBuf,
    /// By device and its number of counters.
    descriptors: DescriptorCache<(String, usize)>,
    udev: TtlCache<Vec<Family>>,
}

impl Diskstats {
    /// `udev_data` is `/run/udev/data` as `--path.udev.data` names it; it is not below rootfs.
    pub fn new(devices: NameFilter, udev_data: &Path) -> Self {
        Diskstats {
            devices,
            udev_data: udev_data.to_owned(),
            descriptors: DescriptorCache::default(),
            udev: TtlCache::default(),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let is_wanted = |device: &str| self.devices.allows(device);
        let disks = roots.parse_lines("diskstats", FileLayout::Pieces, |text, bad| {
            parse_diskstats(text, bad, is_wanted)
        })?;

        let things = disks.iter().map(|disk| (disk.device.clone(), disk.counters.len()));
        let descriptors = self.descriptors.descriptors(things.collect(), describe);
        let mut families = Vec::with_capacity(COUNTERS.len());
        for (column, (descriptor, (.., factor))) in descriptors.iter().zip(&COUNTERS).enumerate() {
            let counts = disks.iter().filter_map(|disk| disk.counters.get(column));
            // A division by 1000 is exact where a product with 0.001 is not.
            let is_in_ms = *factor == 1e-3;
            let scaled = |count: f64| if is_in_ms { count / 1e3 } else { count * factor };
            families.push(descriptor.family(counts.map(|count| scaled(*count as f64))));
        }
        families.retain(|family| !family.is_empty());

        // Records of udev change only when a device is added or removed.
        let udev = self.udev.get(Instant::now(), || {
            let with_udev: Vec<_> = disks
                .iter()
                .map(|disk| {
                    let rotational = roots.sys(&format!("block/{}/queue/rotational", disk.device));
                    (
                        disk,
                        properties(&self.udev_data, disk),
                        read_number(&rotational) == Some(1.0),
                    )
                })
                .collect();
            udev_families(&with_udev)
        });
        families.extend_from_slice(udev);
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};

    #[test]
    fn counters_get_units_and_partitions_are_skipped() {
        let tree = Tree::new();
        tree.proc(
            "diskstats",
            "   8       0 sda 10 1 8 1500 20 2 16 2500 3 4000 5500 6 7 9 250 11 750\n\
             \x20  8       1 sda1 10 1 8 1500 20 2 16 2500 3 4000 5500\n 254 0 old 1 0 2 3 4 5 6 7 8 9 10\n",
        );
        tree.host("udev/b8:0", "S:disk/by-id/x\nE:ID_MODEL=Fast\\x20One\nE:ID_SERIAL=long\nE:ID_SERIAL_SHORT=short\nE:ID_ATA=1\nE:ID_ATA_ROTATION_RATE_RPM=7200\nE:ID_FS_TYPE=\n");
        tree.sys("block/sda/queue/rotational", "1\n");
        let exclude =
            NameFilter::exclude(regex::Regex::new(r"^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$").unwrap());
        let families = Diskstats::new(exclude, &tree.roots.rootfs.join("udev"))
            .read(&tree.roots)
            .unwrap();
        let one = |name: &str| text_of(&families, &format!("{name}{{device=\"sda\"")).join("");
        for (name, value) in [
            ("node_disk_read_bytes_total", "4096"),
            ("node_disk_read_time_seconds_total", "1.5"),
            ("node_disk_written_bytes_total", "8192"),
            ("node_disk_io_now", "3"),
            ("node_disk_io_time_weighted_seconds_total", "5.5"),
            ("node_disk_discarded_sectors_total", "9"),
            ("node_disk_flush_requests_time_seconds_total", "0.75"),
            ("node_disk_ata_rotation_rate_rpm", "7200"),
        ] {
            assert_eq!(one(name), format!("{name}{{device=\"sda\"}} {value}"));
        }
        assert_eq!(text_of(&families, "sda1"), [""; 0]);
        assert_eq!(text_of(&families, "filesystem_info"), [""; 0], "an empty type is none");
        assert_eq!(
            text_of(&families, "flush").len(),
            2,
            "an old kernel's device has no flush counters"
        );
        let info = one("node_disk_info");
        assert!(
            info.contains("serial=\"short\"")
                && info.contains("rotational=\"1\"")
                && info.contains("model=\"Fast\\\\x20One\""),
            "{info}"
        );
    }

    #[test]
    fn bytes_equal_the_counters() {
        let text = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n 8 1 sda1 1 2\n";
        assert_eq!(bytes(text).collect::<Vec<_>>(), [("sda", [3 * 512, 7 * 512])]);
        let place = |name| COUNTERS.iter().position(|(counter, ..)| *counter == name).unwrap() + 1;
        assert_eq!([place("read_bytes_total"), place("written_bytes_total")], [3, 7]);
    }

    #[test]
    fn error_names_the_broken_line() {
        assert!(
            parsed("8 0 sda 1 two 3\n", |text, bad| parse_diskstats(text, bad, |_| true))
                .unwrap_err()
                .to_string()
                .contains("two")
        );
    }
}
