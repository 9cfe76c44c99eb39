//! From a rule and the processes that it selects to outcomes: plan and guard decide, apply obeys. What an allocator or
//! a command is asked, and what its answer means, is decided in `allocate` and `command`.

pub mod allocate;
pub mod apply;
pub mod command;
pub mod descendants;
pub mod effect;
pub mod guard;
pub mod limit;
pub mod plan;
pub mod restore;
pub mod room;
mod unit;
