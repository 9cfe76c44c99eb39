//! Alerts as data, how they are recognised, and how they arrive from Alertmanager.

pub mod alert;

pub use alert::{Alert, Labels, Source, Status};
