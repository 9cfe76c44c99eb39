//! Where things stand in a YAML document, which serde does not keep.

use saphyr::{LoadableYamlNode, MarkedYaml};
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
pub(super) struct Places<'a> {
    text: &'a str,
    document: OnceCell<Option<MarkedYaml<'a>>>,
}

impl<'a> Places<'a> {
    pub fn new(text: &'a str) -> Self {
        Places {
            text,
            document: OnceCell::new(),
        }
    }

    fn document(&self) -> Option<&MarkedYaml<'a>> {
        let load = || MarkedYaml::load_from_str(self.text).ok()?.into_iter().next();
        self.document.get_or_init(load).as_ref()
    }

    /// The line of a place, or of the nearest thing around it.
    pub fn line(&self, place: &Place) -> Option<usize> {
        let mut node = self.document()?;
        let mut line = node.span.start.line();
        for step in &place.0 {
            let next = match step {
                Step::Index(index) => node.data.as_sequence().and_then(|items| items.get(*index)),
                Step::Key(name) => node.data.as_mapping().and_then(|entries| {
                    let entry = entries.iter().find(|(key, _)| key.data.as_str() == Some(name))?;
                    // A value may start on the line after its key; people look for the key.
                    line = entry.0.span.start.line();
                    Some(entry.1)
                }),
            };
            let Some(found) = next else { break };
            node = found;
            if matches!(step, Step::Index(_)) {
                line = node.span.start.line();
            }
        }
        Some(line)
    }
}
