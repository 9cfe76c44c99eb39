//! `netstat`: chosen protocol counters from `/proc/net/{netstat,snmp,snmp6}` (proc_pid_net(5)).

use super::fields::Fields;
use super::roots::{ReadError, Roots};
use crate::family::{Family, Kind};

/// `Tcp_ActiveOpens` and the like, with their values.
pub type NetstatSample = Vec<(String, f64)>;

/// `netstat` and `snmp`: a line of names and a line of values for each protocol.
pub fn parse_pairs(text: &str, wanted: &mut Fields) -> Result<NetstatSample, String> {
    let mut sample = NetstatSample::new();
    let mut lines = text.lines();
    while let Some(head) = lines.next() {
        let bad = || format!("{head:?} is not followed by a line of as many values");
        let (protocol, names) = head.split_once(':').ok_or_else(bad)?;
        let values = lines
            .next()
            .and_then(|line| line.strip_prefix(protocol)?.strip_prefix(':'))
            .ok_or_else(bad)?;
        let mut values = values.split_ascii_whitespace();
        for name in names.split_ascii_whitespace() {
            let value = values.next().ok_or_else(bad)?;
            if let Some(name) = wanted.wanted_name(protocol, name) {
                // Signed: MaxConn is -1 where there is no limit.
                sample.push((name, value.parse().map_err(|_| bad())?));
            }
        }
    }
    Ok(sample)
}

/// `snmp6`: one line per counter, its protocol ending in 6.
pub fn parse_snmp6(text: &str, wanted: &mut Fields) -> Result<NetstatSample, String> {
    let mut sample = NetstatSample::new();
    for line in text.lines() {
        let bad = || format!("{line:?} is not of the form `name number`");
        let mut fields = line.split_ascii_whitespace();
        let (name, value) = (fields.next().ok_or_else(bad)?, fields.next().ok_or_else(bad)?);
        let Some((protocol, counter)) = name.find('6').map(|six| name.split_at(six + 1)) else {
            continue;
        };
        if let Some(name) = wanted.wanted_name(protocol, counter) {
            sample.push((name, value.parse().map_err(|_| bad())?));
        }
    }
    Ok(sample)
}

pub fn read_netstat(roots: &Roots, wanted: &mut Fields) -> Result<Vec<Family>, ReadError> {
    let mut sample = roots.record("net/netstat", |text| parse_pairs(text, wanted))?;
    sample.extend(roots.record("net/snmp", |text| parse_pairs(text, wanted))?);
    match roots.record("net/snmp6", |text| parse_snmp6(text, wanted)) {
        Ok(more) => sample.extend(more),
        // IPv6 is switched off.
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let family = |(name, value): (String, f64)| {
        let help = ["Protocol counter ", &name, " of the kernel."].concat();
        Family::new(["node_netstat_", &name].concat(), help, Kind::Untyped).value(value)
    };
    Ok(sample.into_iter().map(family).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::Options;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn names_and_values_meet_and_ipv6_may_be_missing() {
        let tree = Tree::new();
        tree.proc(
            "net/netstat",
            "TcpExt: SyncookiesSent Unwanted ListenDrops\nTcpExt: 3 x 5\n",
        );
        tree.proc("net/snmp", "Tcp: MaxConn ActiveOpens InErrs\nTcp: -1 12 0\n");
        let mut wanted = Fields::new(Options::default().netstat_fields);
        let expected = [
            "node_netstat_TcpExt_SyncookiesSent 3",
            "node_netstat_TcpExt_ListenDrops 5",
            "node_netstat_Tcp_ActiveOpens 12",
            "node_netstat_Tcp_InErrs 0",
        ];
        assert_eq!(text_of(&read_netstat(&tree.roots, &mut wanted).unwrap(), ""), expected);
        tree.proc(
            "net/snmp6",
            "Ip6InOctets                     \t9\nUdpLite6InErrors 2\nIp6InReceives 4\n",
        );
        let families = read_netstat(&tree.roots, &mut wanted).unwrap();
        assert_eq!(
            text_of(&families, "6"),
            ["node_netstat_Ip6_InOctets 9", "node_netstat_UdpLite6_InErrors 2"]
        );
    }

    #[test]
    fn a_torn_file_is_named() {
        let mut wanted = Fields::new(regex::Regex::new("").unwrap());
        for bad in ["Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\n", "Tcp: A\nTcp: x\n"] {
            assert!(parse_pairs(bad, &mut wanted).unwrap_err().contains("Tcp"), "{bad:?}");
        }
    }
}
