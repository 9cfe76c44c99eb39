//! The format of the log: logfmt or JSON, with the field names of Prometheus and node_exporter.

use super::log_queue::{LogQueue, WaitingLines};
use crate::cli::{Log, LogFormat, LogLevel};
use crate::telemetry::Telemetry;
use serde_json::Value;
use std::fmt::{Debug, Result, Write};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Maximum wait at the end of a process for the reader of the log.
pub const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of the process.
pub struct ProcessLog {
    queue: LogQueue,
    /// The lines of the start, until they are written.
    waiting: Option<WaitingLines>,
}

impl ProcessLog {
    /// Starts the thread that writes the lines to standard error, unless it runs.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn write(&mut self) -> std::io::Result<()> {
        if let Some(waiting) = &self.waiting {
            waiting.start(std::io::stderr())?;
        }
        self.waiting = None;
        Ok(())
    }

    /// Waits until the lines so far are written, and for at most [`LAST_LINES`]. Before [`ProcessLog::write`] it writes
    /// them itself, which may block.
    pub fn flush(&self) {
        match &self.waiting {
            Some(waiting) => waiting.write(std::io::stderr()),
            None => self.queue.flush(LAST_LINES),
        }
    }
}

/// Begins to log for the whole process. The lines wait until [`ProcessLog::write`] is called.
pub fn start(log: &Log, telemetry: &Telemetry) -> ProcessLog {
    let level = match log.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let (queue, waiting) = LogQueue::new(telemetry.clone());
    let writer = queue.clone();
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LineFormat(log.format))
        .with_writer(move || writer.clone());
    tracing_subscriber::registry().with(level).with(lines).init();
    // The default hook writes to standard error itself, and would wait for a stalled reader.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(
            thread = thread.name().unwrap_or_default(),
            location,
            reason = message,
            "panic"
        );
    }));
    ProcessLog {
        queue,
        waiting: Some(waiting),
    }
}

/// Formats an event as one line.
struct LineFormat(LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> Result {
        let mut fields = Fields(vec![
            ("ts", format!("{:.3}", jiff::Timestamp::now()).into()),
            ("level", level(event.metadata().level()).into()),
        ]);
        event.record(&mut fields);
        match self.0 {
            LogFormat::Logfmt => write_logfmt(writer, &fields.0),
            LogFormat::Json => write_json(writer, &fields.0),
        }
    }
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The fields of one event, in the order in which they are written.
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// The message comes right after the level, because a reader looks for it there.
    fn push(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.0.insert(2, ("msg", value)),
            "error" => self.0.push(("err", value)),
            name => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }
}

fn write_logfmt(mut writer: impl Write, fields: &[(&str, Value)]) -> Result {
    for (index, (name, value)) in fields.iter().enumerate() {
        let separator = if index == 0 { "" } else { " " };
        match value {
            Value::String(text) if !needs_quotes(text) => write!(writer, "{separator}{name}={text}")?,
            value => write!(writer, "{separator}{name}={value}")?,
        }
    }
    writeln!(writer)
}

fn needs_quotes(text: &str) -> bool {
    let is_special = |c: char| c <= ' ' || matches!(c, '=' | '"' | '\\') || c.is_control();
    text.is_empty() || text.contains(is_special)
}

fn write_json(mut writer: impl Write, fields: &[(&str, Value)]) -> Result {
    for (index, (name, value)) in fields.iter().enumerate() {
        let separator = if index == 0 { "{" } else { "," };
        write!(writer, "{separator}\"{name}\":{value}")?;
    }
    writeln!(writer, "}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// The line that `log` writes, without the time, which must have three decimals of a second.
    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = tracing_subscriber::fmt::layer()
            .event_format(LineFormat(format))
            .with_writer(Sink(Arc::clone(&written)).into_make());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").unwrap();
        assert!(time.is_match(&text), "{text}");
        time.replace_all(&text, "NOW").into_owned()
    }

    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn into_make(self) -> impl Fn() -> Sink {
            move || self.clone()
        }
    }

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn event() {
        let error = std::io::Error::other("no such \"file\"\nor folder");
        tracing::warn!(%error, rule = "calm", empty = "", leases = 2, acts = true, "config not reloaded");
    }

    #[test]
    fn logfmt_has_the_field_names_of_prometheus() {
        assert_eq!(
            logged(LogFormat::Logfmt, event),
            "ts=NOW level=warn msg=\"config not reloaded\" err=\"no such \\\"file\\\"\\nor folder\" rule=calm empty=\"\" \
             leases=2 acts=true\n"
        );
    }

    #[test]
    fn json_has_the_same_fields_in_the_same_order() {
        assert_eq!(
            logged(LogFormat::Json, event),
            "{\"ts\":\"NOW\",\"level\":\"warn\",\"msg\":\"config not reloaded\",\"err\":\"no such \\\"file\\\"\\nor \
             folder\",\"rule\":\"calm\",\"empty\":\"\",\"leases\":2,\"acts\":true}\n"
        );
    }
}
