//! Merge keys (`<<`) of YAML 1.1, which the formats of other programs have. A quoted one is a key as any other.

use super::node::{Content, Entry, Node};
use crate::diagnostic::Findings;
use std::collections::HashSet;

pub(super) const MERGE: &str = "<<";

/// Replaces each merge key by the entries of its mappings, where the mapping itself has no such key.
pub(super) fn merge(node: &mut Node, findings: &mut Findings) {
    match &mut node.content {
        Content::Scalar { .. } => {}
        Content::Sequence(items) => items.iter_mut().for_each(|item| merge(item, findings)),
        Content::Mapping(entries) => {
            entries.iter_mut().for_each(|entry| merge(&mut entry.value, findings));
            if let Some(at) = entries
                .iter()
                .position(|entry| entry.has_plain_key && entry.key == MERGE)
            {
                let merged = entries.remove(at);
                add(entries, merged, findings);
            }
        }
    }
}

fn add(entries: &mut Vec<Entry>, merged: Entry, findings: &mut Findings) {
    let span = merged.value.span;
    let sources = match merged.value.content {
        Content::Sequence(items) => items,
        _ => vec![merged.value],
    };
    let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for source in sources {
        let Content::Mapping(more) = source.content else {
            let message = "`<<` must be a mapping or a list of mappings";
            return findings.error(span, message, "write an alias of a mapping after it");
        };
        entries.extend(more.into_iter().filter(|entry| known.insert(entry.key.clone())));
    }
}
