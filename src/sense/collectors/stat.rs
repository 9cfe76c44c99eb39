//! `stat`: counts of the whole system from `/proc/stat` (proc(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, label, unlabelled_descriptors, unlabelled_families};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "\
    node_boot_time_seconds node_context_switches_total node_forks_total node_intr_total node_procs_blocked \
    node_procs_running node_softirqs_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "stat",
    Pace::Fast,
    "interrupts, context switches, forks, boot time",
    METRICS,
    |options| {
        let has_softirqs = options.stat_softirqs;
        Box::new(move |roots| read_stat(roots, has_softirqs))
    },
);

static DESCRIPTORS: LazyLock<[Arc<Descriptor>; 6]> = LazyLock::new(|| {
    unlabelled_descriptors([
        ("node_intr_total", "Interrupts served."),
        ("node_context_switches_total", "Context switches."),
        ("node_forks_total", "Processes and threads created."),
        ("node_boot_time_seconds", "Unix time of the last boot."),
        ("node_procs_running", "Tasks that run or wait for a processor."),
        ("node_procs_blocked", "Tasks that wait for input or output to finish."),
    ])
});

/// The beginnings of the lines with these counts.
const LINES: [&str; 6] = ["intr", "ctxt", "processes", "btime", "procs_running", "procs_blocked"];
const BOOT_TIME: usize = 3;

/// The Unix time of the last boot.
pub fn parse_boot_time(text: &str) -> Result<f64, ParseError> {
    let counts = parse_stat(text, &mut BadLines::default())?;
    counts[BOOT_TIME].ok_or(ParseError::File("no line begins with btime"))
}

/// The counts in the order of `LINES`.
pub fn parse_stat(text: &str, bad: &mut BadLines) -> Result<[Option<f64>; LINES.len()], ParseError> {
    let mut counts = [None; LINES.len()];
    for line in lines(text) {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next();
        let Some(place) = LINES.iter().position(|line| Some(*line) == name) else {
            continue;
        };
        let field = fields.next().unwrap_or("");
        let count = field.parse::<u64>().map(|count| count as f64);
        counts[place] = bad.keep(count.map_err(|_| ParseError::text(field, "is not a count")));
    }
    if counts == [None; LINES.len()] {
        return Err(ParseError::File("no line is known"));
    }
    Ok(counts)
}

/// The kinds of softirqs in the order of the line `softirq`, after their sum.
const SOFTIRQS: [&str; 10] = [
    "hi",
    "timer",
    "net_tx",
    "net_rx",
    "block",
    "block_iopoll",
    "tasklet",
    "sched",
    "hrtimer",
    "rcu",
];

/// Softirqs by kind; `None` without the line.
pub fn parse_softirqs(text: &str, bad: &mut BadLines) -> Result<Option<Family>, ParseError> {
    let Some(line) = lines(text).find(|line| line.starts_with("softirq ")) else {
        return Ok(None);
    };
    let mut family = Family::counter("node_softirqs_total", "Softirqs by kind.");
    for (kind, field) in SOFTIRQS.iter().zip(line.split_ascii_whitespace().skip(2)) {
        let count = field
            .parse::<f64>()
            .map_err(|_| ParseError::field(field, "is not a count", line));
        if let Some(count) = bad.keep(count) {
            family.push([label("vector", *kind)], count);
        }
    }
    Ok(Some(family))
}

pub fn read_stat(roots: &Roots, has_softirqs: bool) -> Result<Vec<Family>, ReadError> {
    let mut softirqs = None;
    let counts = roots.parse_lines("stat", FileLayout::Record, |text, bad| {
        if has_softirqs {
            softirqs = parse_softirqs(text, bad)?;
        }
        parse_stat(text, bad)
    })?;
    let mut families = unlabelled_families(&*DESCRIPTORS, counts);
    families.extend(softirqs);
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};

    #[test]
    fn softirqs_are_shown_by_kind_on_demand() {
        let tree = Tree::new();
        tree.proc("stat", "ctxt 7\nsoftirq 99 1 2 x 4\n");
        let of = |has_softirqs| text_of(&read_stat(&tree.roots, has_softirqs).unwrap(), "softirqs");
        assert_eq!(of(false), [""; 0]);
        let named = |kind: &str, count: u32| format!("node_softirqs_total{{vector={kind:?}}} {count}");
        assert_eq!(of(true), [named("hi", 1), named("timer", 2), named("net_rx", 4)]);
    }

    #[test]
    fn first_number_of_a_line_is_the_sum() {
        let text = "cpu 1 2\nintr 99 1 2 3\nctxt 7\nbtime 1700000000\nprocesses 12\nprocs_running 3\nprocs_blocked 1\n";
        let expected = [99.0, 7.0, 12.0, 1.7e9, 3.0, 1.0].map(Some);
        assert_eq!(parsed(text, parse_stat), Ok(expected));
        assert!(parsed("ctxt x\n", parse_stat).is_err() && parsed("", parse_stat).is_err());
        assert!(parse_boot_time("ctxt 7\n").is_err());
    }
}
