//! The positions of values in a YAML document, which serde does not keep.

use crate::diagnostic::{Findings, Source};
use crate::yaml::{self, Content, Node};
use std::cell::OnceCell;

/// A path into a document.
#[derive(Debug, Clone)]
pub(super) struct Place(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl Place {
    pub fn root() -> Self {
        Place(Vec::new())
    }

    pub fn key(&self, name: &str) -> Self {
        Place(self.0.iter().cloned().chain([Step::Key(name.into())]).collect())
    }

    pub fn index(&self, index: usize) -> Self {
        Place(self.0.iter().cloned().chain([Step::Index(index)]).collect())
    }
}

/// The positions of a document; of none where it cannot be read. Found on the first question: most files have no errors.
pub(super) struct Places {
    source: Source,
    document: OnceCell<Option<Node>>,
}

impl Places {
    pub fn new(source: Source) -> Self {
        Places {
            source,
            document: OnceCell::new(),
        }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    fn document(&self) -> Option<&Node> {
        let load = || yaml::parse(&mut Findings::new(&self.source));
        self.document.get_or_init(load).as_ref()
    }

    /// The line of a place, or of the nearest thing around it.
    pub fn line(&self, place: &Place) -> Option<usize> {
        let mut node = self.document()?;
        let mut line = node.span.line;
        for step in &place.0 {
            let next = match (step, &node.content) {
                (Step::Index(index), Content::Sequence(items)) => items.get(*index).map(|item| (item, item.span.line)),
                (Step::Key(name), Content::Mapping(entries)) => {
                    let entry = entries.iter().find(|entry| entry.key == *name);
                    // A value may start on the line after its key; people look for the key.
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
