//! The documents of a rule file: one with groups, as Prometheus reads it, or `PrometheusRule` objects of the Prometheus
//! operator, as `kubectl` and Helm print them.

use super::yaml_path::YamlPath;
use super::yaml_reader::Reader;
use crate::diagnostic::suggest;
use crate::yaml::Unread;

/// The version of `PrometheusRule` objects.
const OPERATOR: &str = "monitoring.coreos.com/v1";

/// A group that has not been parsed, with its place.
pub(super) struct UnreadGroup {
    pub content: Unread,
    pub at: YamlPath,
}

impl Reader {
    /// All groups of a rule file.
    pub fn groups(&mut self) -> Vec<UnreadGroup> {
        let documents = self.documents().unwrap_or_default().into_iter().enumerate();
        let mut filled = documents.filter(|(_, document)| !document.is_null()).peekable();
        let has_objects = filled.peek().is_some_and(|(_, first)| is_object(first));
        let mut groups = Vec::new();
        for (position, (number, document)) in filled.enumerate() {
            let at = YamlPath::document(number);
            if has_objects {
                self.object(document, &at, &mut groups);
            } else if position == 0 {
                self.groups_of(document, &at, "a rule file", &mut groups);
            } else {
                let message = "a second document, which Prometheus does not read".into();
                self.error(&at, message, Some("put all groups under one `groups`".into()));
            }
        }
        groups
    }

    /// Reads the groups of an object, or of the objects in a list.
    fn object(&mut self, object: Unread, at: &YamlPath, groups: &mut Vec<UnreadGroup>) {
        let text = |key: &str| object.get(key).and_then(Unread::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        match (version, kind) {
            (OPERATOR, "PrometheusRule") => {
                self.refuse_unknown(
                    &object,
                    &["apiVersion", "kind", "metadata", "spec", "status"],
                    at,
                    "a PrometheusRule",
                );
                match object.get("spec") {
                    Some(spec) => {
                        let before = groups.len();
                        self.groups_of(spec.clone(), &at.key("spec"), "the spec", groups);
                        for group in &mut groups[before..] {
                            // Only Thanos reads this key, which the operator removes for Prometheus.
                            let fields = group.content.as_mapping_mut();
                            fields.and_then(|fields| fields.remove("partial_response_strategy"));
                        }
                    }
                    None => self.error(at, "a PrometheusRule lacks `spec`".into(), None),
                }
            }
            ("v1", "List") | (OPERATOR, "PrometheusRuleList") => {
                let what = format!("a {kind}");
                self.refuse_unknown(&object, &["apiVersion", "kind", "metadata", "items"], at, &what);
                match object.get("items") {
                    Some(Unread::Sequence(items)) => {
                        for (index, item) in items.iter().enumerate() {
                            self.object(item.clone(), &at.key("items").index(index), groups);
                        }
                    }
                    Some(_) => self.error(&at.key("items"), "`items` is a list".into(), None),
                    None => self.error(at, format!("{what} lacks `items`"), None),
                }
            }
            (_, "PrometheusRule" | "PrometheusRuleList") => {
                let message = format!("the apiVersion of a {kind} is {OPERATOR}, found {version:?}");
                self.error(&at.key("apiVersion"), message, None);
            }
            (_, "") => {
                let hint = format!("add `apiVersion: {OPERATOR}` and `kind: PrometheusRule`");
                self.error(at, "an object of Kubernetes has a kind".into(), Some(hint));
            }
            _ => {
                let message = format!("expected an object of the kind PrometheusRule, found {kind}");
                let hint = "move other objects to another file".into();
                self.error(&at.key("kind"), message, Some(hint));
            }
        }
    }

    /// Reads `groups`, the only key of a rule file and of the spec of an object.
    fn groups_of(&mut self, content: Unread, at: &YamlPath, what: &str, groups: &mut Vec<UnreadGroup>) {
        self.refuse_unknown(&content, &["groups"], at, what);
        let at = at.key("groups");
        match content.get("groups") {
            Some(Unread::Sequence(items)) => {
                groups.extend(items.iter().enumerate().map(|(index, item)| UnreadGroup {
                    content: item.clone(),
                    at: at.index(index),
                }));
            }
            Some(Unread::Null) | None => {}
            Some(_) => self.error(&at, "`groups` is a list".into(), None),
        }
    }

    fn refuse_unknown(&mut self, content: &Unread, known: &[&str], at: &YamlPath, what: &str) {
        let Some(content) = content.as_mapping() else {
            return self.error(at, format!("{what} is a mapping with the key `{}`", known[0]), None);
        };
        for key in content.keys().map(|key| key.as_str().unwrap_or_default()) {
            if !known.contains(&key) {
                let hint = suggest(key, "known keys", known);
                self.error(&at.key(key), format!("unknown key `{key}` in {what}"), Some(hint));
            }
        }
    }
}

fn is_object(document: &Unread) -> bool {
    ["apiVersion", "kind"].iter().any(|key| document.get(key).is_some())
}
