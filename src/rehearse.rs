//! The engine rehearsed: what it would do, without doing it.

pub mod explain;
pub mod recording;
mod stage;
pub mod test;
pub mod test_file;
