//! A diagnostic, which is an error or a warning for people: the place, the source line with a mark, the message, and a
//! hint. It is independent of YAML, rules and files.

use crate::terminal::{self, COLUMNS, count, width, wrap};
use serde::Serialize;
use std::fmt::Write as _;
use std::ops::Range;

/// Characters of the source line that a diagnostic keeps before and after the start of its mark. Both exceed a rendered
/// line, and bound the memory for a file of one endless line.
const EXCERPT_BEFORE: usize = 80;
const EXCERPT_AFTER: usize = 160;
/// Maximum number of findings in one file, because more do not help and could fill memory.
const MAX_FINDINGS: usize = 100;
const TAB: &str = "    ";

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

    /// The finding as rustc would print it, within 80 columns, with ANSI colours on demand. Ends with a line feed.
    pub fn render(&self, color: bool) -> String {
        let paint = |style: &str, text: &str| terminal::paint(color, style, text);
        let (word, style) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let frame = |text: &str| paint("1;34", text);

        let mut out = String::new();
        let lines = wrap(&printable(&self.message), COLUMNS - word.len() - 2);
        let indent = " ".repeat(word.len() + 2);
        for (index, line) in lines.iter().enumerate() {
            let bold = paint("1", line);
            let start = if index == 0 {
                format!("{}{}", paint(style, word), paint("1", ": "))
            } else {
                indent.clone()
            };
            let _ = writeln!(out, "{start}{bold}");
        }

        let number = self.span.map_or(String::new(), |span| span.line.to_string());
        let gutter = " ".repeat(number.len());
        let mut place = printable(&self.file);
        if let Some(span) = self.span {
            let _ = write!(place, ":{}:{}", span.line, span.column);
        }
        if let Some(rule) = &self.rule {
            let _ = write!(place, " (rule `{}`)", printable(rule));
        }
        let _ = writeln!(out, "{gutter}{} {place}", frame("-->"));

        if let (Some(span), Some(excerpt)) = (self.span, &self.excerpt) {
            let (line, mark) = window(excerpt, span, COLUMNS - number.len() - 3);
            let _ = writeln!(out, "{gutter} {}", frame("|"));
            let _ = writeln!(
                out,
                "{}",
                format!("{} {line}", frame(&format!("{number} |"))).trim_end()
            );
            let mark = format!("{}{}", " ".repeat(mark.start), paint(style, &"^".repeat(mark.len())));
            let _ = writeln!(out, "{gutter} {} {mark}", frame("|"));
        }
        if let Some(help) = &self.help {
            let start = format!("{gutter} = help: ");
            for (index, line) in wrap(&printable(help), COLUMNS - start.len()).iter().enumerate() {
                if index == 0 {
                    let _ = writeln!(out, "{gutter} {} {} {line}", frame("="), paint("1;36", "help:"));
                } else {
                    let _ = writeln!(out, "{}{line}", " ".repeat(start.len()));
                }
            }
        }
        out
    }
}

/// All findings one after the other, and a last line that counts them.
pub fn render_all(diagnostics: &[Diagnostic], color: bool) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&diagnostic.render(color));
        out.push('\n');
    }
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .count();
    let warnings = diagnostics.len() - errors;
    match (errors, warnings) {
        (0, 0) => {}
        (_, 0) => out.push_str(&format!("{}\n", count(errors, "error"))),
        (0, _) => out.push_str(&format!("{}\n", count(warnings, "warning"))),
        _ => out.push_str(&format!("{}, {}\n", count(errors, "error"), count(warnings, "warning"))),
    }
    out
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

/// A name of the host in a file, with its place: only with access to the host can it be checked.
#[derive(Debug, Clone)]
pub struct HostReference {
    pub name: HostName,
    place: Diagnostic,
}

impl HostReference {
    /// A warning at the place of the name.
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
            self.references.push(HostReference { name, place });
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

/// Minimum length of a prefix for a suggestion, because many words share shorter ones.
const MIN_PREFIX_CHARS: usize = 3;

/// Names of keys in other programs: ps(1), systemd's unit files, ananicy's rules.
const CALLED_ELSEWHERE: [(&str, &str); 14] = [
    ("args", "cmdline"),
    ("cmd", "cmdline"),
    ("command", "cmdline"),
    ("comm", "name"),
    ("process", "name"),
    ("uid", "user"),
    ("service", "unit"),
    ("slice", "cgroup"),
    ("rss", "min_memory"),
    ("memory", "min_memory"),
    ("cpu", "min_cpu"),
    ("age", "min_age"),
    ("renice", "nice"),
    ("cpus", "affinity"),
];

/// The candidate that was probably meant: the one with the fewest typing errors, if they are few; else the one with
/// this name in another program; else the only one with this prefix.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    // At most a third of the letters may be wrong, because more would suggest unrelated words.
    let most = (word.chars().count() / 3).max(1);
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let close = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, candidate)) = close {
        return Some(candidate);
    }
    let elsewhere = CALLED_ELSEWHERE.iter().find(|(name, _)| *name == word);
    if let Some(candidate) = elsewhere.and_then(|(_, own)| candidates.iter().find(|candidate| *candidate == own)) {
        return Some(candidate);
    }
    let mut longer = candidates
        .iter()
        .filter(|candidate| plain(candidate).starts_with(&word));
    match (longer.next(), longer.next()) {
        (Some(only), None) if word.chars().count() >= MIN_PREFIX_CHARS => Some(only),
        _ => None,
    }
}

/// "did you mean …?" if a similar candidate exists, else the list of all candidates.
pub fn suggest(word: &str, what: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("{what}: {}", candidates.join(", ")),
    }
}

/// A character that is safe on a terminal: control characters and marks that reorder text are escaped.
fn cell(character: char) -> String {
    match character {
        '\t' => TAB.to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        _ if character.is_control() || is_invisible(character) => format!("\\u{{{:x}}}", u32::from(character)),
        _ => character.to_string(),
    }
}

/// Whether a character is a bidirectional or zero-width format character (Unicode UAX #9, and the "Trojan Source"
/// paper).
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A string that is safe on a terminal, on one line.
pub fn printable(text: &str) -> String {
    text.chars().map(cell).collect()
}

/// The part of a source line that fits into `columns`, and the columns of the mark below it.
fn window(excerpt: &Excerpt, span: Span, columns: usize) -> (String, Range<usize>) {
    let cells: Vec<String> = excerpt.text.chars().map(cell).collect();
    let from = (span.column - 1).saturating_sub(excerpt.left_out.0).min(cells.len());
    let to = (from + span.width).min(cells.len());
    let sum = |range: Range<usize>| -> usize { cells[range].iter().map(|cell| width(cell)).sum() };

    let (mut first, mut last) = (0, cells.len());
    if excerpt.left_out != (0, 0) || sum(0..cells.len()) > columns {
        let room = columns - 2; // an ellipsis at either end
        (first, last) = (from, from);
        let mut used = 0;
        let mut fits = |cell: &String, limit: usize| {
            let fits = used + width(cell) <= limit;
            used += if fits { width(cell) } else { 0 };
            fits
        };
        // A third of the columns shows the text before the mark, and the rest the mark and the text after it.
        while first > 0 && fits(&cells[first - 1], room / 3) {
            first -= 1;
        }
        while last < cells.len() && fits(&cells[last], room) {
            last += 1;
        }
        while first > 0 && fits(&cells[first - 1], room) {
            first -= 1;
        }
    }
    let cut_left = first > 0 || excerpt.left_out.0 > 0;
    let cut_right = last < cells.len() || excerpt.left_out.1 > 0;
    let start = usize::from(cut_left) + sum(first..from);
    let marked = sum(from..to.clamp(from, last.max(from))).max(1);
    let shown = cells[first..last].concat();
    let line = format!(
        "{}{shown}{}",
        if cut_left { "…" } else { "" },
        if cut_right { "…" } else { "" }
    );
    (line.trim_end().to_owned(), start..start + marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, line: usize, column: usize, width: usize, expected: &[&str]) {
        let source = SourceText::new("rules/batch.yml", text);
        let diagnostic = source.diagnose(Severity::Error, Span { line, column, width }, "wrong", "");
        let rendered = diagnostic.render(false);
        let excerpt: Vec<&str> = rendered.lines().skip(3).collect();
        assert_eq!(excerpt, expected);
        assert!(rendered.lines().all(|line| super::width(line) <= COLUMNS), "{rendered}");
    }

    #[test]
    fn mark_is_below_the_source() {
        check("a: 1\nbad: 2\n", 2, 1, 3, &["2 | bad: 2", "  | ^^^"]);
        check("a: 1\r\nbad: 2\r\n", 2, 6, 1, &["2 | bad: 2", "  |      ^"]);
        check("a: 1\rbad: 2", 2, 6, 1, &["2 | bad: 2", "  |      ^"]);
        check("\tbad: 2", 1, 2, 3, &["1 |     bad: 2", "  |     ^^^"]);
        check("名前: 悪い", 1, 5, 2, &["1 | 名前: 悪い", "  |       ^^^^"]);
        check("", 1, 1, 1, &["1 |", "  | ^"]);
        check("a: 1", 9, 1, 1, &["9 |", "  | ^"]);
    }

    #[test]
    fn control_characters_are_shown_escaped() {
        check(
            "a: \u{1b}[31m\u{202e}",
            1,
            4,
            1,
            &[r"1 | a: \u{1b}[31m\u{202e}", r"  |    ^^^^^^"],
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let long = format!("{}BAD{}", "x".repeat(300), "y".repeat(300));
        let before = "x".repeat(24);
        let after = "y".repeat(47);
        let mark = format!("  | {}^^^", " ".repeat(25));
        check(&long, 1, 301, 3, &[&format!("1 | …{before}BAD{after}…"), &mark]);
    }

    #[test]
    fn whole_finding_reads_like_rustc() {
        let source = SourceText::new("rules/batch.yml", "rules:\n  - nam: x\n");
        let mut findings = Findings::new(&source);
        findings.set_rule(Some("x"));
        let help = "did you mean `name`? A rule needs one that is its own, because ledger and metrics show it as label";
        findings.error(
            Span {
                line: 2,
                column: 5,
                width: 3,
            },
            "unknown key `nam` in a rule",
            help,
        );
        let diagnostics = findings.into_diagnostics();
        let expected = "\
error: unknown key `nam` in a rule
 --> rules/batch.yml:2:5 (rule `x`)
  |
2 |   - nam: x
  |     ^^^
  = help: did you mean `name`? A rule needs one that is its own, because ledger
          and metrics show it as label

1 error
";
        assert_eq!(render_all(&diagnostics, false), expected);
        assert!(render_all(&diagnostics, true).contains("\x1b[1;31merror\x1b[0m"));
        let json = serde_json::to_value(&diagnostics).unwrap();
        assert_eq!(json[0]["line"], 2);
        assert_eq!(json[0]["column"], 5);
        assert_eq!(json[0]["text"], "  - nam: x");
        assert_eq!(json[0]["severity"], "error");
    }

    #[test]
    fn nearest_word_tolerates_slips_but_not_noise() {
        let words = ["select", "name", "min_age", "order_by", "cmdline"];
        for (word, expected) in [
            ("selct", Some("select")),
            ("Select", Some("select")),
            ("min-age", Some("min_age")),
            ("nmae", Some("name")),
            ("orderby", Some("order_by")),
            ("min", Some("min_age")),
            ("na", None),
            ("command", Some("cmdline")),
            ("uid", None),
            ("teapot", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }

    #[test]
    fn empty_place_is_marked() {
        let span = Span {
            line: 1,
            column: 3,
            width: 0,
        };
        let found = SourceText::new("x.yml", "- \n").diagnose(Severity::Error, span, "nothing", "");
        assert_eq!(found.span.map(|span| span.width), Some(1));
        assert!(found.render(false).contains('^'));
    }
}
