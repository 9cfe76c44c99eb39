//! From a rule and the processes that it selects to outcomes: plan and guard decide, apply obeys.

pub mod apply;
pub mod descent;
pub mod effect;
pub mod guard;
pub mod plan;
pub mod restore;
