//! `schedstat`: seconds that tasks ran and waited, per processor, from `/proc/schedstat` (sched-stats.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_schedstat_running_seconds_total node_schedstat_timeslices_total node_schedstat_waiting_seconds_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "schedstat",
    Pace::Scrape,
    "time that tasks ran and waited",
    METRICS,
    |_| Box::new(read_schedstat),
);

/// Processor, seconds running, seconds waiting, timeslices.
type ProcessorTimes = (String, [f64; 3]);

pub fn parse_schedstat(text: &str, bad: &mut BadLines) -> Result<Vec<ProcessorTimes>, ParseError> {
    let processors = lines(text).filter(|line| line.starts_with("cpu"));
    Ok(processors.filter_map(|line| bad.keep(parse_processor(line))).collect())
}

fn parse_processor(line: &str) -> Result<ProcessorTimes, ParseError> {
    let bad = || ParseError::text(line, "is not a processor with nine numbers");
    let mut fields = line.strip_prefix("cpu").ok_or_else(bad)?.split_ascii_whitespace();
    let cpu = fields.next().ok_or_else(bad)?.to_owned();
    // The first six count calls of the scheduler.
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or_else(bad)
    };
    for _ in 0..6 {
        next()?;
    }
    Ok((cpu, [next()? / 1e9, next()? / 1e9, next()?]))
}

fn families(sample: Vec<ProcessorTimes>) -> Vec<Family> {
    let mut families = [
        Family::counter(
            "node_schedstat_running_seconds_total",
            "Seconds that tasks ran on a processor.",
        ),
        Family::counter(
            "node_schedstat_waiting_seconds_total",
            "Seconds that tasks waited for a processor.",
        ),
        Family::counter("node_schedstat_timeslices_total", "Timeslices that a processor gave."),
    ];
    for (cpu, values) in sample {
        for (family, value) in families.iter_mut().zip(values) {
            family.push([label("cpu", cpu.clone())], value);
        }
    }
    families.into()
}

pub fn read_schedstat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let sample = roots
        .parse_lines_once("schedstat", parse_schedstat)
        .map_err(|error| error.or_absent("no scheduler statistics (CONFIG_SCHEDSTATS)"))?;
    Ok(families(sample))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::parsed;

    #[test]
    fn times_are_seconds_and_domains_are_skipped() {
        let text = "version 15\ntimestamp 1\ncpu0 1 2 3 4 5 6 7000000000 500000000 9\ndomain0 3 1 2\n";
        assert_eq!(
            parsed(text, parse_schedstat).unwrap(),
            [("0".to_owned(), [7.0, 0.5, 9.0])]
        );
        assert!(parsed("cpu0 1 2 3\n", parse_schedstat).is_err());
    }
}
