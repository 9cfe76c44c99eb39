//! The description of a collector: its name, pace and default, and how it is built from its options.

use super::options::CollectorOptions;
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::roots::Roots;

/// How often a collector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// For each scrape, and every `interval` while a rule reads one of its metrics.
    Fast,
    /// Every `slow_interval`, on one thread for all of them, so that a slow driver delays no fast sample.
    Slow,
    /// Every `slow_interval` on a thread of its own, because the source may block the reader for long.
    Isolated,
}

/// Reads the files of a collector and builds its families. The closure owns the state between two reads.
pub(in crate::sense) type ReadFn = Box<dyn FnMut(&Roots) -> Result<Vec<Family>, ReadError> + Send>;

/// A collector as flags, documentation and sampler need it.
pub struct CollectorInfo {
    /// node_exporter's name, as in `--collector.NAME` and the label `collector`.
    pub name: &'static str,
    pub pace: Pace,
    pub default_on: bool,
    /// One line for `--help`.
    pub help: &'static str,
    /// Names of the published metrics, separated by spaces. `node_vmstat_*` stands for any name with that prefix,
    /// because the kernel or a driver chooses the rest.
    pub metrics: &'static str,
    build: fn(&CollectorOptions) -> ReadFn,
}

impl CollectorInfo {
    /// A collector that is on by default.
    pub(super) const fn on(
        name: &'static str,
        pace: Pace,
        help: &'static str,
        metrics: &'static str,
        build: fn(&CollectorOptions) -> ReadFn,
    ) -> CollectorInfo {
        CollectorInfo {
            name,
            pace,
            default_on: true,
            help,
            metrics,
            build,
        }
    }

    /// A collector that is off by default, as in node_exporter, because it is expensive or has many series.
    pub(super) const fn off(
        name: &'static str,
        pace: Pace,
        help: &'static str,
        metrics: &'static str,
        build: fn(&CollectorOptions) -> ReadFn,
    ) -> CollectorInfo {
        CollectorInfo {
            default_on: false,
            ..CollectorInfo::on(name, pace, help, metrics, build)
        }
    }

    pub(in crate::sense) fn build(&self, options: &CollectorOptions) -> ReadFn {
        (self.build)(options)
    }
}
