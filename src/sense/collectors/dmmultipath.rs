//! `dmmultipath`: multipath devices of device mapper, from `/sys/block`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_dmmultipath_device_active node_dmmultipath_device_info node_dmmultipath_device_paths \
    node_dmmultipath_device_paths_active node_dmmultipath_device_paths_failed node_dmmultipath_device_size_bytes \
    node_dmmultipath_path_state";

pub const INFO: CollectorInfo =
    CollectorInfo::on("dmmultipath", Pace::Slow, "paths of multipath devices", METRICS, |_| {
        Box::new(read_dmmultipath)
    });

/// Bytes of the sectors in which the kernel states the size of a device.
const SECTOR_BYTES: f64 = 512.0;

pub fn read_dmmultipath(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("block");
    let names = list_names(&base).map_err(|error| error.or_absent("no block devices"))?;
    let mut set = FamilySet::default();
    for sysfs_name in names.into_iter().filter(|name| name.starts_with("dm-")) {
        let directory = base.join(&sysfs_name);
        let attribute = |file: &str| read_attribute(&directory.join("dm").join(file)).unwrap_or_default();
        let uuid = attribute("uuid");
        if !uuid.starts_with("mpath-") {
            continue;
        }
        let device = label("device", attribute("name"));
        let labels = [device.clone(), label("sysfs_name", sysfs_name)];
        let info = [labels.as_slice(), &[label("uuid", uuid)]].concat();
        set.add(
            "node_dmmultipath_device_info",
            "A multipath device; the value is always 1.",
            &info,
            1.0,
        );
        let is_active = f64::from(attribute("suspended").trim() != "1");
        let help = "1 if a multipath device is active, 0 if it is suspended.";
        set.add("node_dmmultipath_device_active", help, &labels, is_active);
        if let Some(sectors) = read_number(&directory.join("size")) {
            let help = "Size of a multipath device.";
            set.add(
                "node_dmmultipath_device_size_bytes",
                help,
                &labels,
                sectors * SECTOR_BYTES,
            );
        }
        let paths = if_present(list_names(&directory.join("slaves")))?.unwrap_or_default();
        let mut active = 0.0;
        let all = paths.len() as f64;
        for path in paths {
            let state = read_attribute(&base.join(&path).join("device/state")).unwrap_or_default();
            // States of SCSI and of NVMe.
            active += f64::from(["running", "live"].contains(&state.as_str()));
            let labels = [device.clone(), label("path", path), label("state", state)];
            set.add(
                "node_dmmultipath_path_state",
                "State of a path; the value is always 1.",
                &labels,
                1.0,
            );
        }
        for (name, help, count) in [
            ("node_dmmultipath_device_paths", "Paths of a multipath device.", all),
            (
                "node_dmmultipath_device_paths_active",
                "Active paths of a multipath device.",
                active,
            ),
            (
                "node_dmmultipath_device_paths_failed",
                "Other paths of a multipath device.",
                all - active,
            ),
        ] {
            set.add(name, help, &labels, count);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn paths_are_counted_by_state() {
        let tree = Tree::new();
        assert!(matches!(read_dmmultipath(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("dm-0/dm/uuid", "LVM-abc\n"),
            ("dm-1/dm/uuid", "mpath-36\n"),
            ("dm-1/dm/name", "data\n"),
            ("dm-1/dm/suspended", "0\n"),
            ("dm-1/size", "4\n"),
            ("dm-1/slaves/sda", ""),
            ("dm-1/slaves/sdb", ""),
            ("sda/device/state", "running\n"),
            ("sdb/device/state", "offline\n"),
        ] {
            tree.sys(&format!("block/{file}"), text);
        }
        let of = "{device=\"data\",sysfs_name=\"dm-1\"";
        assert_eq!(
            text_of(&read_dmmultipath(&tree.roots).unwrap(), ""),
            [
                format!("node_dmmultipath_device_info{of},uuid=\"mpath-36\"}} 1"),
                format!("node_dmmultipath_device_active{of}}} 1"),
                format!("node_dmmultipath_device_size_bytes{of}}} 2048"),
                "node_dmmultipath_path_state{device=\"data\",path=\"sda\",state=\"running\"} 1".to_owned(),
                "node_dmmultipath_path_state{device=\"data\",path=\"sdb\",state=\"offline\"} 1".to_owned(),
                format!("node_dmmultipath_device_paths{of}}} 2"),
                format!("node_dmmultipath_device_paths_active{of}}} 1"),
                format!("node_dmmultipath_device_paths_failed{of}}} 1"),
            ]
        );
    }
}
