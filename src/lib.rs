//! evenkeel keeps a Linux host on an even keel: it senses, publishes, and acts on alerts by rule.
//!
//! Read the rooms from the top line down; each uses only rooms below it (`tests/suite/architecture.rs` holds
//! it to that). `sense -> publish` and `alert -> rule -> act -> ledger` never import each other.

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
pub mod ledger;
pub mod sense;
pub mod alert;
pub mod host;
pub mod process;
pub mod http;
pub mod telemetry;
pub mod family;
pub mod template;
pub mod labels;
pub mod yaml;
pub mod schema;
pub mod diagnostic;
pub mod terminal;
