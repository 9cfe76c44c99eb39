//! `udp_queues` and `tcpstat`: what the socket tables `/proc/net/{udp,tcp}{,6}` add up to (proc_pid_net(5)).

use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, read_parsed};
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;

/// One line of a table: state, and bytes queued to be sent and to be read.
struct Socket {
    state: u8,
    send_bytes: f64,
    receive_bytes: f64,
}

fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (send, receive) = fields.next()?.split_once(':')?;
    let bytes = |text| Some(u32::from_str_radix(text, 16).ok()?.into());
    Some(Socket {
        state,
        send_bytes: bytes(send)?,
        receive_bytes: bytes(receive)?,
    })
}

fn sockets(text: &str) -> impl Iterator<Item = Result<Socket, String>> {
    text.lines()
        .skip(1)
        .map(|line| parse_line(line).ok_or_else(|| format!("{line:?} is not a socket")))
}

/// Bytes queued to be sent and to be read, over all sockets.
pub fn parse_queues(text: &str) -> Result<[f64; 2], String> {
    sockets(text).try_fold([0.0, 0.0], |[send, receive], socket| {
        let socket = socket?;
        Ok([send + socket.send_bytes, receive + socket.receive_bytes])
    })
}

pub fn read_udp_queues(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut family = Family::gauge("node_udp_queues", "Bytes that wait in UDP sockets.");
    for (file, ip) in [("net/udp", "v4"), ("net/udp6", "v6")] {
        match read_parsed(&roots.proc(file), parse_queues) {
            Ok(queues) => {
                for (queue, bytes) in ["tx", "rx"].into_iter().zip(queues) {
                    family.push([label("queue", queue), label("ip", ip)], bytes);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    if family.is_empty() {
        Err(ReadError::Absent("no UDP"))
    } else {
        Ok(vec![family])
    }
}

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
pub fn parse_tcp(text: &str) -> Result<BTreeMap<&'static str, f64>, String> {
    let mut sample = BTreeMap::new();
    for socket in sockets(text) {
        let socket = socket?;
        let name = usize::from(socket.state)
            .checked_sub(1)
            .and_then(|index| TCP_STATES.get(index));
        // NEW_SYN_RECV and what later kernels add.
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
    add(read_parsed(&roots.proc("net/tcp"), parse_tcp)?);
    match read_parsed(&roots.proc("net/tcp6"), parse_tcp) {
        Ok(sample) => add(sample),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
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
    use crate::sense::fixture::{Tree, text_of};

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn table(sockets: &[(&str, &str)]) -> String {
        let line =
            |(state, queues): &(&str, &str)| format!("   0: 0100007F:0016 00000000:0000 {state} {queues} 00:0 0 0\n");
        format!("{HEAD}{}", sockets.iter().map(line).collect::<String>())
    }

    #[test]
    fn udp_queues_are_summed_per_protocol() {
        let tree = Tree::new();
        assert!(matches!(read_udp_queues(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc(
            "net/udp",
            table(&[("07", "00000010:00000001"), ("07", "00000001:00000002")]),
        );
        assert_eq!(
            text_of(&read_udp_queues(&tree.roots).unwrap(), ""),
            [
                "node_udp_queues{queue=\"tx\",ip=\"v4\"} 17",
                "node_udp_queues{queue=\"rx\",ip=\"v4\"} 3"
            ]
        );
        assert!(parse_queues(&format!("{HEAD} 0: broken\n")).is_err());
    }

    #[test]
    fn tcp_states_are_counted_over_both_protocols_and_a_backlog_is_no_bytes() {
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
