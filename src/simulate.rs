//! The engine rehearsed: what it would do, without doing it.

pub mod explain;
pub mod recording;
mod harness;
pub mod test;
pub mod test_file;
