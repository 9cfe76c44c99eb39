//! `qdisc`: queues of packets to send, from netlink (tc(8)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, read_text};
use crate::sense::runtime::netlink::{Message, Netlink, attribute, text, u32_at, u64_at};
use crate::sense::runtime::network_links::{error, links};
use serde::Deserialize;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_qdisc_backlog node_qdisc_bytes_total node_qdisc_current_queue_length node_qdisc_drops_total \
    node_qdisc_overlimits_total node_qdisc_packets_total node_qdisc_requeues_total";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "qdisc",
    Pace::IsolatedScrape,
    "queues of packets to send",
    METRICS,
    |options| {
        let (devices, fixtures) = (options.qdisc_devices.clone(), options.qdisc_fixtures.clone());
        Box::new(move |_| {
            let queues = match &fixtures {
                Some(directory) => read_fixtures(directory)?,
                None => read_queues()?,
            };
            Ok(families(&queues, &devices))
        })
    },
);

const GET_QDISC: u16 = 38;
const HEADER: usize = 20;
const KIND: u16 = 1;
const STATISTICS: u16 = 7;
const BASIC: u16 = 1;
const QUEUE: u16 = 3;
/// The parent of the queue of a device, as opposed to those of its classes.
const ROOT: u32 = u32::MAX;

/// A queue with its counts, as node_exporter's fixtures write it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Queue {
    iface_name: String,
    kind: String,
    /// 0 for the queue of a device.
    parent: u32,
    bytes: u64,
    packets: u32,
    drops: u32,
    requeues: u32,
    overlimits: u32,
    qlen: u32,
    backlog: u32,
}

/// The index of the device and its queue.
fn parse_queue(message: &Message) -> Option<(u32, Queue)> {
    let index = u32_at(&message.body, 4)?;
    let parent = u32_at(&message.body, 12)?;
    let fields = message.body.get(HEADER..)?;
    let statistics = attribute(fields, STATISTICS).unwrap_or_default();
    let basic = attribute(statistics, BASIC).unwrap_or_default();
    let counts = attribute(statistics, QUEUE).unwrap_or_default();
    let count = |at| u32_at(counts, at).unwrap_or_default();
    let queue = Queue {
        iface_name: String::new(),
        kind: text(attribute(fields, KIND)?),
        parent: if parent == ROOT { 0 } else { parent },
        bytes: u64_at(basic, 0).unwrap_or_default(),
        packets: u32_at(basic, 8).unwrap_or_default(),
        qlen: count(0),
        backlog: count(4),
        drops: count(8),
        requeues: count(12),
        overlimits: count(16),
    };
    Some((index, queue))
}

fn read_queues() -> Result<Vec<Queue>, ReadError> {
    let mut netlink = Netlink::open(None).map_err(error)?;
    let names = links(&mut netlink)?;
    let messages = netlink.dump(GET_QDISC, &[0; HEADER]).map_err(error)?;
    let queues = messages.iter().filter_map(parse_queue).filter_map(|(index, queue)| {
        let iface_name = names.get(&index)?.name.clone();
        Some(Queue { iface_name, ..queue })
    });
    Ok(queues.collect())
}

/// `--collector.qdisc.fixtures`: the queues in `results.json` of a directory.
fn read_fixtures(directory: &Path) -> Result<Vec<Queue>, ReadError> {
    let text = read_text(&directory.join("results.json"))?;
    serde_json::from_str(&text).map_err(|error| ReadError::System(format!("results.json: {error}")))
}

fn families(queues: &[Queue], devices: &NameFilter) -> Vec<Family> {
    let mut set = FamilySet::default();
    for queue in queues
        .iter()
        .filter(|queue| queue.parent == 0 && devices.allows(&queue.iface_name))
    {
        let labels = [
            label("device", queue.iface_name.clone()),
            label("kind", queue.kind.clone()),
        ];
        for (name, help, count) in [
            ("node_qdisc_bytes_total", "Bytes sent.", queue.bytes as f64),
            ("node_qdisc_packets_total", "Packets sent.", queue.packets.into()),
            ("node_qdisc_drops_total", "Packets dropped.", queue.drops.into()),
            (
                "node_qdisc_requeues_total",
                "Packets put back into the queue.",
                queue.requeues.into(),
            ),
            (
                "node_qdisc_overlimits_total",
                "Packets above the limit.",
                queue.overlimits.into(),
            ),
            (
                "node_qdisc_current_queue_length",
                "Packets in the queue.",
                queue.qlen.into(),
            ),
            ("node_qdisc_backlog", "Bytes in the queue.", queue.backlog.into()),
        ] {
            set.add(name, help, &labels, count);
        }
    }
    set.into_families()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::text_of;
    use crate::sense::runtime::netlink::encode;

    fn message(parent: u32) -> Message {
        let basic = [&5000u64.to_ne_bytes()[..], &40u32.to_ne_bytes(), &[0; 4]].concat();
        let counts: Vec<u8> = (1..=5u32).flat_map(u32::to_ne_bytes).collect();
        let statistics = [encode(BASIC, &basic), encode(QUEUE, &counts)].concat();
        let header = [
            &[0; 4][..],
            &3u32.to_ne_bytes(),
            &[0; 4],
            &parent.to_ne_bytes(),
            &[0; 4],
        ]
        .concat();
        Message {
            kind: 36,
            body: [header, encode(KIND, b"fq\0"), encode(STATISTICS, &statistics)].concat(),
        }
    }

    #[test]
    fn root_queues_are_shown() {
        let queue = |parent| {
            let (_, queue) = parse_queue(&message(parent)).unwrap();
            Queue {
                iface_name: "eth0".to_owned(),
                ..queue
            }
        };
        let families = families(&[queue(ROOT), queue(0x8001_0001)], &NameFilter::default());
        let of = |name: &str, value: u32| format!("node_qdisc_{name}{{device=\"eth0\",kind=\"fq\"}} {value}");
        assert_eq!(
            text_of(&families, ""),
            [
                of("bytes_total", 5000),
                of("packets_total", 40),
                of("drops_total", 3),
                of("requeues_total", 4),
                of("overlimits_total", 5),
                of("current_queue_length", 1),
                of("backlog", 2),
            ]
        );
        // Every kernel answers, if only with an empty list.
        read_queues().unwrap();
    }

    #[test]
    fn fixtures_are_read_from_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        std::fs::write(&path, r#"[{"IfaceName": "wlan0", "Kind": "fq", "Drops": 1}]"#).unwrap();
        let queues = read_fixtures(directory.path()).unwrap();
        assert_eq!(
            (queues[0].iface_name.as_str(), queues[0].drops, queues[0].bytes),
            ("wlan0", 1, 0)
        );
        std::fs::write(&path, "[").unwrap();
        assert!(read_fixtures(directory.path()).is_err());
    }
}
