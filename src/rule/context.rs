//! What rules are judged against: what the configuration and the alerting rule files beside them say.

use super::ruleset::Rule;
use crate::alert::Labels;
use crate::alert::matcher::Matcher;
use crate::process::Selector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Judges a PromQL expression that can be evaluated; on error the character at which it goes wrong, from 0, and why.
pub type PromqlCheck<'c> = dyn Fn(&str) -> Result<Vec<Warning>, (usize, String)> + 'c;

/// What is probably wrong with an expression that can be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// In characters, from 0.
    pub offset: usize,
    pub width: usize,
    pub message: String,
    pub help: String,
}

/// What rules are judged against.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// `process_groups` of the configuration.
    pub groups: &'c BTreeMap<String, Arc<Selector>>,
    /// Names of the alerts that the alerting rule files beside define, where there are such files.
    pub known_alerts: Option<&'c BTreeSet<String>>,
    /// The alerts that the alerting rule files beside raise here.
    pub own_alerts: &'c [OwnAlert],
    /// How often the Alertmanager beside repeats a standing alert, where its configuration was found.
    pub repeat_interval: Option<Duration>,
    /// `allow_exec` of the configuration.
    pub allow_exec: bool,
    /// Judges `while`.
    pub check_promql: &'c PromqlCheck<'c>,
}

/// An alert that own evaluation raises.
#[derive(Debug, Clone)]
pub struct OwnAlert {
    /// Its name, and labels of its rule that are the same for every series.
    pub labels: Labels,
    /// The group that it belongs to, and how often that is evaluated.
    pub group: String,
    pub interval: Duration,
}

impl OwnAlert {
    /// Whether a rule answers it, for some values of the labels that only its series know.
    pub(super) fn may_match(&self, rule: &Rule) -> bool {
        let value = |matcher: &Matcher| self.labels.get(&matcher.name);
        let mut matchers = rule.matchers.iter();
        matchers.all(|matcher| value(matcher).is_none_or(|value| matcher.matches_value(value)))
    }
}
