//! The reading of values that several steps have: templates, timeouts and JSON. The labels of the alert are filled in
//! later.

use crate::diagnostic::Findings;
use crate::schema::Kind;
use crate::template::{self, JsonTemplate, Segment};
use crate::yaml::{Content, Fields, Node, Text};
use serde_json::Value;
use std::time::Duration;

/// Longest timeout, because a request occupies a worker.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn read_template(text: &Text, findings: &mut Findings) -> Option<Vec<Segment>> {
    match template::parse(&text.value) {
        Ok(pieces) => Some(pieces),
        Err(error) => {
            let help = "write {{ $labels.NAME }}, or {{ $resource }}";
            findings.error(text.part(error.offset, error.width), error.problem, help);
            None
        }
    }
}

/// A JSON value as written in YAML: numbers and booleans stay, strings are templates.
pub(super) fn read_json_template(node: &Node, findings: &mut Findings) -> Option<JsonTemplate> {
    Some(match &node.content {
        Content::Scalar { text, plain, .. } => match (*plain, text.as_str()) {
            (true, _) if node.is_null() => JsonTemplate::Plain(Value::Null),
            (true, "true" | "false") => JsonTemplate::Plain(Value::Bool(text == "true")),
            (true, number) if is_json_number(number) => JsonTemplate::Plain(serde_json::from_str(number).ok()?),
            _ => JsonTemplate::Text(read_template(&node.text("body", &Kind::Text, findings)?, findings)?),
        },
        Content::Sequence(items) => {
            let items = items.iter().map(|item| read_json_template(item, findings));
            JsonTemplate::List(items.collect::<Option<_>>()?)
        }
        Content::Mapping(entries) => {
            let entries = entries
                .iter()
                .map(|entry| Some((entry.key.clone(), read_json_template(&entry.value, findings)?)));
            JsonTemplate::Map(entries.collect::<Option<_>>()?)
        }
    })
}

/// The same without templates.
pub fn read_json(node: &Node, findings: &mut Findings) -> Option<Value> {
    match read_json_template(node, findings)?.value() {
        Ok(value) => Some(value),
        Err(_) => {
            let help = "write the value itself";
            findings.error(node.span, "no template is allowed here", help);
            None
        }
    }
}

fn is_json_number(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit() || first == '-')
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

pub(super) fn read_timeout(fields: &Fields, findings: &mut Findings) -> Option<Duration> {
    let timeout = fields.duration("timeout", findings)?;
    if timeout.value.is_zero() || timeout.value > MAX_TIMEOUT {
        findings.error(timeout.span, "`timeout` is out of range", "more than 0s, at most 1h");
        return None;
    }
    Some(timeout.value)
}
