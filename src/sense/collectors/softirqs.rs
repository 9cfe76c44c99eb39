//! `softirqs`: softirqs by kind and processor, from `/proc/softirqs` (proc(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_softirqs_functions_total";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "softirqs",
    Pace::Scrape,
    "softirqs by kind and processor",
    METRICS,
    |_| Box::new(read_softirqs),
);

pub fn parse_softirqs(text: &str, bad: &mut BadLines) -> Result<Family, ParseError> {
    let mut family = Family::counter("node_softirqs_functions_total", "Softirqs by kind and processor.");
    let mut lines = lines(text);
    let head = lines.next().ok_or(ParseError::File("the file is empty"))?;
    // Offline processors have no column.
    let cpus: Vec<&str> = head
        .split_ascii_whitespace()
        .filter_map(|cpu| cpu.strip_prefix("CPU"))
        .collect();
    for line in lines {
        let counts = line.split_once(':').map(|(kind, counts)| {
            let counts: Option<Vec<f64>> = counts
                .split_ascii_whitespace()
                .map(|count| count.parse().ok())
                .collect();
            (kind.trim(), counts)
        });
        let parsed = match counts {
            Some((kind, Some(counts))) if counts.len() == cpus.len() => Ok((kind, counts)),
            _ => Err(ParseError::text(line, "is not a kind with a count per processor")),
        };
        if let Some((kind, counts)) = bad.keep(parsed) {
            for (cpu, count) in cpus.iter().zip(counts) {
                family.push([label("cpu", (*cpu).to_owned()), label("type", kind.to_owned())], count);
            }
        }
    }
    Ok(family)
}

pub fn read_softirqs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    Ok(vec![roots.parse_lines_once("softirqs", parse_softirqs)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn columns_are_processors() {
        let tree = Tree::new();
        tree.proc("softirqs", "   CPU0 CPU2\n  HI:  7  1\nTIMER: 1\n RCU: 3 4\n");
        let of = |cpu: u32, kind: &str, count: u32| {
            format!("node_softirqs_functions_total{{cpu=\"{cpu}\",type=\"{kind}\"}} {count}")
        };
        assert_eq!(
            text_of(&read_softirqs(&tree.roots).unwrap(), ""),
            [of(0, "HI", 7), of(2, "HI", 1), of(0, "RCU", 3), of(2, "RCU", 4)]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
