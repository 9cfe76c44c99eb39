//! `ipvs`: connections and backends of the kernel's load balancer, from `/proc/net/ip_vs` and `/proc/net/ip_vs_stats`.

pub(in crate::sense) mod labels;

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, SharedStr};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use labels::BACKEND_LABELS;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The published metrics.
const METRICS: &str = "\
    node_ipvs_backend_connections_active node_ipvs_backend_connections_inactive node_ipvs_backend_weight \
    node_ipvs_connections_total node_ipvs_incoming_bytes_total node_ipvs_incoming_packets_total \
    node_ipvs_outgoing_bytes_total node_ipvs_outgoing_packets_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "ipvs",
    Pace::Scrape,
    "load balancing by the kernel (IPVS)",
    METRICS,
    |options| {
        let labels = options.ipvs_backend_labels.clone();
        Box::new(move |roots| read_ipvs(roots, &labels))
    },
);

/// Column of the totals, metric, help.
const TOTALS: [(&str, &str); 5] = [
    ("node_ipvs_connections_total", "Connections to virtual services."),
    ("node_ipvs_incoming_packets_total", "Packets to virtual services."),
    ("node_ipvs_outgoing_packets_total", "Packets from virtual services."),
    ("node_ipvs_incoming_bytes_total", "Bytes to virtual services."),
    ("node_ipvs_outgoing_bytes_total", "Bytes from virtual services."),
];

/// The totals: hexadecimal numbers in the third line.
fn parse_stats(text: &str, bad: &mut BadLines) -> Result<Option<[f64; 5]>, ParseError> {
    let line = lines(text).nth(2).unwrap_or_default();
    let numbers = line
        .split_ascii_whitespace()
        .map(|field| u64::from_str_radix(field, 16).map(|number| number as f64));
    let numbers = numbers.collect::<Result<Vec<_>, _>>().ok();
    let totals = numbers.and_then(|numbers| <[f64; 5]>::try_from(numbers).ok());
    Ok(bad.keep(totals.ok_or_else(|| ParseError::text(line, "is not five hexadecimal numbers"))))
}

/// Labels of a backend in the order of [`BACKEND_LABELS`], and weight, active and inactive connections.
type Backend = ([String; 6], [f64; 3]);

/// `C0A80016:0CEA` or `[2001:0db8:…]:0CEA`.
fn parse_address(text: &str) -> Option<(String, String)> {
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_canonical(),
        None if address.len() == 8 => IpAddr::from(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?)),
        None => return None,
    };
    Some((address.to_string(), u16::from_str_radix(port, 16).ok()?.to_string()))
}

fn parse_backends(text: &str, bad: &mut BadLines) -> Result<Vec<Backend>, ParseError> {
    /// Protocol, address, port and mark of a virtual service.
    type Service = [String; 4];
    let mut service: Option<Service> = None;
    let mut backends = Vec::new();
    for line in lines(text) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match *fields.as_slice() {
            [proto @ ("TCP" | "UDP" | "SCTP"), address, ..] => {
                let parsed = parse_address(address).ok_or_else(|| ParseError::field(address, "is no address", line));
                // The backends below a bad line are not those of the service before it.
                service = bad
                    .keep(parsed)
                    .map(|(address, port)| [proto.to_owned(), address, port, String::new()]);
            }
            ["FWM", mark, ..] => service = Some(["FWM".to_owned(), String::new(), "0".to_owned(), mark.to_owned()]),
            ["->", "RemoteAddress:Port", ..] => {}
            ["->", address, _, weight, active, inactive, ..] => {
                let Some([proto, local_address, local_port, mark]) = service.clone() else {
                    continue;
                };
                let numbers = [weight, active, inactive].map(str::parse::<f64>);
                let parsed = match (parse_address(address), numbers) {
                    (Some(remote), [Ok(weight), Ok(active), Ok(inactive)]) => Ok((remote, [weight, active, inactive])),
                    _ => Err(ParseError::text(line, "is no backend")),
                };
                if let Some(((remote_address, remote_port), numbers)) = bad.keep(parsed) {
                    let labels = [local_address, local_port, remote_address, remote_port, proto, mark];
                    backends.push((labels, numbers));
                }
            }
            _ => {}
        }
    }
    Ok(backends)
}

pub fn read_ipvs(roots: &Roots, wanted: &[&'static str]) -> Result<Vec<Family>, ReadError> {
    let totals = roots
        .parse_lines_once("net/ip_vs_stats", parse_stats)
        .map_err(|error| error.or_absent("no IPVS"))?;
    let mut set = FamilySet::default();
    for ((name, help), total) in TOTALS.iter().zip(totals.unwrap_or_default()) {
        set.add(*name, *help, &[], total);
    }
    // Backends that differ only in labels that are not wanted are summed.
    let mut sums: BTreeMap<Vec<String>, [f64; 3]> = BTreeMap::new();
    for (values, numbers) in roots.parse_lines_once("net/ip_vs", parse_backends)? {
        let both = BACKEND_LABELS.iter().zip(values);
        let labels = both.filter(|(name, _)| wanted.contains(name)).map(|(_, value)| value);
        let sum = sums.entry(labels.collect()).or_default();
        sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    }
    let names = BACKEND_LABELS.iter().filter(|name| wanted.contains(name));
    for (values, [weight, active, inactive]) in sums {
        let labels: Vec<Label> = names
            .clone()
            .zip(values)
            .map(|(name, value)| (SharedStr::from(*name), value.into()))
            .collect();
        for (name, help, value) in [
            (
                "node_ipvs_backend_connections_active",
                "Active connections of a backend.",
                active,
            ),
            (
                "node_ipvs_backend_connections_inactive",
                "Inactive connections of a backend.",
                inactive,
            ),
            ("node_ipvs_backend_weight", "Weight of a backend.", weight),
        ] {
            set.add(name, help, &labels, value);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    const BACKENDS: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0000201:01BB wlc
  -> C0000202:01BB      Tunnel  100    3          2
  -> C0000203:01BB      Tunnel  50     1          x
UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 rr
  -> [2001:0db8:0000:0000:0000:0000:0000:0002]:0035 Route 1 4 5
TCP  bad wlc
  -> C0000204:01BB      Tunnel  100    9          9
FWM  00000007 wlc
  -> C0000202:01BB      Route   20     6          7
";

    #[test]
    fn backends_have_the_wanted_labels() {
        let tree = Tree::new();
        assert!(matches!(
            read_ipvs(&tree.roots, &BACKEND_LABELS),
            Err(ReadError::Absent(_))
        ));
        tree.proc(
            "net/ip_vs_stats",
            " Total Incoming\n Conns Packets\n a 1f 0 FF 0\n\n Conns/s\n",
        );
        tree.proc("net/ip_vs", BACKENDS);
        let families = read_ipvs(&tree.roots, &BACKEND_LABELS).unwrap();
        assert_eq!(
            text_of(&families, "incoming_bytes"),
            ["node_ipvs_incoming_bytes_total 255"]
        );
        let active = text_of(&families, "backend_connections_active");
        assert_eq!(active.len(), 3, "{active:?}");
        assert!(active[2].contains("local_address=\"2001:db8::1\",local_port=\"53\",remote_address=\"2001:db8::2\""));
        assert_eq!(tree.roots.take_bad_lines().count, 2);
        let sums = read_ipvs(&tree.roots, &["remote_address"]).unwrap();
        assert_eq!(
            text_of(&sums, "weight"),
            [
                "node_ipvs_backend_weight{remote_address=\"192.0.2.2\"} 120",
                "node_ipvs_backend_weight{remote_address=\"2001:db8::2\"} 1",
            ]
        );
    }
}
