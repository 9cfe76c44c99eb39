//! Processes: their identity, their state, and the selectors that match them. This layer reads /proc and changes
//! nothing.

pub mod timed_calls;
pub mod candidate;
pub mod captures;
pub mod cgroup;
pub mod command_lines;
pub mod cpu_baseline;
pub mod file_id;
pub mod identity;
pub mod kernel_threads;
mod live_thread;
pub mod login;
pub mod consistent_read;
pub mod proc_dir;
pub mod owner;
pub mod pattern;
pub mod fields;
pub mod program;
pub mod protection;
mod read;
pub mod selector;
pub mod table;
pub mod target;
pub mod tree;
pub mod user_names;

pub use candidate::Candidate;
pub use cgroup::Cgroup;
pub use fields::{Details, Process, ProcessFields, Unread, Usage};
pub use file_id::FileId;
pub use identity::{BootId, Identity, Thread};
pub use selector::Selector;
pub use target::{CgroupIdentity, Target};
pub use tree::ProcessTree;
