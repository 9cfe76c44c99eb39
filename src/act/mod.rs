//! From a rule and the processes that it selects to outcomes: plan and guard decide, apply obeys.

pub mod apply;
pub mod guard;
pub mod limit;
pub mod plan;
