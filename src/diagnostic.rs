//! A diagnostic, which is an error or a warning for people: the place, the source line with a mark, the message, and a
//! hint. It is independent of YAML, rules and files.

mod render;
mod suggest;

pub use render::{printable, render_all};
pub use suggest::{nearest, suggest};

use serde::Serialize;

/// Characters of the source line that a diagnostic keeps before and after the start of its mark. Both exceed a rendered
/// line, and bound the memory for a file of one endless line.
const EXCERPT_BEFORE: usize = 80;
const EXCERPT_AFTER: usize = 160;
/// Maximum number of findings in one file, because more do not help and could fill memory.
const MAX_FINDINGS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// A place in a text: line and column from 1, column and width in characters. A span of several lines is marked on its
/// first line only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

impl Span {
    /// The first character of a file, for errors of the file as a whole.
    pub const START: Span = Span {
        line: 1,
        column: 1,
        width: 1,
    };
}

/// A value with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Self {
        Spanned { value, span }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: change(self.value),
            span: self.span,
        }
    }
}

/// The source line around a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Excerpt {
    text: String,
    /// Characters of the line that were left out before and after `text`.
    #[serde(skip)]
    left_out: (usize, usize),
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file as the user named it.
    pub file: String,
    /// `None` for an error of the file as a whole.
    #[serde(flatten)]
    pub span: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    excerpt: Option<Excerpt>,
    /// The rule in which it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub message: String,
    /// The correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding about a file as a whole, or an unreadable one. An empty help means none.
    pub fn of_file(severity: Severity, file: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            file: file.to_owned(),
            span: None,
            excerpt: None,
            rule: None,
            message: message.into(),
            help: Some(help.into()).filter(|help| !help.is_empty()),
        }
    }

    /// `FILE:LINE:COLUMN`, as far as it is known.
    pub fn place(&self) -> String {
        match self.span {
            Some(span) => format!("{}:{}:{}", self.file, span.line, span.column),
            None => self.file.clone(),
        }
    }
}

/// A source text with its file name as the user wrote it.
#[derive(Debug, Clone)]
pub struct SourceText {
    name: String,
    text: String,
    /// Byte offset at which each line starts.
    line_starts: Vec<usize>,
}

impl SourceText {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.remove(0); // a byte order mark is no column
        }
        let bytes = text.as_bytes();
        let mut line_starts = vec![0];
        for (offset, byte) in bytes.iter().enumerate() {
            // YAML 1.2 section 5.4: a lone carriage return breaks a line too.
            let breaks = *byte == b'\n' || (*byte == b'\r' && bytes.get(offset + 1) != Some(&b'\n'));
            if breaks {
                line_starts.push(offset + 1);
            }
        }
        SourceText {
            name: name.into(),
            text,
            line_starts,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line without its break, counted from 1; empty if there is no such line.
    pub fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).and_then(|index| self.line_starts.get(index));
        let Some(&start) = start else { return "" };
        let end = self.line_starts.get(number).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// All lines without their breaks.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        (1..=self.line_starts.len()).map(|number| self.line(number))
    }

    /// A finding at a position in this source. An empty help means none.
    pub fn diagnose(
        &self,
        severity: Severity,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        let skip = span.column.saturating_sub(1 + EXCERPT_BEFORE);
        let mut rest = self.line(span.line).chars().skip(skip);
        let text = rest.by_ref().take(EXCERPT_BEFORE + EXCERPT_AFTER).collect();
        // An error about something missing has a mark where it should be.
        let width = span.width.max(1);
        Diagnostic {
            span: Some(Span { width, ..span }),
            excerpt: Some(Excerpt {
                text,
                left_out: (skip, rest.count()),
            }),
            ..Diagnostic::of_file(severity, &self.name, message, help)
        }
    }
}

/// A name that only a host can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    User(String),
    /// The absolute path of a program.
    Program(String),
}

/// What a file wants of a host, with its place: only with access to the host can it be checked.
#[derive(Debug, Clone)]
pub struct HostReference<T = HostName> {
    pub subject: T,
    place: Diagnostic,
}

impl<T> HostReference<T> {
    pub fn new(subject: T, place: Diagnostic) -> Self {
        HostReference { subject, place }
    }

    /// A warning at the place.
    pub fn warning(&self, message: String, help: String) -> Diagnostic {
        let mut warning = self.place.clone();
        (warning.message, warning.help) = (message, Some(help));
        warning
    }
}

/// The findings in one source. Readers add findings and continue, so that all errors show at once.
#[derive(Debug)]
pub struct Findings<'s> {
    source: &'s SourceText,
    rule: Option<String>,
    diagnostics: Vec<Diagnostic>,
    references: Vec<HostReference>,
    not_kept: usize,
}

impl<'s> Findings<'s> {
    pub fn new(source: &'s SourceText) -> Self {
        Findings {
            source,
            rule: None,
            diagnostics: Vec::new(),
            references: Vec::new(),
            not_kept: 0,
        }
    }

    pub fn source(&self) -> &'s SourceText {
        self.source
    }

    /// Names the rule to which the following findings belong.
    pub fn set_rule(&mut self, rule: Option<&str>) {
        self.rule = rule.map(str::to_owned);
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), help.into());
    }

    pub fn warning(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), help.into());
    }

    fn add(&mut self, severity: Severity, span: Span, message: String, help: String) {
        if self.diagnostics.len() >= MAX_FINDINGS {
            self.not_kept += 1;
            return;
        }
        let diagnostic = self.at(severity, span, message, help);
        self.diagnostics.push(diagnostic);
    }

    /// A finding about the present rule that is not added, because the caller decides whether it applies.
    pub fn at(
        &self,
        severity: Severity,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            rule: self.rule.clone(),
            ..self.source.diagnose(severity, span, message, help)
        }
    }

    /// Notes a name of the host, for checks that have access to it.
    pub fn refer(&mut self, span: Span, name: HostName) {
        if self.references.len() < MAX_FINDINGS {
            let place = self.at(Severity::Warning, span, "", "");
            self.references.push(HostReference::new(name, place));
        }
    }

    pub fn take_references(&mut self) -> Vec<HostReference> {
        std::mem::take(&mut self.references)
    }

    pub fn has_errors(&self) -> bool {
        // Dropped findings count as errors, because a file with that many findings must not load.
        self.not_kept > 0
            || self
                .diagnostics
                .iter()
                .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// All findings in the order of the text.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.span);
        if self.not_kept > 0 {
            let message = format!("{} further findings in this file are not shown", self.not_kept);
            let help = "fix the findings above first";
            self.diagnostics
                .push(Diagnostic::of_file(Severity::Error, &self.source.name, message, help));
        }
        self.diagnostics
    }
}
