//! The frontend: a process of its own for both listeners, without privileges and files, where evenkeel is started as root.
//! `starter` starts it, `process` is what runs in it, `client` and `session` are the two ends of its channel, and
//! `supervisor` serves one frontend after the other.

mod client;
pub mod frame;
pub mod message;
pub mod process;
pub mod session;
pub mod starter;
pub mod supervisor;

/// The names in the process table.
pub use crate::host::own_processes::{FRONTEND, FRONTEND_STARTER as STARTER};
