//! The description of a collector: its name, pace and default, and how it is built from its options.

use super::options::CollectorOptions;
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::roots::Roots;

/// When a collector is read, and on which thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// For each scrape on the sampler's thread, and every `interval` while a rule reads one of its metrics.
    Fast,
    /// For each scrape, on one thread for all of them; without scrapes every `slow_interval` while there are rules.
    Scrape,
    /// For each scrape on a thread of its own, because the source may block the reader or takes long; without scrapes
    /// every `slow_interval`.
    IsolatedScrape,
    /// Every `slow_interval`, on one thread for all of them, because a source may hang or hardly changes.
    Slow,
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
    /// Whether these options give it something to read for scrapes.
    has_sources: fn(&CollectorOptions) -> bool,
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
            has_sources: |_| true,
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

    /// A collector that no scrape waits for where the options give it nothing to read.
    pub(super) const fn with_sources(self, has_sources: fn(&CollectorOptions) -> bool) -> CollectorInfo {
        CollectorInfo { has_sources, ..self }
    }

    pub(in crate::sense) fn has_sources(&self, options: &CollectorOptions) -> bool {
        (self.has_sources)(options)
    }

    pub(in crate::sense) fn build(&self, options: &CollectorOptions) -> ReadFn {
        (self.build)(options)
    }
}
