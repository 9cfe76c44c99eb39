//! A group of processes as the configuration names it, and the metrics that may be chosen for it.

use crate::process::{Needs, Selector};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Metrics of a group that cost a file per process, as `process_groups: [{metrics: […]}]` names them.
pub const EXPENSIVE_METRICS: [(&str, Needs); 4] = [
    ("swap", Needs::SWAP),
    ("context_switches", Needs::CONTEXT_SWITCHES),
    ("io", Needs::IO),
    ("open_fds", Needs::OPEN_FDS),
];

/// A group without `metrics`: all but open files, the dearest by far.
pub const DEFAULT_METRICS: Needs = Needs::SWAP.and(Needs::CONTEXT_SWITCHES).and(Needs::IO);

/// Which processes are counted together, and what of them.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pub selector: Arc<Selector>,
    /// Of `EXPENSIVE_METRICS`.
    pub metrics: Needs,
}

/// The groups in force: a reload puts others in their place.
pub type Groups = Arc<ArcSwap<Vec<Group>>>;
