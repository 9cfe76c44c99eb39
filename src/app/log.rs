//! Log lines on standard error, as logfmt or JSON.

use crate::cli::{Log, LogFormat, LogLevel};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for the whole process. A second call has no effect.
pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(level);
    let started = match log.format {
        LogFormat::Logfmt => {
            let logfmt = tracing_logfmt::builder()
                .with_target(false)
                .layer()
                .with_writer(std::io::stderr);
            registry.with(logfmt).try_init()
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr);
            registry.with(json).try_init()
        }
    };
    // Only tests start more than one daemon in a process; the first logger serves them all.
    drop(started);
}
