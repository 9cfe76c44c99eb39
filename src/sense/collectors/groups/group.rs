//! Groups of processes as the configuration defines them: selectors of `process_groups`, matchers of process-exporter's
//! file, and the options of both.

use super::name_matcher::NameMatcher;
use super::name_template::NameTemplate;
use crate::process::{ProcessFields, Selector};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

/// Metrics of a group that cost a file per process, as `process_groups: [{metrics: […]}]` names them.
pub const EXPENSIVE_METRICS: [(&str, ProcessFields); 4] = [
    ("swap", ProcessFields::SWAP),
    ("context_switches", ProcessFields::CONTEXT_SWITCHES),
    ("io", ProcessFields::IO),
    ("open_fds", ProcessFields::OPEN_FDS),
];

/// The metrics of a group without `metrics`: all but open files, which are the most expensive by far.
pub const DEFAULT_METRICS: ProcessFields = ProcessFields::SWAP
    .union(ProcessFields::CONTEXT_SWITCHES)
    .union(ProcessFields::IO);

/// The group, and the name of threads, that counts what lacks a name of its own.
pub const OTHER: &str = "other";

bitflags::bitflags! {
    /// Metrics of a group that cost several files per process.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ExtraMetrics: u8 {
        /// Families of threads by their names.
        const THREADS = 1 << 0;
        /// Proportional memory.
        const SMAPS = 1 << 1;
        /// The kernel functions in which threads wait, and states and context switches of all threads.
        const WAITS = 1 << 2;
    }
}

/// The extra metrics for which each thread is read.
pub const EACH_THREAD: ExtraMetrics = ExtraMetrics::THREADS.union(ExtraMetrics::WAITS);

/// The extra metrics by the names that `metrics` uses.
pub const EXTRA_METRICS: [(&str, ExtraMetrics); 2] =
    [("threads", ExtraMetrics::THREADS), ("smaps", ExtraMetrics::SMAPS)];

/// A selector of processes and the metrics of the group.
#[derive(Debug, Clone)]
pub struct Group {
    /// The name as written.
    pub name: String,
    /// The parsed name, where each process has its own.
    pub template: Option<Arc<NameTemplate>>,
    pub selector: Arc<Selector>,
    /// A subset of `EXPENSIVE_METRICS`.
    pub metrics: ProcessFields,
    /// A subset of `EXTRA_METRICS`.
    pub extra: ExtraMetrics,
}

/// The options of all groups: `grouping` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Whether a process belongs only to the first group that selects it.
    pub first_match: bool,
    /// Whether the metrics have evenkeel's names.
    pub own_names: bool,
    /// Whether the metrics have process-exporter's names.
    pub exporter_names: bool,
    /// Maximum number of groups whose names templates made.
    pub max_groups: usize,
    /// Maximum number of names of threads.
    pub max_thread_names: usize,
    /// Whether a group whose name a template made is forgotten once its last process has ended.
    pub remove_empty: bool,
}

impl Default for Grouping {
    fn default() -> Self {
        Grouping {
            first_match: false,
            own_names: true,
            exporter_names: false,
            max_groups: 1000,
            max_thread_names: 1000,
            remove_empty: false,
        }
    }
}

/// process-exporter's file, and its flags.
#[derive(Debug, Clone)]
pub struct ExporterGroups {
    /// The text of the file, with which a reload finds whether it has changed.
    pub source: Arc<str>,
    /// The first that matches counts.
    pub matchers: Vec<NameMatcher>,
    pub options: ExporterOptions,
}

/// The flags of process-exporter with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExporterOptions {
    /// Whether a process without a group of its own belongs to that of its parent.
    pub children: bool,
    pub threads: bool,
    pub gather_smaps: bool,
    /// Whether processes without a group are matched again at each read, and until which age.
    pub recheck: Option<Duration>,
    pub remove_empty_groups: bool,
}

impl Default for ExporterOptions {
    fn default() -> Self {
        ExporterOptions {
            children: true,
            threads: true,
            gather_smaps: true,
            recheck: None,
            remove_empty_groups: false,
        }
    }
}

impl ExporterOptions {
    /// What the families of the file's groups need beside `EXPENSIVE_METRICS`.
    pub fn extra(&self) -> ExtraMetrics {
        let mut extra = ExtraMetrics::WAITS;
        extra.set(ExtraMetrics::THREADS, self.threads);
        extra.set(ExtraMetrics::SMAPS, self.gather_smaps);
        extra
    }
}

/// Everything that the collector needs of the configuration.
#[derive(Debug, Clone, Default)]
pub struct GroupConfig {
    pub groups: Vec<Group>,
    pub grouping: Grouping,
    pub exporter: Option<ExporterGroups>,
}

impl ExporterGroups {
    /// Whether both decide the same about each process.
    pub fn is_same(&self, other: &ExporterGroups) -> bool {
        self.source == other.source && self.options == other.options
    }
}

impl GroupConfig {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.exporter.is_none()
    }
}

impl From<Vec<Group>> for GroupConfig {
    fn from(groups: Vec<Group>) -> Self {
        GroupConfig {
            groups,
            ..GroupConfig::default()
        }
    }
}

/// The current groups; a reload replaces them.
pub type Groups = Arc<ArcSwap<GroupConfig>>;
