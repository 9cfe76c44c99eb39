//! `interrupts`: interrupts per line and processor from `/proc/interrupts` (proc(5)).

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_interrupts_total";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "interrupts",
    Pace::Scrape,
    "interrupts per line and processor",
    METRICS,
    |options| {
        let (filter, without_zeros) = (options.interrupts.clone(), options.interrupts_without_zeros);
        Box::new(move |roots| read_interrupts(roots, &filter, without_zeros))
    },
);

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Interrupt {
    /// A number, or a name such as `NMI`.
    pub name: String,
    /// The controller of a numbered interrupt, the description of a named one.
    pub info: String,
    pub devices: String,
    /// Processor and count.
    pub counts: Vec<(String, f64)>,
}

pub fn parse_interrupts(text: &str, bad: &mut BadLines) -> Result<Vec<Interrupt>, ParseError> {
    let mut lines = text.lines();
    let head = lines.next().ok_or(ParseError::File("the file is empty"))?;
    // Offline processors have no column.
    let cpus: Vec<&str> = head
        .split_ascii_whitespace()
        .filter_map(|cpu| cpu.strip_prefix("CPU"))
        .collect();
    let mut interrupts = Vec::new();
    for line in lines {
        // ARM leaves no space between name and first count.
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // ERR and MIS are not per processor.
        let Some((counts, words)) = fields
            .split_at_checked(cpus.len())
            .filter(|(_, words)| !words.is_empty())
        else {
            continue;
        };
        let name = name.trim().to_owned();
        let count = |text: &str| {
            text.parse()
                .map_err(|_| ParseError::field(text, "is not a count", line))
        };
        let counts = cpus
            .iter()
            .zip(counts)
            .map(|(cpu, text)| Ok(((*cpu).to_owned(), count(text)?)));
        let Some(counts) = bad.keep(counts.collect::<Result<_, ParseError>>()) else {
            continue;
        };
        let numbered = name.bytes().all(|byte| byte.is_ascii_digit());
        let (info, devices) = if numbered { words.split_at(1) } else { (words, &[][..]) };
        interrupts.push(Interrupt {
            name,
            info: info.join(" "),
            devices: devices.join(" "),
            counts,
        });
    }
    Ok(interrupts)
}

fn families(interrupts: Vec<Interrupt>, filter: &NameFilter, without_zeros: bool) -> Vec<Family> {
    let mut family = Family::counter("node_interrupts_total", "Interrupts by line and processor.");
    let name = |interrupt: &Interrupt| format!("{};{};{}", interrupt.name, interrupt.info, interrupt.devices);
    for interrupt in interrupts
        .into_iter()
        .filter(|interrupt| filter.allows(&name(interrupt)))
    {
        for (cpu, count) in interrupt
            .counts
            .into_iter()
            .filter(|(_, count)| !without_zeros || *count != 0.0)
        {
            let labels = vec![
                label("cpu", cpu),
                label("type", interrupt.name.clone()),
                label("info", interrupt.info.clone()),
                label("devices", interrupt.devices.clone()),
            ];
            family.push(labels, count);
        }
    }
    vec![family]
}

pub fn read_interrupts(roots: &Roots, filter: &NameFilter, without_zeros: bool) -> Result<Vec<Family>, ReadError> {
    let interrupts = roots.parse_lines_once("interrupts", parse_interrupts)?;
    Ok(families(interrupts, filter, without_zeros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};
    use regex::Regex;

    #[test]
    fn lines_and_zeros_can_be_left_out() {
        let tree = Tree::new();
        tree.proc(
            "interrupts",
            "  CPU0 CPU1\n 1: 0 7 IO-APIC disk\nNMI: 1 2 Non-maskable\n",
        );
        let of = |filter: &NameFilter, without_zeros| {
            text_of(&read_interrupts(&tree.roots, filter, without_zeros).unwrap(), "")
        };
        assert_eq!(of(&NameFilter::default(), false).len(), 4);
        let disks = NameFilter::include(Regex::new("^1;IO-APIC;disk$").ok());
        assert_eq!(
            of(&disks, true),
            ["node_interrupts_total{cpu=\"1\",type=\"1\",info=\"IO-APIC\",devices=\"disk\"} 7"]
        );
    }

    #[test]
    fn lines_have_controller_or_description() {
        let text = "           CPU0       CPU2\n 24:          1          0  IO-APIC   5-edge      ACPI:Ged\n\
                    NMI:          3          4   Non-maskable interrupts\nERR:          0\nIPI0:5 6 Rescheduling\n";
        let lines: Vec<_> = parsed(text, parse_interrupts).unwrap();
        let summary: Vec<_> = lines
            .iter()
            .map(|i| (i.name.as_str(), i.info.as_str(), i.devices.as_str(), i.counts[1].1))
            .collect();
        assert_eq!(
            summary,
            [
                ("24", "IO-APIC", "5-edge ACPI:Ged", 0.0),
                ("NMI", "Non-maskable interrupts", "", 4.0),
                ("IPI0", "Rescheduling", "", 6.0),
            ]
        );
        assert_eq!(lines[0].counts[1].0, "2");
        assert!(parsed("CPU0\n1: x chip\n", parse_interrupts).is_err());
    }
}
