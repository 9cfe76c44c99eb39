//! The tree of a YAML document, with the position of each value.

use crate::diagnostic::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub span: Span,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The string after unquoting. `inset` is the number of quote characters before it, if each further character is
    /// the same in the file, so that a position in the string can be found in the file.
    Scalar {
        text: String,
        plain: bool,
        inset: Option<usize>,
    },
    Sequence(Vec<Node>),
    /// The entries in the order of the file.
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    /// Whether the key has no quotes, as a merge key must not.
    pub has_plain_key: bool,
    pub value: Node,
}

impl Node {
    /// Whether there is no value: a key without value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true, .. }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// An empty value, which is null.
    pub fn null() -> Self {
        Node {
            span: Span::START,
            content: Content::Scalar {
                text: String::new(),
                plain: true,
                inset: None,
            },
        }
    }

    /// The position in the file; `None` if only libyaml reads the file.
    pub fn place(&self) -> Option<Span> {
        Some(self.span).filter(|span| span.line > 0)
    }

    /// The entry under a key of a mapping.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value under a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The text of a scalar that is not null.
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The number of nodes in the tree, and of bytes in their texts, keys included.
    pub(super) fn size(&self) -> (usize, usize) {
        let add = |sum: (usize, usize), (nodes, bytes)| (sum.0 + nodes, sum.1 + bytes);
        match &self.content {
            Content::Scalar { text, .. } => (1, text.len()),
            Content::Sequence(items) => items.iter().map(Node::size).fold((1, 0), add),
            Content::Mapping(entries) => {
                let sizes = entries
                    .iter()
                    .map(|entry| add(entry.value.size(), (1, entry.key.len())));
                sizes.fold((1, 0), add)
            }
        }
    }
}
