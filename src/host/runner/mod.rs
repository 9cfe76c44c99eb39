//! The runner: the process that runs commands and sends requests to allocators. It exists where a rule or a lease needs
//! it, so that evenkeel itself can give up what commands need.

pub mod channel;
mod client;
mod process;

pub use channel::StartedRunner;
pub use client::RunnerClient;
pub use process::{Role, start};
