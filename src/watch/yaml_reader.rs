//! The reader of a YAML file that others define: its errors with their lines, and the types that rule files and
//! unit-test files share.

use super::duration::parse_ms;
use super::yaml_place::Place;
use crate::diagnostic::{Diagnostic, SourceText};
use crate::yaml::{self, Node};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// An error in a rule file or a unit-test file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}{}", .line.map(|line| format!(":{line}")).unwrap_or_default(),
    .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct RuleError {
    pub file: String,
    /// Counted from one.
    pub line: Option<usize>,
    pub message: String,
    /// The correction.
    pub hint: Option<String>,
}

/// A duration within a test file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DurationMs(pub i64);

impl<'de> Deserialize<'de> for DurationMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let milliseconds = text.map_or(Ok(0), |text| parse_ms(&text));
        milliseconds.map(DurationMs).map_err(D::Error::custom)
    }
}

/// Collects the errors of one file.
pub(super) struct Reader {
    source: SourceText,
    pub errors: Vec<RuleError>,
}

impl Reader {
    pub fn new(file: &str, text: &str) -> Self {
        Reader {
            source: SourceText::new(file, text),
            errors: Vec::new(),
        }
    }

    pub fn error(&mut self, at: Place, message: String, hint: Option<String>) {
        self.report(at.line, message, hint);
    }

    fn report(&mut self, line: Option<usize>, message: String, hint: Option<String>) {
        self.errors.push(RuleError {
            file: self.source.name().into(),
            line,
            message,
            hint,
        });
    }

    /// The content of the file, which is one document.
    pub fn document(&mut self) -> Option<Node> {
        let document = yaml::document(&self.source);
        self.readable(document)
    }

    /// All documents of the file.
    pub fn documents(&mut self) -> Option<Vec<Node>> {
        let documents = yaml::documents(&self.source);
        self.readable(documents)
    }

    fn readable<T>(&mut self, result: Result<T, Box<Diagnostic>>) -> Option<T> {
        result
            .map_err(|found| self.report(found.span.map(|span| span.line), found.message, found.help))
            .ok()
    }

    /// Reads a part of the file; `about` begins the message of an error.
    pub fn part<T: DeserializeOwned>(&mut self, part: &Node, about: &str) -> Option<T> {
        yaml::from_node(part)
            .map_err(|error| self.report(error.span.map(|span| span.line), format!("{about}{error}"), None))
            .ok()
    }

    pub fn duration(&mut self, text: Option<&str>, at: Place) -> Option<i64> {
        parse_ms(text?)
            .map_err(|error| self.error(at, error.to_string(), None))
            .ok()
    }
}
