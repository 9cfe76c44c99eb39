//! A group of processes as `process_groups` of the configuration defines it, and its optional metrics.

use crate::process::{ProcessFields, Selector};
use arc_swap::ArcSwap;
use std::sync::Arc;

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

/// A selector of processes and the metrics of the group.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pub selector: Arc<Selector>,
    /// A subset of `EXPENSIVE_METRICS`.
    pub metrics: ProcessFields,
}

/// The current groups; a reload replaces them.
pub type Groups = Arc<ArcSwap<Vec<Group>>>;
