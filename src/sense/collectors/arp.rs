//! `arp`: neighbours per device from `/proc/net/arp` (proc_pid_net(5)).

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;

/// The published metrics.
const METRICS: &str = "node_arp_entries";

pub const INFO: CollectorInfo = CollectorInfo::on("arp", Pace::Slow, "ARP entries", METRICS, |options| {
    let devices = options.arp_devices.clone();
    Box::new(move |roots| read_arp(roots, &devices))
});

/// Device to number of entries.
pub fn parse_arp(text: &str, bad: &mut BadLines) -> Result<BTreeMap<String, u32>, ParseError> {
    let mut entries = BTreeMap::new();
    for line in lines(text).skip(1) {
        let device = line.split_ascii_whitespace().nth(5);
        if let Some(device) = bad.keep(device.ok_or_else(|| ParseError::missing("device", line))) {
            *entries.entry(device.to_owned()).or_default() += 1;
        }
    }
    Ok(entries)
}

fn families(entries: BTreeMap<String, u32>, devices: &NameFilter) -> Vec<Family> {
    let mut family = Family::gauge("node_arp_entries", "Neighbours that a device knows by ARP.");
    for (device, count) in entries.into_iter().filter(|(device, _)| devices.allows(device)) {
        family.push([label("device", device)], f64::from(count));
    }
    vec![family]
}

pub fn read_arp(roots: &Roots, devices: &NameFilter) -> Result<Vec<Family>, ReadError> {
    let entries = roots.parse_lines_once("net/arp", parse_arp)?;
    Ok(families(entries, devices))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::parsed;

    #[test]
    fn entries_are_counted_per_device() {
        let head = "IP address       HW type     Flags       HW address            Mask     Device\n";
        let line = |device: &str| format!("192.0.2.1 0x1 0x2 02:fc:00:00:00:05 * {device}\n");
        let text = format!("{head}{}{}{}", line("eth0"), line("eth1"), line("eth0"));
        assert_eq!(
            parsed(&text, parse_arp).unwrap(),
            [("eth0".to_owned(), 2), ("eth1".to_owned(), 1)].into()
        );
        assert!(parsed(&format!("{head}192.0.2.1 0x1\n"), parse_arp).is_err());
    }
}
