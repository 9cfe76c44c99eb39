//! `stat`: counts of the whole system from `/proc/stat` (proc(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, unlabelled_descriptors};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "\
    node_boot_time_seconds node_context_switches_total node_forks_total node_intr_total node_procs_blocked \
    node_procs_running";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "stat",
    Pace::Fast,
    "interrupts, context switches, forks, boot time",
    METRICS,
    |_| Box::new(read_stat),
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

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StatSample {
    pub interrupts: Option<f64>,
    pub context_switches: Option<f64>,
    pub forks: Option<f64>,
    /// Unix time.
    pub boot_time_seconds: Option<f64>,
    pub running: Option<f64>,
    pub blocked: Option<f64>,
}

/// The Unix time of the last boot.
pub fn parse_boot_time(text: &str) -> Result<f64, ParseError> {
    let sample = parse_stat(text, &mut BadLines::default())?;
    sample
        .boot_time_seconds
        .ok_or(ParseError::File("no line begins with btime"))
}

pub fn parse_stat(text: &str, bad: &mut BadLines) -> Result<StatSample, ParseError> {
    let mut sample = StatSample::default();
    for line in lines(text) {
        let mut fields = line.split_ascii_whitespace();
        let slot = match fields.next() {
            Some("intr") => &mut sample.interrupts,
            Some("ctxt") => &mut sample.context_switches,
            Some("processes") => &mut sample.forks,
            Some("btime") => &mut sample.boot_time_seconds,
            Some("procs_running") => &mut sample.running,
            Some("procs_blocked") => &mut sample.blocked,
            _ => continue,
        };
        let field = fields.next().unwrap_or("");
        let count = field.parse::<u64>().map(|count| count as f64);
        *slot = bad.keep(count.map_err(|_| ParseError::text(field, "is not a count")));
    }
    if sample == StatSample::default() {
        return Err(ParseError::File("no line is known"));
    }
    Ok(sample)
}

pub fn read_stat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let sample = roots.parse_lines("stat", FileLayout::Record, parse_stat)?;
    let values = [
        sample.interrupts,
        sample.context_switches,
        sample.forks,
        sample.boot_time_seconds,
        sample.running,
        sample.blocked,
    ];
    let families = DESCRIPTORS.iter().zip(values);
    Ok(families
        .filter_map(|(descriptor, value)| Some(descriptor.family([value?])))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::parsed;

    #[test]
    fn first_number_of_a_line_is_the_sum() {
        let text = "cpu 1 2\nintr 99 1 2 3\nctxt 7\nbtime 1700000000\nprocesses 12\nprocs_running 3\nprocs_blocked 1\n";
        let expected = StatSample {
            interrupts: Some(99.0),
            context_switches: Some(7.0),
            forks: Some(12.0),
            boot_time_seconds: Some(1.7e9),
            running: Some(3.0),
            blocked: Some(1.0),
        };
        assert_eq!(parsed(text, parse_stat), Ok(expected));
        assert!(parsed("ctxt x\n", parse_stat).is_err() && parsed("", parse_stat).is_err());
        assert!(parse_boot_time("ctxt 7\n").is_err());
    }
}
