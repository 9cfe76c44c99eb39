//! `tcpstat`: TCP sockets per state and the bytes that wait in them, from `/proc/net/tcp` and `/proc/net/tcp6`.

use super::info::{CollectorInfo, Pace};
use super::socket_table::parse_sockets;
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, if_present, or_without};
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
pub fn parse_tcp(text: &str, bad: &mut BadLines) -> Result<BTreeMap<&'static str, f64>, ParseError> {
    let mut sample = BTreeMap::new();
    for socket in parse_sockets(text, bad) {
        let name = usize::from(socket.state)
            .checked_sub(1)
            .and_then(|index| TCP_STATES.get(index));
        // NEW_SYN_RECV and states of later kernels are skipped.
        let Some(name) = name else { continue };
        *sample.entry(*name).or_default() += 1.0;
        // The queue of a listening socket counts connections, not bytes.
        if *name != "listen" {
            *sample.entry("tx_queued_bytes").or_default() += socket.send_bytes;
            *sample.entry("rx_queued_bytes").or_default() += socket.receive_bytes;
        }
    }
    Ok(sample)
}

pub fn read_tcpstat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    let mut add = |sample: BTreeMap<&'static str, f64>| {
        for (state, value) in sample {
            *sums.entry(state).or_default() += value;
        }
    };
    let read = |path| or_without(roots.parse_lines_once(path, parse_tcp));
    read("net/tcp")?.into_iter().for_each(&mut add);
    if_present(read("net/tcp6"))?.flatten().into_iter().for_each(&mut add);
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
