//! The documents of a rule file: one with groups, as Prometheus reads it, or `PrometheusRule` objects of the Prometheus
//! operator, as `kubectl` and Helm print them.

use super::yaml_place::Place;
use super::yaml_reader::Reader;
use crate::diagnostic::suggest;
use crate::yaml::{Content, Node};

/// The version of `PrometheusRule` objects.
const OPERATOR: &str = "monitoring.coreos.com/v1";

impl Reader {
    /// All groups of a rule file, unread.
    pub fn groups(&mut self, documents: &[Node]) -> Vec<Node> {
        let mut filled = documents.iter().filter(|document| !document.is_null()).peekable();
        let has_objects = filled.peek().is_some_and(|first| is_object(first));
        let mut groups = Vec::new();
        for (position, document) in filled.enumerate() {
            if has_objects {
                self.object(document, &mut groups);
            } else if position == 0 {
                self.groups_of(document, Place::of(document), "a rule file", &mut groups);
            } else {
                let message = "a second document, which Prometheus does not read".into();
                let hint = "put all groups under one `groups`".into();
                self.error(Place::of(document), message, Some(hint));
            }
        }
        groups
    }

    /// Reads the groups of an object, or of the objects in a list.
    fn object(&mut self, object: &Node, groups: &mut Vec<Node>) {
        let at = Place::of(object);
        let text = |key: &str| object.get(key).and_then(Node::as_text).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        match (version, kind) {
            (OPERATOR, "PrometheusRule") => {
                self.refuse_unknown(
                    object,
                    &["apiVersion", "kind", "metadata", "spec", "status"],
                    at,
                    "a PrometheusRule",
                );
                match object.get("spec") {
                    Some(spec) => {
                        let before = groups.len();
                        self.groups_of(spec, at.key("spec"), "the spec", groups);
                        for group in &mut groups[before..] {
                            // Only Thanos reads this key, which the operator removes for Prometheus.
                            if let Content::Mapping(entries) = &mut group.content {
                                entries.retain(|entry| entry.key != "partial_response_strategy");
                            }
                        }
                    }
                    None => self.error(at, "a PrometheusRule lacks `spec`".into(), None),
                }
            }
            ("v1", "List") | (OPERATOR, "PrometheusRuleList") => {
                let what = format!("a {kind}");
                self.refuse_unknown(object, &["apiVersion", "kind", "metadata", "items"], at, &what);
                match object.get("items").map(|items| &items.content) {
                    Some(Content::Sequence(items)) => {
                        for item in items {
                            self.object(item, groups);
                        }
                    }
                    Some(_) => self.error(at.key("items"), "`items` is a list".into(), None),
                    None => self.error(at, format!("{what} lacks `items`"), None),
                }
            }
            (_, "PrometheusRule" | "PrometheusRuleList") => {
                let message = format!("the apiVersion of a {kind} is {OPERATOR}, found {version:?}");
                self.error(at.key("apiVersion"), message, None);
            }
            (_, "") => {
                let hint = format!("add `apiVersion: {OPERATOR}` and `kind: PrometheusRule`");
                self.error(at, "an object of Kubernetes has a kind".into(), Some(hint));
            }
            _ => {
                let message = format!("expected an object of the kind PrometheusRule, found {kind}");
                let hint = "move other objects to another file".into();
                self.error(at.key("kind"), message, Some(hint));
            }
        }
    }

    /// Reads `groups`, the only key of a rule file and of the spec of an object.
    fn groups_of(&mut self, content: &Node, at: Place, what: &str, groups: &mut Vec<Node>) {
        self.refuse_unknown(content, &["groups"], at, what);
        match content.get("groups").filter(|groups| !groups.is_null()) {
            Some(Node {
                content: Content::Sequence(items),
                ..
            }) => groups.extend(items.iter().cloned()),
            Some(_) => self.error(at.key("groups"), "`groups` is a list".into(), None),
            None => {}
        }
    }

    fn refuse_unknown(&mut self, content: &Node, known: &[&str], at: Place, what: &str) {
        let Content::Mapping(entries) = &content.content else {
            return self.error(at, format!("{what} is a mapping with the key `{}`", known[0]), None);
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let key = &entry.key;
            let hint = suggest(key, "known keys", known);
            self.error(at.of_entry(entry), format!("unknown key `{key}` in {what}"), Some(hint));
        }
    }
}

fn is_object(document: &Node) -> bool {
    ["apiVersion", "kind"].iter().any(|key| document.get(key).is_some())
}
