//! How a finding is printed: as rustc would, within the columns of a terminal, and safe to show there.

use super::{Diagnostic, Excerpt, Severity, Span};
use crate::terminal::{self, COLUMNS, count, is_invisible, width, wrap};
use std::fmt::Write as _;
use std::ops::Range;

const TAB: &str = "    ";

impl Diagnostic {
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
    use super::super::{Findings, SourceText};
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
