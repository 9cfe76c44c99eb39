//! The YAML parser, which yields a tree with positions. Depth and size are bounded for any input.

use super::node::{Content, Entry, Node};
use crate::diagnostic::{Findings, Span};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span as Marked, Tag};
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;

/// Deepest nesting; a rule file needs 8.
const MAX_DEPTH: usize = 32;
/// Nodes of one file after its aliases were followed: bounds the "billion laughs". An alerting rule has about 20.
const MAX_NODES: usize = 400_000;
/// Bytes of all its texts, counted likewise: four times the largest file that evenkeel reads.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Why a text has no tree; the findings have the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is not YAML 1.2.
    Syntax,
    /// It may be YAML, and exceeds a bound or has what no format needs.
    Refused,
}

/// An unfinished collection.
struct Open {
    anchor: usize,
    start: Marker,
    content: OpenContent,
}

/// A key whose value was not read yet.
struct Key {
    name: String,
    span: Span,
    plain: bool,
}

enum OpenContent {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        key: Option<Key>,
        /// The line of each key.
        lines: HashMap<String, usize>,
    },
}

/// Reads the only document of the source. `None` if there is none, or if it is unreadable; then the findings have the
/// reason.
pub fn parse(findings: &mut Findings) -> Option<Node> {
    build(findings, true).ok()?.into_iter().next()
}

/// Reads all documents of the source; an empty one is null.
///
/// # Errors
/// If one is unreadable; then the findings have the reason.
pub fn parse_all(findings: &mut Findings) -> Result<Vec<Node>, Unread> {
    build(findings, false)
}

fn build(findings: &mut Findings, only_one: bool) -> Result<Vec<Node>, Unread> {
    let mut builder = Builder {
        findings,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        text_bytes: 0,
        only_one,
        roots: Vec::new(),
    };
    let mut parser = Parser::new_from_str(builder.findings.source().text());
    while let Some(event) = parser.next_event() {
        let (unread, (span, message, help)) = match event {
            Ok((event, place)) => match builder.take(event, place) {
                Ok(()) => continue,
                Err(fatal) => (Unread::Refused, fatal),
            },
            Err(error) => {
                let (span, help) = builder.explain(&error);
                let is_bound = error.info() == SCANNER_BOUND;
                let unread = if is_bound { Unread::Refused } else { Unread::Syntax };
                (unread, (span, format!("this is not YAML: {}", error.info()), help))
            }
        };
        builder.findings.error(span, message, help);
        return Err(unread);
    }
    Ok(builder.roots)
}

/// What the parser says at brackets that are nested deeper than its own bound.
const SCANNER_BOUND: &str = "recursion limit exceeded";

/// Position, message and help of an error that ends the reading.
type Fatal = (Span, String, String);

struct Builder<'f, 's> {
    findings: &'f mut Findings<'s>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text_bytes: usize,
    /// Whether a second document is an error.
    only_one: bool,
    /// The documents that are complete.
    roots: Vec<Node>,
}

impl Builder<'_, '_> {
    fn take(&mut self, event: Event, place: Marked) -> Result<(), Fatal> {
        let start = place.start;
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(false)
            | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(true) if self.roots.is_empty() || !self.only_one => Ok(()),
            Event::DocumentStart(true) => {
                let help = "move it to another file";
                Err((
                    self.span(start, place.end),
                    "a second document in one file".into(),
                    help.into(),
                ))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let span = self.span(start, place.end);
                let accepted = |tag: &Tag| tag.is_yaml_core_schema() && tag.suffix != "binary";
                self.refuse_tag(tag.as_deref().is_none_or(accepted), span);
                // `!!str` forces a string, so that an empty value is an empty string and not null.
                let plain = style == ScalarStyle::Plain && tag.is_none_or(|tag| tag.suffix != "str");
                let quotes = match style {
                    ScalarStyle::Plain => Some(0),
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Some(1),
                    ScalarStyle::Literal | ScalarStyle::Folded => None,
                };
                let inset = quotes.filter(|quotes| {
                    place.end.line() == start.line() && place.len() == text.chars().count() + 2 * quotes
                });
                let content = Content::Scalar {
                    text: text.into_owned(),
                    plain,
                    inset,
                };
                self.add(Node { span, content }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                let span = self.span(start, place.end);
                self.refuse_tag(tag.is_none_or(|tag| tag.is_yaml_core_schema()), span);
                self.descend(anchor, start, OpenContent::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let span = self.span(start, place.end);
                self.refuse_tag(tag.is_none_or(|tag| tag.is_yaml_core_schema()), span);
                self.descend(
                    anchor,
                    start,
                    OpenContent::Mapping {
                        entries: Vec::new(),
                        key: None,
                        lines: HashMap::new(),
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let span = self.span(open.start, place.end);
                let content = match open.content {
                    OpenContent::Sequence(items) => Content::Sequence(items),
                    OpenContent::Mapping { entries, .. } => Content::Mapping(entries),
                };
                self.add(Node { span, content }, open.anchor)
            }
            Event::Alias(anchor) => {
                let span = self.span(start, place.end);
                let Some(size) = self.anchors.get(&anchor).map(Node::size) else {
                    let help = "an alias can only stand after the value that it repeats";
                    return Err((span, "an alias inside the value that it repeats".into(), help.into()));
                };
                self.count(size, span)?;
                let node = self.anchors.get(&anchor).cloned();
                node.map_or(Ok(()), |node| self.attach(node))
            }
        }
    }

    fn descend(&mut self, anchor: usize, start: Marker, content: OpenContent) -> Result<(), Fatal> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err((
                self.span(start, start),
                message,
                "evenkeel's files need no such depth".into(),
            ));
        }
        self.open.push(Open { anchor, start, content });
        Ok(())
    }

    /// Counts nodes and bytes of text at a position, before anything of that size is made.
    fn count(&mut self, (nodes, text_bytes): (usize, usize), span: Span) -> Result<(), Fatal> {
        self.nodes += nodes;
        self.text_bytes += text_bytes;
        let message = if self.nodes > MAX_NODES {
            format!("more than {MAX_NODES} values in one file")
        } else if self.text_bytes > MAX_TEXT_BYTES {
            format!("more than {} MiB of text in one file", MAX_TEXT_BYTES >> 20)
        } else {
            return Ok(());
        };
        let help = "split the file; an alias counts as what it repeats, and so does an anchor";
        Err((span, message, help.into()))
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Fatal> {
        let text_bytes = match &node.content {
            Content::Scalar { text, .. } => text.len(),
            Content::Sequence(_) | Content::Mapping(_) => 0,
        };
        self.count((1, text_bytes), node.span)?;
        if anchor > 0 {
            self.count(node.size(), node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.attach(node)
    }

    /// Puts a value into the collection around it.
    fn attach(&mut self, node: Node) -> Result<(), Fatal> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.roots.push(node),
            Some(OpenContent::Sequence(items)) => items.push(node),
            Some(OpenContent::Mapping { entries, key, lines }) => match key.take() {
                Some(key) => {
                    // An empty value has no visible position of its own.
                    let span = if node.span.width == 0 { key.span } else { node.span };
                    entries.push(Entry {
                        key: key.name,
                        key_span: key.span,
                        has_plain_key: key.plain,
                        value: Node { span, ..node },
                    });
                }
                None => match node.content {
                    Content::Scalar { text, plain, .. } => {
                        match lines.entry(text.clone()) {
                            MapEntry::Occupied(first) => {
                                let help = format!("it is already in line {}; keep one of them", first.get());
                                self.findings.error(node.span, format!("duplicate key `{text}`"), help);
                            }
                            MapEntry::Vacant(key) => drop(key.insert(node.span.line)),
                        }
                        *key = Some(Key {
                            name: text,
                            span: node.span,
                            plain,
                        });
                    }
                    _ => {
                        let help = "quote a string that begins with `{` or `[`, as templates do: '{{ $labels.pid }}'";
                        return Err((node.span, "a key must be a string".into(), help.into()));
                    }
                },
            },
        }
        Ok(())
    }

    fn refuse_tag(&mut self, accepted: bool, span: Span) {
        if !accepted {
            self.findings.error(
                span,
                "YAML tags are not supported",
                "remove the part that begins with `!`, or quote it",
            );
        }
    }

    /// The span between two markers, on the first line only.
    fn span(&self, start: Marker, end: Marker) -> Span {
        let column = start.col() + 1;
        let width = if end.line() == start.line() {
            end.col().saturating_sub(start.col())
        } else {
            let line = self.findings.source().line(start.line()).trim_end();
            line.chars().count().saturating_sub(start.col()).max(1)
        };
        Span {
            line: start.line(),
            column,
            width,
        }
    }

    /// The position of a syntax error, and its usual cause.
    fn explain(&self, error: &ScanError) -> (Span, String) {
        let mark = error.marker();
        let span = Span {
            line: mark.line(),
            column: mark.col() + 1,
            width: 1,
        };
        let line = self.findings.source().line(mark.line());
        let indent = line.len() - line.trim_start().len();
        let help = if line[..indent].contains('\t') {
            "YAML indents with spaces, and this line begins with a tab"
        } else if error.info().contains("escape") {
            "in double quotes every backslash is an escape: write regular expressions in single quotes"
        } else if error.info().contains("mapping values are not allowed") {
            "quote a string that contains `: `, and indent keys of one mapping alike"
        } else if error.info().contains("unexpected character") {
            "quote a string that begins with a special character"
        } else if error.info().contains("quoted scalar") {
            "the closing quote is missing"
        } else if error.info().contains("flow sequence") {
            "a list in brackets wants `,` between its entries and `]` at the end"
        } else if error.info().contains("flow mapping") {
            "a mapping in braces wants `,` between its entries and `}` at the end"
        } else if error.info().contains("did not find expected") {
            "entries of one list or mapping must be indented alike"
        } else {
            ""
        };
        (span, help.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::SourceText;

    fn outline(node: &Node) -> String {
        match &node.content {
            Content::Scalar { text, .. } => format!("{text:?}@{}:{}", node.span.line, node.span.column),
            Content::Sequence(items) => format!("[{}]", items.iter().map(outline).collect::<Vec<_>>().join(" ")),
            Content::Mapping(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| format!("{}={}", entry.key, outline(&entry.value)))
                    .collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn check(text: &str, tree: &str, expected: &[&str]) {
        let source = SourceText::new("x.yml", text);
        let mut findings = Findings::new(&source);
        let node = parse(&mut findings);
        let found: Vec<String> = findings
            .into_diagnostics()
            .into_iter()
            .map(|found| {
                let span = found.span.unwrap();
                format!("{}:{} {}", span.line, span.column, found.message)
            })
            .collect();
        assert_eq!(found, expected, "{text:.200?}");
        assert_eq!(node.as_ref().map(outline).unwrap_or_default(), tree, "{text:.200?}");
    }

    #[test]
    fn values_have_positions() {
        check("a: foo bar # c\nb: 'x''y'\n", r#"{a="foo bar"@1:4 b="x'y"@2:4}"#, &[]);
        check("a:\n  - 1\n  - {b: no}\n", r#"{a=["1"@2:5 {b="no"@3:9}]}"#, &[]);
        check("\u{feff}ä: é # x\n", r#"{ä="é"@1:4}"#, &[]);
        check("a: &x [1]\nb: *x\n", r#"{a=["1"@1:8] b=["1"@1:8]}"#, &[]);
        check("---\na: |\n  x\n...\n", r#"{a="x\n"@3:3}"#, &[]);
        check("", "", &[]);
        check("# only words\n", "", &[]);
        check("a:\nb: ~\n", r#"{a=""@1:1 b="~"@2:4}"#, &[]);
    }

    #[test]
    fn unsupported_documents_are_rejected() {
        check("a: 1\na: 2\n", r#"{a="1"@1:4 a="2"@2:4}"#, &["2:1 duplicate key `a`"]);
        check("a: 1\n---\nb: 1\n", "", &["2:1 a second document in one file"]);
        check("a: {{ x }}\n", "", &["1:5 a key must be a string"]);
        check("a: !x 1\n", r#"{a="1"@1:4}"#, &["1:4 YAML tags are not supported"]);
        check(
            "a: !!binary MQ==\n",
            r#"{a="MQ=="@1:4}"#,
            &["1:4 YAML tags are not supported"],
        );
        check("a: !!str 1\n", r#"{a="1"@1:4}"#, &[]);
        check("a: &x [*x]\n", "", &["1:8 an alias inside the value that it repeats"]);
        check(
            "a:\n\t- b\n",
            "",
            &["2:2 this is not YAML: tabs disallowed within this context (block indentation)"],
        );
        check(
            &"[".repeat(10_000),
            "",
            &["1:256 this is not YAML: recursion limit exceeded"],
        );
        check(&"[".repeat(60), "", &["1:33 nested deeper than 32 levels"]);
        check(&"- ".repeat(10_000), "", &["1:65 nested deeper than 32 levels"]);
    }

    #[test]
    fn aliases_of_aliases_are_bounded() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let source = SourceText::new("x.yml", text);
        let mut findings = Findings::new(&source);
        assert!(parse(&mut findings).is_none());
        assert_eq!(
            findings.into_diagnostics()[0].message,
            "more than 400000 values in one file"
        );
    }
}
