//! The names of evenkeel's other processes in the process table. No rule may touch these processes.

pub const RUNNER_STARTER: &str = "evenkeel-start";
pub const RUNNER: &str = "evenkeel-runner";
pub const FRONTEND_STARTER: &str = "evenkeel-fstart";
pub const FRONTEND: &str = "evenkeel-front";

/// Each child of evenkeel and the child of that one.
pub const LINES: [(&str, &str); 2] = [(RUNNER_STARTER, RUNNER), (FRONTEND_STARTER, FRONTEND)];
