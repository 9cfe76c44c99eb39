//! Processes: their identity, their state, and the selectors that match them. This layer reads /proc and changes
//! nothing.

pub mod bounded;
pub mod candidate;
pub mod cgroup;
pub mod file_id;
pub mod identity;
pub mod kernel_threads;
mod look;
pub mod tree;
pub mod open;
pub mod pattern;
pub mod protection;
mod read;
pub mod selector;
pub mod table;
pub mod target;

pub use candidate::Candidate;
pub use cgroup::{Cgroup, Members};
pub use file_id::FileId;
pub use identity::{BootId, Identity, Thread};
pub use selector::Selector;
pub use table::{Details, Process, ProcessFields, Unread, Usage};
pub use target::{CgroupIdentity, Target};
pub use tree::ProcessTree;
