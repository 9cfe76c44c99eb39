//! `netclass`: attributes of network devices from `/sys/class/net` (sysfs-class-net).

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError, file_name, list_entries};
use crate::sense::runtime::netlink::Netlink;
use crate::sense::runtime::network_links::{Link, error, links};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_network_address_assign_type node_network_altnames_info node_network_carrier \
    node_network_carrier_changes_total node_network_carrier_down_changes_total node_network_carrier_up_changes_total \
    node_network_device_id node_network_dormant node_network_flags node_network_iface_id node_network_iface_link \
    node_network_iface_link_mode node_network_info node_network_mtu_bytes node_network_name_assign_type \
    node_network_net_dev_group node_network_protocol_type node_network_speed_bytes \
    node_network_transmit_queue_length node_network_up";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "netclass",
    Pace::Slow,
    "attributes of network devices",
    METRICS,
    |options| {
        let devices = options.netclass_devices.clone();
        let ignores_invalid_speed = options.netclass_ignores_invalid_speed;
        let asks_netlink = options.netclass_netlink;
        Box::new(move |roots| {
            let mut families = read_netclass(roots, &devices, ignores_invalid_speed)?;
            if asks_netlink {
                families.push(read_other_names(&devices)?);
            }
            Ok(families)
        })
    },
);

/// File of a device, metric name after `node_network_`, help.
const ATTRIBUTES: [(&str, &str, &str); 17] = [
    (
        "addr_assign_type",
        "address_assign_type",
        "How the device got its address.",
    ),
    ("carrier", "carrier", "1 where the link is there."),
    (
        "carrier_changes",
        "carrier_changes_total",
        "Times that the link came or went.",
    ),
    (
        "carrier_up_count",
        "carrier_up_changes_total",
        "Times that the link came.",
    ),
    (
        "carrier_down_count",
        "carrier_down_changes_total",
        "Times that the link went.",
    ),
    (
        "dev_id",
        "device_id",
        "Number of the device among those that share an address.",
    ),
    ("dormant", "dormant", "1 where the device waits for something outside."),
    ("flags", "flags", "Flags of the device (IFF_*)."),
    ("ifindex", "iface_id", "Index of the device."),
    ("iflink", "iface_link", "Index of the device below."),
    ("link_mode", "iface_link_mode", "Mode of the link."),
    ("mtu", "mtu_bytes", "Largest packet, in bytes."),
    ("name_assign_type", "name_assign_type", "How the device got its name."),
    ("netdev_group", "net_dev_group", "Group of the device."),
    (
        "speed",
        "speed_bytes",
        "Speed in bytes per second; negative where unknown.",
    ),
    (
        "tx_queue_len",
        "transmit_queue_length",
        "Packets that may wait to be sent.",
    ),
    ("type", "protocol_type", "Type of the device (ARPHRD_*)."),
];

/// Megabits in bytes.
const BYTES_PER_MEGABIT: f64 = 1e6 / 8.0;

/// Decimal, or hexadecimal after `0x`.
fn parse_attribute(text: &str) -> Option<f64> {
    match text.trim().strip_prefix("0x") {
        Some(hex) => Some(u64::from_str_radix(hex, 16).ok()? as f64),
        None => Some(text.trim().parse::<i64>().ok()? as f64),
    }
}

/// Whether the flags of a device say that an administrator enabled it (`IFF_UP`).
fn admin_state(flags: Option<f64>) -> &'static str {
    match flags {
        None => "unknown",
        Some(flags) if flags as u64 & 1 == 1 => "up",
        Some(_) => "down",
    }
}

/// The other names of devices, which are not in sysfs.
fn read_other_names(devices: &NameFilter) -> Result<Family, ReadError> {
    let links = Netlink::open(None)
        .map_err(error)
        .and_then(|mut netlink| links(&mut netlink))?;
    let mut links: Vec<Link> = links.into_values().filter(|link| devices.allows(&link.name)).collect();
    links.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let mut family = Family::gauge(
        "node_network_altnames_info",
        "Another name of a device; the value is always 1.",
    );
    for link in links {
        for name in link.other_names {
            family.push([label("altname", name), label("device", link.name.clone())], 1.0);
        }
    }
    Ok(family)
}

pub fn read_netclass(
    roots: &Roots,
    devices: &NameFilter,
    ignores_invalid_speed: bool,
) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/net");
    let mut families = ATTRIBUTES.map(|(_, name, help)| Family::counter_or_gauge(format!("node_network_{name}"), help));
    let mut up = Family::gauge("node_network_up", "1 where the device is up.");
    let mut info = Family::gauge("node_network_info", "What is known of a device; the value is always 1.");
    for directory in list_entries(&base)? {
        let device = file_name(&directory);
        if !devices.allows(&device) {
            continue;
        }
        // `bonding_masters` is a file beside the directories of devices.
        let Some(attributes) = Attributes::open(&directory) else {
            continue;
        };
        let Some(operstate) = attributes.read("operstate") else {
            continue;
        };
        let mut flags = None;
        for (family, (file, ..)) in families.iter_mut().zip(ATTRIBUTES) {
            // Many drivers return an error for a device that is down.
            let Some(value) = attributes.read(file).and_then(|text| parse_attribute(&text)) else {
                continue;
            };
            let value = match file {
                "speed" if ignores_invalid_speed && value < 0.0 => continue,
                "speed" => value * BYTES_PER_MEGABIT,
                "flags" => *flags.insert(value),
                _ => value,
            };
            family.push([label("device", device.clone())], value);
        }
        up.push(vec![label("device", device.clone())], f64::from(operstate == "up"));
        let text = |file: &str| attributes.read(file).unwrap_or_default();
        info.push(
            vec![
                label("address", text("address")),
                label("adminstate", admin_state(flags)),
                label("broadcast", text("broadcast")),
                label("device", device.clone()),
                label("duplex", text("duplex")),
                label("ifalias", text("ifalias")),
                label("operstate", operstate),
            ],
            1.0,
        );
    }
    let mut families = Vec::from(families);
    families.extend([up, info]);
    families.retain(|family| !family.is_empty());
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn device_name_may_be_any_bytes() {
        let tree = Tree::new();
        let device = tree.roots.sys("class/net").join(OsStr::from_bytes(b"w\xff\"\\"));
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("operstate"), "up\n").unwrap();
        let families = read_netclass(&tree.roots, &NameFilter::default(), false).unwrap();
        assert_eq!(
            text_of(&families, "node_network_up"),
            ["node_network_up{device=\"w\u{fffd}\\\"\\\\\"} 1"]
        );
    }

    #[test]
    fn hexadecimal_and_missing_attributes_are_read() {
        let tree = Tree::new();
        tree.sys("class/net/bonding_masters", "bond0\n");
        for (file, content) in [
            ("operstate", "up\n"),
            ("flags", "0x1003\n"),
            ("speed", "1000\n"),
            ("mtu", "1500\n"),
            ("ifalias", "to \"x\"\n"),
        ] {
            tree.sys(&format!("class/net/eth0/{file}"), content);
        }
        tree.sys("class/net/lo/operstate", "unknown\n");
        tree.sys("class/net/lo/speed", "\n");
        let families = read_netclass(&tree.roots, &NameFilter::default(), false).unwrap();
        for (name, expected) in [
            ("node_network_flags", vec!["node_network_flags{device=\"eth0\"} 4099"]),
            (
                "node_network_speed",
                vec!["node_network_speed_bytes{device=\"eth0\"} 125000000"],
            ),
            (
                "node_network_up",
                vec!["node_network_up{device=\"eth0\"} 1", "node_network_up{device=\"lo\"} 0"],
            ),
        ] {
            assert_eq!(text_of(&families, name), expected);
        }
        assert!(text_of(&families, "node_network_info{")[0].contains("ifalias=\"to \\\"x\\\"\""));
        let none = read_netclass(
            &tree.roots,
            &NameFilter::exclude(regex::Regex::new("eth").unwrap()),
            true,
        )
        .unwrap();
        assert_eq!(text_of(&none, "eth0"), [""; 0]);
    }
}
