//! `buddyinfo`: free blocks of memory by size, from `/proc/buddyinfo` (proc(5)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_buddyinfo_blocks";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "buddyinfo",
    Pace::Scrape,
    "free blocks of memory by size",
    METRICS,
    |_| Box::new(read_buddyinfo),
);

/// Node, zone, and counts by power of two.
type Zone = (String, String, Vec<f64>);

fn parse_zone(line: &str) -> Result<Zone, ParseError> {
    let bad = || ParseError::text(line, "is not of the form `Node N, zone NAME counts`");
    let (node, rest) = line
        .strip_prefix("Node")
        .and_then(|rest| rest.split_once(','))
        .ok_or_else(bad)?;
    let mut fields = rest.split_ascii_whitespace();
    let (Some("zone"), Some(zone)) = (fields.next(), fields.next()) else {
        return Err(bad());
    };
    let counts = fields.map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
    Ok((node.trim().to_owned(), zone.to_owned(), counts))
}

pub fn parse_buddyinfo(text: &str, bad: &mut BadLines) -> Result<Vec<Zone>, ParseError> {
    Ok(lines(text).filter_map(|line| bad.keep(parse_zone(line))).collect())
}

pub fn read_buddyinfo(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    for (node, zone, counts) in roots.parse_lines_once("buddyinfo", parse_buddyinfo)? {
        for (size, count) in counts.into_iter().enumerate() {
            let labels = [
                label("node", node.clone()),
                label("zone", zone.clone()),
                label("size", size.to_string()),
            ];
            let help = "Free blocks of 2^size pages.";
            set.add("node_buddyinfo_blocks", help, &labels, count);
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn blocks_have_node_zone_and_size() {
        let tree = Tree::new();
        tree.proc(
            "buddyinfo",
            "Node 0, zone      DMA      1      0 \nNode 1, zone Normal 7\n",
        );
        let of = |node: u32, zone: &str, size: u32, count: u32| {
            format!("node_buddyinfo_blocks{{node=\"{node}\",zone=\"{zone}\",size=\"{size}\"}} {count}")
        };
        assert_eq!(
            text_of(&read_buddyinfo(&tree.roots).unwrap(), ""),
            [of(0, "DMA", 0, 1), of(0, "DMA", 1, 0), of(1, "Normal", 0, 7)]
        );
    }
}
