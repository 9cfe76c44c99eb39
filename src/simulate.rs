//! Simulations of the engine, which show its decisions without changing the host.

pub mod explain;
pub mod recording;
mod harness;
pub mod test;
pub mod test_file;
