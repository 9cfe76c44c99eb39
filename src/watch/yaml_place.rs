//! Places of values in a YAML document, for errors.

use crate::yaml::{Content, Node};

/// A value in a document, or the nearest value around a missing one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'n> {
    node: Option<&'n Node>,
    /// Counted from one; `None` if it is not known. That of the key for a value in a mapping, because a value may start
    /// on the line after it.
    pub line: Option<usize>,
}

impl<'n> Place<'n> {
    pub fn of(node: &'n Node) -> Self {
        Place {
            node: Some(node),
            line: node.place().map(|span| span.line),
        }
    }

    pub fn key(self, name: &str) -> Self {
        let entry = self.node.and_then(|node| node.entry(name));
        let line = entry.map(|entry| entry.key_span.line);
        Place {
            node: entry.map(|entry| &entry.value),
            line: line.filter(|line| *line > 0).or(self.line),
        }
    }

    pub fn index(self, index: usize) -> Self {
        let item = match self.node.map(|node| &node.content) {
            Some(Content::Sequence(items)) => items.get(index),
            _ => None,
        };
        Place {
            node: item,
            line: item.and_then(Node::place).map(|span| span.line).or(self.line),
        }
    }

    /// The values in a list; none if there is no list.
    pub fn items(self) -> impl Iterator<Item = (&'n Node, Place<'n>)> {
        let items = match self.node.map(|node| &node.content) {
            Some(Content::Sequence(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(|item| (item, Place::of(item)))
    }
}
