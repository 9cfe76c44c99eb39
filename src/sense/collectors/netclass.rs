//! `netclass`: attributes of network devices from `/sys/class/net` (sysfs-class-net).

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use super::netdev::detailed;
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError, file_name, list_entries};
use crate::sense::runtime::netlink::Netlink;
use crate::sense::runtime::network_links::{Link, error, links};
use crate::sense::runtime::part_error::PartError;
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use std::path::PathBuf;
use std::time::Instant;

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
    Pace::Scrape,
    "attributes of network devices",
    METRICS,
    |options| {
        let mut netclass = Netclass {
            devices: options.netclass_devices.clone(),
            ignores_invalid_speed: options.netclass_ignores_invalid_speed,
            asks_netlink: options.netclass_netlink,
            has_statistics: options.netclass_netlink && options.netclass_statistics,
            attributes: TtlCache::with_interval(options.slow_interval),
            netlink_error: PartError::new("netclass", "netlink"),
        };
        Box::new(move |roots| netclass.read(roots))
    },
);

/// File of a device, metric name after `node_network_`, help.
type Row = (&'static str, &'static str, &'static str);

/// The counters, which are read for each scrape. The kernel takes no lock for them.
const COUNTERS: [Row; 3] = [
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
];

/// The other numbers, which change rarely and are many.
const ATTRIBUTES: [Row; 14] = [
    (
        "addr_assign_type",
        "address_assign_type",
        "How the device got its address.",
    ),
    ("carrier", "carrier", "1 where the link is there."),
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

/// The state between two reads.
struct Netclass {
    devices: NameFilter,
    /// Devices of an unknown speed have no speed.
    ignores_invalid_speed: bool,
    asks_netlink: bool,
    /// The counters of `netdev`, in its place.
    has_statistics: bool,
    attributes: TtlCache<Vec<Family>>,
    netlink_error: PartError,
}

impl Netclass {
    fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let mut directories = list_entries(&roots.sys("class/net"))?;
        directories.retain(|directory| self.devices.allows(&file_name(directory)));
        let mut families = read_counters(&directories);
        let ignores_invalid_speed = self.ignores_invalid_speed;
        let (devices, netlink_error, asks_netlink) = (&self.devices, &mut self.netlink_error, self.asks_netlink);
        let attributes = self.attributes.get(Instant::now(), || {
            let mut families = read_attributes(&directories, ignores_invalid_speed);
            if asks_netlink {
                families.extend(netlink_error.report(read_other_names(devices)));
            }
            families
        });
        families.extend_from_slice(attributes);
        if self.has_statistics {
            let names = directories.iter().map(|directory| file_name(directory));
            families.extend(detailed::read_as_gauges(roots, names));
        }
        families.retain(|family| !family.is_empty());
        Ok(families)
    }
}

fn family((_, name, help): Row) -> Family {
    Family::counter_or_gauge(format!("node_network_{name}"), help)
}

fn read_counters(directories: &[PathBuf]) -> Vec<Family> {
    let mut families = COUNTERS.map(family);
    for directory in directories {
        // `bonding_masters` is a file beside the directories of devices.
        let Some(attributes) = Attributes::open(directory) else {
            continue;
        };
        for (family, (file, ..)) in families.iter_mut().zip(COUNTERS) {
            if let Some(count) = attributes.read(file).and_then(|text| parse_attribute(&text)) {
                family.push([label("device", file_name(directory))], count);
            }
        }
    }
    Vec::from(families)
}

fn read_attributes(directories: &[PathBuf], ignores_invalid_speed: bool) -> Vec<Family> {
    let mut families = ATTRIBUTES.map(family);
    let mut up = Family::gauge("node_network_up", "1 where the device is up.");
    let mut info = Family::gauge("node_network_info", "What is known of a device; the value is always 1.");
    for directory in directories {
        let device = file_name(directory);
        let Some(attributes) = Attributes::open(directory) else {
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
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, deny_netlink, text_of};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    fn netclass(devices: NameFilter) -> Netclass {
        Netclass {
            devices,
            ignores_invalid_speed: false,
            asks_netlink: false,
            has_statistics: false,
            attributes: TtlCache::default(),
            netlink_error: PartError::new("netclass", "netlink"),
        }
    }

    #[test]
    fn counters_are_read_each_time_and_attributes_later() {
        let tree = Tree::new();
        let mut netclass = netclass(NameFilter::default());
        let mut read = |changes: u32| {
            for (file, content) in [("operstate", "up\n".to_owned()), ("mtu", format!("{changes}\n"))] {
                tree.sys(&format!("class/net/eth0/{file}"), content);
            }
            tree.sys("class/net/eth0/carrier_changes", format!("{changes}\n"));
            let families = netclass.read(&tree.roots).unwrap();
            ["changes", "mtu"].map(|part| {
                text_of(&families, part)
                    .remove(0)
                    .rsplit(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
        };
        assert_eq!(read(1), ["1", "1"]);
        assert_eq!(read(2), ["2", "1"]);
        assert_eq!(read(3), ["3", "1"]);
    }

    #[test]
    fn attributes_follow_the_slow_interval() {
        let tree = Tree::new();
        let mut netclass = netclass(NameFilter::default());
        netclass.attributes = TtlCache::with_interval(Duration::ZERO);
        for state in ["up", "down"] {
            tree.sys("class/net/eth0/operstate", format!("{state}\n"));
            let families = netclass.read(&tree.roots).unwrap();
            assert!(text_of(&families, "node_network_info")[0].contains(state), "{state}");
        }
    }

    #[test]
    fn statistics_replace_those_of_netdev() {
        let tree = Tree::new();
        tree.sys("class/net/eth0/operstate", "up\n");
        tree.sys("class/net/eth0/statistics/rx_bytes", "24\n");
        let mut netclass = netclass(NameFilter::default());
        netclass.has_statistics = true;
        let families = netclass.read(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "receive_bytes"),
            ["node_network_receive_bytes_total{device=\"eth0\"} 24"]
        );
    }

    #[test]
    fn refused_netlink_costs_only_the_other_names() {
        let tree = Tree::new();
        tree.sys("class/net/eth0/operstate", "up\n");
        let mut netclass = netclass(NameFilter::default());
        netclass.asks_netlink = true;
        // A filter applies to one thread, so other tests go on.
        let refused = std::thread::spawn(move || {
            deny_netlink();
            let families = netclass.read(&tree.roots).unwrap();
            (
                text_of(&families, "node_network_up"),
                netclass.netlink_error.last().map(str::to_owned),
            )
        });
        let (lines, error) = refused.join().unwrap();
        assert_eq!(lines, ["node_network_up{device=\"eth0\"} 1"]);
        assert!(
            error.as_ref().is_some_and(|error| error.starts_with("netlink: ")),
            "{error:?}"
        );
    }

    #[test]
    fn device_name_may_be_any_bytes() {
        let tree = Tree::new();
        let device = tree.roots.sys("class/net").join(OsStr::from_bytes(b"w\xff\"\\"));
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("operstate"), "up\n").unwrap();
        let families = netclass(NameFilter::default()).read(&tree.roots).unwrap();
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
        let families = netclass(NameFilter::default()).read(&tree.roots).unwrap();
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
        let filter = NameFilter::exclude(regex::Regex::new("eth").unwrap());
        let none = netclass(filter).read(&tree.roots).unwrap();
        assert_eq!(text_of(&none, "eth0"), [""; 0]);
    }
}
