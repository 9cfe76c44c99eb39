//! `pressure`: stall times from `/proc/pressure` (PSI, Documentation/accounting/psi.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, unlabelled_descriptors, unlabelled_families};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError, if_present, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "\
    node_pressure_cpu_waiting_seconds_total node_pressure_io_stalled_seconds_total \
    node_pressure_io_waiting_seconds_total node_pressure_irq_stalled_seconds_total \
    node_pressure_memory_stalled_seconds_total node_pressure_memory_waiting_seconds_total";

pub const INFO: CollectorInfo =
    CollectorInfo::on("pressure", Pace::Fast, "pressure stall information", METRICS, |_| {
        Box::new(read_pressure)
    });

static DESCRIPTORS: LazyLock<[Arc<Descriptor>; 6]> = LazyLock::new(|| {
    unlabelled_descriptors([
        (
            "node_pressure_cpu_waiting_seconds_total",
            "Seconds in which some task waited for a processor.",
        ),
        (
            "node_pressure_io_waiting_seconds_total",
            "Seconds in which some task waited for input or output.",
        ),
        (
            "node_pressure_memory_waiting_seconds_total",
            "Seconds in which some task waited for memory.",
        ),
        (
            "node_pressure_io_stalled_seconds_total",
            "Seconds in which every task waited for input or output.",
        ),
        (
            "node_pressure_memory_stalled_seconds_total",
            "Seconds in which every task waited for memory.",
        ),
        (
            "node_pressure_irq_stalled_seconds_total",
            "Seconds in which every task waited because of interrupts.",
        ),
    ])
});

/// Seconds since boot in which some, and in which all, tasks waited for the resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stalls {
    pub some_seconds: Option<f64>,
    pub full_seconds: Option<f64>,
}

pub fn parse_pressure(text: &str, bad: &mut BadLines) -> Result<Stalls, ParseError> {
    let mut stalls = Stalls::default();
    for line in lines(text) {
        let micros = line
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix("total="))
            .and_then(|micros| micros.parse::<u64>().ok());
        let Some(micros) = bad.keep(micros.ok_or_else(|| ParseError::missing("total=", line))) else {
            continue;
        };
        let seconds = Some(micros as f64 / 1e6);
        match line.split_ascii_whitespace().next() {
            Some("some") => stalls.some_seconds = seconds,
            Some("full") => stalls.full_seconds = seconds,
            // Later kernels may add lines.
            _ => {}
        }
    }
    if stalls == Stalls::default() {
        return Err(ParseError::File("no line begins with `some` or `full`"));
    }
    Ok(stalls)
}

pub fn read_pressure(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = |path| {
        let stalls = or_without(roots.parse_lines(path, FileLayout::Record, parse_pressure))?;
        Ok(stalls.unwrap_or_default())
    };
    let cpu: Stalls = match read("pressure/cpu") {
        Ok(stalls) => stalls,
        // With psi=0 the file exists but cannot be read.
        Err(ReadError::Io { source, .. }) if source.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
            return Err(ReadError::Absent(
                "pressure stall information switched off (psi=1 on the kernel command line)",
            ));
        }
        Err(error) => return Err(error.or_absent("no pressure stall information")),
    };
    let io = read("pressure/io")?;
    let memory = read("pressure/memory")?;
    // Since Linux 6.1, with CONFIG_IRQ_TIME_ACCOUNTING.
    let irq = if_present(read("pressure/irq"))?.unwrap_or_default();
    // The system-wide `full` line of cpu is always 0.
    let stalled = [io.full_seconds, memory.full_seconds, irq.full_seconds];
    let waiting = [cpu, io, memory].map(|stalls| stalls.some_seconds);
    Ok(unlabelled_families(&*DESCRIPTORS, waiting.into_iter().chain(stalled)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn stall_times_are_seconds() {
        let tree = Tree::new();
        for resource in ["cpu", "io", "memory"] {
            let full = if resource == "cpu" {
                ""
            } else {
                "full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
            };
            let some = "some avg10=0.10 avg60=0.00 avg300=0.00 total=2500000\n";
            tree.proc(&format!("pressure/{resource}"), format!("{some}{full}"));
        }
        assert_eq!(text_of(&read_pressure(&tree.roots).unwrap(), "irq"), [""; 0]);
        tree.proc("pressure/irq", "full avg10=0.00 avg60=0.00 avg300=0.00 total=8494\n");
        let families = read_pressure(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "cpu"),
            ["node_pressure_cpu_waiting_seconds_total 2.5"]
        );
        assert_eq!(
            text_of(&families, "irq"),
            ["node_pressure_irq_stalled_seconds_total 0.008494"]
        );
        assert_eq!(
            text_of(&families, "io_"),
            [
                "node_pressure_io_waiting_seconds_total 2.5",
                "node_pressure_io_stalled_seconds_total 0.5"
            ]
        );
    }

    #[test]
    fn missing_psi_is_absent() {
        assert!(matches!(read_pressure(&Tree::new().roots), Err(ReadError::Absent(_))));
    }
}
