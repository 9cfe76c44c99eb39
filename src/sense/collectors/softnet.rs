//! `softnet`: packets that each processor received, from `/proc/net/softnet_stat`.

use super::info::{CollectorInfo, Pace};
use crate::family::{DescriptorCache, Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_softnet_backlog_len node_softnet_cpu_collision_total node_softnet_dropped_total \
    node_softnet_flow_limit_count_total node_softnet_processed_total node_softnet_received_rps_total \
    node_softnet_times_squeezed_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "softnet",
    Pace::Fast,
    "packets taken by each processor",
    METRICS,
    |_| {
        let mut softnet = Softnet::default();
        Box::new(move |roots| softnet.read(roots))
    },
);

/// Column with the processor of a line, since Linux 5.14; offline processors have no line.
const CPU_COLUMN: usize = 12;

/// Column, metric, help. Older kernels lack the later columns, which are 0 then, as in node_exporter.
const COLUMNS: [(usize, &str, &str); 7] = [
    (
        0,
        "node_softnet_processed_total",
        "Packets that a processor took from network devices.",
    ),
    (
        1,
        "node_softnet_dropped_total",
        "Packets dropped because a processor's queue was full.",
    ),
    (
        2,
        "node_softnet_times_squeezed_total",
        "Times that a processor ran out of budget with packets left.",
    ),
    (
        8,
        "node_softnet_cpu_collision_total",
        "Times that a processor had to wait for a device to send.",
    ),
    (
        9,
        "node_softnet_received_rps_total",
        "Times that another processor woke this one for packets.",
    ),
    (
        10,
        "node_softnet_flow_limit_count_total",
        "Packets dropped because their flow had too many.",
    ),
    (11, "node_softnet_backlog_len", "Packets in a processor's queue."),
];

/// Columns that every kernel has.
const LEAST_COLUMNS: usize = 3;

/// Processor, and its counts in the order of the table.
pub fn parse_softnet(text: &str, bad: &mut BadLines) -> Result<Vec<(u64, [f64; 7])>, ParseError> {
    let lines = lines(text).enumerate();
    Ok(lines
        .filter_map(|(index, line)| bad.keep(parse_processor(index, line)))
        .collect())
}

fn parse_processor(index: usize, line: &str) -> Result<(u64, [f64; 7]), ParseError> {
    let columns = line
        .split_ascii_whitespace()
        .map(|field| u64::from_str_radix(field, 16));
    let columns = columns
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ParseError::text(line, "is not hexadecimal"))?;
    if columns.len() < LEAST_COLUMNS {
        return Err(ParseError::text(line, "is too short"));
    }
    let cpu = columns.get(CPU_COLUMN).copied().unwrap_or(index as u64);
    let counts = COLUMNS.map(|(column, ..)| columns.get(column).copied().unwrap_or_default() as f64);
    Ok((cpu, counts))
}

fn describe(processors: &[u64]) -> [Family; 7] {
    let mut families = COLUMNS.map(|(_, name, help)| Family::counter_or_gauge(name, help));
    for cpu in processors {
        let label = || [label("cpu", cpu.to_string())];
        families.iter_mut().for_each(|family| family.push(label(), 0.0));
    }
    families
}

/// The state between two reads.
#[derive(Default)]
pub struct Softnet(DescriptorCache<u64>);

impl Softnet {
    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let sample = roots.parse_lines("net/softnet_stat", FileLayout::Rows, parse_softnet)?;
        let (processors, counts): (Vec<u64>, Vec<[f64; 7]>) = sample.into_iter().unzip();
        let descriptors = self.0.descriptors(processors, describe).iter().enumerate();
        Ok(descriptors
            .map(|(column, descriptor)| descriptor.family(counts.iter().map(|row| row[column])))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::parsed;

    #[test]
    fn processor_is_column_or_line_number() {
        let old = "0000000a 00000001 00000002 0 0 0 0 0 0 0 0\n".repeat(2);
        assert_eq!(
            parsed(&old, parse_softnet).unwrap(),
            [0, 1].map(|cpu| (cpu, [10.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]))
        );
        assert_eq!(
            parsed("1 2 3 0 0 0 0 0 4 5 6 8 7 0 0\n", parse_softnet).unwrap(),
            [(7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])]
        );
        for bad in ["1 2\n", "1 2 z\n"] {
            assert!(parsed(bad, parse_softnet).is_err(), "{bad:?}");
        }
    }
}
