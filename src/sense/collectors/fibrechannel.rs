//! `fibrechannel`: host adapters of Fibre Channel, from `/sys/class/fc_host`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError, list_names, parse_integer};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_fibrechannel_dumped_frames_total node_fibrechannel_error_frames_total \
    node_fibrechannel_fcp_packet_aborts_total node_fibrechannel_info node_fibrechannel_invalid_crc_total \
    node_fibrechannel_invalid_tx_words_total node_fibrechannel_link_failure_total \
    node_fibrechannel_loss_of_signal_total node_fibrechannel_loss_of_sync_total node_fibrechannel_nos_total \
    node_fibrechannel_rx_frames_total node_fibrechannel_rx_words_total \
    node_fibrechannel_seconds_since_last_reset_total node_fibrechannel_tx_frames_total \
    node_fibrechannel_tx_words_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "fibrechannel",
    Pace::Scrape,
    "host adapters of Fibre Channel",
    METRICS,
    |_| Box::new(read_fibrechannel),
);

/// Files whose text is a label of the same name.
const INFO_LABELS: [&str; 10] = [
    "speed",
    "port_state",
    "port_type",
    "port_id",
    "port_name",
    "fabric_name",
    "symbolic_name",
    "supported_classes",
    "supported_speeds",
    "dev_loss_tmo",
];

/// Labels that node_exporter shows without `0x`.
const IDENTIFIERS: [&str; 3] = ["port_id", "port_name", "fabric_name"];

/// File, metric, help.
const COUNTERS: [(&str, &str, &str); 14] = [
    (
        "dumped_frames",
        "node_fibrechannel_dumped_frames_total",
        "Frames that were dumped.",
    ),
    (
        "error_frames",
        "node_fibrechannel_error_frames_total",
        "Frames with an error.",
    ),
    (
        "invalid_crc_count",
        "node_fibrechannel_invalid_crc_total",
        "Frames with a wrong checksum.",
    ),
    ("rx_frames", "node_fibrechannel_rx_frames_total", "Received frames."),
    ("rx_words", "node_fibrechannel_rx_words_total", "Received words."),
    ("tx_frames", "node_fibrechannel_tx_frames_total", "Sent frames."),
    ("tx_words", "node_fibrechannel_tx_words_total", "Sent words."),
    (
        "seconds_since_last_reset",
        "node_fibrechannel_seconds_since_last_reset_total",
        "Seconds since the port was reset.",
    ),
    (
        "invalid_tx_word_count",
        "node_fibrechannel_invalid_tx_words_total",
        "Sent words that were invalid.",
    ),
    (
        "link_failure_count",
        "node_fibrechannel_link_failure_total",
        "Failures of the link.",
    ),
    (
        "loss_of_sync_count",
        "node_fibrechannel_loss_of_sync_total",
        "Losses of synchronisation.",
    ),
    (
        "loss_of_signal_count",
        "node_fibrechannel_loss_of_signal_total",
        "Losses of the signal.",
    ),
    (
        "nos_count",
        "node_fibrechannel_nos_total",
        "Received sequences that say that the link is not operational.",
    ),
    (
        "fcp_packet_aborts",
        "node_fibrechannel_fcp_packet_aborts_total",
        "Aborted packets.",
    ),
];

/// The value with which the kernel says that an adapter has no such counter.
const NO_COUNTER: f64 = u64::MAX as f64;

pub fn read_fibrechannel(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/fc_host");
    let names = list_names(&base).map_err(|error| error.or_absent("no Fibre Channel"))?;
    let mut set = FamilySet::default();
    for name in names {
        let Some(host) = Attributes::open(&base.join(&name)) else {
            continue;
        };
        let statistics = Attributes::open(&base.join(&name).join("statistics"));
        let name = label("fc_host", name);
        let mut info = vec![name.clone()];
        let mut is_known = false;
        for file in INFO_LABELS {
            let mut text = host.read(file).map(|text| text.trim().to_owned()).unwrap_or_default();
            if IDENTIFIERS.contains(&file) {
                text = text.strip_prefix("0x").map(str::to_owned).unwrap_or(text);
            }
            is_known |= file == "port_state" && !text.is_empty() && text != "Unknown";
            info.push((file.into(), text.into()));
        }
        set.add(
            "node_fibrechannel_info",
            "A host adapter; the value is always 1.",
            &info,
            1.0,
        );
        for (file, metric, help) in COUNTERS {
            // A port in an unknown state has random counts.
            let count = match is_known {
                true => statistics.as_ref().and_then(|files| parse_integer(&files.read(file)?)),
                false => Some(0.0),
            };
            if let Some(count) = count.filter(|count| *count != NO_COUNTER) {
                set.add(metric, help, std::slice::from_ref(&name), count);
            }
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn counters_are_hexadecimal_and_may_be_missing() {
        let tree = Tree::new();
        assert!(matches!(read_fibrechannel(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("host0/port_state", "Online\n"),
            ("host0/port_name", "0x1000e0\n"),
            ("host0/statistics/tx_frames", "0x1f\n"),
            ("host0/statistics/nos_count", "0xffffffffffffffff\n"),
            ("host1/port_state", "Unknown\n"),
            ("host1/statistics/tx_frames", "0x77\n"),
        ] {
            tree.sys(&format!("class/fc_host/{file}"), text);
        }
        let families = read_fibrechannel(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "frames"),
            [
                "node_fibrechannel_tx_frames_total{fc_host=\"host0\"} 31",
                "node_fibrechannel_tx_frames_total{fc_host=\"host1\"} 0",
                "node_fibrechannel_dumped_frames_total{fc_host=\"host1\"} 0",
                "node_fibrechannel_error_frames_total{fc_host=\"host1\"} 0",
                "node_fibrechannel_rx_frames_total{fc_host=\"host1\"} 0",
            ]
        );
        assert_eq!(text_of(&families, "nos").len(), 1);
        assert!(text_of(&families, "info")[0].contains("port_name=\"1000e0\""));
    }
}
