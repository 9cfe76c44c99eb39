//! `mountstats`: requests of NFS mounts, from `/proc/PID/mountstats`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, if_present, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::collections::{HashMap, HashSet};

/// The published metrics.
const METRICS: &str = "\
    node_mountstats_nfs_age_seconds_total node_mountstats_nfs_direct_read_bytes_total \
    node_mountstats_nfs_direct_write_bytes_total node_mountstats_nfs_event_attribute_invalidate_total \
    node_mountstats_nfs_event_data_invalidate_total node_mountstats_nfs_event_dnode_revalidate_total \
    node_mountstats_nfs_event_inode_revalidate_total node_mountstats_nfs_event_jukebox_delay_total \
    node_mountstats_nfs_event_pnfs_read_total node_mountstats_nfs_event_pnfs_write_total \
    node_mountstats_nfs_event_short_read_total node_mountstats_nfs_event_short_write_total \
    node_mountstats_nfs_event_silly_rename_total node_mountstats_nfs_event_truncation_total \
    node_mountstats_nfs_event_vfs_access_total node_mountstats_nfs_event_vfs_file_release_total \
    node_mountstats_nfs_event_vfs_flush_total node_mountstats_nfs_event_vfs_fsync_total \
    node_mountstats_nfs_event_vfs_getdents_total node_mountstats_nfs_event_vfs_lock_total \
    node_mountstats_nfs_event_vfs_lookup_total node_mountstats_nfs_event_vfs_open_total \
    node_mountstats_nfs_event_vfs_read_page_total node_mountstats_nfs_event_vfs_read_pages_total \
    node_mountstats_nfs_event_vfs_setattr_total node_mountstats_nfs_event_vfs_update_page_total \
    node_mountstats_nfs_event_vfs_write_page_total node_mountstats_nfs_event_vfs_write_pages_total \
    node_mountstats_nfs_event_write_extension_total node_mountstats_nfs_mountpoint_info \
    node_mountstats_nfs_operations_major_timeouts_total node_mountstats_nfs_operations_queue_time_seconds_total \
    node_mountstats_nfs_operations_received_bytes_total node_mountstats_nfs_operations_request_time_seconds_total \
    node_mountstats_nfs_operations_requests_total node_mountstats_nfs_operations_response_time_seconds_total \
    node_mountstats_nfs_operations_sent_bytes_total node_mountstats_nfs_operations_transmissions_total \
    node_mountstats_nfs_read_bytes_total node_mountstats_nfs_read_pages_total \
    node_mountstats_nfs_total_read_bytes_total node_mountstats_nfs_total_write_bytes_total \
    node_mountstats_nfs_transport_backlog_queue_total node_mountstats_nfs_transport_bad_transaction_ids_total \
    node_mountstats_nfs_transport_bind_total node_mountstats_nfs_transport_connect_total \
    node_mountstats_nfs_transport_idle_time_seconds node_mountstats_nfs_transport_maximum_rpc_slots \
    node_mountstats_nfs_transport_pending_queue_total node_mountstats_nfs_transport_receives_total \
    node_mountstats_nfs_transport_sending_queue_total node_mountstats_nfs_transport_sends_total \
    node_mountstats_nfs_write_bytes_total node_mountstats_nfs_write_pages_total";

pub const INFO: CollectorInfo =
    CollectorInfo::off("mountstats", Pace::Scrape, "requests of NFS mounts", METRICS, |_| {
        Box::new(read_mountstats)
    });

/// Metric and help of a column; an empty name is not shown.
type Column = (&'static str, &'static str);

/// The line `bytes:`.
const BYTES: [Column; 8] = [
    ("node_mountstats_nfs_read_bytes_total", "Bytes read by read(2)."),
    ("node_mountstats_nfs_write_bytes_total", "Bytes written by write(2)."),
    (
        "node_mountstats_nfs_direct_read_bytes_total",
        "Bytes read past the cache.",
    ),
    (
        "node_mountstats_nfs_direct_write_bytes_total",
        "Bytes written past the cache.",
    ),
    (
        "node_mountstats_nfs_total_read_bytes_total",
        "Bytes read from the server.",
    ),
    (
        "node_mountstats_nfs_total_write_bytes_total",
        "Bytes written to the server.",
    ),
    ("node_mountstats_nfs_read_pages_total", "Pages read by mmap(2)."),
    ("node_mountstats_nfs_write_pages_total", "Pages written by mmap(2)."),
];

/// The line `events:`. The last two came with pNFS.
const EVENTS: [Column; 27] = [
    (
        "node_mountstats_nfs_event_inode_revalidate_total",
        "Revalidations of attributes of files.",
    ),
    (
        "node_mountstats_nfs_event_dnode_revalidate_total",
        "Revalidations of directory entries.",
    ),
    (
        "node_mountstats_nfs_event_data_invalidate_total",
        "Times that cached data became invalid.",
    ),
    (
        "node_mountstats_nfs_event_attribute_invalidate_total",
        "Times that cached attributes became invalid.",
    ),
    (
        "node_mountstats_nfs_event_vfs_open_total",
        "Opened files and directories.",
    ),
    ("node_mountstats_nfs_event_vfs_lookup_total", "Lookups of names."),
    ("node_mountstats_nfs_event_vfs_access_total", "Checks of permissions."),
    ("node_mountstats_nfs_event_vfs_update_page_total", "Updates of pages."),
    (
        "node_mountstats_nfs_event_vfs_read_page_total",
        "Reads of single pages.",
    ),
    (
        "node_mountstats_nfs_event_vfs_read_pages_total",
        "Reads of several pages.",
    ),
    (
        "node_mountstats_nfs_event_vfs_write_page_total",
        "Writes of single pages.",
    ),
    (
        "node_mountstats_nfs_event_vfs_write_pages_total",
        "Writes of several pages.",
    ),
    (
        "node_mountstats_nfs_event_vfs_getdents_total",
        "Listings of directories.",
    ),
    ("node_mountstats_nfs_event_vfs_setattr_total", "Changes of attributes."),
    ("node_mountstats_nfs_event_vfs_flush_total", "Flushes of files."),
    ("node_mountstats_nfs_event_vfs_fsync_total", "Calls of fsync."),
    ("node_mountstats_nfs_event_vfs_lock_total", "Locks of files."),
    ("node_mountstats_nfs_event_vfs_file_release_total", "Closed files."),
    ("", ""),
    ("node_mountstats_nfs_event_truncation_total", "Truncations of files."),
    (
        "node_mountstats_nfs_event_write_extension_total",
        "Writes beyond the end of a file.",
    ),
    (
        "node_mountstats_nfs_event_silly_rename_total",
        "Removals of open files.",
    ),
    (
        "node_mountstats_nfs_event_short_read_total",
        "Reads that the server cut short.",
    ),
    (
        "node_mountstats_nfs_event_short_write_total",
        "Writes that the server cut short.",
    ),
    (
        "node_mountstats_nfs_event_jukebox_delay_total",
        "Requests that the server delayed.",
    ),
    ("node_mountstats_nfs_event_pnfs_read_total", "Reads by pNFS."),
    ("node_mountstats_nfs_event_pnfs_write_total", "Writes by pNFS."),
];

/// Events that every kernel counts.
const LEAST_EVENTS: usize = 25;

/// The line `xprt:` of TCP after the port.
const TRANSPORT: [Column; 12] = [
    ("node_mountstats_nfs_transport_bind_total", "Bindings to a port."),
    (
        "node_mountstats_nfs_transport_connect_total",
        "Connections to the server.",
    ),
    ("", ""),
    (
        "node_mountstats_nfs_transport_idle_time_seconds",
        "Time since the last request.",
    ),
    ("node_mountstats_nfs_transport_sends_total", "Requests sent."),
    ("node_mountstats_nfs_transport_receives_total", "Answers received."),
    (
        "node_mountstats_nfs_transport_bad_transaction_ids_total",
        "Answers to unknown requests.",
    ),
    ("", ""),
    (
        "node_mountstats_nfs_transport_backlog_queue_total",
        "Length of the backlog, summed over requests.",
    ),
    (
        "node_mountstats_nfs_transport_maximum_rpc_slots",
        "Slots that were in use at once.",
    ),
    (
        "node_mountstats_nfs_transport_sending_queue_total",
        "Length of the sending queue, summed over requests.",
    ),
    (
        "node_mountstats_nfs_transport_pending_queue_total",
        "Length of the pending queue, summed over requests.",
    ),
];

/// The columns that UDP lacks.
const TCP_ONLY: std::ops::Range<usize> = 1..4;

/// The columns that version 1.0 of the statistics has; others are 0 there, as in node_exporter.
const LEAST_TRANSPORT: usize = 9;

/// The lines of operations, in milliseconds where the name ends in seconds.
const OPERATIONS: [Column; 8] = [
    ("node_mountstats_nfs_operations_requests_total", "Requests."),
    (
        "node_mountstats_nfs_operations_transmissions_total",
        "Transmissions of requests.",
    ),
    (
        "node_mountstats_nfs_operations_major_timeouts_total",
        "Requests that ran into a major timeout.",
    ),
    ("node_mountstats_nfs_operations_sent_bytes_total", "Bytes sent."),
    ("node_mountstats_nfs_operations_received_bytes_total", "Bytes received."),
    (
        "node_mountstats_nfs_operations_queue_time_seconds_total",
        "Time that requests waited to be sent.",
    ),
    (
        "node_mountstats_nfs_operations_response_time_seconds_total",
        "Time that requests waited for an answer.",
    ),
    (
        "node_mountstats_nfs_operations_request_time_seconds_total",
        "Time of requests from begin to end.",
    ),
];

/// Some kernels count times below 0; node_exporter takes them modulo 2^53, so that they are exact.
const EXACT: u64 = 1 << 53;

/// What the file says of one NFS mount.
#[derive(Debug, Default)]
pub struct NfsMount {
    export: String,
    mount_point: String,
    age: f64,
    bytes: Vec<u64>,
    events: Vec<u64>,
    /// Protocol and columns of each connection.
    transports: Vec<(String, Vec<u64>)>,
    operations: Vec<(String, Vec<u64>)>,
}

fn numbers(line: &str, fields: &[&str], least: usize) -> Result<Vec<u64>, ParseError> {
    let numbers: Result<Vec<u64>, _> = fields.iter().map(|field| field.parse()).collect();
    let numbers = numbers.map_err(|_| ParseError::text(line, "is not a line of numbers"))?;
    match numbers.len() < least {
        true => Err(ParseError::text(line, "is too short")),
        false => Ok(numbers),
    }
}

/// Reads a line about a mount.
fn parse_line(line: &str, mount: &mut NfsMount, is_operations: &mut bool) -> Result<(), ParseError> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    match *fields.as_slice() {
        ["per-op", ..] => *is_operations = true,
        [name, ref rest @ ..] if *is_operations => {
            let counts = numbers(line, rest, OPERATIONS.len())?;
            mount.operations.push((name.trim_end_matches(':').to_owned(), counts));
        }
        ["age:", age, ..] => mount.age = age.parse().map_err(|_| ParseError::text(line, "has no number"))?,
        ["bytes:", ref rest @ ..] => mount.bytes = numbers(line, rest, BYTES.len())?,
        ["events:", ref rest @ ..] => mount.events = numbers(line, rest, LEAST_EVENTS)?,
        ["xprt:", protocol, _port, ref rest @ ..] => {
            let mut counts = if protocol == "udp" {
                let mut counts = numbers(line, rest, LEAST_TRANSPORT - TCP_ONLY.len())?;
                counts.splice(TCP_ONLY.start..TCP_ONLY.start, TCP_ONLY.map(|_| 0));
                counts
            } else {
                numbers(line, rest, LEAST_TRANSPORT)?
            };
            counts.resize(counts.len().max(TRANSPORT.len()), 0);
            mount.transports.push((protocol.to_owned(), counts));
        }
        _ => {}
    }
    Ok(())
}

/// The NFS mounts of the file.
pub fn parse_mountstats(text: &str, bad: &mut BadLines) -> Result<Vec<NfsMount>, ParseError> {
    let mut mounts: Vec<NfsMount> = Vec::new();
    let (mut is_nfs, mut is_operations) = (false, false);
    for line in lines(text) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [
            "device",
            export,
            "mounted",
            "on",
            mount_point,
            "with",
            "fstype",
            fstype,
            ref rest @ ..,
        ] = *fields
        {
            // A mount without `statvers=` has no statistics.
            is_nfs = ["nfs", "nfs4"].contains(&fstype) && !rest.is_empty();
            is_operations = false;
            if is_nfs {
                mounts.push(NfsMount {
                    export: export.to_owned(),
                    mount_point: mount_point.to_owned(),
                    ..NfsMount::default()
                });
            }
        } else if let Some(mount) = mounts.last_mut().filter(|_| is_nfs && !fields.is_empty()) {
            bad.keep(parse_line(line, mount, &mut is_operations));
        }
    }
    Ok(mounts)
}

/// Mount point and export, and the address of the server.
type Addresses = HashMap<(String, String), String>;

/// The options `addr=` in mountinfo.
fn parse_addresses(text: &str) -> Addresses {
    let address = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount_point = mount.split(' ').nth(4)?;
        let mut fields = file_system.split(' ').skip(1);
        let (export, options) = (fields.next()?, fields.next()?);
        let address = options.split(',').find_map(|option| option.strip_prefix("addr="))?;
        Some(((mount_point.to_owned(), export.to_owned()), address.to_owned()))
    };
    lines(text).filter_map(address).collect()
}

fn add_columns(columns: &[Column], counts: &[u64], labels: &[Label], set: &mut FamilySet) {
    for ((name, help), count) in columns.iter().zip(counts).filter(|((name, _), _)| !name.is_empty()) {
        let value = match name.ends_with("_time_seconds_total") {
            true => (count % EXACT) as f64 / 1e3,
            false if name.ends_with("_seconds") => (count % EXACT) as f64,
            false => *count as f64,
        };
        set.add(*name, *help, labels, value);
    }
}

fn families(mounts: &[NfsMount], addresses: &Addresses) -> Vec<Family> {
    let mut set = FamilySet::default();
    let mut seen = HashSet::new();
    for mount in mounts {
        let key = (mount.mount_point.clone(), mount.export.clone());
        let address = addresses.get(&key).cloned().unwrap_or_default();
        for (protocol, _) in &mount.transports {
            let labels = [
                label("export", mount.export.clone()),
                label("protocol", protocol.clone()),
                label("mountaddr", address.clone()),
            ];
            let info = [labels.as_slice(), &[label("mountpoint", mount.mount_point.clone())]].concat();
            if seen.insert(info.clone()) {
                let help = "An NFS mount; the value is always 1.";
                set.add("node_mountstats_nfs_mountpoint_info", help, &info, 1.0);
            }
            // Several mounts of one export share its counters.
            if !seen.insert(labels.to_vec()) {
                break;
            }
            set.add(
                "node_mountstats_nfs_age_seconds_total",
                "Age of a mount.",
                &labels,
                mount.age,
            );
            add_columns(&BYTES, &mount.bytes, &labels, &mut set);
            add_columns(&EVENTS, &mount.events, &labels, &mut set);
            for (index, (_, counts)) in mount.transports.iter().enumerate() {
                let labels = [labels.as_slice(), &[label("transport", index.to_string())]].concat();
                add_columns(&TRANSPORT, counts, &labels, &mut set);
            }
            for (operation, counts) in &mount.operations {
                let labels = [labels.as_slice(), &[label("operation", operation.clone())]].concat();
                add_columns(&OPERATIONS, counts, &labels, &mut set);
            }
        }
    }
    set.into_families()
}

pub fn read_mountstats(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = |process: &str| roots.parse_lines_once(&format!("{process}/mountstats"), parse_mountstats);
    // The mounts of init are those of the host; our own may be those of a container or a systemd sandbox.
    let (process, mounts) = match read("1") {
        Err(ReadError::Io { .. }) => ("self", read("self")?),
        mounts => ("1", mounts?),
    };
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = roots.parse_lines_once(&format!("{process}/mountinfo"), |text, _| Ok(parse_addresses(text)));
    let addresses = if_present(or_without(addresses))?.flatten().unwrap_or_default();
    Ok(families(&mounts, &addresses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    const STATS: &str = "device proc mounted on /proc with fstype proc
device nas:/a mounted on /mnt/a with fstype nfs4 statvers=1.1
\tage:\t60
\tevents:\t1 2
\tbytes:\t1 2 3 4 5 6 7 8
\txprt:\ttcp 832 0 1 0 11 6428 6427 0 12154 5 24 26 5726
\tper-op statistics
\t        READ: 9 8 0 1 2 18446743919241604546 7 2500 0

device nas:/a mounted on /mnt/b with fstype nfs4 statvers=1.1
\txprt:\ttcp 832 0 1 0 11 6428 6427 0 12154 5 24 26 5726
device nas:/a mounted on /mnt/c with fstype nfs statvers=1.1
\txprt:\tudp 832 0 6428 6427 0 12154 5
";

    #[test]
    fn mounts_share_the_counters_of_their_export() {
        let tree = Tree::new();
        tree.proc("self/mountstats", STATS);
        tree.proc(
            "self/mountinfo",
            "1 2 0:42 / /mnt/a rw - nfs4 nas:/a rw,vers=4.0,addr=192.0.2.1\n",
        );
        let families = read_mountstats(&tree.roots).unwrap();
        let of = |protocol: &str, address: &str| {
            format!("{{export=\"nas:/a\",protocol=\"{protocol}\",mountaddr=\"{address}\"")
        };
        let (tcp, other, udp) = (of("tcp", "192.0.2.1"), of("tcp", ""), of("udp", ""));
        let lines = text_of(&families, "");
        for expected in [
            format!("node_mountstats_nfs_mountpoint_info{tcp},mountpoint=\"/mnt/a\"}} 1"),
            format!("node_mountstats_nfs_mountpoint_info{other},mountpoint=\"/mnt/b\"}} 1"),
            format!("node_mountstats_nfs_age_seconds_total{tcp}}} 60"),
            format!("node_mountstats_nfs_write_pages_total{tcp}}} 8"),
            format!("node_mountstats_nfs_transport_idle_time_seconds{tcp},transport=\"0\"}} 11"),
            format!("node_mountstats_nfs_transport_backlog_queue_total{tcp},transport=\"0\"}} 5"),
            format!("node_mountstats_nfs_transport_pending_queue_total{tcp},transport=\"0\"}} 5726"),
            format!("node_mountstats_nfs_transport_receives_total{udp},transport=\"0\"}} 6427"),
            format!("node_mountstats_nfs_transport_backlog_queue_total{udp},transport=\"0\"}} 5"),
            format!("node_mountstats_nfs_operations_request_time_seconds_total{tcp},operation=\"READ\"}} 2.5"),
            format!(
                "node_mountstats_nfs_operations_queue_time_seconds_total{tcp},operation=\"READ\"}} 9007044786793.922"
            ),
        ] {
            assert!(lines.contains(&expected), "{expected} in {lines:#?}");
        }
        assert_eq!(text_of(&families, "event"), [""; 0]);
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
