//! The reader of a YAML file that others define: its errors with their lines, and the types that rule files and
//! unit-test files share.

use super::duration::parse_ms;
use super::yaml_path::{LineLookup, YamlPath};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::yaml::{self, Unread};
use serde::de::{DeserializeOwned, Error as _, Unexpected};
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

/// A string that may be written as a number or a boolean, as in `severity: 1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |found| Err(D::Error::invalid_type(found, &"a string"));
        match Unread::deserialize(deserializer)? {
            Unread::String(text) => Ok(Scalar(text)),
            Unread::Bool(value) => Ok(Scalar(value.to_string())),
            Unread::Number(number) => Ok(Scalar(match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => number.to_string(),
                (None, Some(number)) => number.to_string(),
                (None, None) => number.as_f64().unwrap_or(f64::NAN).to_string(),
            })),
            Unread::Null => Err(D::Error::custom("expected a string, found nothing")),
            Unread::Sequence(_) => wrong(Unexpected::Seq),
            Unread::Mapping(_) => wrong(Unexpected::Map),
            Unread::Tagged(_) => wrong(Unexpected::Enum),
        }
    }
}

/// A duration within a test file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DurationMs(pub i64);

impl<'de> Deserialize<'de> for DurationMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Scalar(text) = Scalar::deserialize(deserializer)?;
        parse_ms(&text).map(DurationMs).map_err(D::Error::custom)
    }
}

/// A value that is empty where YAML has null, as Go reads it.
pub(super) fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Collects the errors of one file.
pub(super) struct Reader {
    lines: LineLookup,
    pub errors: Vec<RuleError>,
}

impl Reader {
    pub fn new(file: &str, text: &str) -> Self {
        Reader {
            lines: LineLookup::new(SourceText::new(file, text)),
            errors: Vec::new(),
        }
    }

    pub fn error(&mut self, at: &YamlPath, message: String, hint: Option<String>) {
        let line = self.lines.line(at);
        self.report(line, message, hint);
    }

    pub fn report(&mut self, line: Option<usize>, message: String, hint: Option<String>) {
        self.errors.push(RuleError {
            file: self.lines.source().name().into(),
            line,
            message,
            hint,
        });
    }

    /// The content of the file, which is one document.
    pub fn whole<T: DeserializeOwned>(&mut self) -> Option<T> {
        let content = yaml::from_str(self.lines.source());
        self.readable(content)
    }

    /// All documents of the file.
    pub fn documents(&mut self) -> Option<Vec<Unread>> {
        let documents = yaml::documents(self.lines.source());
        self.readable(documents)
    }

    fn readable<T>(&mut self, result: Result<T, Box<Diagnostic>>) -> Option<T> {
        result
            .map_err(|found| self.report(found.span.map(|span| span.line), found.message, None))
            .ok()
    }

    pub fn part<T: DeserializeOwned>(&mut self, part: Unread, at: &YamlPath, what: &str) -> Option<T> {
        yaml::from_part(part)
            .map_err(|error| self.error(at, format!("{what}: {error}"), None))
            .ok()
    }

    pub fn duration(&mut self, text: Option<Scalar>, at: &YamlPath) -> Option<i64> {
        parse_ms(&text?.0)
            .map_err(|error| self.error(at, error.to_string(), None))
            .ok()
    }
}
