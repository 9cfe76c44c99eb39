//! `udp_queues`: bytes that wait in UDP sockets, from `/proc/net/udp` and `/proc/net/udp6`.

use super::info::{CollectorInfo, Pace};
use super::socket_table::{Socket, fold_sockets};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, or_without};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_udp_queues";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "udp_queues",
    Pace::Fast,
    "bytes that wait in UDP sockets",
    METRICS,
    |_| Box::new(read_udp_queues),
);

/// Bytes queued for sending and for reading, over all sockets.
fn add([send, receive]: &mut [f64; 2], socket: &Socket) {
    *send += socket.send_bytes;
    *receive += socket.receive_bytes;
}

pub fn read_udp_queues(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut family = Family::gauge("node_udp_queues", "Bytes that wait in UDP sockets.");
    let mut is_there = false;
    for (file, ip) in [("net/udp", "v4"), ("net/udp6", "v6")] {
        if let Some(queues) = if_present(or_without(fold_sockets(roots, file, [0.0; 2], add)))? {
            is_there = true;
            for (queue, bytes) in ["tx", "rx"].into_iter().zip(queues.into_iter().flatten()) {
                family.push([label("queue", queue), label("ip", ip)], bytes);
            }
        }
    }
    if is_there {
        Ok(vec![family])
    } else {
        Err(ReadError::Absent("no UDP"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::socket_table::fixture::{HEAD, table};
    use crate::sense::fixture::{Tree, text_of};

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
        assert_eq!(tree.roots.take_bad_lines().count, 0);
        tree.proc("net/udp", format!("{HEAD} 0: broken\n"));
        assert_eq!(text_of(&read_udp_queues(&tree.roots).unwrap(), ""), [""; 0]);
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
