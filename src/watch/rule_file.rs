//! The parser of Prometheus rule files. It reads strings, never the disk.

use super::labels::{METRIC_NAME, Text};
use super::promql::{self, MAX_REACH_MS, Query, Refusal};
use super::template::Template;
use super::yaml_place::Place;
use super::yaml_reader::Reader;
pub use super::yaml_reader::RuleError;
use crate::labels::Labels;
use crate::yaml::Node;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, HashSet};

/// The rules of one file.
#[derive(Debug, Clone)]
pub struct RuleFile {
    pub groups: Vec<Group>,
}

impl RuleFile {
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.groups.iter().flat_map(|group| &group.rules)
    }

    /// The longest `for` of all alerting rules, in milliseconds.
    pub fn longest_for_ms(&self) -> i64 {
        let waits = self.rules().filter_map(|rule| match rule {
            Rule::Alerting(rule) => Some(rule.for_ms),
            Rule::Recording(_) => None,
        });
        waits.max().unwrap_or(0)
    }
}

/// A group of rules that are evaluated in order, at the same time.
#[derive(Debug, Clone)]
pub struct Group {
    pub file: String,
    pub name: String,
    /// `None` uses the evaluator's interval.
    pub interval_ms: Option<i64>,
    /// How long before the time of its evaluation a group reads, and writes its series.
    pub query_offset_ms: i64,
    /// Maximum number of series or alerts of a rule; 0 is no limit.
    pub limit: usize,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
pub enum Rule {
    Recording(RecordingRule),
    Alerting(AlertingRule),
}

#[derive(Debug, Clone)]
pub struct RecordingRule {
    pub record: Text,
    pub query: Query,
    pub labels: Vec<(Text, Text)>,
}

#[derive(Debug, Clone)]
pub struct AlertingRule {
    pub alert: Text,
    pub query: Query,
    pub for_ms: i64,
    pub keep_firing_for_ms: i64,
    pub labels: Vec<(Text, Template)>,
    pub annotations: Vec<(String, Template)>,
}

impl AlertingRule {
    /// The labels of every alert of this rule that do not depend on its series.
    pub fn fixed_labels(&self) -> Labels {
        let fixed = self
            .labels
            .iter()
            .filter(|(_, template)| !template.source().contains("{{"));
        let fixed = fixed.map(|(name, template)| (&**name, template.source()));
        fixed.chain([("alertname", &*self.alert)]).collect()
    }

    /// The annotations of every alert of this rule that do not depend on its series.
    pub fn fixed_annotations(&self) -> Vec<(String, String)> {
        let fixed = self.annotations.iter();
        let fixed = fixed.filter(|(_, template)| !template.source().contains("{{"));
        fixed
            .map(|(name, template)| (name.clone(), template.source().to_owned()))
            .collect()
    }
}

impl Rule {
    pub fn name(&self) -> &str {
        match self {
            Rule::Recording(rule) => &rule.record,
            Rule::Alerting(rule) => &rule.alert,
        }
    }

    pub fn query(&self) -> &Query {
        match self {
            Rule::Recording(rule) => &rule.query,
            Rule::Alerting(rule) => &rule.query,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    name: String,
    interval: Option<String>,
    query_offset: Option<String>,
    limit: Option<i64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Read one by one, so that an error in one hides none in another.
    #[serde(default, rename = "rules")]
    _rules: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    #[serde(default)]
    record: String,
    #[serde(default)]
    alert: String,
    #[serde(default)]
    expr: String,
    r#for: Option<String>,
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The settings of a group that its rules need.
struct OfGroup<'n> {
    name: String,
    labels: BTreeMap<String, String>,
    query_offset_ms: i64,
    at: Place<'n>,
}

/// Parses a rule file; `file` names it in errors.
///
/// # Errors
/// All errors and all unsupported expressions at once; for a file that is not YAML, the first error.
pub fn parse(file: &str, text: &str) -> Result<RuleFile, Vec<RuleError>> {
    let mut reader = Reader::new(file, text);
    let mut names = HashSet::new();
    let documents = reader.documents().unwrap_or_default();
    let unread = reader.groups(&documents);
    let groups = unread.iter();
    let groups = groups
        .filter_map(|group| reader.group(file, group, &mut names))
        .collect();
    if reader.errors.is_empty() {
        Ok(RuleFile { groups })
    } else {
        Err(reader.errors)
    }
}

impl Reader {
    /// Checks one group. `names` are those of the groups before it.
    fn group(&mut self, file: &str, unread: &Node, names: &mut HashSet<String>) -> Option<Group> {
        let at = Place::of(unread);
        let group: GroupText = self.part(unread, "group: ")?;
        let name = group.name;
        if name.is_empty() {
            self.error(at, "a group needs a name".into(), None);
        }
        if !names.insert(name.clone()) {
            self.error(at.key("name"), format!("this file has the group {name:?} twice"), None);
        }
        let interval_ms = self.duration(group.interval.as_deref(), at.key("interval"));
        let query_offset_ms = self.duration(group.query_offset.as_deref(), at.key("query_offset"));
        let rules = || at.key("rules").items();
        let has_alerts = rules().any(|(rule, _)| rule.get("alert").is_some_and(|alert| alert.as_text().is_some()));
        let label_places = at.key("labels").keys();
        for (label, text) in &group.labels {
            let (at, about) = (label_places.get(label), format!("group {name:?}"));
            self.label_name(label, at, &about);
            if has_alerts {
                self.template(text, at, &about);
            }
        }
        let of_group = OfGroup {
            name,
            labels: group.labels,
            query_offset_ms: query_offset_ms.unwrap_or(0),
            at,
        };
        let rules = rules().filter_map(|(rule, at)| self.rule(rule, &of_group, at));
        let rules = rules.collect();
        Some(Group {
            file: file.to_owned(),
            interval_ms: interval_ms.filter(|interval_ms| *interval_ms > 0),
            query_offset_ms: of_group.query_offset_ms,
            // As in Prometheus, a negative limit is none.
            limit: group.limit.and_then(|limit| limit.try_into().ok()).unwrap_or(0),
            name: of_group.name,
            rules,
        })
    }

    /// Checks one rule. Errors name group and rule, because `check` prints each error by itself.
    fn rule(&mut self, unread: &Node, of_group: &OfGroup, at: Place) -> Option<Rule> {
        let group = &of_group.name;
        let rule: RuleText = self.part(unread, &format!("group {group:?}: rule: "))?;
        let errors_before = self.errors.len();
        let name = match (rule.record.as_str(), rule.alert.as_str()) {
            (name, "") | ("", name) if !name.is_empty() => name,
            _ => {
                let hint = Some("write exactly one of them".into());
                self.error(at, format!("group {group:?}: a rule has either record or alert"), hint);
                return None;
            }
        };
        let about = format!("group {group:?}, rule {name:?}");
        if rule.expr.is_empty() {
            self.error(at.key("expr"), format!("{about}: a rule needs an expr"), None);
            return None;
        }
        let query = match promql::parse(&rule.expr) {
            Ok(query) => Some(query),
            Err(refusals) => {
                for Refusal { message, offset, hint } in refusals {
                    let place = offset
                        .map(|offset| in_expression(&rule.expr, offset))
                        .unwrap_or_default();
                    self.error(at.key("expr"), format!("{about}: {message}{place}"), hint);
                }
                None
            }
        };
        if let Some(query) = &query
            && query.reach_ms() + of_group.query_offset_ms > MAX_REACH_MS
        {
            let message = format!("{about}: with the query_offset the expression looks back more than 7 days");
            let hint = "the history in memory goes back 7 days".into();
            self.error(of_group.at.key("query_offset"), message, Some(hint));
        }
        let label_places = at.key("labels").keys();
        for name in rule.labels.keys() {
            self.label_name(name, label_places.get(name), &about);
        }
        let labels: BTreeMap<&String, &String> = of_group.labels.iter().chain(&rule.labels).collect();
        let for_ms = self.duration(rule.r#for.as_deref(), at.key("for")).unwrap_or(0);
        let keep_firing_for_ms = self.duration(rule.keep_firing_for.as_deref(), at.key("keep_firing_for"));
        let keep_firing_for_ms = keep_firing_for_ms.unwrap_or(0);
        let built = if rule.alert.is_empty() {
            let foreign = [
                ("for", for_ms != 0),
                ("keep_firing_for", keep_firing_for_ms != 0),
                ("annotations", !rule.annotations.is_empty()),
            ];
            for (key, _) in foreign.into_iter().filter(|(_, is_there)| *is_there) {
                self.error(at.key(key), format!("{about}: a recording rule has no {key}"), None);
            }
            if name.contains(['{', '}']) {
                let message = format!("{about}: the name of a recording rule has no braces");
                self.error(at.key("record"), message, Some("labels are under `labels`".into()));
            }
            let labels = labels
                .into_iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()));
            query.map(|query| {
                Rule::Recording(RecordingRule {
                    record: name.into(),
                    query,
                    labels: labels.collect(),
                })
            })
        } else {
            let labels = labels.into_iter().filter_map(|(name, text)| {
                let template = if rule.labels.contains_key(name) {
                    self.template(text, label_places.get(name), &about)
                } else {
                    // The group has reported the error.
                    Template::parse(text).ok()
                };
                Some((name.as_str().into(), template?))
            });
            let labels = labels.collect();
            let annotation_places = at.key("annotations").keys();
            let annotations = rule.annotations.iter().filter_map(|(name, text)| {
                let at = annotation_places.get(name);
                if name.is_empty() {
                    self.error(at, format!("{about}: an annotation needs a name"), None);
                }
                Some((name.clone(), self.template(text, at, &about)?))
            });
            let annotations = annotations.collect();
            query.map(|query| {
                Rule::Alerting(AlertingRule {
                    alert: name.into(),
                    query,
                    for_ms,
                    keep_firing_for_ms,
                    labels,
                    annotations,
                })
            })
        };
        built.filter(|_| self.errors.len() == errors_before)
    }

    fn label_name(&mut self, name: &str, at: Place, about: &str) {
        if name.is_empty() || name == METRIC_NAME {
            self.error(at, format!("{about}: {name:?} is not a label name"), None);
        }
    }

    fn template(&mut self, text: &str, at: Place, about: &str) -> Option<Template> {
        Template::parse(text)
            .map_err(|error| self.error(at, format!("{about}: {error}"), None))
            .ok()
    }
}

/// The position in an expression, which may have several lines.
fn in_expression(text: &str, offset: usize) -> String {
    let before = &text[..offset];
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    match before.matches('\n').count() {
        0 => format!(" (expr, column {column})"),
        lines => format!(" (expr, line {}, column {column})", lines + 1),
    }
}

#[cfg(test)]
mod tests;
