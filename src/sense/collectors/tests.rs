//! A bad line costs that line only, in every collector that reads lines.

use super::options::CollectorOptions;
use super::registry::COLLECTORS;
use crate::sense::fixture::{Tree, text_of};
use crate::sense::runtime::collector::Collector;

/// A collector with its file: good lines, and a line that the collector cannot read. `{}` is the line's number.
struct Case {
    collector: &'static str,
    file: &'static str,
    head: &'static str,
    /// Lines that belong together, such as names and values of one protocol.
    good: [&'static str; 3],
    bad: &'static str,
}

const fn case(
    collector: &'static str,
    file: &'static str,
    head: &'static str,
    good: [&'static str; 3],
    bad: &'static str,
) -> Case {
    Case {
        collector,
        file,
        head,
        good,
        bad,
    }
}

const SOCKETS: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";
const SOCKET: &str = " 1: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0\n";

const CASES: &[Case] = &[
    case(
        "cpu",
        "stat",
        "cpu  9 9 9 9\n",
        ["cpu0 1 2 3 4\n", "cpu1 1 2 3 4\n", "cpu2 1 2 3 4\n"],
        "cpu9 1 x\n",
    ),
    case(
        "stat",
        "stat",
        "cpu  9 9 9 9\n",
        ["ctxt 7\n", "btime 1700000000\n", "processes 12\n"],
        "intr x\n",
    ),
    case(
        "meminfo",
        "meminfo",
        "",
        ["MemTotal: 2 kB\n", "MemFree: 1 kB\n", "Cached: 1 kB\n"],
        "Bad: lots kB\n",
    ),
    case(
        "vmstat",
        "vmstat",
        "",
        ["pgfault 7\n", "pgmajfault 2\n", "oom_kill 1\n"],
        "pgpgin x\n",
    ),
    case(
        "diskstats",
        "diskstats",
        "",
        [
            "8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n",
            "8 16 sdb 1 2 3 4 5 6 7 8 9 10 11\n",
            "8 32 sdc 1 2 3 4 5 6 7 8 9 10 11\n",
        ],
        "8 48 sdd 1 two\n",
    ),
    case(
        "netdev",
        "net/dev",
        "Inter-|\n face |\n",
        [
            "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
            "ibr10:30: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
            "lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
        ],
        "eth1: 1 2\n",
    ),
    case(
        "netstat",
        "net/snmp",
        "",
        [
            "Ip: Forwarding\nIp: 1\n",
            "Tcp: ActiveOpens InErrs\nTcp: 12 0\n",
            "Udp: InDatagrams NoPorts\nUdp: 3 4\n",
        ],
        "Icmp: InMsgs\n",
    ),
    case(
        "netstat",
        "net/snmp6",
        "",
        ["Ip6InOctets \t9\n", "Ip6OutOctets \t9\n", "Icmp6InMsgs \t1\n"],
        "Udp6NoPorts \tx\n",
    ),
    case(
        "sockstat",
        "net/sockstat",
        "",
        ["sockets: used 22\n", "TCP: inuse 8 mem 2\n", "UDP: inuse 3\n"],
        "RAW: inuse 1 mem x\n",
    ),
    case(
        "softnet",
        "net/softnet_stat",
        "",
        ["1 2 3\n", "1 2 3\n", "1 2 3\n"],
        "1 2 z\n",
    ),
    case(
        "conntrack",
        "net/stat/nf_conntrack",
        "entries found invalid\n",
        ["1 1 1\n", "1 1 1\n", "1 1 1\n"],
        "1 zz\n",
    ),
    case(
        "pressure",
        "pressure/io",
        "",
        [
            "some avg10=0.00 total=7\n",
            "full avg10=0.00 total=3\n",
            "later avg10=0.00 total=1\n",
        ],
        "some avg10=0.00\n",
    ),
    case(
        "schedstat",
        "schedstat",
        "version 15\n",
        [
            "cpu0 0 0 0 0 0 0 1 2 3\n",
            "cpu1 0 0 0 0 0 0 1 2 3\n",
            "cpu2 0 0 0 0 0 0 1 2 3\n",
        ],
        "cpu3 1 2\n",
    ),
    case(
        "mdadm",
        "mdstat",
        "Personalities : [raid1]\n",
        [
            "md0 : active raid1 sda1[0] sdb1[1]\n      10 blocks [2/2] [UU]\n",
            "md1 : active raid1 sda2[0] sdb2[1]\n      10 blocks [2/2] [UU]\n",
            "md2 : active raid1 sda3[0] sdb3[1]\n      10 blocks [2/2] [UU]\n",
        ],
        "md3 : \n      99 blocks [9/9] [UU]\n",
    ),
    case(
        "arp",
        "net/arp",
        "IP address\n",
        [
            "192.0.2.1 0x1 0x2 00:00:5e:00:53:01 * eth0\n",
            "192.0.2.2 0x1 0x2 00:00:5e:00:53:02 * eth1\n",
            "192.0.2.3 0x1 0x2 00:00:5e:00:53:03 * eth2\n",
        ],
        "192.0.2.4 0x1\n",
    ),
    case("tcpstat", "net/tcp", SOCKETS, [SOCKET, SOCKET, SOCKET], " 1: broken\n"),
    case(
        "udp_queues",
        "net/udp",
        SOCKETS,
        [SOCKET, SOCKET, SOCKET],
        " 1: broken\n",
    ),
    case(
        "interrupts",
        "interrupts",
        "  CPU0\n",
        [
            "1: 7 IO-APIC keyboard\n",
            "2: 8 IO-APIC disk\n",
            "NMI: 3 Non-maskable\n",
        ],
        "3: x IO-APIC disk\n",
    ),
    case(
        "buddyinfo",
        "buddyinfo",
        "",
        [
            "Node 0, zone DMA 1 2\n",
            "Node 0, zone DMA32 1\n",
            "Node 1, zone Normal 7\n",
        ],
        "Node 0, zone\n",
    ),
    case(
        "cgroups",
        "cgroups",
        "#subsys_name hierarchy num_cgroups enabled\n",
        ["cpu 3 1 1\n", "memory 3 1 1\n", "pids 3 1 1\n"],
        "rdma 1\n",
    ),
    case(
        "slabinfo",
        "slabinfo",
        "slabinfo - version: 2.1\n# name\n",
        ["a 1 2 3 4 5\n", "b 1 2 3 4 5\n", "c 1 2 3 4 5\n"],
        "d 1 2\n",
    ),
    case(
        "softirqs",
        "softirqs",
        "  CPU0\n",
        ["HI: 1\n", "TIMER: 2\n", "RCU: 3\n"],
        "SCHED: x\n",
    ),
    case(
        "swap",
        "swaps",
        "Filename Type Size Used Priority\n",
        [
            "/dev/a partition 1 2 3\n",
            "/dev/b partition 1 2 3\n",
            "/dev/c file 1 2 3\n",
        ],
        "/dev/d file 1\n",
    ),
    case(
        "xfrm",
        "net/xfrm_stat",
        "",
        ["XfrmInError 1\n", "XfrmInHdrError 2\n", "XfrmInNoPols 3\n"],
        "XfrmInBufferError x\n",
    ),
    case(
        "nfs",
        "net/rpc/nfs",
        "",
        ["net 1 2 3 4\n", "rpc 1 2 3\n", "proc3 2 5 6\n"],
        "proc2 9 1\n",
    ),
    case(
        "nfsd",
        "net/rpc/nfsd",
        "",
        ["rc 1 2 3\n", "io 1 2\n", "th 8 0\n"],
        "ra 1\n",
    ),
    case(
        "zoneinfo",
        "zoneinfo",
        "Node 0, zone DMA\n",
        ["        min      8\n", "        low      9\n", "        high     10\n"],
        "        spanned  x\n",
    ),
    case(
        "filesystem",
        "1/mountinfo",
        "",
        [
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n",
            "28 1 254:0 / /nowhere rw - ext4 /dev/vdb rw\n",
            "29 1 254:0 / /nothing rw - ext4 /dev/vdc rw\n",
        ],
        "30 1 254:0 / /\n",
    ),
];

/// Files that the collectors need beside the one of the case.
fn surroundings(tree: &Tree) {
    let pressure = "some avg10=0.00 total=7\nfull avg10=0.00 total=3\n";
    for (file, text) in [
        ("net/netstat", "TcpExt: ListenDrops\nTcpExt: 5\n"),
        ("net/snmp", "Tcp: ActiveOpens\nTcp: 5\n"),
        ("net/stat/nf_conntrack", "found\n1\n"),
        ("sys/net/netfilter/nf_conntrack_count", "1\n"),
        ("sys/net/netfilter/nf_conntrack_max", "9\n"),
        ("pressure/cpu", pressure),
        ("pressure/io", pressure),
        ("pressure/memory", pressure),
    ] {
        tree.proc(file, text);
    }
}

#[test]
fn bad_line_costs_that_line_only() {
    for case in CASES {
        let info = COLLECTORS.iter().find(|info| info.name == case.collector).unwrap();
        let read = |lines: &[&str]| {
            let tree = Tree::new();
            surroundings(&tree);
            tree.proc(case.file, format!("{}{}", case.head, lines.concat()));
            let reading = Collector::new(info, &CollectorOptions::default()).read(&tree.roots);
            let series = text_of(&reading.families, "");
            (reading.error.clone(), reading.skipped_lines, series)
        };
        let (error, skipped, series) = read(&case.good);
        assert_eq!((error, skipped), (None, 0), "{}", case.collector);
        assert!(!series.is_empty(), "{}", case.collector);
        for index in 0..=case.good.len() {
            let mut lines = case.good.to_vec();
            lines.insert(index, case.bad);
            // A processor without a number has that of its line.
            if case.collector == "softnet" && index < case.good.len() {
                continue;
            }
            assert_eq!(read(&lines), (None, 1, series.clone()), "{} at {index}", case.collector);
        }
    }
}

#[test]
fn file_of_bad_lines_only_fails_its_collector() {
    for case in CASES {
        // Others have more files, or families without lines.
        if ["netstat", "conntrack", "pressure"].contains(&case.collector) {
            continue;
        }
        let info = COLLECTORS.iter().find(|info| info.name == case.collector).unwrap();
        let tree = Tree::new();
        tree.proc(case.file, format!("{}{}", case.head, case.bad));
        let reading = Collector::new(info, &CollectorOptions::default()).read(&tree.roots);
        let error = reading.error.clone().unwrap_or_default();
        assert!(error.contains(case.file), "{}: {error:?}", case.collector);
    }
}
