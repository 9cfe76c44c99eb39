//! `nfs`: requests of the NFS client, from `/proc/net/rpc/nfs`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use super::nfs_methods::{VERSION_2, VERSION_3, numbers, requests};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_nfs_connections_total node_nfs_packets_total node_nfs_requests_total \
    node_nfs_rpc_authentication_refreshes_total node_nfs_rpc_retransmissions_total node_nfs_rpcs_total";

pub const INFO: CollectorInfo = CollectorInfo::on("nfs", Pace::Scrape, "requests of the NFS client", METRICS, |_| {
    Box::new(read_nfs)
});

/// Methods of NFS 4 in the order of the file.
const VERSION_4: &str = "\
    Null Read Write Commit Open OpenConfirm OpenNoattr OpenDowngrade Close Setattr FsInfo Renew SetClientID \
    SetClientIDConfirm Lock Lockt Locku Access Getattr Lookup LookupRoot Remove Rename Link Symlink Create Pathconf \
    StatFs ReadLink ReadDir ServerCaps DelegReturn GetACL SetACL FsLocations ReleaseLockowner Secinfo FsidPresent \
    ExchangeID CreateSession DestroySession Sequence GetLeaseTime ReclaimComplete GetDeviceInfo LayoutGet \
    LayoutCommit LayoutReturn SecinfoNoName TestStateID FreeStateID GetDeviceList BindConnToSession DestroyClientID \
    Seek Allocate DeAllocate LayoutStats Clone";

fn parse_line(line: &str, set: &mut FamilySet) -> Result<(), ParseError> {
    let (version, methods) = match line.split_ascii_whitespace().next() {
        Some("net") => {
            let [_, udp, tcp, connections] = *numbers(line)? else {
                return Err(ParseError::text(line, "has not four numbers"));
            };
            let help = "Packets of the NFS client.";
            set.add("node_nfs_packets_total", help, &[label("protocol", "udp")], udp);
            set.add("node_nfs_packets_total", help, &[label("protocol", "tcp")], tcp);
            set.add(
                "node_nfs_connections_total",
                "Connections of the NFS client over TCP.",
                &[],
                connections,
            );
            return Ok(());
        }
        Some("rpc") => {
            let [calls, retransmissions, refreshes] = *numbers(line)? else {
                return Err(ParseError::text(line, "has not three numbers"));
            };
            set.add("node_nfs_rpcs_total", "Remote procedure calls.", &[], calls);
            let help = "Remote procedure calls that were sent again.";
            set.add("node_nfs_rpc_retransmissions_total", help, &[], retransmissions);
            let help = "Times that the authentication was renewed.";
            set.add("node_nfs_rpc_authentication_refreshes_total", help, &[], refreshes);
            return Ok(());
        }
        Some("proc2") => ("2", VERSION_2),
        Some("proc3") => ("3", VERSION_3),
        Some("proc4") => ("4", VERSION_4),
        _ => return Ok(()),
    };
    for (labels, count) in requests(line, version, methods)? {
        set.add(
            "node_nfs_requests_total",
            "Requests of the NFS client by method.",
            &labels,
            count,
        );
    }
    Ok(())
}

pub fn parse_nfs(text: &str, bad: &mut BadLines) -> Result<Vec<Family>, ParseError> {
    let mut set = FamilySet::default();
    for line in lines(text) {
        bad.keep(parse_line(line, &mut set));
    }
    Ok(set.into_families())
}

pub fn read_nfs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    roots
        .parse_lines_once("net/rpc/nfs", parse_nfs)
        .map_err(|error| error.or_absent("no NFS client"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn packets_calls_and_requests_are_counted() {
        let tree = Tree::new();
        assert!(matches!(read_nfs(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc(
            "net/rpc/nfs",
            "net 9 2 7 1\nrpc 5 6\nproc3 22 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21\n",
        );
        let families = read_nfs(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "")[..4],
            [
                "node_nfs_packets_total{protocol=\"udp\"} 2",
                "node_nfs_packets_total{protocol=\"tcp\"} 7",
                "node_nfs_connections_total 1",
                "node_nfs_requests_total{proto=\"3\",method=\"Null\"} 0",
            ]
        );
        assert_eq!(
            text_of(&families, "Commit"),
            ["node_nfs_requests_total{proto=\"3\",method=\"Commit\"} 21"]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
