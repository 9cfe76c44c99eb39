//! `ethtool`: drivers, modes and counters of network devices (ethtool(8)).

mod ioctl;

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, Label, MetricKind, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names};
use crate::sense::runtime::roots::Roots;
use ioctl::{Driver, Ethtool, LinkModes};
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The published metrics. The drivers name their counters.
const METRICS: &str = "\
    node_ethtool_info node_ethtool_received_bytes_total node_ethtool_received_dropped_total \
    node_ethtool_received_errors_total node_ethtool_received_packets_total node_ethtool_transmitted_bytes_total \
    node_ethtool_transmitted_errors_total node_ethtool_transmitted_packets_total node_network_advertised_speed_bytes \
    node_network_asymmetricpause_advertised node_network_asymmetricpause_supported node_network_autonegotiate \
    node_network_autonegotiate_advertised node_network_autonegotiate_supported node_network_pause_advertised \
    node_network_pause_supported node_network_supported_port_info node_network_supported_speed_bytes node_ethtool_*";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "ethtool",
    Pace::IsolatedScrape,
    "drivers and counters of network devices",
    METRICS,
    |options| {
        let (devices, counters) = (options.ethtool_devices.clone(), options.ethtool_counters.clone());
        Box::new(move |roots| read_ethtool(roots, &devices, counters.as_ref()))
    },
);

/// Bytes per second of a megabit per second.
const MEGABIT: f64 = 1e6 / 8.0;

/// Bit, speed in megabits, duplex and medium of the modes that a number of 32 bits has.
const SPEEDS: [(u32, u32, &str, &str); 22] = [
    (0, 10, "half", "T"),
    (1, 10, "full", "T"),
    (2, 100, "half", "T"),
    (3, 100, "full", "T"),
    (4, 1000, "half", "T"),
    (5, 1000, "full", "T"),
    (12, 10_000, "full", "T"),
    (17, 1000, "full", "KX"),
    (18, 10_000, "full", "KX4"),
    (19, 10_000, "full", "KR"),
    (20, 10_000, "full", "R_FEC"),
    (21, 20_000, "full", "MLD2"),
    (22, 20_000, "full", "KR2"),
    (23, 40_000, "full", "KR4"),
    (24, 40_000, "full", "CR4"),
    (25, 40_000, "full", "SR4"),
    (26, 40_000, "full", "LR4"),
    (27, 56_000, "full", "KR4"),
    (28, 56_000, "full", "CR4"),
    (29, 56_000, "full", "SR4"),
    (30, 56_000, "full", "LR4"),
    (31, 25_000, "full", "CR"),
];

/// Bit and name of the kinds of ports.
const PORTS: [(u32, &str); 6] = [
    (7, "TP"),
    (8, "AUI"),
    (9, "MII"),
    (10, "FIBRE"),
    (11, "BNC"),
    (16, "Backplane"),
];

/// Bit, and the metrics of what is supported and what is advertised.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (
        6,
        "node_network_autonegotiate_supported",
        "node_network_autonegotiate_advertised",
    ),
    (13, "node_network_pause_supported", "node_network_pause_advertised"),
    (
        14,
        "node_network_asymmetricpause_supported",
        "node_network_asymmetricpause_advertised",
    ),
];

/// Counters with a name of their own.
const NAMED: [(&str, &str); 7] = [
    ("rx_bytes", "node_ethtool_received_bytes_total"),
    ("rx_dropped", "node_ethtool_received_dropped_total"),
    ("rx_errors", "node_ethtool_received_errors_total"),
    ("rx_packets", "node_ethtool_received_packets_total"),
    ("tx_bytes", "node_ethtool_transmitted_bytes_total"),
    ("tx_errors", "node_ethtool_transmitted_errors_total"),
    ("tx_packets", "node_ethtool_transmitted_packets_total"),
];

/// `rx_queue_0` becomes `node_ethtool_received_queue_0`. Matches do not overlap, as in node_exporter: `tx_tx_timeouts`
/// becomes `node_ethtool_transmitted_tx_timeouts`.
fn counter_metric(counter: &str) -> String {
    static RECEIVED: LazyLock<Regex> = LazyLock::new(|| Regex::new("(^|_)rx(_|$)").expect("a valid pattern"));
    static TRANSMITTED: LazyLock<Regex> = LazyLock::new(|| Regex::new("(^|_)tx(_|$)").expect("a valid pattern"));
    let lower = counter.to_lowercase();
    let name = RECEIVED.replace_all(lower.trim_start_matches('_'), "${1}received${2}");
    let name = TRANSMITTED.replace_all(&name, "${1}transmitted${2}");
    format!("node_ethtool_{name}")
}

fn add_modes(modes: LinkModes, device: &Label, set: &mut FamilySet) {
    let device = std::slice::from_ref(device);
    let has = |modes: u32, bit: u32| modes & (1 << bit) != 0;
    for (metric, help, modes) in [
        (
            "node_network_supported_speed_bytes",
            "A speed that a device supports.",
            modes.supported,
        ),
        (
            "node_network_advertised_speed_bytes",
            "A speed that a device offers.",
            modes.advertised,
        ),
    ] {
        for (_, speed, duplex, medium) in SPEEDS.iter().filter(|(bit, ..)| has(modes, *bit)) {
            let mode = label("mode", format!("{speed}base{medium}"));
            let labels = [device, &[label("duplex", *duplex), mode]].concat();
            set.add(metric, help, &labels, f64::from(*speed) * MEGABIT);
        }
    }
    for (_, name) in PORTS.iter().filter(|(bit, _)| has(modes.supported, *bit)) {
        let labels = [device, &[label("type", *name)]].concat();
        let help = "A kind of port that a device supports; the value is always 1.";
        set.add("node_network_supported_port_info", help, &labels, 1.0);
    }
    for (bit, supported, advertised) in CAPABILITIES {
        let help = "1 if a device has this ability of a link.";
        set.add(supported, help, device, f64::from(has(modes.supported, bit)));
        set.add(advertised, help, device, f64::from(has(modes.advertised, bit)));
    }
    let help = "1 if a device negotiates its mode.";
    set.add(
        "node_network_autonegotiate",
        help,
        device,
        f64::from(modes.is_negotiated),
    );
}

fn add_driver(driver: &Driver, device: &Label, set: &mut FamilySet) {
    let labels = [
        label("bus_info", driver.bus.clone()),
        device.clone(),
        label("driver", driver.name.clone()),
        label("expansion_rom_version", driver.rom.clone()),
        label("firmware_version", driver.firmware.clone()),
        label("version", driver.version.clone()),
    ];
    set.add(
        "node_ethtool_info",
        "The driver of a device; the value is always 1.",
        &labels,
        1.0,
    );
}

fn add_counters(counters: Vec<(String, u64)>, wanted: Option<&Regex>, device: &Label, set: &mut FamilySet) {
    // Of several counters with one metric none is shown, as in node_exporter.
    let mut by_metric: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for (name, count) in counters {
        let name = metric_part(&name);
        if name.is_empty() || wanted.is_some_and(|wanted| !wanted.is_match(&name)) {
            continue;
        }
        let named = NAMED.iter().find(|(counter, _)| *counter == name);
        let metric = named.map_or_else(|| counter_metric(&name), |(_, metric)| (*metric).to_owned());
        by_metric
            .entry(metric)
            .and_modify(|count| *count = None)
            .or_insert(Some(count));
    }
    for (metric, count) in by_metric {
        if let Some(count) = count {
            let help = "A counter of the driver of a network device.";
            set.add_as(
                MetricKind::Untyped,
                metric,
                help,
                std::slice::from_ref(device),
                count as f64,
            );
        }
    }
}

pub fn read_ethtool(roots: &Roots, devices: &NameFilter, wanted: Option<&Regex>) -> Result<Vec<Family>, ReadError> {
    let names = list_names(&roots.sys("class/net")).map_err(|error| error.or_absent("no network device"))?;
    let ethtool = Ethtool::open().map_err(|error| ReadError::System(format!("ethtool: {error}")))?;
    let mut set = FamilySet::default();
    for name in names.into_iter().filter(|name| devices.allows(name)) {
        let device = label("device", name.clone());
        // Virtual devices answer only some of the requests, or none.
        if let Ok(modes) = ethtool.link_modes(&name) {
            add_modes(modes, &device, &mut set);
        }
        let Ok(driver) = ethtool.driver(&name) else {
            continue;
        };
        add_driver(&driver, &device, &mut set);
        add_counters(
            ethtool.counters(&name, &driver).unwrap_or_default(),
            wanted,
            &device,
            &mut set,
        );
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    fn device() -> Label {
        label("device", "eth0")
    }

    #[test]
    fn counters_are_named_by_direction() {
        for (counter, metric) in [
            ("rx_queue_0_tx", "node_ethtool_received_queue_0_transmitted"),
            ("tx_tx_timeouts", "node_ethtool_transmitted_tx_timeouts"),
            ("_TxRing", "node_ethtool_txring"),
        ] {
            assert_eq!(counter_metric(counter), metric);
        }
        let mut set = FamilySet::default();
        let counters = [("rx_packets", 7), ("rx-err", 1), ("rx.err", 2), ("tx_drops", 3)];
        let counters = counters.map(|(name, count)| (name.to_owned(), count));
        add_counters(counters.to_vec(), None, &device(), &mut set);
        add_counters(
            counters.to_vec(),
            Regex::new("^none$").ok().as_ref(),
            &device(),
            &mut set,
        );
        assert_eq!(
            text_of(&set.into_families(), ""),
            [
                "node_ethtool_received_packets_total{device=\"eth0\"} 7",
                "node_ethtool_transmitted_drops{device=\"eth0\"} 3",
            ]
        );
    }

    #[test]
    fn modes_are_speeds_ports_and_abilities() {
        let mut set = FamilySet::default();
        let modes = LinkModes {
            supported: 1 << 5 | 1 << 6 | 1 << 7,
            advertised: 1 << 6,
            is_negotiated: true,
        };
        add_modes(modes, &device(), &mut set);
        let families = set.into_families();
        for (part, expected) in [
            (
                "speed",
                "node_network_supported_speed_bytes{device=\"eth0\",duplex=\"full\",mode=\"1000baseT\"} 125000000",
            ),
            (
                "port_info",
                "node_network_supported_port_info{device=\"eth0\",type=\"TP\"} 1",
            ),
            (
                "autonegotiate_adv",
                "node_network_autonegotiate_advertised{device=\"eth0\"} 1",
            ),
            (
                "asymmetricpause_sup",
                "node_network_asymmetricpause_supported{device=\"eth0\"} 0",
            ),
            ("autonegotiate{", "node_network_autonegotiate{device=\"eth0\"} 1"),
        ] {
            assert_eq!(text_of(&families, part), [expected]);
        }
    }

    #[test]
    fn devices_of_this_host_answer_or_are_left_out() {
        let tree = Tree::new();
        let all = NameFilter::default();
        assert!(matches!(
            read_ethtool(&tree.roots, &all, None),
            Err(ReadError::Absent(_))
        ));
        tree.sys("class/net/lo/flags", "0x9\n");
        tree.sys("class/net/none0/flags", "0x9\n");
        let families = read_ethtool(&tree.roots, &all, None).unwrap();
        assert_eq!(text_of(&families, "none0"), [""; 0]);
    }
}
