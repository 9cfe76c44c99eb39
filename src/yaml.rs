//! The YAML layer: a tree with positions, a reader that collects all errors, and serde for the formats of other
//! programs. Only this module uses a YAML crate.

mod foreign;
mod lenient;
mod merge;
mod node;
mod parse;
mod read;
mod scalar;

pub use foreign::{PartError, from_node};
pub use node::{Content, Entry, Node};
pub use parse::{parse, parse_all};
pub use read::{Fields, Text};
pub use scalar::{DurationError, SizeError, parse_duration, parse_milliseconds, parse_size, size_text};

use crate::diagnostic::{Diagnostic, Findings, Severity, SourceText, Span};
use serde::de::DeserializeOwned;

/// Reads a foreign format of one document, with aliases and merge keys (`<<`) resolved. An empty file is null.
///
/// # Errors
/// The first error, with its position if the file is YAML 1.2.
pub fn from_str<T: DeserializeOwned>(source: &SourceText) -> Result<T, Box<Diagnostic>> {
    from_node(&document(source)?).map_err(|PartError { message, span }| diagnose(source, span, message))
}

/// The only document of a foreign format, with aliases and merge keys (`<<`) resolved. An empty file is null.
///
/// # Errors
/// The first error, with its position.
pub fn document(source: &SourceText) -> Result<Node, Box<Diagnostic>> {
    let mut documents = documents(source)?.into_iter();
    let first = documents.next().unwrap_or_else(Node::null);
    match documents.next() {
        None => Ok(first),
        Some(second) => Err(diagnose(
            source,
            second.place(),
            "a second document in one file".to_owned(),
        )),
    }
}

/// All documents of a foreign format, with aliases and merge keys (`<<`) resolved. An empty document is null.
///
/// # Errors
/// The first error, with its position.
pub fn documents(source: &SourceText) -> Result<Vec<Node>, Box<Diagnostic>> {
    let mut findings = Findings::new(source);
    let mut documents = match parse_all(&mut findings) {
        Some(documents) => documents,
        None => match lenient::parse_all(source.text()) {
            Some(documents) => {
                findings = Findings::new(source);
                documents
            }
            None => Vec::new(),
        },
    };
    documents
        .iter_mut()
        .for_each(|document| merge::merge(document, &mut findings));
    let error = findings.into_diagnostics().into_iter().next();
    error.map_or(Ok(documents), |error| Err(Box::new(error)))
}

fn diagnose(source: &SourceText, span: Option<Span>, message: String) -> Box<Diagnostic> {
    Box::new(match span {
        Some(span) => source.diagnose(Severity::Error, span, message, ""),
        None => Diagnostic::of_file(Severity::Error, source.name(), message, ""),
    })
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
