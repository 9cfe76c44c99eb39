//! The table of collectors in docs/compatibility.md is that of this file, and this file agrees with the registry, as do
//! the document's lists of collectors. `UPDATE_COMPATIBILITY=1` writes table and lists into the document.

use std::fs;
use std::path::PathBuf;

use evenkeel::sense::{COLLECTORS, Pace};

use crate::support::shipped::root;

/// The columns of a line of the document.
const WIDTH: usize = 100;

/// Collectors that only evenkeel has.
const OWN: [&str; 2] = ["groups", "process"];

/// A collector of node_exporter 1.12 for Linux.
struct Row {
    name: &'static str,
    is_on: bool,
    /// The first version that has it.
    since: &'static str,
    /// How evenkeel's differs, with the reason. Where evenkeel has no such collector, what to use instead.
    differs: &'static str,
}

const fn on(name: &'static str, since: &'static str, differs: &'static str) -> Row {
    Row {
        name,
        is_on: true,
        since,
        differs,
    }
}

const fn off(name: &'static str, since: &'static str, differs: &'static str) -> Row {
    Row {
        name,
        is_on: false,
        since,
        differs,
    }
}

const EARLY: &str = "before 1.0";

const ROWS: &[Row] = &[
    on(
        "arp",
        EARLY,
        "reads `/proc/net/arp` instead of netlink, with the same result",
    ),
    on(
        "bcache",
        EARLY,
        "an attribute that the kernel lacks has no series instead of 0",
    ),
    on("bcachefs", "1.11", ""),
    on("bonding", EARLY, ""),
    on("btrfs", "1.0", ""),
    off("buddyinfo", EARLY, ""),
    off("cgroups", "1.4", ""),
    on("conntrack", EARLY, ""),
    on("cpu", EARLY, "see [Differences](#differences)"),
    off("cpu_vulnerabilities", "1.7", ""),
    on("cpufreq", EARLY, ""),
    on("diskstats", EARLY, ""),
    on("dmi", "1.3", ""),
    on("dmmultipath", "1.12", ""),
    off("drbd", EARLY, ""),
    off("drm", "1.5", ""),
    on("edac", EARLY, "omits a count that cannot be read instead of failing"),
    on("entropy", EARLY, ""),
    off("ethtool", "1.2", ""),
    on("fibrechannel", "1.1", ""),
    on("filefd", EARLY, ""),
    on("filesystem", EARLY, "see [Differences](#differences)"),
    on("hwmon", EARLY, ""),
    on(
        "infiniband",
        EARLY,
        "an attribute that cannot be read costs its series instead of the collector",
    ),
    off("interrupts", EARLY, "offline processors are left out of the numbering"),
    on("ipvs", EARLY, "shows services of SCTP too"),
    on("kernel_hung", "1.11", ""),
    off("ksmd", EARLY, ""),
    off("lnstat", "1.3", ""),
    on("loadavg", EARLY, ""),
    off(
        "logind",
        EARLY,
        "reads the files in `/run/systemd` instead of D-Bus, as sd-login(3) does",
    ),
    on(
        "mdadm",
        EARLY,
        "the state `reshape` is shown; see [Differences](#differences)",
    ),
    on("meminfo", EARLY, ""),
    off("meminfo_numa", EARLY, ""),
    off(
        "mountstats",
        EARLY,
        "the mounts of process 1, where they can be read, else its own",
    ),
    on("netclass", EARLY, "see [Differences](#differences)"),
    on(
        "netdev",
        EARLY,
        "reads `/proc/net/dev` and sysfs instead of netlink, with the same names; see [Differences](#differences)",
    ),
    on("netstat", EARLY, ""),
    off("network_route", "1.1", "see [Differences](#differences)"),
    on("nfs", EARLY, "an unknown line is skipped instead of failing"),
    on("nfsd", EARLY, "an unknown line is skipped instead of failing"),
    off(
        "ntp",
        EARLY,
        "no such collector, because node_exporter deprecates it; `timex` shows the state of the clock",
    ),
    on(
        "nvme",
        "1.2",
        "an attribute that a controller lacks is empty instead of failing",
    ),
    off("nvmesubsystem", "1.12", ""),
    on("os", "1.3", ""),
    off("pcidevice", "1.10", ""),
    off(
        "perf",
        EARLY,
        "a counter or processor that cannot be opened costs its series instead of the start",
    ),
    on("powersupplyclass", "1.0", ""),
    on("pressure", EARLY, ""),
    off("processes", EARLY, ""),
    off("qdisc", EARLY, ""),
    on("rapl", "1.0", ""),
    off(
        "runit",
        EARLY,
        "no such collector, because node_exporter deprecates it; `process_groups` shows the services",
    ),
    on("schedstat", "1.0", ""),
    on("selinux", "1.4", ""),
    off("slabinfo", "1.4", ""),
    on("sockstat", EARLY, ""),
    off("softirqs", "1.6", "every kind that the kernel lists, instead of ten"),
    on("softnet", "1.0", ""),
    on("stat", EARLY, ""),
    off(
        "supervisord",
        EARLY,
        "no such collector, because node_exporter deprecates it; `process_groups` shows the programs",
    ),
    off("swap", "1.10", ""),
    off("sysctl", "1.4", ""),
    off("systemd", EARLY, "see [Differences](#differences)"),
    on("tapestats", "1.2", ""),
    off("tcpstat", EARLY, "see [Differences](#differences)"),
    on("textfile", EARLY, "see [Differences](#differences)"),
    on("thermal_zone", "1.0", ""),
    on("time", EARLY, ""),
    on("timex", EARLY, "see [Differences](#differences)"),
    on("udp_queues", "1.0", ""),
    on("uname", EARLY, ""),
    on("vmstat", EARLY, ""),
    on("watchdog", "1.8", ""),
    off("wifi", EARLY, ""),
    off("xfrm", "1.8", ""),
    on("xfs", EARLY, ""),
    on("zfs", EARLY, ""),
    off("zoneinfo", "1.1", ""),
];

fn table() -> String {
    let mut table = String::from(
        "| collector | default | in node_exporter since | how evenkeel's differs, and why |\n| --- | --- | --- | --- |\n",
    );
    for row in ROWS {
        let default = if row.is_on { "on" } else { "off" };
        let (name, since, differs) = (row.name, row.since, row.differs);
        table += &format!("| `{name}` | {default} | {since} | {differs} |\n");
    }
    table.replace("|  |", "| |")
}

fn document() -> PathBuf {
    root().join("docs/compatibility.md")
}

#[test]
fn every_collector_is_in_the_table_with_its_default() {
    for info in COLLECTORS.iter().filter(|info| !OWN.contains(&info.name)) {
        let row = ROWS.iter().find(|row| row.name == info.name);
        let row = row.unwrap_or_else(|| panic!("{} is not in the table", info.name));
        assert_eq!(row.is_on, info.default_on, "{}", info.name);
    }
    for row in ROWS {
        let exists = COLLECTORS.iter().any(|info| info.name == row.name);
        assert_ne!(exists, row.differs.starts_with("no such collector"), "{}", row.name);
    }
    assert!(ROWS.is_sorted_by_key(|row| row.name));
}

/// The collectors of some paces, as a paragraph.
fn names(paces: &[Pace]) -> String {
    let infos = COLLECTORS.iter().filter(|info| paces.contains(&info.pace));
    let mut names: Vec<String> = infos.map(|info| format!("`{}`", info.name)).collect();
    names.sort();
    let mut lines = vec![String::new()];
    let last = names.len() - 1;
    for (index, name) in names.iter().enumerate() {
        let word = format!("{name}{}", if index == last { "." } else { "," });
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = word,
            Some(line) if line.len() + word.len() < WIDTH => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines.join("\n") + "\n"
}

/// The generated parts of the document.
fn parts() -> [(&'static str, String); 4] {
    [
        ("collectors", table()),
        ("timed collectors", names(&[Pace::Slow])),
        ("fast collectors", names(&[Pace::Fast])),
        ("isolated collectors", names(&[Pace::IsolatedScrape])),
    ]
}

#[test]
fn document_has_the_table_and_lists() {
    for (part, expected) in parts() {
        let text = fs::read_to_string(document()).expect("the documentation ships");
        let [begin, end] = ["begin", "end"].map(|place| format!("<!-- {place}: {part} -->\n"));
        let (before, rest) = text.split_once(&begin).expect("the begin of a part");
        let (found, after) = rest.split_once(&end).expect("the end of a part");
        if std::env::var_os("UPDATE_COMPATIBILITY").is_some() {
            fs::write(document(), format!("{before}{begin}{expected}{end}{after}")).expect("a writable document");
        } else {
            assert_eq!(found, expected, "run this test with UPDATE_COMPATIBILITY=1");
        }
    }
}
