//! `pcidevice`: PCI devices with their links, power and virtual functions, from `/sys/bus/pci/devices`.

mod ids;
pub(super) mod names;

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError, list_names, parse_integer};
use crate::sense::runtime::roots::Roots;
use ids::PciIds;
use std::fs;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_pcidevice_current_link_transfers_per_second node_pcidevice_current_link_width node_pcidevice_d3cold_allowed \
    node_pcidevice_info node_pcidevice_max_link_transfers_per_second node_pcidevice_max_link_width \
    node_pcidevice_numa_node node_pcidevice_power_state node_pcidevice_sriov_drivers_autoprobe \
    node_pcidevice_sriov_numvfs node_pcidevice_sriov_totalvfs node_pcidevice_sriov_vf_total_msix";

pub const INFO: CollectorInfo = CollectorInfo::off("pcidevice", Pace::Slow, "PCI devices", METRICS, |options| {
    let names = options.pci_names.clone();
    let mut ids = None;
    Box::new(move |roots| {
        // The list has 40,000 lines and changes with an update only.
        let ids = names.then(|| &*ids.get_or_insert_with(|| names.load(roots)));
        read_pcidevice(roots, ids)
    })
});

/// File, metric, help, and the value where the device has no such file.
const NUMBERS: [(&str, &str, &str, f64); 9] = [
    (
        "max_link_speed",
        "node_pcidevice_max_link_transfers_per_second",
        "Fastest speed of a link in transfers per second; -1 where unknown.",
        -1.0,
    ),
    (
        "max_link_width",
        "node_pcidevice_max_link_width",
        "Largest width of a link in lanes; -1 where unknown.",
        -1.0,
    ),
    (
        "current_link_speed",
        "node_pcidevice_current_link_transfers_per_second",
        "Speed of a link in transfers per second; -1 where unknown.",
        -1.0,
    ),
    (
        "current_link_width",
        "node_pcidevice_current_link_width",
        "Width of a link in lanes; -1 where unknown.",
        -1.0,
    ),
    (
        "d3cold_allowed",
        "node_pcidevice_d3cold_allowed",
        "1 if a device may be switched off.",
        0.0,
    ),
    (
        "sriov_drivers_autoprobe",
        "node_pcidevice_sriov_drivers_autoprobe",
        "1 if drivers take new virtual functions by themselves.",
        0.0,
    ),
    (
        "sriov_numvfs",
        "node_pcidevice_sriov_numvfs",
        "Virtual functions that are enabled.",
        0.0,
    ),
    (
        "sriov_totalvfs",
        "node_pcidevice_sriov_totalvfs",
        "Virtual functions that a device can have.",
        0.0,
    ),
    (
        "sriov_vf_total_msix",
        "node_pcidevice_sriov_vf_total_msix",
        "Interrupts for virtual functions.",
        0.0,
    ),
];

const POWER_STATES: [&str; 7] = ["D0", "D1", "D2", "D3hot", "D3cold", "unknown", "error"];

/// Segment, bus, device and function of `0000:01:00.0`.
fn parse_location(name: &str) -> Option<[String; 4]> {
    let (bus, function) = name.rsplit_once('.')?;
    let mut parts = bus.split(':').map(|part| u32::from_str_radix(part, 16).ok());
    let (segment, bus, device) = (parts.next()??, parts.next()??, parts.next()??);
    let function = u32::from_str_radix(function, 16).ok()?;
    Some([
        format!("{segment:04x}"),
        format!("{bus:02x}"),
        format!("{device:02x}"),
        format!("{function:x}"),
    ])
}

/// A number, or the speed of `8.0 GT/s PCIe` in transfers per second.
fn parse_value(text: &str) -> Option<f64> {
    match text.trim().split_once(" GT/s") {
        Some((speed, _)) => Some(speed.parse::<f64>().ok()? * 1e9),
        None => parse_integer(text),
    }
}

/// The labels of the numbers of a device, and of their names.
fn identity(device: &Attributes, ids: Option<&PciIds>) -> Vec<Label> {
    let number = |file: &str, digits: usize| {
        let value = device
            .read(file)
            .and_then(|text| parse_integer(&text))
            .unwrap_or_default();
        format!("{:0digits$x}", value as u64)
    };
    let (class, vendor, product) = (number("class", 6), number("vendor", 4), number("device", 4));
    let (other_vendor, other_product) = (number("subsystem_vendor", 4), number("subsystem_device", 4));
    let mut labels = vec![
        label("class_id", format!("0x{class}")),
        label("vendor_id", format!("0x{vendor}")),
        label("device_id", format!("0x{product}")),
        label("subsystem_vendor_id", format!("0x{other_vendor}")),
        label("subsystem_device_id", format!("0x{other_product}")),
        label("revision", format!("0x{}", number("revision", 2))),
    ];
    if let Some(ids) = ids {
        labels.extend([
            label("vendor_name", ids.vendor(&vendor)),
            label("device_name", ids.device(&vendor, &product)),
            label("subsystem_vendor_name", ids.vendor(&other_vendor)),
            label(
                "subsystem_device_name",
                ids.subsystem(&vendor, &product, [&other_vendor, &other_product]),
            ),
            label("class_name", ids.class(&class)),
        ]);
    }
    labels
}

fn read_pcidevice(roots: &Roots, ids: Option<&PciIds>) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("bus/pci/devices");
    let names = list_names(&base).map_err(|error| error.or_absent("no PCI device"))?;
    let mut set = FamilySet::default();
    for name in names {
        let directory = base.join(&name);
        let (Some(location), Some(device)) = (parse_location(&name), Attributes::open(&directory)) else {
            continue;
        };
        let location: Vec<Label> = ["segment", "bus", "device", "function"]
            .into_iter()
            .zip(location)
            .map(|(name, value)| label(name, value))
            .collect();
        // The entry is a link into the tree of devices, whose parent is a bridge or the root.
        let target = fs::read_link(&directory).unwrap_or_default();
        let parent = target.parent().and_then(Path::file_name).unwrap_or_default();
        let parent = parse_location(&parent.to_string_lossy()).unwrap_or_else(|| ["*"; 4].map(str::to_owned));
        let parent = ["parent_segment", "parent_bus", "parent_device", "parent_function"]
            .into_iter()
            .zip(parent)
            .map(|(name, value)| label(name, value));
        let info: Vec<Label> = location
            .iter()
            .cloned()
            .chain(parent)
            .chain(identity(&device, ids))
            .collect();
        set.add("node_pcidevice_info", "A device; the value is always 1.", &info, 1.0);
        let number = |file: &str| device.read(file).and_then(|text| parse_value(&text));
        for (file, metric, help, missing) in NUMBERS {
            set.add(metric, help, &location, number(file).unwrap_or(missing));
        }
        if let Some(state) = device.read("power_state").filter(|state| !state.is_empty()) {
            for known in POWER_STATES {
                let labels = [location.as_slice(), &[label("state", known)]].concat();
                let help = "1 for the power state that a device is in.";
                set.add("node_pcidevice_power_state", help, &labels, f64::from(known == state));
            }
        }
        if let Some(node) = number("numa_node").filter(|node| *node >= 0.0) {
            set.add("node_pcidevice_numa_node", "NUMA node of a device.", &location, node);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use std::os::unix::fs::symlink;

    #[test]
    fn devices_have_location_parent_and_link() {
        let tree = Tree::new();
        assert!(matches!(read_pcidevice(&tree.roots, None), Err(ReadError::Absent(_))));
        let device = "devices/pci0000:00/0000:00:02.1/0000:01:00.0";
        for (file, text) in [
            ("class", "0x010802\n"),
            ("vendor", "0xc0a9\n"),
            ("current_link_speed", "8.0 GT/s PCIe\n"),
            ("max_link_speed", "Unknown\n"),
            ("power_state", "D0\n"),
            ("numa_node", "-1\n"),
        ] {
            tree.sys(&format!("{device}/{file}"), text);
        }
        tree.sys("bus/pci/devices/.keep", "");
        let link = tree.roots.sys("bus/pci/devices/0000:01:00.0");
        symlink(format!("../../../{device}"), link).unwrap();
        let ids = PciIds::parse("c0a9  Micron\nC 01  Mass storage\n");
        let families = read_pcidevice(&tree.roots, Some(&ids)).unwrap();
        let info = text_of(&families, "info").remove(0);
        for part in [
            "{segment=\"0000\",bus=\"01\",device=\"00\",function=\"0\",parent_segment=\"0000\",parent_bus=\"00\",\
             parent_device=\"02\",parent_function=\"1\",class_id=\"0x010802\",vendor_id=\"0xc0a9\",device_id=\"0x0000\"",
            "vendor_name=\"Micron\"",
            "class_name=\"Mass storage\"",
        ] {
            assert!(info.contains(part), "{part} in {info}");
        }
        let value = |name: &str| {
            text_of(&families, name)
                .remove(0)
                .rsplit(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(value("current_link_transfers"), "8000000000");
        assert_eq!(value("max_link_transfers"), "-1");
        assert_eq!(value("state=\"D0\""), "1");
        assert_eq!(text_of(&families, "numa"), [""; 0]);
    }
}
