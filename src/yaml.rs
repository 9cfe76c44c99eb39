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
pub use parse::{Unread, parse, parse_all};
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
    let mut refusal = String::new();
    let mut documents = match parse_all(&mut findings) {
        Ok(documents) => documents,
        // The other reader has no such bounds.
        Err(Unread::Refused) => Vec::new(),
        Err(Unread::Syntax) => match lenient::parse_all(source.text()) {
            Ok(documents) => {
                findings = Findings::new(source);
                documents
            }
            Err(why) => {
                refusal = why;
                Vec::new()
            }
        },
    };
    documents
        .iter_mut()
        .for_each(|document| merge::merge(document, &mut findings));
    match findings.into_diagnostics().into_iter().next() {
        None => Ok(documents),
        Some(mut error) => {
            let help = error
                .help
                .into_iter()
                .chain(Some(refusal).filter(|refusal| !refusal.is_empty()));
            error.help = help.reduce(|first, second| format!("{first}; {second}"));
            Err(Box::new(error))
        }
    }
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

    fn message(text: &str) -> String {
        let error = documents(&SourceText::new("x.yml", text)).unwrap_err();
        format!("{}: {}", error.place(), error.message)
    }

    #[test]
    fn what_exceeds_a_bound_is_read_by_no_other_reader() {
        let aliases = |name: &str, count| vec![name; count].join(", ");
        let text = format!("a: &a [{}]\nb: [{}]\n", aliases("x", 1000), aliases("*a", 500));
        assert_eq!(message(&text), "x.yml:2:1593: more than 400000 values in one file");
        let text = format!("{}x{}\n", "[".repeat(40), "]".repeat(40));
        assert_eq!(message(&text), "x.yml:1:33: nested deeper than 32 levels");
    }

    #[test]
    fn texts_that_aliases_repeat_are_bounded() {
        let text = format!("a: &a {}\nb:\n{}", "x".repeat(1 << 20), "- *a\n".repeat(20));
        assert_eq!(message(&text), "x.yml:16:3: more than 16 MiB of text in one file");
        let text = format!("{}: &a 1\nb: &b {{{}: 1}}\nc: [", "x".repeat(9), "x".repeat(1 << 20));
        let text = format!("{text}{}]\n", vec!["*b"; 20].join(", "));
        assert_eq!(message(&text), "x.yml:3:57: more than 16 MiB of text in one file");
        let anchors: String = (0..30).map(|anchor| format!("&a{anchor} [")).collect();
        let text = format!("{anchors}{}{}\n", "x, ".repeat(20_000), "]".repeat(30));
        assert!(message(&text).ends_with("more than 400000 values in one file"));
    }

    #[test]
    fn only_a_plain_merge_key_merges() {
        let read = |text: &str| from_str::<BTreeMap<String, BTreeMap<String, u8>>>(&SourceText::new("x.yml", text));
        assert_eq!(
            read("a: {<<: {b: 1}}\n").unwrap()["a"],
            BTreeMap::from([("b".to_owned(), 1)])
        );
        for quoted in ["'<<'", "\"<<\"", "!!str <<"] {
            let error = read(&format!("a: {{{quoted}: {{b: 1}}}}\n")).unwrap_err();
            assert!(error.message.starts_with("invalid type: map"), "{error:?}");
        }
    }

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
