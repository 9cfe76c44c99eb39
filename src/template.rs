//! Templates with `{{ $labels.x }}` and `{{ $resource }}` in strings of a rule. This module parses them; the caller
//! that fills them in decides which characters a label may contain.

use crate::labels::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    Text(String),
    /// The name of a label of the alert.
    Label(String),
    /// The resource that an allocator granted.
    Resource,
}

/// A JSON value with templates in its strings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonTemplate {
    Text(Vec<Segment>),
    Plain(Value),
    List(Vec<JsonTemplate>),
    Map(Vec<(String, JsonTemplate)>),
}

/// A missing value of a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("the alert has no label {0:?}")]
    Label(String),
    #[error("no resource was granted for `$resource`")]
    Resource,
}

/// Fills in labels and the resource; without a resource, its references stay. `encode` escapes a value for its
/// destination.
///
/// # Errors
/// When the alert lacks a label or its label is empty.
pub fn fill(
    pieces: &[Segment],
    labels: &Labels,
    resource: Option<&str>,
    encode: impl Fn(&str) -> String,
) -> Result<Vec<Segment>, Missing> {
    let filled = pieces.iter().map(|piece| match (piece, resource) {
        (Segment::Label(name), _) => match labels.get(name).filter(|value| !value.is_empty()) {
            Some(value) => Ok(Segment::Text(encode(value))),
            None => Err(Missing::Label(name.clone())),
        },
        (Segment::Resource, Some(resource)) => Ok(Segment::Text(encode(resource))),
        (Segment::Resource, None) | (Segment::Text(_), _) => Ok(piece.clone()),
    });
    filled.collect()
}

/// The string of a filled template.
///
/// # Errors
/// When a reference is not filled in.
pub fn text(pieces: &[Segment]) -> Result<String, Missing> {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Segment::Text(part) => text.push_str(part),
            Segment::Label(name) => return Err(Missing::Label(name.clone())),
            Segment::Resource => return Err(Missing::Resource),
        }
    }
    Ok(text)
}

impl JsonTemplate {
    /// Fills in every string of the value, as [`fill`].
    ///
    /// # Errors
    /// As [`fill`].
    pub fn fill(&self, labels: &Labels, resource: Option<&str>) -> Result<JsonTemplate, Missing> {
        Ok(match self {
            JsonTemplate::Text(pieces) => JsonTemplate::Text(fill(pieces, labels, resource, str::to_owned)?),
            JsonTemplate::Plain(value) => JsonTemplate::Plain(value.clone()),
            JsonTemplate::List(items) => {
                let items = items.iter().map(|item| item.fill(labels, resource));
                JsonTemplate::List(items.collect::<Result<_, _>>()?)
            }
            JsonTemplate::Map(entries) => {
                let fill_in = |(key, item): &(String, JsonTemplate)| Ok((key.clone(), item.fill(labels, resource)?));
                JsonTemplate::Map(entries.iter().map(fill_in).collect::<Result<_, _>>()?)
            }
        })
    }

    /// The value of a filled template.
    ///
    /// # Errors
    /// When a reference is not filled in.
    pub fn value(&self) -> Result<Value, Missing> {
        Ok(match self {
            JsonTemplate::Text(pieces) => Value::String(text(pieces)?),
            JsonTemplate::Plain(value) => value.clone(),
            JsonTemplate::List(items) => Value::Array(items.iter().map(JsonTemplate::value).collect::<Result<_, _>>()?),
            JsonTemplate::Map(entries) => {
                let entries = entries.iter().map(|(key, item)| Ok((key.clone(), item.value()?)));
                Value::Object(entries.collect::<Result<_, _>>()?)
            }
        })
    }

    /// Whether a string in it refers to the resource.
    pub fn wants_resource(&self) -> bool {
        match self {
            JsonTemplate::Text(pieces) => pieces.contains(&Segment::Resource),
            JsonTemplate::Plain(_) => false,
            JsonTemplate::List(items) => items.iter().any(JsonTemplate::wants_resource),
            JsonTemplate::Map(entries) => entries.iter().any(|(_, item)| item.wants_resource()),
        }
    }
}

/// An error in a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TemplateError {
    /// First character of the error, from 0, and the number of characters.
    pub offset: usize,
    pub width: usize,
    pub problem: &'static str,
}

/// Splits a string at its `{{ $labels.NAME }}` and `{{ $resource }}`.
///
/// # Errors
/// At the first `{{` that is no such reference.
pub fn parse(text: &str) -> Result<Vec<Segment>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let error = |problem, width| TemplateError {
            offset: text[..text.len() - rest.len() + start].chars().count(),
            width,
            problem,
        };
        let (fixed, tail) = rest.split_at(start);
        let end = tail.find("}}").ok_or_else(|| error("`{{` without `}}`", 2))?;
        let inner = &tail[2..end];
        let name = inner.trim().strip_prefix("$labels.").filter(|name| is_label_name(name));
        let reference = match name {
            Some(name) => Segment::Label(name.to_owned()),
            None if inner.trim() == "$resource" => Segment::Resource,
            None => {
                let problem = "only labels of the alert can be used";
                return Err(error(problem, inner.chars().count() + 4));
            }
        };
        if !fixed.is_empty() {
            pieces.push(Segment::Text(fixed.to_owned()));
        }
        pieces.push(reference);
        rest = &tail[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Segment::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Prometheus, "Data model": `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_labels_are_found() {
        let text = |text: &str| Segment::Text(text.to_owned());
        let label = |name: &str| Segment::Label(name.to_owned());
        for (template, expected) in [
            ("", vec![]),
            ("a|b{2}", vec![text("a|b{2}")]),
            ("{{ $labels.pid }}", vec![label("pid")]),
            (
                "/srv/{{$labels.a}}-{{ $labels.b_1 }}.x",
                vec![text("/srv/"), label("a"), text("-"), label("b_1"), text(".x")],
            ),
        ] {
            assert_eq!(parse(template), Ok(expected), "{template}");
        }
    }

    #[test]
    fn other_braces_are_rejected_with_their_position() {
        for (template, offset, width) in [
            ("é{{ $labels.pid", 1, 2),
            ("{{ .Labels.pid }}", 0, 17),
            ("x {{ $value }}", 2, 12),
            ("{{ $labels.1 }}", 0, 15),
            ("{{ $labels.a | toUpper }}", 0, 25),
            ("{{}}", 0, 4),
        ] {
            let error = parse(template).unwrap_err();
            assert_eq!((error.offset, error.width), (offset, width), "{template}");
        }
    }
}
