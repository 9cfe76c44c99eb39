//! The YAML layer: a tree with positions, a reader that collects all errors, and serde for the formats of other
//! programs. Only this module uses a YAML crate.

mod node;
mod read;
mod scalar;

pub use node::{Content, Entry, Node, parse, parse_all};
pub use read::{Fields, Text};
pub use scalar::{DurationError, SizeError, parse_duration, parse_milliseconds, parse_size, size_text};
/// An unparsed part of a foreign format. Parsing it separately keeps an error in it from hiding errors in other parts.
pub use serde_yaml::Value as Unread;

use crate::diagnostic::{Diagnostic, Severity, SourceText, Span};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads a foreign format (unit-test files, `alertmanager.yml`), with aliases and merge keys (`<<`) resolved.
///
/// # Errors
/// The first error, with its position if the parser knows it.
pub fn from_str<T: DeserializeOwned>(source: &SourceText) -> Result<T, Box<Diagnostic>> {
    let text = source.text();
    let merged = serde_yaml::from_str(text).and_then(merged);
    merged.and_then(serde_yaml::from_value).map_err(|error| {
        // Values have no positions. The text has, but without the keys that were merged.
        let placed = serde_yaml::from_str::<T>(text).err().filter(|_| !text.contains("<<"));
        diagnose(source, &placed.unwrap_or(error))
    })
}

/// Reads all documents of a foreign format, with aliases and merge keys (`<<`) resolved. An empty document is null.
///
/// # Errors
/// The first error, with its position if the parser knows it.
pub fn documents(source: &SourceText) -> Result<Vec<Unread>, Box<Diagnostic>> {
    let documents = serde_yaml::Deserializer::from_str(source.text());
    let documents = documents.map(|document| Unread::deserialize(document).and_then(merged));
    documents
        .collect::<Result<_, serde_yaml::Error>>()
        .map_err(|error| diagnose(source, &error))
}

fn merged(mut content: Unread) -> Result<Unread, serde_yaml::Error> {
    content.apply_merge()?;
    Ok(content)
}

fn diagnose(source: &SourceText, error: &serde_yaml::Error) -> Box<Diagnostic> {
    let message = error.to_string();
    let Some(place) = error.location() else {
        return Box::new(Diagnostic::of_file(Severity::Error, source.name(), message, ""));
    };
    let suffix = format!(" at line {} column {}", place.line(), place.column());
    let span = Span {
        line: place.line().max(1),
        column: place.column().max(1),
        width: 1,
    };
    Box::new(source.diagnose(Severity::Error, span, message.replacen(&suffix, "", 1), ""))
}

/// A mistake in a part of a format that others define.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PartError(#[from] serde_yaml::Error);

/// Reads a part of a foreign format.
///
/// # Errors
/// The first error, without its position, which only the caller knows.
pub fn from_part<T: DeserializeOwned>(part: Unread) -> Result<T, PartError> {
    Ok(serde_yaml::from_value(part)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn foreign_formats_report_their_place() {
        let read = |text: &str| from_str::<BTreeMap<String, u8>>(&SourceText::new("x.yml", text));
        assert_eq!(read("a: 1\nb: 2\n").unwrap().len(), 2);
        let error = read("a: 1\nb: x\n").unwrap_err();
        assert_eq!(
            error.span,
            Some(Span {
                line: 2,
                column: 4,
                width: 1
            })
        );
        assert!(error.message.contains("expected u8"), "{}", error.message);
        assert!(!error.message.contains("line"), "{}", error.message);
    }
}
