//! `meminfo_numa`: memory per NUMA node, from `/sys/devices/system/node`.

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, if_present, list_names, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics. The kernel names them.
const METRICS: &str = "node_memory_numa_*";

pub const INFO: CollectorInfo =
    CollectorInfo::off("meminfo_numa", Pace::Scrape, "memory per NUMA node", METRICS, |_| {
        Box::new(read_meminfo_numa)
    });

/// `Node 0 Active(anon): 12 kB` is 12288 bytes of `Active_anon`.
fn parse_meminfo_line(line: &str) -> Result<(String, f64), ParseError> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (name, number, factor) = match *fields {
        ["Node", _, name, number] => (name, number, 1.0),
        ["Node", _, name, number, "kB"] => (name, number, 1024.0),
        _ => return Err(ParseError::text(line, "is not of the form `Node N name: number`")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| ParseError::field(number, "is not a number", line))?;
    let name = name.trim_end_matches(':').replace('(', "_").replace(')', "");
    Ok((metric_part(&name), number * factor))
}

pub fn parse_meminfo(text: &str, bad: &mut BadLines) -> Result<Vec<(String, f64)>, ParseError> {
    let lines = lines(text).filter(|line| !line.trim().is_empty());
    Ok(lines.filter_map(|line| bad.keep(parse_meminfo_line(line))).collect())
}

pub fn parse_numastat(text: &str, bad: &mut BadLines) -> Result<Vec<(String, f64)>, ParseError> {
    let number = |line: &str| {
        let (name, number) = line
            .split_once(' ')
            .ok_or_else(|| ParseError::missing("number", line))?;
        let number = number
            .trim()
            .parse()
            .map_err(|_| ParseError::field(number, "is not a number", line))?;
        Ok((format!("{}_total", metric_part(name)), number))
    };
    let lines = lines(text).filter(|line| !line.trim().is_empty());
    Ok(lines.filter_map(|line| bad.keep(number(line))).collect())
}

pub fn read_meminfo_numa(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("devices/system/node");
    let names = list_names(&base).map_err(|error| error.or_absent("no NUMA"))?;
    let mut set = FamilySet::default();
    for name in names {
        let Some(node) = name.strip_prefix("node").filter(|node| node.parse::<u32>().is_ok()) else {
            continue;
        };
        let directory = base.join(&name);
        let memory = if_present(or_without(roots.parse_file(directory.join("meminfo"), parse_meminfo)))?;
        let hits = if_present(or_without(roots.parse_file(directory.join("numastat"), parse_numastat)))?;
        let both = [memory, hits].map(|read| read.flatten().unwrap_or_default());
        for (field, value) in both.into_iter().flatten() {
            let help = format!("{field} of a NUMA node.");
            set.add(
                format!("node_memory_numa_{field}"),
                help,
                &[label("node", node.to_owned())],
                value,
            );
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn nodes_have_memory_and_hits() {
        let tree = Tree::new();
        assert!(matches!(read_meminfo_numa(&tree.roots), Err(ReadError::Absent(_))));
        let base = "devices/system/node";
        tree.sys(
            &format!("{base}/node0/meminfo"),
            "\nNode 0 Active(anon):  4 kB\nNode 0 HugePages_Free: 3\nNode 0 Bad: x kB\n",
        );
        tree.sys(&format!("{base}/node0/numastat"), "numa_hit 7\n");
        tree.sys(&format!("{base}/has_cpu"), "0\n");
        assert_eq!(
            text_of(&read_meminfo_numa(&tree.roots).unwrap(), ""),
            [
                "node_memory_numa_Active_anon{node=\"0\"} 4096",
                "node_memory_numa_HugePages_Free{node=\"0\"} 3",
                "node_memory_numa_numa_hit_total{node=\"0\"} 7",
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
