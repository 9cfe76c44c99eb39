//! `netdev`: traffic per network device from `/proc/net/dev` (proc(5)).

mod addresses;
mod aliases;
pub(super) mod detailed;
pub mod options;

use self::aliases::Aliases;
use self::options::NetdevOptions;
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{DescriptorCache, Family, Label, MetricKind, SharedStr, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::part_error::PartError;
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use std::time::Instant;

/// The published metrics, by default and with `--collector.netdev.enable-detailed-metrics`.
const METRICS: &str = "\
    node_network_address_info node_network_collisions_total node_network_multicast_total \
    node_network_receive_bytes_total node_network_receive_compressed_total node_network_receive_crc_errors_total \
    node_network_receive_drop_total node_network_receive_dropped_total node_network_receive_errors_total \
    node_network_receive_errs_total node_network_receive_fifo_errors_total node_network_receive_fifo_total \
    node_network_receive_frame_errors_total node_network_receive_frame_total \
    node_network_receive_length_errors_total node_network_receive_missed_errors_total \
    node_network_receive_multicast_total node_network_receive_nohandler_total node_network_receive_over_errors_total \
    node_network_receive_packets_total node_network_transmit_aborted_errors_total node_network_transmit_bytes_total \
    node_network_transmit_carrier_errors_total node_network_transmit_carrier_total node_network_transmit_colls_total \
    node_network_transmit_compressed_total node_network_transmit_drop_total node_network_transmit_dropped_total \
    node_network_transmit_errors_total node_network_transmit_errs_total node_network_transmit_fifo_errors_total \
    node_network_transmit_fifo_total node_network_transmit_heartbeat_errors_total \
    node_network_transmit_packets_total node_network_transmit_window_errors_total";

pub const INFO: CollectorInfo = CollectorInfo::on("netdev", Pace::Fast, "network devices", METRICS, |options| {
    let mut netdev = Netdev::new(options.netdev_devices.clone());
    netdev.options = options.netdev;
    Box::new(move |roots| netdev.read(roots))
});

/// The columns of `/proc/net/dev`: received, then transmitted.
const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

/// A device and its counters in the order of `COLUMNS`.
pub type NetdevSample = Vec<(String, [u64; 16])>;

pub fn parse_netdev(text: &str, bad: &mut BadLines) -> Result<NetdevSample, ParseError> {
    let lines = lines(text).skip(2);
    Ok(lines.filter_map(|line| bad.keep(parse_device(line))).collect())
}

fn parse_device(line: &str) -> Result<(String, [u64; 16]), ParseError> {
    let bad = || ParseError::text(line, "is not of the form `device: 16 counters`");
    let (device, rest) = split_name(line).ok_or_else(bad)?;
    let mut counters = [0; 16];
    let mut fields = rest.split_ascii_whitespace();
    for counter in &mut counters {
        *counter = fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad)?;
    }
    Ok((device.to_owned(), counters))
}

/// Name and counters. A name may hold colons (`ibr10:30`), and the kernel puts the counters behind the last one.
fn split_name(line: &str) -> Option<(&str, &str)> {
    let (device, counters) = line.rsplit_once(':')?;
    Some((device.trim(), counters))
}

/// Bytes received and sent per device; other lines are skipped.
pub fn bytes(text: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    lines(text).skip(2).filter_map(|line| {
        let (device, rest) = split_name(line)?;
        let mut fields = rest.split_ascii_whitespace();
        let received = fields.next()?.parse().ok()?;
        let sent = fields.nth(7)?.parse().ok()?;
        Some((device, [received, sent]))
    })
}

fn family(column: &str, kind: MetricKind) -> Family {
    Family::new(
        format!("node_network_{column}_total"),
        format!("Counter {column} of a network device, as /proc/net/dev counts it."),
        kind,
    )
}

/// A device as it is labelled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: SharedStr,
    alias: Option<SharedStr>,
}

impl Device {
    fn labels(&self) -> impl Iterator<Item = Label> + use<> {
        let alias = self.alias.clone().map(|alias| label("ifalias", alias));
        [label("device", self.name.clone())].into_iter().chain(alias)
    }
}

/// A family per column with a series per device.
fn describe(devices: &[Device]) -> Vec<Family> {
    let mut families: Vec<Family> = COLUMNS
        .iter()
        .map(|column| family(column, MetricKind::Counter))
        .collect();
    for device in devices {
        families.iter_mut().for_each(|family| family.push(device.labels(), 0.0));
    }
    families
}

/// The state between two reads.
pub struct Netdev {
    wanted: NameFilter,
    /// In the order of `COLUMNS`.
    descriptors: DescriptorCache<Device>,
    no_handler: TtlCache<Family>,
    options: NetdevOptions,
    aliases: Aliases,
    addresses: TtlCache<Option<Family>>,
    address_error: PartError,
}

impl Netdev {
    pub fn new(wanted: NameFilter) -> Self {
        Netdev {
            wanted,
            descriptors: DescriptorCache::default(),
            no_handler: TtlCache::default(),
            options: NetdevOptions::default(),
            aliases: Aliases::default(),
            addresses: TtlCache::default(),
            address_error: PartError::new("netdev", "address-info"),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let mut sample = roots.parse_lines("net/dev", FileLayout::Rows, parse_netdev)?;
        sample.retain(|(device, _)| self.wanted.allows(device));
        if self.options.has_aliases {
            self.aliases
                .read(roots, sample.iter().map(|(device, _)| device), Instant::now());
        }
        let (devices, counters): (Vec<Device>, Vec<[u64; 16]>) = sample
            .into_iter()
            .map(|(name, counters)| {
                let alias = self.aliases.of(&name);
                let name = SharedStr::from(name);
                (Device { name, alias }, counters)
            })
            .unzip();
        let mut families = match self.options.is_detailed {
            true => detailed::read(roots, &devices, MetricKind::Counter),
            false => self.columns(roots, devices, &counters),
        };
        if self.options.has_addresses {
            let (wanted, error) = (&self.wanted, &mut self.address_error);
            let addresses = self
                .addresses
                .get(Instant::now(), || error.report(addresses::read_addresses(wanted)));
            families.extend(addresses.clone());
        }
        families.retain(|family| !family.is_empty());
        Ok(families)
    }

    /// The columns of `/proc/net/dev`, and the counter that node_exporter has from netlink and the file lacks. It costs a
    /// file per device, which is too much for a sample each second.
    fn columns(&mut self, roots: &Roots, devices: Vec<Device>, counters: &[[u64; 16]]) -> Vec<Family> {
        let no_handler = roots.device_counters(&mut self.no_handler, || {
            let mut family = family("receive_nohandler", MetricKind::Counter);
            for device in &devices {
                if let Some(count) = detailed::read_counter(roots, &device.name, "rx_nohandler") {
                    family.push(device.labels(), count);
                }
            }
            family
        });
        let descriptors = self.descriptors.descriptors(devices, describe);
        let mut families = Vec::with_capacity(descriptors.len() + 1);
        for (column, descriptor) in descriptors.iter().enumerate() {
            families.push(descriptor.family(counters.iter().map(|row| row[column] as f64)));
        }
        families.push(no_handler.clone());
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};
    use crate::sense::runtime::roots::RoundPurpose;

    const HEAD: &str = "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n";

    #[test]
    fn name_may_touch_counter_and_be_any_bytes() {
        let tree = Tree::new();
        let mut text = format!("{HEAD}  eth0:123 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n").into_bytes();
        text.extend_from_slice(b" w\xff\"\\: 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
        tree.proc("net/dev", text);
        tree.sys("class/net/eth0/statistics/rx_nohandler", "17\n");
        let families = Netdev::new(NameFilter::default()).read(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "eth0")
                .iter()
                .map(|line| line.rsplit(' ').next().unwrap())
                .collect::<Vec<_>>(),
            [
                "123", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17"
            ]
        );
        assert_eq!(families[0].point(1).labels[0].1, "w\u{fffd}\"\\");
        let filter = NameFilter::exclude(regex::Regex::new("^eth0$").unwrap());
        let excluded = Netdev::new(filter).read(&tree.roots).unwrap();
        assert_eq!(text_of(&excluded, "eth0"), [""; 0]);
    }

    #[test]
    fn switches_of_node_exporter_change_labels_and_names() {
        let tree = Tree::new();
        let counters = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        tree.proc("net/dev", format!("{HEAD}eth0:{counters}\ntun0:{counters}\n"));
        tree.sys("class/net/eth0/ifalias", "to the \"core\"\n");
        for (name, count) in [
            ("rx_errors", "21\n"),
            ("multicast", "22\n"),
            ("rx_crc_errors", "23\n"),
            ("rx_bytes", "24\n"),
        ] {
            tree.sys(&format!("class/net/eth0/statistics/{name}"), count);
        }
        let mut netdev = Netdev::new(NameFilter::default());
        netdev.options.has_aliases = true;
        assert_eq!(
            text_of(&netdev.read(&tree.roots).unwrap(), "receive_bytes"),
            [
                r#"node_network_receive_bytes_total{device="eth0",ifalias="to the \"core\""} 1"#,
                r#"node_network_receive_bytes_total{device="tun0",ifalias=""} 1"#,
            ]
        );
        let mut netdev = Netdev::new(NameFilter::default());
        netdev.options.is_detailed = true;
        let families = netdev.read(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "node_network"),
            [
                r#"node_network_receive_bytes_total{device="eth0"} 24"#,
                r#"node_network_receive_errors_total{device="eth0"} 21"#,
                r#"node_network_multicast_total{device="eth0"} 22"#,
                r#"node_network_receive_crc_errors_total{device="eth0"} 23"#,
            ]
        );
    }

    #[test]
    fn scrape_reads_a_counter_that_rules_get_later() {
        let tree = Tree::new();
        tree.proc(
            "net/dev",
            format!("{HEAD}eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"),
        );
        let mut netdev = Netdev::new(NameFilter::default());
        let mut no_handler = |count: u32, purpose| {
            tree.sys("class/net/eth0/statistics/rx_nohandler", format!("{count}\n"));
            tree.roots.begin_round(purpose);
            text_of(&netdev.read(&tree.roots).unwrap(), "nohandler").remove(0)
        };
        let line = |count: u32| format!("node_network_receive_nohandler_total{{device=\"eth0\"}} {count}");
        assert_eq!(no_handler(1, RoundPurpose::Rules), line(1));
        assert_eq!(
            no_handler(2, RoundPurpose::Rules),
            line(1),
            "one file per device each second is too much"
        );
        assert_eq!(no_handler(3, RoundPurpose::Scrape), line(3));
        assert_eq!(no_handler(4, RoundPurpose::Scrape), line(4));
    }

    #[test]
    fn name_may_hold_colons() {
        let tree = Tree::new();
        let counters = " 0".repeat(15);
        tree.proc(
            "net/dev",
            format!("{HEAD} ibr10:30: 7{counters}\n ibr10:31:8{counters}\n"),
        );
        let families = Netdev::new(NameFilter::default()).read(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "receive_bytes"),
            [
                "node_network_receive_bytes_total{device=\"ibr10:30\"} 7",
                "node_network_receive_bytes_total{device=\"ibr10:31\"} 8",
            ]
        );
        let text = format!("{HEAD} ibr10:30: 7{counters}\n");
        assert_eq!(bytes(&text).collect::<Vec<_>>(), [("ibr10:30", [7, 0])]);
    }

    #[test]
    fn numbers_stay_with_devices_that_come_and_go() {
        let tree = Tree::new();
        let mut netdev = Netdev::new(NameFilter::default());
        let mut received = |devices: &[(&str, u64)]| {
            let line = |(name, bytes): &(&str, u64)| format!("{name}: {bytes}{}\n", " 0".repeat(15));
            tree.proc(
                "net/dev",
                format!("{HEAD}{}", devices.iter().map(line).collect::<String>()),
            );
            text_of(&netdev.read(&tree.roots).unwrap(), "receive_bytes")
        };
        let line = |device: &str, bytes: u64| format!("node_network_receive_bytes_total{{device={device:?}}} {bytes}");
        assert_eq!(received(&[("a", 1), ("b", 2)]), [line("a", 1), line("b", 2)]);
        assert_eq!(received(&[("b", 3), ("a", 4)]), [line("b", 3), line("a", 4)]);
        assert_eq!(received(&[("c", 5)]), [line("c", 5)]);
        assert_eq!(received(&[]), [""; 0]);
        assert_eq!(received(&[("c", 6), ("d", 7)]), [line("c", 6), line("d", 7)]);
    }

    #[test]
    fn bytes_equal_the_columns() {
        let text = format!("{HEAD}  eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n lo: 1 2\n w 1: 3 0 0 0 0 0 0 0 4\n");
        let column = |name| COLUMNS.iter().position(|column| *column == name).unwrap() as u64 + 1;
        let eth0 = [column("receive_bytes"), column("transmit_bytes")];
        assert_eq!(bytes(&text).collect::<Vec<_>>(), [("eth0", eth0), ("w 1", [3, 4])]);
    }

    #[test]
    fn error_names_the_short_line() {
        assert!(
            parsed(&format!("{HEAD} eth0: 1 2\n"), parse_netdev)
                .unwrap_err()
                .to_string()
                .contains("eth0")
        );
    }
}
