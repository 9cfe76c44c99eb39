//! The parser of Prometheus rule files. It reads strings, never the disk.

use super::duration::parse_ms;
use super::labels::{METRIC_NAME, Text};
use super::promql::{self, Query, Refusal};
use super::template::Template;
use super::yaml_path::{LineLookup, YamlPath};
use crate::diagnostic::SourceText;
use crate::labels::Labels;
use crate::yaml::{self, Unread};
use serde::de::{DeserializeOwned, Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashSet};

/// An error in a rule file or a unit-test file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}{}", .line.map(|line| format!(":{line}")).unwrap_or_default(),
    .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct RuleError {
    pub file: String,
    /// Counted from one.
    pub line: Option<usize>,
    pub message: String,
    /// The correction.
    pub hint: Option<String>,
}

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
struct FileText {
    #[serde(default)]
    groups: Vec<Unread>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    name: Scalar,
    interval: Option<Scalar>,
    #[serde(default)]
    limit: usize,
    #[serde(default)]
    labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    rules: Vec<Unread>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    record: Option<Scalar>,
    alert: Option<Scalar>,
    expr: Scalar,
    r#for: Option<Scalar>,
    keep_firing_for: Option<Scalar>,
    #[serde(default)]
    labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    annotations: BTreeMap<String, Scalar>,
}

/// A string that may be written as a number or a boolean, as in `severity: 1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |found| Err(D::Error::invalid_type(found, &"a string"));
        match Unread::deserialize(deserializer)? {
            Unread::String(text) => Ok(Scalar(text)),
            Unread::Bool(value) => Ok(Scalar(value.to_string())),
            Unread::Number(number) => Ok(Scalar(match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => number.to_string(),
                (None, Some(number)) => number.to_string(),
                (None, None) => number.as_f64().unwrap_or(f64::NAN).to_string(),
            })),
            Unread::Null => Err(D::Error::custom("expected a string, found nothing")),
            Unread::Sequence(_) => wrong(Unexpected::Seq),
            Unread::Mapping(_) => wrong(Unexpected::Map),
            Unread::Tagged(_) => wrong(Unexpected::Enum),
        }
    }
}

/// A duration within a test file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DurationMs(pub i64);

impl<'de> Deserialize<'de> for DurationMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Scalar(text) = Scalar::deserialize(deserializer)?;
        parse_ms(&text).map(DurationMs).map_err(D::Error::custom)
    }
}

/// Parses a rule file; `file` names it in errors.
///
/// # Errors
/// All errors and all unsupported expressions at once; for a file that is not YAML, the first error.
pub fn parse(file: &str, text: &str) -> Result<RuleFile, Vec<RuleError>> {
    let mut reader = Reader::new(file, text);
    let Some(content) = reader.whole::<FileText>() else {
        return Err(reader.errors);
    };
    let mut names = HashSet::new();
    let mut groups = Vec::new();
    for (index, group) in content.groups.into_iter().enumerate() {
        let at = YamlPath::root().key("groups").index(index);
        let Some(group) = reader.part::<GroupText>(group, &at, "group") else {
            continue;
        };
        if group.name.0.is_empty() {
            reader.error(&at, "a group needs a name".into(), None);
        }
        if !names.insert(group.name.0.clone()) {
            let message = format!("this file has the group {:?} twice", group.name.0);
            reader.error(&at.key("name"), message, None);
        }
        let interval_ms = reader.duration(group.interval, &at.key("interval"));
        let rules = group.rules.into_iter().enumerate();
        let rules = rules
            .filter_map(|(index, rule)| reader.rule(rule, &group.labels, &at.key("rules").index(index), &group.name.0));
        let rules = rules.collect();
        let file = file.to_owned();
        let interval_ms = interval_ms.filter(|interval_ms| *interval_ms > 0);
        groups.push(Group {
            file,
            name: group.name.0,
            interval_ms,
            limit: group.limit,
            rules,
        });
    }
    if reader.errors.is_empty() {
        Ok(RuleFile { groups })
    } else {
        Err(reader.errors)
    }
}

/// Collects the errors of one file.
pub(super) struct Reader {
    lines: LineLookup,
    pub errors: Vec<RuleError>,
}

impl Reader {
    pub fn new(file: &str, text: &str) -> Self {
        Reader {
            lines: LineLookup::new(SourceText::new(file, text)),
            errors: Vec::new(),
        }
    }

    pub fn error(&mut self, at: &YamlPath, message: String, hint: Option<String>) {
        let line = self.lines.line(at);
        self.report(line, message, hint);
    }

    fn report(&mut self, line: Option<usize>, message: String, hint: Option<String>) {
        self.errors.push(RuleError {
            file: self.lines.source().name().into(),
            line,
            message,
            hint,
        });
    }

    pub fn whole<T: DeserializeOwned>(&mut self) -> Option<T> {
        yaml::from_str(self.lines.source())
            .map_err(|found| self.report(found.span.map(|span| span.line), found.message, None))
            .ok()
    }

    fn part<T: DeserializeOwned>(&mut self, part: Unread, at: &YamlPath, what: &str) -> Option<T> {
        yaml::from_part(part)
            .map_err(|error| self.error(at, format!("{what}: {error}"), None))
            .ok()
    }

    fn duration(&mut self, text: Option<Scalar>, at: &YamlPath) -> Option<i64> {
        parse_ms(&text?.0)
            .map_err(|error| self.error(at, error.to_string(), None))
            .ok()
    }

    /// Checks one rule. Errors name group and rule, because `check` prints each error by itself.
    fn rule(
        &mut self,
        unread: Unread,
        of_group: &BTreeMap<String, Scalar>,
        at: &YamlPath,
        group: &str,
    ) -> Option<Rule> {
        let rule: RuleText = self.part(unread, at, &format!("group {group:?}: rule"))?;
        let errors_before = self.errors.len();
        let name = match (&rule.record, &rule.alert) {
            (Some(Scalar(name)), None) | (None, Some(Scalar(name))) if !name.is_empty() => name.clone(),
            _ => {
                let hint = Some("write exactly one of them".into());
                self.error(at, format!("group {group:?}: a rule has either record or alert"), hint);
                return None;
            }
        };
        let about = format!("group {group:?}, rule {name:?}");
        let query = match promql::parse(&rule.expr.0) {
            Ok(query) => Some(query),
            Err(refusals) => {
                for Refusal { message, offset, hint } in refusals {
                    let place = offset
                        .map(|offset| in_expression(&rule.expr.0, offset))
                        .unwrap_or_default();
                    self.error(&at.key("expr"), format!("{about}: {message}{place}"), hint);
                }
                None
            }
        };
        let labels: BTreeMap<&String, &Scalar> = of_group.iter().chain(&rule.labels).collect();
        for name in labels.keys() {
            if !promql::is_label_name(name) || *name == METRIC_NAME {
                self.error(
                    &at.key("labels").key(name),
                    format!("{about}: {name:?} is not a label name"),
                    None,
                );
            }
        }
        let for_ms = self.duration(rule.r#for.clone(), &at.key("for"));
        let keep_firing_for_ms = self.duration(rule.keep_firing_for.clone(), &at.key("keep_firing_for"));
        let built = if rule.record.is_some() {
            let foreign = [
                ("for", rule.r#for.is_some()),
                ("keep_firing_for", rule.keep_firing_for.is_some()),
                ("annotations", !rule.annotations.is_empty()),
            ];
            for (key, _) in foreign.into_iter().filter(|(_, is_there)| *is_there) {
                self.error(&at.key(key), format!("{about}: a recording rule has no {key}"), None);
            }
            if !is_metric_name(&name) {
                self.error(
                    &at.key("record"),
                    format!("{about}: {name:?} is not a metric name"),
                    None,
                );
            }
            let labels = labels
                .into_iter()
                .map(|(name, value)| (name.as_str().into(), value.0.as_str().into()));
            query.map(|query| {
                Rule::Recording(RecordingRule {
                    record: name.as_str().into(),
                    query,
                    labels: labels.collect(),
                })
            })
        } else {
            let labels = labels.into_iter().filter_map(|(name, text)| {
                Some((
                    name.as_str().into(),
                    self.template(text, &at.key("labels").key(name), &about)?,
                ))
            });
            let labels = labels.collect();
            let annotations = rule.annotations.iter().filter_map(|(name, text)| {
                Some((
                    name.clone(),
                    self.template(text, &at.key("annotations").key(name), &about)?,
                ))
            });
            let annotations = annotations.collect();
            query.map(|query| {
                Rule::Alerting(AlertingRule {
                    alert: name.as_str().into(),
                    query,
                    for_ms: for_ms.unwrap_or(0),
                    keep_firing_for_ms: keep_firing_for_ms.unwrap_or(0),
                    labels,
                    annotations,
                })
            })
        };
        built.filter(|_| self.errors.len() == errors_before)
    }

    fn template(&mut self, text: &Scalar, at: &YamlPath, about: &str) -> Option<Template> {
        Template::parse(&text.0)
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

/// Whether a string is a metric name of the Prometheus data model.
fn is_metric_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_as_prometheus_reads_it() {
        let text = "groups:\n- name: g\n  interval: 1m\n  limit: 5\n  labels: {team: x}\n  rules:\n  - record: a:b\n    \
                    expr: sum(a)\n    labels: {l: 1}\n  - alert: A\n    expr: 1\n    for: 5m\n    keep_firing_for: 90s\n    \
                    labels: {severity: page}\n    annotations: {summary: 'at {{ $value }}'}\n";
        let file = parse("x.yml", text).unwrap();
        let group = &file.groups[0];
        assert_eq!(
            (group.interval_ms, group.limit, group.rules.len()),
            (Some(60_000), 5, 2)
        );
        let Rule::Recording(record) = &group.rules[0] else {
            panic!()
        };
        assert_eq!(record.labels, [("l".into(), "1".into()), ("team".into(), "x".into())]);
        let Rule::Alerting(alert) = &group.rules[1] else {
            panic!()
        };
        assert_eq!(
            (alert.for_ms, alert.keep_firing_for_ms, alert.labels.len()),
            (300_000, 90_000, 2)
        );
    }

    #[test]
    fn yaml_error_has_a_line() {
        let errors = parse("x.yml", "groups:\n- name: [\n").unwrap_err();
        assert!(errors[0].line.is_some_and(|line| line > 1), "{errors:?}");
    }
}
