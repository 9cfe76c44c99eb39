//! The labels of the collector `ipvs`.

/// The labels that a backend may have, in the order of the exposition.
pub const BACKEND_LABELS: [&str; 6] = [
    "local_address",
    "local_port",
    "remote_address",
    "remote_port",
    "proto",
    "local_mark",
];
