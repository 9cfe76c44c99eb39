//! The host: what can be set on its processes, and the one place where it is set.

pub mod knob;
