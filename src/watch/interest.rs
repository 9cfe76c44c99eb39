//! The metrics that the rules read, and how far back they read them.

use super::labels::{METRIC_NAME, Text};
use super::promql::Matcher;
use std::collections::HashMap;

/// Which metrics to remember, and for how many milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    exact: HashMap<Text, i64>,
    patterns: Vec<(Vec<Matcher>, i64)>,
}

impl Interest {
    /// Adds one selector: its matchers on the metric name decide.
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

    /// Adds what another one reads.
    pub fn include(&mut self, other: &Interest) {
        for (name, keep_ms) in &other.exact {
            let keep = self.exact.entry(name.clone()).or_insert(*keep_ms);
            *keep = (*keep_ms).max(*keep);
        }
        self.patterns.extend(other.patterns.iter().cloned());
    }

    /// Forgets some of the metrics that are asked for by name.
    pub fn retain_names(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.exact.retain(|name, _| is_kept(name));
    }

    /// Whether the metric is asked for by its name, not by a pattern.
    pub fn is_named(&self, name: &str) -> bool {
        self.exact.contains_key(name)
    }

    /// Whether the rules read any metric whose name `is_meant`. A pattern over names may mean any.
    pub fn names_any(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        !self.patterns.is_empty() || self.exact.keys().any(|name| is_meant(name))
    }

    /// The metrics that are asked for by name, not by a pattern.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.exact.keys().map(|name| &**name)
    }

    /// How far back anything is needed, in milliseconds.
    pub fn longest_ms(&self) -> i64 {
        let patterns = self.patterns.iter().map(|(_, keep_ms)| *keep_ms);
        self.exact.values().copied().chain(patterns).max().unwrap_or(0)
    }

    /// How long samples of a metric are needed; `None` when no rule names it.
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
