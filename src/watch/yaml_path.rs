//! Paths to values in a YAML document, and the lines of those values, because serde does not keep positions.

use crate::diagnostic::{Findings, SourceText};
use crate::yaml::{self, Content, Node};
use std::cell::OnceCell;

/// A path into a document of a file.
#[derive(Debug, Clone)]
pub(super) struct YamlPath {
    document: usize,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
enum Segment {
    Key(String),
    Index(usize),
}

impl YamlPath {
    /// The root of the first document.
    pub fn root() -> Self {
        YamlPath::document(0)
    }

    /// The root of a document, counted from 0.
    pub fn document(document: usize) -> Self {
        YamlPath {
            document,
            segments: Vec::new(),
        }
    }

    pub fn key(&self, name: &str) -> Self {
        self.with(Segment::Key(name.into()))
    }

    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.segments.push(segment);
        path
    }
}

/// Finds the lines of values in a file. Parses it at the first use, because most files have no errors.
pub(super) struct LineLookup {
    source: SourceText,
    documents: OnceCell<Vec<Node>>,
}

impl LineLookup {
    pub fn new(source: SourceText) -> Self {
        LineLookup {
            source,
            documents: OnceCell::new(),
        }
    }

    pub fn source(&self) -> &SourceText {
        &self.source
    }

    fn documents(&self) -> &[Node] {
        let load = || yaml::parse_all(&mut Findings::new(&self.source)).unwrap_or_default();
        self.documents.get_or_init(load)
    }

    /// The line of a value, or of the nearest value that contains it.
    pub fn line(&self, path: &YamlPath) -> Option<usize> {
        let mut node = self.documents().get(path.document)?;
        let mut line = node.span.line;
        for segment in &path.segments {
            let next = match (segment, &node.content) {
                (Segment::Index(index), Content::Sequence(items)) => {
                    items.get(*index).map(|item| (item, item.span.line))
                }
                (Segment::Key(name), Content::Mapping(entries)) => {
                    let entry = entries.iter().find(|entry| entry.key == *name);
                    // The line of the key, because a value may start on the line after it.
                    entry.map(|entry| (&entry.value, entry.key_span.line))
                }
                _ => None,
            };
            let Some(found) = next else { break };
            (node, line) = found;
        }
        Some(line)
    }
}
