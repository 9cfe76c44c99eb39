//! `drbd`: replicated block devices, from `/proc/drbd` of DRBD 8.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_drbd_activitylog_writes_total node_drbd_application_pending node_drbd_bitmap_writes_total \
    node_drbd_connected node_drbd_disk_read_bytes_total node_drbd_disk_state_is_up_to_date \
    node_drbd_disk_written_bytes_total node_drbd_epochs node_drbd_local_pending \
    node_drbd_network_received_bytes_total node_drbd_network_sent_bytes_total node_drbd_node_role_is_primary \
    node_drbd_out_of_sync_bytes node_drbd_remote_pending node_drbd_remote_unacknowledged";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "drbd",
    Pace::Scrape,
    "replicated block devices (DRBD 8)",
    METRICS,
    |_| Box::new(read_drbd),
);

/// The module counts in blocks of 1,024 bytes, except what it received.
const BLOCK: f64 = 1024.0;

/// Key, metric, help, factor.
const NUMBERS: [(&str, &str, &str, f64); 12] = [
    (
        "ns",
        "node_drbd_network_sent_bytes_total",
        "Bytes sent to the other node.",
        BLOCK,
    ),
    (
        "nr",
        "node_drbd_network_received_bytes_total",
        "Data received from the other node.",
        1.0,
    ),
    (
        "dw",
        "node_drbd_disk_written_bytes_total",
        "Bytes written to the local disk.",
        BLOCK,
    ),
    (
        "dr",
        "node_drbd_disk_read_bytes_total",
        "Bytes read from the local disk.",
        BLOCK,
    ),
    (
        "al",
        "node_drbd_activitylog_writes_total",
        "Updates of the activity log.",
        1.0,
    ),
    ("bm", "node_drbd_bitmap_writes_total", "Updates of the bitmap.", 1.0),
    (
        "lo",
        "node_drbd_local_pending",
        "Requests to the local disk in flight.",
        1.0,
    ),
    (
        "pe",
        "node_drbd_remote_pending",
        "Requests to the other node in flight.",
        1.0,
    ),
    (
        "ua",
        "node_drbd_remote_unacknowledged",
        "Requests of the other node without an answer.",
        1.0,
    ),
    (
        "ap",
        "node_drbd_application_pending",
        "Requests of the system without an answer.",
        1.0,
    ),
    ("ep", "node_drbd_epochs", "Epochs.", 1.0),
    (
        "oos",
        "node_drbd_out_of_sync_bytes",
        "Storage that is out of sync.",
        BLOCK,
    ),
];

/// Key, the word that counts as 1, metric, help. The value is that of this node and of the other.
const PAIRS: [(&str, &str, &str, &str); 2] = [
    (
        "ro",
        "Primary",
        "node_drbd_node_role_is_primary",
        "1 if a node is primary.",
    ),
    (
        "ds",
        "UpToDate",
        "node_drbd_disk_state_is_up_to_date",
        "1 if the disk of a node is up to date.",
    ),
];

pub fn parse_drbd(text: &str, bad: &mut BadLines) -> Result<Vec<Family>, ParseError> {
    let mut set = FamilySet::default();
    let mut device = label("device", "unknown");
    for field in text.split_ascii_whitespace() {
        let Some((key, value)) = field.split_once(':').filter(|(_, value)| !value.contains(':')) else {
            continue;
        };
        if value.is_empty() {
            if let Ok(number) = key.parse::<u32>() {
                device = label("device", format!("drbd{number}"));
            }
            continue;
        }
        if let Some((_, name, help, factor)) = NUMBERS.iter().find(|(known, ..)| *known == key) {
            let number = value
                .parse::<f64>()
                .map_err(|_| ParseError::text(field, "has no number"));
            if let Some(number) = bad.keep(number) {
                set.add(*name, *help, std::slice::from_ref(&device), number * factor);
            }
        } else if let Some((_, good, name, help)) = PAIRS.iter().find(|(known, ..)| *known == key) {
            let nodes = value
                .split_once('/')
                .ok_or_else(|| ParseError::text(field, "is not of both nodes"));
            if let Some((local, remote)) = bad.keep(nodes) {
                for (node, word) in [("local", local), ("remote", remote)] {
                    let labels = [device.clone(), label("node", node)];
                    set.add(*name, *help, &labels, f64::from(word == *good));
                }
            }
        } else if key == "cs" {
            let is_connected = f64::from(value == "Connected");
            let help = "1 if the other node is connected.";
            set.add("node_drbd_connected", help, std::slice::from_ref(&device), is_connected);
        }
    }
    Ok(set.into_families())
}

pub fn read_drbd(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    roots
        .parse_lines_once("drbd", parse_drbd)
        .map_err(|error| error.or_absent("no DRBD"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn devices_have_states_and_counts() {
        let tree = Tree::new();
        assert!(matches!(read_drbd(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc(
            "drbd",
            "version: 8.4.3 (api:1/proto:86-101)\n 1: cs:Connected ro:Primary/Secondary ds:UpToDate C r-----\n    \
             ns:2 nr:3 lo:x oos:1\n",
        );
        let of = "{device=\"drbd1\"";
        assert_eq!(
            text_of(&read_drbd(&tree.roots).unwrap(), ""),
            [
                format!("node_drbd_connected{of}}} 1"),
                format!("node_drbd_node_role_is_primary{of},node=\"local\"}} 1"),
                format!("node_drbd_node_role_is_primary{of},node=\"remote\"}} 0"),
                format!("node_drbd_network_sent_bytes_total{of}}} 2048"),
                format!("node_drbd_network_received_bytes_total{of}}} 3"),
                format!("node_drbd_out_of_sync_bytes{of}}} 1024"),
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 2);
    }
}
