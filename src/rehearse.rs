//! The engine rehearsed: what it would do, without doing it.

pub mod explain;
