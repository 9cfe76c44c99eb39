//! Label sets of series: shared, sorted, and cheap to copy and compare.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A label's name or value, shared between all series that have it.
pub type Text = Arc<str>;

/// The label with a series' metric name.
pub const METRIC_NAME: &str = "__name__";

/// The labels of a series, sorted by name. None is empty, because Prometheus treats an empty label as a missing one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSet(Arc<[(Text, Text)]>);

impl Default for LabelSet {
    fn default() -> Self {
        LabelSet(Arc::from([]))
    }
}

impl LabelSet {
    /// Sorts the labels and drops empty ones. Of two labels with one name the later one wins.
    pub fn new(mut labels: Vec<(Text, Text)>) -> Self {
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        labels.reverse();
        labels.dedup_by(|a, b| a.0 == b.0);
        labels.reverse();
        labels.retain(|(_, value)| !value.is_empty());
        LabelSet(labels.into())
    }

    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::new(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value, empty where the label is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| &**known == name)
            .map_or("", |(_, value)| value)
    }

    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    pub fn pairs(&self) -> &[(Text, Text)] {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub fn without_metric_name(&self) -> Self {
        self.retain(|name| name != METRIC_NAME)
    }

    /// The labels whose names `keep` accepts. Shares the allocation if those are all.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        LabelSet(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// Sets labels, and removes those that are set to an empty value.
    pub fn with(&self, changes: impl IntoIterator<Item = (Text, Text)>) -> Self {
        let mut labels = self.0.to_vec();
        labels.extend(changes);
        Self::new(labels)
    }
}

/// Writes `name{label="value"}` as the text format does, or `{"a metric", "a label"="value"}` where names need quotes.
impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        let labels = self.0.iter().filter(|(label, _)| &**label != METRIC_NAME);
        let mut labels: Vec<String> = labels
            .map(|(label, value)| format!("{}={}", label_name(label), quoted(value)))
            .collect();
        if is_metric_name(name) {
            f.write_str(name)?;
            if labels.is_empty() {
                return Ok(());
            }
        } else if !name.is_empty() {
            labels.insert(0, quoted(name));
        }
        write!(f, "{{{}}}", labels.join(", "))
    }
}

/// A label's name as in an expression, with quotes where it needs them.
pub fn label_name(name: &str) -> Cow<'_, str> {
    if is_metric_name(name) && !name.contains(':') {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(quoted(name))
    }
}

/// Whether a metric's name needs no quotes.
fn is_metric_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    )
}

/// The labels that group or match series: those of `by`/`on`, or of `without`/`ignoring`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    Only(Vec<Text>),
    /// All except these and the metric name.
    AllBut(Vec<Text>),
}

impl Selected {
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Selected::Only(names) => names.iter().any(|known| &**known == name),
            Selected::AllBut(names) => name != METRIC_NAME && !names.iter().any(|known| &**known == name),
        }
    }

    pub fn of<'a>(&'a self, labels: &'a LabelSet) -> Signature<'a> {
        Signature { labels, selected: self }
    }
}

/// The selected part of a label set as a key, without copying it.
#[derive(Clone, Copy)]
pub struct Signature<'a> {
    labels: &'a LabelSet,
    selected: &'a Selected,
}

impl<'a> Signature<'a> {
    fn pairs(self) -> impl Iterator<Item = &'a (Text, Text)> {
        self.labels
            .0
            .iter()
            .filter(move |(name, _)| self.selected.includes(name))
    }

    pub fn to_labels(self) -> LabelSet {
        self.labels.retain(|name| self.selected.includes(name))
    }
}

impl PartialEq for Signature<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.pairs().eq(other.pairs())
    }
}

impl Eq for Signature<'_> {}

impl Hash for Signature<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pairs().for_each(|pair| pair.hash(state));
    }
}

/// Shares one allocation between equal strings.
#[derive(Debug, Default)]
pub struct Texts(HashSet<Text>);

impl Texts {
    pub fn share(&mut self, text: &str) -> Text {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let text: Text = text.into();
        self.0.insert(text.clone());
        text
    }

    /// Drops strings that no series uses.
    pub fn forget_unused(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_labels_win_and_empty_ones_vanish() {
        let labels = LabelSet::from_pairs([("b", "1"), ("a", "2"), ("b", "3"), ("c", "")]);
        assert_eq!(labels, LabelSet::from_pairs([("a", "2"), ("b", "3")]));
        assert_eq!(labels.with([("a".into(), "".into())]).to_string(), "{b=\"3\"}");
    }

    #[test]
    fn display_quotes_as_the_text_format() {
        let labels = LabelSet::from_pairs([(METRIC_NAME, "m"), ("a", "x\"\\\ny")]);
        assert_eq!(labels.to_string(), "m{a=\"x\\\"\\\\\\ny\"}");
        assert_eq!(LabelSet::from_pairs([(METRIC_NAME, "m")]).to_string(), "m");
        assert_eq!(LabelSet::default().to_string(), "{}");
        let labels = LabelSet::from_pairs([(METRIC_NAME, "my.metric"), ("a.b", "x"), ("c:d", "y"), ("e", "z")]);
        assert_eq!(
            labels.to_string(),
            "{\"my.metric\", \"a.b\"=\"x\", \"c:d\"=\"y\", e=\"z\"}"
        );
        assert_eq!(LabelSet::from_pairs([(METRIC_NAME, "é")]).to_string(), "{\"é\"}");
    }
}
