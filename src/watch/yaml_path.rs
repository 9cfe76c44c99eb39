//! Paths to values in a YAML document, and the lines of those values, because serde does not keep positions.

use crate::diagnostic::{Findings, SourceText};
use crate::yaml::{self, Content, Node};
use std::cell::OnceCell;

/// A path into a document.
#[derive(Debug, Clone)]
pub(super) struct YamlPath(Vec<Segment>);

#[derive(Debug, Clone)]
enum Segment {
    Key(String),
    Index(usize),
}

impl YamlPath {
    pub fn root() -> Self {
        YamlPath(Vec::new())
    }

    pub fn key(&self, name: &str) -> Self {
        YamlPath(self.0.iter().cloned().chain([Segment::Key(name.into())]).collect())
    }

    pub fn index(&self, index: usize) -> Self {
        YamlPath(self.0.iter().cloned().chain([Segment::Index(index)]).collect())
    }
}

/// Finds the lines of values in a document. Parses it at the first use, because most files have no errors.
pub(super) struct LineLookup {
    source: SourceText,
    document: OnceCell<Option<Node>>,
}

impl LineLookup {
    pub fn new(source: SourceText) -> Self {
        LineLookup {
            source,
            document: OnceCell::new(),
        }
    }

    pub fn source(&self) -> &SourceText {
        &self.source
    }

    fn document(&self) -> Option<&Node> {
        let load = || yaml::parse(&mut Findings::new(&self.source));
        self.document.get_or_init(load).as_ref()
    }

    /// The line of a value, or of the nearest value that contains it.
    pub fn line(&self, path: &YamlPath) -> Option<usize> {
        let mut node = self.document()?;
        let mut line = node.span.line;
        for segment in &path.0 {
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
