//! `infiniband`: adapters of InfiniBand and RoCE, from `/sys/class/infiniband`.

use super::family_set::{AttributeRow, FamilySet};
use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, list_names, read_attribute};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_infiniband_duplicate_requests_packets_total node_infiniband_excessive_buffer_overrun_errors_total \
    node_infiniband_implied_nak_seq_errors_total node_infiniband_info \
    node_infiniband_legacy_data_received_bytes_total node_infiniband_legacy_data_transmitted_bytes_total \
    node_infiniband_legacy_multicast_packets_received_total \
    node_infiniband_legacy_multicast_packets_transmitted_total node_infiniband_legacy_packets_received_total \
    node_infiniband_legacy_packets_transmitted_total node_infiniband_legacy_unicast_packets_received_total \
    node_infiniband_legacy_unicast_packets_transmitted_total node_infiniband_lifespan_seconds \
    node_infiniband_link_downed_total node_infiniband_link_error_recovery_total \
    node_infiniband_local_ack_timeout_errors_total node_infiniband_local_link_integrity_errors_total \
    node_infiniband_multicast_packets_received_total node_infiniband_multicast_packets_transmitted_total \
    node_infiniband_np_cnp_packets_sent_total node_infiniband_np_ecn_marked_roce_packets_received_total \
    node_infiniband_out_of_buffer_drops_total node_infiniband_out_of_sequence_packets_received_total \
    node_infiniband_packet_sequence_errors_total node_infiniband_physical_state_id \
    node_infiniband_port_constraint_errors_received_total node_infiniband_port_constraint_errors_transmitted_total \
    node_infiniband_port_data_received_bytes_total node_infiniband_port_data_transmitted_bytes_total \
    node_infiniband_port_discards_received_total node_infiniband_port_discards_transmitted_total \
    node_infiniband_port_errors_received_total node_infiniband_port_packets_received_total \
    node_infiniband_port_packets_transmitted_total node_infiniband_port_receive_remote_physical_errors_total \
    node_infiniband_port_receive_switch_relay_errors_total node_infiniband_port_transmit_wait_total \
    node_infiniband_rate_bytes_per_second node_infiniband_req_cqes_errors_total \
    node_infiniband_req_cqes_flush_errors_total node_infiniband_req_remote_access_errors_total \
    node_infiniband_req_remote_invalid_request_errors_total node_infiniband_resp_cqes_errors_total \
    node_infiniband_resp_cqes_flush_errors_total node_infiniband_resp_local_length_errors_total \
    node_infiniband_resp_remote_access_errors_total node_infiniband_rnr_nak_retry_packets_received_total \
    node_infiniband_roce_adp_retransmits_timeout_total node_infiniband_roce_adp_retransmits_total \
    node_infiniband_roce_slow_restart_cnps_total node_infiniband_roce_slow_restart_total \
    node_infiniband_roce_slow_restart_used_total node_infiniband_rp_cnp_ignored_packets_received_total \
    node_infiniband_rp_cnp_packets_handled_total node_infiniband_rx_atomic_requests_total \
    node_infiniband_rx_dct_connect_requests_total node_infiniband_rx_icrc_encapsulated_errors_total \
    node_infiniband_rx_read_requests_total node_infiniband_rx_write_requests_total node_infiniband_state_id \
    node_infiniband_symbol_error_total node_infiniband_unicast_packets_received_total \
    node_infiniband_unicast_packets_transmitted_total node_infiniband_vl15_dropped_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "infiniband",
    Pace::Scrape,
    "adapters of InfiniBand",
    METRICS,
    |options| {
        let devices = options.infiniband_devices.clone();
        Box::new(move |roots| read_infiniband(roots, &devices))
    },
);

/// The kernel counts data in words of four bytes.
const DATA_FACTOR: f64 = 4.0;

/// Bytes per second of a gigabit per second.
const GIGABIT: f64 = 125e6;

/// Files of `counters`.
const COUNTERS: [AttributeRow; 22] = [
    (
        "excessive_buffer_overrun_errors",
        "node_infiniband_excessive_buffer_overrun_errors_total",
        "Runs of buffer overruns above the threshold.",
        1.0,
    ),
    (
        "link_downed",
        "node_infiniband_link_downed_total",
        "Times that the link went down.",
        1.0,
    ),
    (
        "link_error_recovery",
        "node_infiniband_link_error_recovery_total",
        "Times that the link recovered from an error.",
        1.0,
    ),
    (
        "local_link_integrity_errors",
        "node_infiniband_local_link_integrity_errors_total",
        "Times that local physical errors exceeded the threshold.",
        1.0,
    ),
    (
        "multicast_rcv_packets",
        "node_infiniband_multicast_packets_received_total",
        "Received multicast packets, bad ones included.",
        1.0,
    ),
    (
        "multicast_xmit_packets",
        "node_infiniband_multicast_packets_transmitted_total",
        "Sent multicast packets, bad ones included.",
        1.0,
    ),
    (
        "port_rcv_constraint_errors",
        "node_infiniband_port_constraint_errors_received_total",
        "Received packets that a switch port discarded.",
        1.0,
    ),
    (
        "port_xmit_constraint_errors",
        "node_infiniband_port_constraint_errors_transmitted_total",
        "Packets that a switch port did not send.",
        1.0,
    ),
    (
        "port_rcv_data",
        "node_infiniband_port_data_received_bytes_total",
        "Received bytes.",
        DATA_FACTOR,
    ),
    (
        "port_xmit_data",
        "node_infiniband_port_data_transmitted_bytes_total",
        "Sent bytes.",
        DATA_FACTOR,
    ),
    (
        "port_rcv_discards",
        "node_infiniband_port_discards_received_total",
        "Received packets discarded because the port was down or congested.",
        1.0,
    ),
    (
        "port_xmit_discards",
        "node_infiniband_port_discards_transmitted_total",
        "Packets to send discarded because the port was down or congested.",
        1.0,
    ),
    (
        "port_rcv_errors",
        "node_infiniband_port_errors_received_total",
        "Received packets with an error.",
        1.0,
    ),
    (
        "port_rcv_packets",
        "node_infiniband_port_packets_received_total",
        "Received packets, bad ones included.",
        1.0,
    ),
    (
        "port_xmit_packets",
        "node_infiniband_port_packets_transmitted_total",
        "Sent packets, bad ones included.",
        1.0,
    ),
    (
        "port_xmit_wait",
        "node_infiniband_port_transmit_wait_total",
        "Ticks in which data had to wait.",
        1.0,
    ),
    (
        "unicast_rcv_packets",
        "node_infiniband_unicast_packets_received_total",
        "Received unicast packets, bad ones included.",
        1.0,
    ),
    (
        "unicast_xmit_packets",
        "node_infiniband_unicast_packets_transmitted_total",
        "Sent unicast packets, bad ones included.",
        1.0,
    ),
    (
        "port_rcv_remote_physical_errors",
        "node_infiniband_port_receive_remote_physical_errors_total",
        "Received packets that another port marked as bad.",
        1.0,
    ),
    (
        "port_rcv_switch_relay_errors",
        "node_infiniband_port_receive_switch_relay_errors_total",
        "Packets that a switch could not forward.",
        1.0,
    ),
    (
        "symbol_error",
        "node_infiniband_symbol_error_total",
        "Small errors of the physical link.",
        1.0,
    ),
    (
        "VL15_dropped",
        "node_infiniband_vl15_dropped_total",
        "Packets of the management lane that were dropped.",
        1.0,
    ),
];

/// Files of `counters_ext`, of kernels before 4.5.
const LEGACY_COUNTERS: [AttributeRow; 8] = [
    (
        "port_multicast_rcv_packets",
        "node_infiniband_legacy_multicast_packets_received_total",
        "Received multicast packets, by an old counter.",
        1.0,
    ),
    (
        "port_multicast_xmit_packets",
        "node_infiniband_legacy_multicast_packets_transmitted_total",
        "Sent multicast packets, by an old counter.",
        1.0,
    ),
    (
        "port_rcv_data_64",
        "node_infiniband_legacy_data_received_bytes_total",
        "Received bytes, by an old counter.",
        DATA_FACTOR,
    ),
    (
        "port_rcv_packets_64",
        "node_infiniband_legacy_packets_received_total",
        "Received packets, by an old counter.",
        1.0,
    ),
    (
        "port_unicast_rcv_packets",
        "node_infiniband_legacy_unicast_packets_received_total",
        "Received unicast packets, by an old counter.",
        1.0,
    ),
    (
        "port_unicast_xmit_packets",
        "node_infiniband_legacy_unicast_packets_transmitted_total",
        "Sent unicast packets, by an old counter.",
        1.0,
    ),
    (
        "port_xmit_data_64",
        "node_infiniband_legacy_data_transmitted_bytes_total",
        "Sent bytes, by an old counter.",
        DATA_FACTOR,
    ),
    (
        "port_xmit_packets_64",
        "node_infiniband_legacy_packets_transmitted_total",
        "Sent packets, by an old counter.",
        1.0,
    ),
];

/// Files of `hw_counters`.
const HARDWARE_COUNTERS: [AttributeRow; 30] = [
    (
        "duplicate_request",
        "node_infiniband_duplicate_requests_packets_total",
        "Received requests that had been processed before.",
        1.0,
    ),
    (
        "implied_nak_seq_err",
        "node_infiniband_implied_nak_seq_errors_total",
        "Acknowledgements with a sequence number above the expected one.",
        1.0,
    ),
    (
        "local_ack_timeout_err",
        "node_infiniband_local_ack_timeout_errors_total",
        "Times that an acknowledgement did not come in time.",
        1.0,
    ),
    (
        "np_cnp_sent",
        "node_infiniband_np_cnp_packets_sent_total",
        "Sent notifications of congestion.",
        1.0,
    ),
    (
        "np_ecn_marked_roce_packets",
        "node_infiniband_np_ecn_marked_roce_packets_received_total",
        "Received packets of RoCE marked for congestion.",
        1.0,
    ),
    (
        "out_of_buffer",
        "node_infiniband_out_of_buffer_drops_total",
        "Packets dropped for want of a work queue entry.",
        1.0,
    ),
    (
        "out_of_sequence",
        "node_infiniband_out_of_sequence_packets_received_total",
        "Packets received out of sequence.",
        1.0,
    ),
    (
        "packet_seq_err",
        "node_infiniband_packet_sequence_errors_total",
        "Received negative acknowledgements for the sequence.",
        1.0,
    ),
    (
        "req_cqe_error",
        "node_infiniband_req_cqes_errors_total",
        "Completions with an error at the requester.",
        1.0,
    ),
    (
        "req_cqe_flush_error",
        "node_infiniband_req_cqes_flush_errors_total",
        "Flushed completions at the requester.",
        1.0,
    ),
    (
        "req_remote_access_errors",
        "node_infiniband_req_remote_access_errors_total",
        "Errors of remote access at the requester.",
        1.0,
    ),
    (
        "req_remote_invalid_request",
        "node_infiniband_req_remote_invalid_request_errors_total",
        "Requests that the remote side found invalid.",
        1.0,
    ),
    (
        "resp_cqe_error",
        "node_infiniband_resp_cqes_errors_total",
        "Completions with an error at the responder.",
        1.0,
    ),
    (
        "resp_cqe_flush_error",
        "node_infiniband_resp_cqes_flush_errors_total",
        "Flushed completions at the responder.",
        1.0,
    ),
    (
        "resp_local_length_error",
        "node_infiniband_resp_local_length_errors_total",
        "Wrong lengths at the responder.",
        1.0,
    ),
    (
        "resp_remote_access_errors",
        "node_infiniband_resp_remote_access_errors_total",
        "Errors of remote access at the responder.",
        1.0,
    ),
    (
        "rnr_nak_retry_err",
        "node_infiniband_rnr_nak_retry_packets_received_total",
        "Received notices that a receiver was not ready.",
        1.0,
    ),
    (
        "roce_adp_retrans",
        "node_infiniband_roce_adp_retransmits_total",
        "Adaptive retransmissions of RoCE.",
        1.0,
    ),
    (
        "roce_adp_retrans_to",
        "node_infiniband_roce_adp_retransmits_timeout_total",
        "Timeouts after adaptive retransmissions of RoCE.",
        1.0,
    ),
    (
        "roce_slow_restart",
        "node_infiniband_roce_slow_restart_used_total",
        "Slow restarts of RoCE.",
        1.0,
    ),
    (
        "roce_slow_restart_cnps",
        "node_infiniband_roce_slow_restart_cnps_total",
        "Notifications of congestion that slow restarts of RoCE sent.",
        1.0,
    ),
    (
        "roce_slow_restart_trans",
        "node_infiniband_roce_slow_restart_total",
        "Changes of RoCE to slow restart.",
        1.0,
    ),
    (
        "rp_cnp_handled",
        "node_infiniband_rp_cnp_packets_handled_total",
        "Notifications of congestion that reduced the rate.",
        1.0,
    ),
    (
        "rp_cnp_ignored",
        "node_infiniband_rp_cnp_ignored_packets_received_total",
        "Notifications of congestion that were ignored.",
        1.0,
    ),
    (
        "rx_atomic_requests",
        "node_infiniband_rx_atomic_requests_total",
        "Received atomic requests.",
        1.0,
    ),
    (
        "rx_dct_connect",
        "node_infiniband_rx_dct_connect_requests_total",
        "Received requests to connect.",
        1.0,
    ),
    (
        "rx_read_requests",
        "node_infiniband_rx_read_requests_total",
        "Received read requests.",
        1.0,
    ),
    (
        "rx_write_requests",
        "node_infiniband_rx_write_requests_total",
        "Received write requests.",
        1.0,
    ),
    (
        "rx_icrc_encapsulated",
        "node_infiniband_rx_icrc_encapsulated_errors_total",
        "Packets of RoCE with a wrong checksum.",
        1.0,
    ),
    (
        "lifespan",
        "node_infiniband_lifespan_seconds",
        "Age up to which a read of the counters is repeated.",
        1e-3,
    ),
];

/// The number of `4: ACTIVE`.
fn state_id(text: &str) -> Option<f64> {
    text.split_once(':')?.0.trim().parse().ok()
}

/// Bytes per second of `40 Gb/sec (4X QDR)`.
fn rate(text: &str) -> Option<f64> {
    Some(text.split_once(' ')?.0.parse::<f64>().ok()? * GIGABIT)
}

pub fn read_infiniband(roots: &Roots, devices: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/infiniband");
    let names = list_names(&base).map_err(|error| error.or_absent("no InfiniBand"))?;
    let mut set = FamilySet::default();
    for name in names.into_iter().filter(|name| devices.allows(name)) {
        let directory = base.join(&name);
        let device = label("device", name);
        let text = |file: &str| read_attribute(&directory.join(file)).unwrap_or_default();
        let info = [
            device.clone(),
            label("board_id", text("board_id")),
            label("firmware_version", text("fw_ver")),
            label("hca_type", text("hca_type")),
        ];
        set.add("node_infiniband_info", "An adapter; the value is always 1.", &info, 1.0);
        for port in if_present(list_names(&directory.join("ports")))?.unwrap_or_default() {
            let directory = directory.join("ports").join(&port);
            let labels = [device.clone(), label("port", port)];
            let text = |file: &str| read_attribute(&directory.join(file)).unwrap_or_default();
            for (name, help, value) in [
                (
                    "node_infiniband_state_id",
                    "State of a port: 1 down, 4 active.",
                    state_id(&text("state")),
                ),
                (
                    "node_infiniband_physical_state_id",
                    "Physical state of a port: 3 disabled, 5 up.",
                    state_id(&text("phys_state")),
                ),
                (
                    "node_infiniband_rate_bytes_per_second",
                    "Maximum rate of a port.",
                    rate(&text("rate")),
                ),
            ] {
                if let Some(value) = value {
                    set.add(name, help, &labels, value);
                }
            }
            set.add_attributes(&directory.join("counters"), &COUNTERS, &labels);
            set.add_attributes(&directory.join("counters_ext"), &LEGACY_COUNTERS, &labels);
            set.add_attributes(&directory.join("hw_counters"), &HARDWARE_COUNTERS, &labels);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;

    #[test]
    fn ports_have_states_and_counters() {
        let tree = Tree::new();
        let all = NameFilter::default();
        assert!(matches!(read_infiniband(&tree.roots, &all), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("fw_ver", "1.2\n"),
            ("ports/1/state", "4: ACTIVE\n"),
            ("ports/1/phys_state", "nonsense\n"),
            ("ports/1/rate", "2.5 Gb/sec (1X SDR)\n"),
            ("ports/1/counters/port_rcv_data", "10\n"),
            ("ports/1/counters/symbol_error", "N/A (no PMA)\n"),
            ("ports/1/hw_counters/lifespan", "12\n"),
        ] {
            tree.sys(&format!("class/infiniband/mlx5_0/{file}"), text);
        }
        let of = "{device=\"mlx5_0\",port=\"1\"}";
        assert_eq!(
            text_of(&read_infiniband(&tree.roots, &all).unwrap(), ""),
            [
                "node_infiniband_info{device=\"mlx5_0\",board_id=\"\",firmware_version=\"1.2\",hca_type=\"\"} 1"
                    .to_owned(),
                format!("node_infiniband_state_id{of} 4"),
                format!("node_infiniband_rate_bytes_per_second{of} 312500000"),
                format!("node_infiniband_port_data_received_bytes_total{of} 40"),
                format!("node_infiniband_lifespan_seconds{of} 0.012"),
            ]
        );
        let none = NameFilter::exclude(Regex::new("^mlx5").unwrap());
        assert_eq!(text_of(&read_infiniband(&tree.roots, &none).unwrap(), ""), [""; 0]);
    }
}
