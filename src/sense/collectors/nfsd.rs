//! `nfsd`: requests to the NFS server of the kernel, from `/proc/net/rpc/nfsd`.

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
    node_nfsd_connections_total node_nfsd_disk_bytes_read_total node_nfsd_disk_bytes_written_total \
    node_nfsd_file_handles_stale_total node_nfsd_packets_total node_nfsd_read_ahead_cache_not_found_total \
    node_nfsd_read_ahead_cache_size_blocks node_nfsd_reply_cache_hits_total node_nfsd_reply_cache_misses_total \
    node_nfsd_reply_cache_nocache_total node_nfsd_requests_total node_nfsd_rpc_errors_total \
    node_nfsd_server_rpcs_total node_nfsd_server_threads";

pub const INFO: CollectorInfo = CollectorInfo::on("nfsd", Pace::Scrape, "requests to the NFS server", METRICS, |_| {
    Box::new(read_nfsd)
});

/// Operations of NFS 4 in the order of the file; those named `.` are not shown.
const VERSION_4: &str = "\
    . . . Access Close Commit Create DelegPurge DelegReturn GetAttr GetFH Link Lock Lockt Locku Lookup LookupRoot \
    Nverify Open OpenAttr OpenConfirm OpenDgrd PutFH . . Read ReadDir ReadLink Remove Rename Renew RestoreFH SaveFH \
    SecInfo SetAttr SetClientID SetClientIDConfirm Verify Write RelLockOwner";

/// Metric and help of a number of a line; `None` is not shown.
type Column = Option<(&'static str, &'static str)>;

/// The lines with numbers of fixed meaning.
const LINES: [(&str, &[Column]); 5] = [
    (
        "rc",
        &[
            Some((
                "node_nfsd_reply_cache_hits_total",
                "Requests answered from the reply cache.",
            )),
            Some((
                "node_nfsd_reply_cache_misses_total",
                "Requests that the reply cache did not hold.",
            )),
            Some((
                "node_nfsd_reply_cache_nocache_total",
                "Requests that need no reply cache.",
            )),
        ],
    ),
    (
        "fh",
        &[Some(("node_nfsd_file_handles_stale_total", "Stale file handles."))],
    ),
    (
        "io",
        &[
            Some(("node_nfsd_disk_bytes_read_total", "Bytes read by requests.")),
            Some(("node_nfsd_disk_bytes_written_total", "Bytes written by requests.")),
        ],
    ),
    ("th", &[Some(("node_nfsd_server_threads", "Threads of the server."))]),
    (
        "ra",
        &[
            Some((
                "node_nfsd_read_ahead_cache_size_blocks",
                "Size of the cache for reading ahead.",
            )),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            Some((
                "node_nfsd_read_ahead_cache_not_found_total",
                "Misses of the cache for reading ahead.",
            )),
        ],
    ),
];

fn add_requests(
    line: &str,
    version: &'static str,
    methods: &'static str,
    set: &mut FamilySet,
) -> Result<(), ParseError> {
    let requests = requests(line, version, methods)?;
    // NFS 2 and 3 have a method without effect, which node_exporter does not show for the server.
    for (labels, count) in requests.into_iter().filter(|(labels, _)| &*labels[1].1 != "Null") {
        set.add(
            "node_nfsd_requests_total",
            "Requests to the NFS server by method.",
            &labels,
            count,
        );
    }
    Ok(())
}

fn parse_line(line: &str, set: &mut FamilySet) -> Result<(), ParseError> {
    let name = line.split_ascii_whitespace().next().unwrap_or_default();
    let too_short = || ParseError::text(line, "is too short");
    match name {
        "proc2" => add_requests(line, "2", VERSION_2, set)?,
        "proc3" => add_requests(line, "3", VERSION_3, set)?,
        "proc4ops" => add_requests(line, "4", VERSION_4, set)?,
        "wdeleg_getattr" => {
            let count = *numbers(line)?.first().ok_or_else(too_short)?;
            let labels = [label("proto", "4"), label("method", "WdelegGetattr")];
            set.add(
                "node_nfsd_requests_total",
                "Requests to the NFS server by method.",
                &labels,
                count,
            );
        }
        "net" => {
            let [_, udp, tcp, connections] = *numbers(line)? else {
                return Err(too_short());
            };
            let help = "Packets of the NFS server.";
            set.add("node_nfsd_packets_total", help, &[label("proto", "udp")], udp);
            set.add("node_nfsd_packets_total", help, &[label("proto", "tcp")], tcp);
            set.add(
                "node_nfsd_connections_total",
                "Connections to the NFS server over TCP.",
                &[],
                connections,
            );
        }
        "rpc" => {
            let [calls, _, format, authentication, client] = *numbers(line)? else {
                return Err(too_short());
            };
            let help = "Remote procedure calls with an error.";
            for (error, count) in [("fmt", format), ("auth", authentication), ("cInt", client)] {
                set.add("node_nfsd_rpc_errors_total", help, &[label("error", error)], count);
            }
            set.add(
                "node_nfsd_server_rpcs_total",
                "Remote procedure calls to the server.",
                &[],
                calls,
            );
        }
        _ => {
            let Some((_, columns)) = LINES.iter().find(|(known, _)| *known == name) else {
                return Ok(());
            };
            let numbers = numbers(line)?;
            if numbers.len() < columns.len() {
                return Err(too_short());
            }
            for (column, number) in columns.iter().zip(numbers) {
                if let Some((metric, help)) = column {
                    set.add(*metric, *help, &[], number);
                }
            }
        }
    }
    Ok(())
}

pub fn parse_nfsd(text: &str, bad: &mut BadLines) -> Result<Vec<Family>, ParseError> {
    let mut set = FamilySet::default();
    for line in lines(text) {
        bad.keep(parse_line(line, &mut set));
    }
    Ok(set.into_families())
}

pub fn read_nfsd(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    roots
        .parse_lines_once("net/rpc/nfsd", parse_nfsd)
        .map_err(|error| error.or_absent("no NFS server"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn caches_threads_and_requests_are_counted() {
        let tree = Tree::new();
        assert!(matches!(read_nfsd(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc(
            "net/rpc/nfsd",
            "rc 1 2 3\nfh 4 0 0 0 0\nio 5\nth 8 0 0.000 0.000\nra 32 0 0 0 0 0 0 0 0 0 0 9\nnet 3 1 2 1\n\
             rpc 7 3 1 2 0\nproc4ops 5 0 0 0 6 7\nwdeleg_getattr 11\n",
        );
        let families = read_nfsd(&tree.roots).unwrap();
        let lines = text_of(&families, "");
        for expected in [
            "node_nfsd_reply_cache_nocache_total 3",
            "node_nfsd_file_handles_stale_total 4",
            "node_nfsd_server_threads 8",
            "node_nfsd_read_ahead_cache_not_found_total 9",
            "node_nfsd_packets_total{proto=\"tcp\"} 2",
            "node_nfsd_rpc_errors_total{error=\"auth\"} 2",
            "node_nfsd_requests_total{proto=\"4\",method=\"Access\"} 6",
            "node_nfsd_requests_total{proto=\"4\",method=\"Write\"} 0",
            "node_nfsd_requests_total{proto=\"4\",method=\"WdelegGetattr\"} 11",
        ] {
            assert!(lines.contains(&expected.to_owned()), "{expected} in {lines:?}");
        }
        assert_eq!(text_of(&families, "disk"), [""; 0]);
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
