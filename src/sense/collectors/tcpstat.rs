//! `tcpstat`: TCP sockets per state and the bytes that wait in them, from `/proc/net/tcp` and `/proc/net/tcp6`.

use super::info::{CollectorInfo, Pace};
use super::socket_table::{Socket, fold_sockets};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, or_without};
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;

/// The published metrics.
const METRICS: &str = "node_tcp_connection_states";

pub const INFO: CollectorInfo = CollectorInfo::off("tcpstat", Pace::Scrape, "TCP sockets per state", METRICS, |_| {
    Box::new(read_tcpstat)
});

/// Names of the states 1 to 11 (include/net/tcp_states.h).
const TCP_STATES: [&str; 11] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];

/// Number of sockets per state, and bytes queued in connections.
type Sums = BTreeMap<&'static str, f64>;

fn add(sums: &mut Sums, socket: &Socket) {
    let name = usize::from(socket.state)
        .checked_sub(1)
        .and_then(|index| TCP_STATES.get(index));
    // NEW_SYN_RECV and states of later kernels are skipped.
    let Some(name) = name else { return };
    *sums.entry(name).or_default() += 1.0;
    // The queue of a listening socket counts connections, not bytes.
    if *name != "listen" {
        *sums.entry("tx_queued_bytes").or_default() += socket.send_bytes;
        *sums.entry("rx_queued_bytes").or_default() += socket.receive_bytes;
    }
}

pub fn read_tcpstat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = |path| or_without(fold_sockets(roots, path, Sums::new(), add));
    let mut sums = read("net/tcp")?.unwrap_or_default();
    for (state, value) in if_present(read("net/tcp6"))?.flatten().unwrap_or_default() {
        *sums.entry(state).or_default() += value;
    }
    let mut family = Family::gauge(
        "node_tcp_connection_states",
        "TCP sockets per state, and bytes that wait in them.",
    );
    for (state, value) in sums {
        family.push([label("state", state)], value);
    }
    Ok(vec![family])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::socket_table::fixture::table;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn table_of_a_busy_host_is_read_whole() {
        let tree = Tree::new();
        // As the kernel writes it: 150 bytes a line.
        let line = |index| {
            let socket = format!(
                "{index:>4}: 0100007F:0016 0100007F:{index:04X} 01 00000001:00000002 00:00000000 00000000     0        0 1"
            );
            format!("{socket:<149}\n")
        };
        let sockets: String = (0..120_000).map(line).collect();
        tree.proc("net/tcp", format!("{:<149}\n{sockets}", "  sl  local_address"));
        assert_eq!(
            text_of(&read_tcpstat(&tree.roots).unwrap(), "")[0],
            "node_tcp_connection_states{state=\"established\"} 120000"
        );
    }

    #[test]
    fn tcp_states_are_summed_and_backlogs_are_not_bytes() {
        let tree = Tree::new();
        tree.proc(
            "net/tcp",
            table(&[("0A", "00000000:00000005"), ("01", "00000003:00000001"), ("0C", "1:1")]),
        );
        tree.proc(
            "net/tcp6",
            table(&[("01", "00000001:00000000"), ("06", "00000000:00000000")]),
        );
        let lines = text_of(&read_tcpstat(&tree.roots).unwrap(), "");
        let values: Vec<_> = lines
            .iter()
            .map(|line| line.trim_start_matches("node_tcp_connection_states"))
            .collect();
        assert_eq!(
            values,
            [
                "{state=\"established\"} 2",
                "{state=\"listen\"} 1",
                "{state=\"rx_queued_bytes\"} 1",
                "{state=\"time_wait\"} 1",
                "{state=\"tx_queued_bytes\"} 4",
            ]
        );
    }
}
