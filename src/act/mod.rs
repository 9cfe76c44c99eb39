//! The steps, from a rule and the selected processes to outcomes: `plan` and `guard` decide, `apply` executes.

pub mod apply;
pub mod budget;
pub mod crowd;
pub mod descendants;
pub mod effect;
pub mod favour;
pub mod final_gate;
pub mod guard;
pub mod cgroup_limit;
pub mod plan;
pub mod restore;
pub mod memory_headroom;
mod unit;
