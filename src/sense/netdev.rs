//! `netdev`: traffic per network device from `/proc/net/dev` (proc(5)).

use super::collectors::NameFilter;
use super::lines::lines;
use super::roots::{ReadError, Roots, number};
use super::slowly::Slowly;
use super::titles::Title;
use crate::family::{Family, Text, label};
use std::sync::LazyLock;
use std::time::Instant;

/// The columns of `/proc/net/dev`, first those received, then those transmitted.
const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

/// A device and its counters in the order of `COLUMNS`.
pub type NetdevSample = Vec<(String, [u64; 16])>;

pub fn parse_netdev(text: &str) -> Result<NetdevSample, String> {
    let mut sample = NetdevSample::new();
    for line in lines(text).skip(2) {
        let bad = || format!("{line:?} is not of the form `device: 16 counters`");
        // The kernel allows no colon in the name of a device (dev_valid_name()).
        let (device, rest) = line.split_once(':').ok_or_else(bad)?;
        let mut counters = [0; 16];
        let mut fields = rest.split_ascii_whitespace();
        for counter in &mut counters {
            *counter = fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad)?;
        }
        sample.push((device.trim().to_owned(), counters));
    }
    Ok(sample)
}

/// In the order of `COLUMNS`.
static TITLES: LazyLock<[Title; 16]> = LazyLock::new(|| COLUMNS.map(title));

fn title(column: &str) -> Title {
    Title::new(
        format!("node_network_{column}_total"),
        format!("Counter {column} of a network device, as /proc/net/dev counts it."),
    )
}

fn family(title: &Title) -> Family {
    Family::counter(title.name.clone(), title.help.clone())
}

pub fn read_netdev(roots: &Roots, devices: &NameFilter, no_handler: &mut Slowly) -> Result<Vec<Family>, ReadError> {
    let mut sample = roots.parsed("net/dev", parse_netdev)?;
    sample.retain(|(device, _)| devices.allows(device));
    let mut families: Vec<Family> = TITLES.iter().map(family).collect();
    for family in &mut families {
        family.points.reserve_exact(sample.len());
    }
    for (device, counters) in &sample {
        let device = Text::from(device.clone());
        for (family, count) in families.iter_mut().zip(counters) {
            family.push([label("device", device.clone())], *count as f64);
        }
    }
    // The one counter that node_exporter takes from netlink and /proc/net/dev lacks. It costs a file per device.
    families.extend(no_handler.families(Instant::now(), || {
        let mut family = family(&title("receive_nohandler"));
        for (device, _) in &sample {
            if let Some(count) = number(&roots.sys(&format!("class/net/{device}/statistics/rx_nohandler"))) {
                family.push([label("device", device.clone())], count);
            }
        }
        vec![family]
    }));
    families.retain(|family| !family.points.is_empty());
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    const HEAD: &str = "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n";

    #[test]
    fn a_name_may_touch_its_first_counter_and_be_any_bytes() {
        let tree = Tree::new();
        let mut text = format!("{HEAD}  eth0:123 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n").into_bytes();
        text.extend_from_slice(b" w\xff\"\\: 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
        tree.proc("net/dev", text);
        tree.sys("class/net/eth0/statistics/rx_nohandler", "17\n");
        let families = read_netdev(&tree.roots, &NameFilter::default(), &mut Slowly::default()).unwrap();
        assert_eq!(
            text_of(&families, "eth0")
                .iter()
                .map(|line| line.rsplit(' ').next().unwrap())
                .collect::<Vec<_>>(),
            [
                "123", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17"
            ]
        );
        assert_eq!(families[0].points[1].labels[0].1, "w\u{fffd}\"\\");
        let excluded = read_netdev(
            &tree.roots,
            &NameFilter::exclude("^eth0$").unwrap(),
            &mut Slowly::default(),
        )
        .unwrap();
        assert_eq!(text_of(&excluded, "eth0"), [""; 0]);
    }

    #[test]
    fn a_short_line_is_named() {
        assert!(
            parse_netdev(&format!("{HEAD} eth0: 1 2\n"))
                .unwrap_err()
                .contains("eth0")
        );
    }
}
