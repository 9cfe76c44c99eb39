//! The counters of a network device one by one, under the names that node_exporter has for them with
//! `--collector.netdev.enable-detailed-metrics`. `/proc/net/dev` adds some of them up; sysfs has the values of netlink's
//! `rtnl_link_stats64` (Documentation/ABI/testing/sysfs-class-net-statistics in the kernel).

use super::{Device, family};
use crate::family::{Family, MetricKind};
use crate::sense::runtime::kernel_file::read_number;
use crate::sense::runtime::roots::Roots;

/// Files of `/sys/class/net/DEV/statistics`, and the metric of each without `node_network_` and `_total`.
const COUNTERS: [(&str, &str); 24] = [
    ("rx_bytes", "receive_bytes"),
    ("rx_packets", "receive_packets"),
    ("rx_errors", "receive_errors"),
    ("rx_dropped", "receive_dropped"),
    ("multicast", "multicast"),
    ("rx_length_errors", "receive_length_errors"),
    ("rx_over_errors", "receive_over_errors"),
    ("rx_crc_errors", "receive_crc_errors"),
    ("rx_frame_errors", "receive_frame_errors"),
    ("rx_fifo_errors", "receive_fifo_errors"),
    ("rx_missed_errors", "receive_missed_errors"),
    ("rx_compressed", "receive_compressed"),
    ("rx_nohandler", "receive_nohandler"),
    ("tx_bytes", "transmit_bytes"),
    ("tx_packets", "transmit_packets"),
    ("tx_errors", "transmit_errors"),
    ("tx_dropped", "transmit_dropped"),
    ("collisions", "collisions"),
    ("tx_aborted_errors", "transmit_aborted_errors"),
    ("tx_carrier_errors", "transmit_carrier_errors"),
    ("tx_fifo_errors", "transmit_fifo_errors"),
    ("tx_heartbeat_errors", "transmit_heartbeat_errors"),
    ("tx_window_errors", "transmit_window_errors"),
    ("tx_compressed", "transmit_compressed"),
];

/// The counters of devices of these names, as gauges: the kind that node_exporter gives them in `netclass`.
pub fn read_as_gauges(roots: &Roots, names: impl IntoIterator<Item = String>) -> Vec<Family> {
    let device = |name: String| Device {
        name: name.into(),
        alias: None,
    };
    let devices: Vec<Device> = names.into_iter().map(device).collect();
    read(roots, &devices, MetricKind::Gauge)
}

pub(super) fn read(roots: &Roots, devices: &[Device], kind: MetricKind) -> Vec<Family> {
    let counter = |(file, name): &(&str, &str)| {
        let mut family = family(name, kind);
        for device in devices {
            if let Some(count) = read_counter(roots, &device.name, file) {
                family.push(device.labels(), count);
            }
        }
        family
    };
    COUNTERS.iter().map(counter).collect()
}

pub fn read_counter(roots: &Roots, device: &str, file: &str) -> Option<f64> {
    read_number(&roots.sys(&format!("class/net/{device}/statistics/{file}")))
}
