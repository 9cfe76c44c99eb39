//! A checked rule as data, and the set of all rules.

use crate::alert::Labels;
use crate::alert::matcher::Matcher;
use crate::process::{Selector, Target};
use crate::step::Step;
use smol_str::SmolStr;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Default of `limit`.
pub const DEFAULT_LIMIT: usize = 1;
/// Default of `max_matches`.
pub const DEFAULT_MAX_MATCHES: usize = 100;
/// Default of `hold`: longer than Alertmanager's default `repeat_interval` of 4 h, so that a repeat comes in time.
pub const DEFAULT_HOLD: Duration = Duration::from_secs(5 * 3600);
/// Default of `cooldown`.
pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone)]
pub struct Rule {
    /// Unique in its set.
    pub name: SmolStr,
    /// All of them must match.
    pub matchers: Vec<Matcher>,
    pub target_selector: TargetSelector,
    pub order_by: OrderBy,
    /// Maximum number of targets in an episode; for irreversible actions, of victims.
    pub limit: usize,
    /// If more processes match, the whole plan is refused.
    pub max_matches: usize,
    /// PromQL of `while:`, checked but not evaluated here.
    pub condition: Option<String>,
    pub actions: Vec<Step>,
    pub hold: Duration,
    pub cooldown: Duration,
    /// Whether the rule also acts on alerts that do not name this host.
    pub any_host: bool,
    /// `mode: dry-run` of the rule itself.
    pub dry_run: bool,
    /// Names of built-in protections that this rule may override.
    pub overrides: BTreeSet<String>,
    /// `without_ledger: allow`: irreversible actions are possible while the ledger cannot be written.
    pub without_ledger: bool,
}

/// The selector of a rule's targets.
#[derive(Debug, Clone, Default)]
pub enum TargetSelector {
    /// `select:` — the steps apply to matching processes, and to the host if there are steps for it.
    Processes(Selector),
    /// `select:` — the steps apply to matching cgroups as a whole.
    Cgroups(Selector),
    /// No `select:` — the steps apply to the host.
    #[default]
    Host,
}

/// The order of the matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderBy {
    pub key: OrderKey,
    /// Smallest (for age: youngest) first.
    pub reverse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKey {
    Cpu,
    Memory,
    Age,
    OomScore,
}

impl Default for OrderBy {
    fn default() -> Self {
        OrderBy {
            key: OrderKey::Age,
            reverse: false,
        }
    }
}

impl Rule {
    /// Whether all matchers match an alert with these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels))
    }

    /// Whether another rule is identical. Patterns have no equality, but equal ones have the same debug output.
    pub fn is_same_as(&self, other: &Rule) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }

    /// All steps as strings, in their order, to compare the steps of two rules.
    pub fn steps_text(&self) -> String {
        let steps: Vec<String> = self.actions.iter().map(ToString::to_string).collect();
        steps.join("; ")
    }

    /// The selector of processes or cgroups, if the rule has one.
    pub fn selector(&self) -> Option<&Selector> {
        match &self.target_selector {
            TargetSelector::Processes(selector) | TargetSelector::Cgroups(selector) => Some(selector),
            TargetSelector::Host => None,
        }
    }

    /// Whether the rule has steps for such a target, except waits.
    pub fn has_steps_for(&self, target: Target) -> bool {
        let is_its = |step: &Step| !step.is_wait() && step.is_for(target);
        self.actions.iter().any(is_its)
    }

    pub fn has_final_steps(&self) -> bool {
        self.actions.iter().any(|step| step.is_final())
    }

    /// Whether an irreversible action applies to processes.
    pub fn ends_processes(&self) -> bool {
        self.actions
            .iter()
            .any(|step| step.is_final() && step.is_for_processes())
    }
}

/// Valid rules in the order of their files.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    pub rules: Vec<Arc<Rule>>,
}

impl RuleSet {
    pub fn get(&self, name: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.name == name)
    }
}

/// An index of rules by the label values that their matchers demand, so that an alert is compared with few rules. It borrows the
/// rules and is built for each batch of alerts, which costs less than comparing two alerts with all rules.
#[derive(Debug)]
pub struct RuleIndex<'r> {
    rules: &'r [Arc<Rule>],
    /// Label name, label value, indices of rules.
    by_label: HashMap<&'r str, HashMap<&'r str, Vec<usize>>>,
    /// Rules that demand no value.
    others: Vec<usize>,
}

impl<'r> RuleIndex<'r> {
    pub fn new(rules: &'r [Arc<Rule>]) -> RuleIndex<'r> {
        let mut index = RuleIndex {
            rules,
            by_label: HashMap::new(),
            others: Vec::new(),
        };
        for (place, rule) in rules.iter().enumerate() {
            // Names of alerts distinguish most rules, unlike a severity.
            let listed = |matcher: &'r Matcher| Some((matcher, matcher.listed_values()?));
            let by_name = |(matcher, _): &(&Matcher, Vec<&str>)| matcher.name != "alertname";
            match rule.matchers.iter().filter_map(listed).min_by_key(by_name) {
                Some((matcher, values)) => {
                    let by_value = index.by_label.entry(&matcher.name).or_default();
                    for value in values {
                        by_value.entry(value).or_default().push(place);
                    }
                }
                None => index.others.push(place),
            }
        }
        index
    }

    /// The rules with only matching matchers, in their order.
    pub fn matching(&self, labels: &Labels) -> impl Iterator<Item = &'r Arc<Rule>> {
        let mut places = self.others.clone();
        for (name, by_value) in &self.by_label {
            let listed = labels.get(name).and_then(|value| by_value.get(value));
            places.extend(listed.into_iter().flatten());
        }
        places.sort_unstable();
        // `a|a` lists a value twice.
        places.dedup();
        let rules = self.rules;
        let candidates = places.into_iter().map(move |place| &rules[place]);
        candidates.filter(move |rule| rule.matches(labels))
    }
}
