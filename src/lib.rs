//! evenkeel, a Prometheus exporter for Linux hosts that applies rules to alerts.
//!
//! The modules are layers, top first; each uses only layers below it, which `tests/suite/architecture.rs` checks.
//! `sense -> publish` and `alert -> rule -> act -> ledger` never import each other.

pub mod show;
pub mod app;
pub mod cli;
pub mod control;
pub mod simulate;
pub mod config;
pub mod engine;
pub mod act;
pub mod publish;
pub mod watch;
pub mod rule;
pub mod step;
pub mod ledger;
pub mod storage;
pub mod sense;
pub mod alert;
pub mod host;
pub mod knob;
pub mod process;
pub mod http;
pub mod telemetry;
pub mod family;
pub mod template;
pub mod labels;
pub mod yaml;
pub mod schema;
pub mod diagnostic;
pub mod permissions;
pub mod sandbox;
pub mod terminal;
