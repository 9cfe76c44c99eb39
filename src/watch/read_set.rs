//! The read set of rules: the metrics that they read, and how far back.

use super::labels::{METRIC_NAME, Text};
use super::promql::Matcher;
use std::collections::HashMap;

/// The metrics that rules read, each with the time to keep its samples, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct ReadSet {
    exact: HashMap<Text, i64>,
    patterns: Vec<(Vec<Matcher>, i64)>,
}

impl ReadSet {
    /// Adds the metrics of a selector, by its matchers on the metric name.
    pub fn add(&mut self, matchers: &[Matcher], keep_ms: i64) {
        let names: Vec<Matcher> = matchers
            .iter()
            .filter(|matcher| &*matcher.name == METRIC_NAME)
            .cloned()
            .collect();
        match names.iter().find_map(Matcher::equal_to) {
            Some(name) => {
                let keep = self.exact.entry(name.into()).or_insert(keep_ms);
                *keep = keep_ms.max(*keep);
            }
            None => self.patterns.push((names, keep_ms)),
        }
    }

    /// Adds another read set.
    pub fn include(&mut self, other: &ReadSet) {
        for (name, keep_ms) in &other.exact {
            let keep = self.exact.entry(name.clone()).or_insert(*keep_ms);
            *keep = (*keep_ms).max(*keep);
        }
        self.patterns.extend(other.patterns.iter().cloned());
    }

    /// Removes metrics that are read by name, unless `is_kept`.
    pub fn retain_names(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.exact.retain(|name, _| is_kept(name));
    }

    /// Whether the metric is read by its name, not by a pattern.
    pub fn is_named(&self, name: &str) -> bool {
        self.exact.contains_key(name)
    }

    /// Whether the rules read a metric whose name `is_meant`. A pattern on names counts as reading any metric.
    pub fn names_any(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        !self.patterns.is_empty() || self.exact.keys().any(|name| is_meant(name))
    }

    /// The metrics that are read by name, not by a pattern.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.exact.keys().map(|name| &**name)
    }

    /// The longest time to keep samples of any metric, in milliseconds.
    pub fn longest_ms(&self) -> i64 {
        let patterns = self.patterns.iter().map(|(_, keep_ms)| *keep_ms);
        self.exact.values().copied().chain(patterns).max().unwrap_or(0)
    }

    /// The time to keep samples of a metric, in milliseconds; `None` when no rule reads it.
    pub fn keep_ms(&self, name: &str) -> Option<i64> {
        let matching = self
            .patterns
            .iter()
            .filter(|(matchers, _)| matchers.iter().all(|m| m.is_match(name)));
        matching
            .map(|(_, keep_ms)| *keep_ms)
            .chain(self.exact.get(name).copied())
            .max()
    }
}
