//! `netstat`: selected protocol counters from `/proc/net/{netstat,snmp,snmp6}` (proc_pid_net(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, MetricKind};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError, if_present, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::name_cache::NameCache;
use crate::sense::runtime::roots::Roots;
use regex::Regex;
use std::sync::Arc;

/// The published metrics.
const METRICS: &str = "\
    node_netstat_Icmp6_InErrors node_netstat_Icmp6_InMsgs node_netstat_Icmp6_OutMsgs node_netstat_Icmp_InErrors \
    node_netstat_Icmp_InMsgs node_netstat_Icmp_OutMsgs node_netstat_Ip6_InOctets node_netstat_Ip6_OutOctets \
    node_netstat_IpExt_InOctets node_netstat_IpExt_OutOctets node_netstat_Ip_Forwarding \
    node_netstat_TcpExt_ListenDrops node_netstat_TcpExt_ListenOverflows node_netstat_TcpExt_SyncookiesFailed \
    node_netstat_TcpExt_SyncookiesRecv node_netstat_TcpExt_SyncookiesSent node_netstat_TcpExt_TCPSynRetrans \
    node_netstat_TcpExt_TCPTimeouts node_netstat_Tcp_ActiveOpens node_netstat_Tcp_CurrEstab node_netstat_Tcp_InErrs \
    node_netstat_Tcp_InSegs node_netstat_Tcp_OutRsts node_netstat_Tcp_OutSegs node_netstat_Tcp_PassiveOpens \
    node_netstat_Tcp_RetransSegs node_netstat_Udp6_InDatagrams node_netstat_Udp6_InErrors node_netstat_Udp6_NoPorts \
    node_netstat_Udp6_OutDatagrams node_netstat_Udp6_RcvbufErrors node_netstat_Udp6_SndbufErrors \
    node_netstat_Udp_InDatagrams node_netstat_Udp_InErrors node_netstat_Udp_NoPorts node_netstat_Udp_OutDatagrams \
    node_netstat_Udp_RcvbufErrors node_netstat_Udp_SndbufErrors node_netstat_*";

pub const INFO: CollectorInfo = CollectorInfo::on("netstat", Pace::Fast, "protocol counters", METRICS, |options| {
    let mut netstat = Netstat::new(options.netstat_fields.clone());
    Box::new(move |roots| netstat.read(roots))
});

/// The selected columns of a line: their indices and descriptors.
#[derive(Debug, Default)]
struct Columns {
    wanted: Vec<(usize, Arc<Descriptor>)>,
    count: usize,
}

/// The descriptor of a counter, if it is selected.
fn descriptor(wanted: &Regex, protocol: &str, counter: &str) -> Option<Arc<Descriptor>> {
    let name = [protocol, "_", counter].concat();
    wanted.is_match(&name).then(|| {
        let help = ["Protocol counter ", &name, " of the kernel."].concat();
        Descriptor::single(["node_netstat_", &name].concat(), help, MetricKind::Untyped)
    })
}

/// `netstat` and `snmp`: a line of names and a line of values for each protocol.
fn parse_pairs(
    text: &str,
    bad: &mut BadLines,
    wanted: &Regex,
    name_cache: &mut NameCache<Columns>,
) -> Result<Vec<Family>, ParseError> {
    let mut families = Vec::with_capacity(32);
    let mut lines = text.split_inclusive('\n').peekable();
    name_cache.rewind();
    while let Some(head) = lines.next() {
        let protocol = head.split_once(':').map(|(protocol, _)| protocol);
        let values = protocol.and_then(|protocol| {
            // A line of another protocol is the next line of names.
            let values = lines.peek()?.strip_prefix(protocol)?.strip_prefix(':')?;
            lines.next();
            Some((protocol, values))
        });
        let before = families.len();
        let pair = parse_pair(head, values, wanted, name_cache, &mut families);
        if bad.keep(pair).is_none() {
            families.truncate(before);
        }
    }
    Ok(families)
}

/// Adds the selected counters of one protocol: a line of names, and protocol and text of the line of values.
fn parse_pair(
    head: &str,
    values: Option<(&str, &str)>,
    wanted: &Regex,
    name_cache: &mut NameCache<Columns>,
    families: &mut Vec<Family>,
) -> Result<(), ParseError> {
    let bad = || ParseError::text(head, "is not followed by a line of as many values");
    let (protocol, values) = values.ok_or_else(bad)?;
    let columns = |head: &str| {
        let (_, names) = head.split_once(':').unwrap_or_default();
        let names = names.split_ascii_whitespace();
        let wanted = |(index, name)| Some((index, descriptor(wanted, protocol, name)?));
        Columns {
            count: names.clone().count(),
            wanted: names.enumerate().filter_map(wanted).collect(),
        }
    };
    // The cache compares the whole line of names, so it notices a kernel that adds a counter.
    let (columns, _) = name_cache.next(head, '\n', columns).ok_or_else(bad)?;
    let mut wanted = columns.wanted.iter().peekable();
    let mut count = 0;
    for value in values.split_ascii_whitespace() {
        if let Some((_, descriptor)) = wanted.next_if(|(index, _)| *index == count) {
            // MaxConn is -1 where there is no limit.
            families.push(descriptor.family([value.parse().map_err(|_| bad())?]));
        }
        count += 1;
    }
    if count < columns.count { Err(bad()) } else { Ok(()) }
}

/// `snmp6`: one line per counter, its protocol ending in 6.
fn parse_snmp6(
    text: &str,
    bad: &mut BadLines,
    wanted: &Regex,
    descriptors: &mut NameCache<Option<Arc<Descriptor>>>,
) -> Result<Vec<Family>, ParseError> {
    let mut families = Vec::with_capacity(32);
    descriptors.rewind();
    let mut parse_line = |line: &str| {
        let bad = || ParseError::text(line, "is not of the form `name number`");
        let make = |name: &str| {
            let (protocol, counter) = name.split_at(name.find('6')? + 1);
            descriptor(wanted, protocol, counter.trim_end())
        };
        let (descriptor, value) = descriptors.next(line, '\t', make).ok_or_else(bad)?;
        let Some(descriptor) = descriptor else {
            return Ok(None);
        };
        Ok(Some(descriptor.family([value.trim().parse().map_err(|_| bad())?])))
    };
    families.extend(lines(text).filter_map(|line| bad.keep(parse_line(line)).flatten()));
    Ok(families)
}

/// The state between two reads.
pub struct Netstat {
    wanted: Regex,
    /// The columns of the files `netstat` and `snmp`.
    columns: [NameCache<Columns>; 2],
    snmp6: NameCache<Option<Arc<Descriptor>>>,
}

impl Netstat {
    /// Shows the counters whose names (`Tcp_ActiveOpens`) match.
    pub fn new(wanted: Regex) -> Self {
        Netstat {
            wanted,
            columns: Default::default(),
            snmp6: NameCache::default(),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let [netstat, snmp] = &mut self.columns;
        let mut families = Vec::new();
        for (path, columns) in [("net/netstat", netstat), ("net/snmp", snmp)] {
            let parse = |text: &str, bad: &mut BadLines| parse_pairs(text, bad, &self.wanted, columns);
            families.extend(
                or_without(roots.parse_lines(path, FileLayout::Record, parse))?
                    .into_iter()
                    .flatten(),
            );
        }
        let parse = |text: &str, bad: &mut BadLines| parse_snmp6(text, bad, &self.wanted, &mut self.snmp6);
        let snmp6 = or_without(roots.parse_lines("net/snmp6", FileLayout::Record, parse));
        families.extend(if_present(snmp6)?.flatten().unwrap_or_default());
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::options::CollectorOptions;
    use crate::sense::fixture::{Tree, parsed, text_of};

    #[test]
    fn values_match_names_and_ipv6_may_be_missing() {
        let tree = Tree::new();
        tree.proc(
            "net/netstat",
            "TcpExt: SyncookiesSent Unwanted ListenDrops\nTcpExt: 3 x 5\n",
        );
        tree.proc("net/snmp", "Tcp: MaxConn ActiveOpens InErrs\nTcp: -1 12 0\n");
        let mut netstat = Netstat::new(CollectorOptions::default().netstat_fields);
        let expected = [
            "node_netstat_TcpExt_SyncookiesSent 3",
            "node_netstat_TcpExt_ListenDrops 5",
            "node_netstat_Tcp_ActiveOpens 12",
            "node_netstat_Tcp_InErrs 0",
        ];
        assert_eq!(text_of(&netstat.read(&tree.roots).unwrap(), ""), expected);
        tree.proc(
            "net/snmp6",
            "Ip6InOctets                     \t9\nUdpLite6InErrors                \t2\nIp6InReceives                   \t4\n",
        );
        let families = netstat.read(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "6"),
            ["node_netstat_Ip6_InOctets 9", "node_netstat_UdpLite6_InErrors 2"]
        );
    }

    #[test]
    fn torn_file_is_an_error() {
        let wanted = Regex::new("").unwrap();
        for bad in ["Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\n", "Tcp: A\nTcp: x\n"] {
            assert!(
                parsed(bad, |text, bad| parse_pairs(
                    text,
                    bad,
                    &wanted,
                    &mut NameCache::default()
                ))
                .unwrap_err()
                .to_string()
                .contains("Tcp"),
                "{bad:?}"
            );
        }
    }
}
