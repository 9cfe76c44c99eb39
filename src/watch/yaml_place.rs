//! Places of values in a YAML document, for errors.

use crate::yaml::{Content, Entry, Node};
use std::collections::HashMap;

/// A value in a document, or the nearest value around a missing one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'n> {
    node: Option<&'n Node>,
    /// Counted from one; `None` if it is not known. That of the key for a value in a mapping, because a value may start
    /// on the line after it.
    pub line: Option<usize>,
}

/// The values of a mapping by their keys.
pub(super) struct Keys<'n> {
    around: Place<'n>,
    places: HashMap<&'n str, Place<'n>>,
}

impl<'n> Keys<'n> {
    pub fn get(&self, name: &str) -> Place<'n> {
        let around = Place {
            node: None,
            ..self.around
        };
        self.places.get(name).copied().unwrap_or(around)
    }
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
        entry.map_or(Place { node: None, ..self }, |entry| self.of_entry(entry))
    }

    /// The values of all keys, for a mapping with any number of them.
    pub fn keys(self) -> Keys<'n> {
        let entries = match self.node.map(|node| &node.content) {
            Some(Content::Mapping(entries)) => entries.as_slice(),
            _ => &[],
        };
        let places = entries.iter().map(|entry| (entry.key.as_str(), self.of_entry(entry)));
        Keys {
            around: self,
            places: places.collect(),
        }
    }

    /// The value of an entry of this mapping.
    pub fn of_entry(self, entry: &'n Entry) -> Self {
        let line = Some(entry.key_span.line).filter(|line| *line > 0);
        Place {
            node: Some(&entry.value),
            line: line.or(self.line),
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
