//! Checks that need more than one key or more than one rule. Their warnings must be true, because false warnings
//! teach people to ignore all of them.

use super::context::Context;
use super::favours;
use super::ruleset::{DEFAULT_HOLD, Rule};
use super::select::alternatives;
use super::unchecked_rule::UncheckedRule;
use crate::alert::alert::FIRING_SET_INTERVAL;
use crate::alert::matcher::{Matcher, Op};
use crate::diagnostic::{Findings, nearest};
use crate::knob::{Change, Knob, Value};
use crate::process::Selector;
use crate::process::pattern::is_plain;
use crate::process::selector::{Condition, Pattern};
use crate::step::Step;
use std::collections::BTreeMap;

/// Checks each rule, and each pair of rules. `findings` are those of the files, by the rules' number.
pub(super) fn check(rules: &[UncheckedRule], context: &Context, findings: &mut [Findings]) {
    let mut named: BTreeMap<&str, &UncheckedRule> = BTreeMap::new();
    for unchecked in rules {
        let place = &mut findings[unchecked.file];
        place.set_rule(Some(&unchecked.rule.name));
        if let Some(first) = named.get(unchecked.rule.name.as_str()) {
            let message = format!("a second rule named `{}`", unchecked.rule.name);
            let line = first.name_span.line;
            let help = if first.file == unchecked.file {
                format!("the first one is in line {line}; give each a unique name")
            } else {
                let help = "give each a unique name";
                format!(
                    "the first one is in {}:{line}; {help}",
                    findings[first.file].source().name()
                )
            };
            findings[unchecked.file].error(unchecked.name_span, message, help);
        } else {
            named.insert(&unchecked.rule.name, unchecked);
        }
        let place = &mut findings[unchecked.file];
        warn_if_never_matching(unchecked, place);
        warn_of_unknown_alert(unchecked, context, place);
        warn_of_short_hold(unchecked, context, place);
        warn_of_moot_limit(unchecked, place);
        favours::warn(unchecked, place);
    }
    warn_of_fights(rules, findings);
}

/// The label values that this matcher accepts, if they can be listed.
fn wanted(matcher: &Matcher) -> Option<Vec<&str>> {
    match matcher.op {
        Op::Equal => Some(vec![&matcher.value]),
        _ => matcher.listed_values(),
    }
}

/// A matcher for whose label no value satisfies all of `matchers`.
fn contradiction<'m>(matchers: &[&'m Matcher]) -> Option<&'m Matcher> {
    matchers.iter().copied().find(|matcher| {
        wanted(matcher).is_some_and(|values| {
            let on_label = || matchers.iter().filter(|other| other.name == matcher.name);
            !values
                .iter()
                .any(|value| on_label().all(|other| other.matches_value(value)))
        })
    })
}

fn warn_if_never_matching(unchecked: &UncheckedRule, findings: &mut Findings) {
    let matchers: Vec<&Matcher> = unchecked.rule.matchers.iter().collect();
    if let Some(first) = contradiction(&matchers) {
        let position = unchecked
            .rule
            .matchers
            .iter()
            .rposition(|matcher| matcher.name == first.name);
        let text = position.and_then(|position| unchecked.matcher_texts.get(position));
        let span = text.map_or(unchecked.span, |text| text.span);
        let message = format!("can never match: no value of `{}` satisfies all matchers", first.name);
        findings.warning(
            span,
            message,
            "matchers are joined by `and`; for `or` write one of them: =~\"a|b\"",
        );
    }
}

fn warn_of_unknown_alert(unchecked: &UncheckedRule, context: &Context, findings: &mut Findings) {
    let Some(known) = context.known_alerts else { return };
    for (matcher, text) in unchecked.rule.matchers.iter().zip(&unchecked.matcher_texts) {
        if matcher.name != "alertname" || !matches!(matcher.op, Op::Equal | Op::Regex) {
            continue;
        }
        let unknown: Vec<&str> = match wanted(matcher) {
            Some(names) => names.into_iter().filter(|name| !known.contains(*name)).collect(),
            None if known.iter().any(|name| matcher.matches_value(name)) => continue,
            None => vec![&matcher.value],
        };
        for name in unknown {
            let message = format!("no alerting rule file defines an alert `{name}`");
            let help = match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add its file to `alerting_rule_files`, if this host evaluates it".to_owned(),
            };
            findings.warning(text.span, message, help);
        }
    }
}

fn warn_of_short_hold(unchecked: &UncheckedRule, context: &Context, findings: &mut Findings) {
    let rule = &unchecked.rule;
    // A `hold` of 0s is an error already.
    if !rule.actions.iter().any(|step| step.is_lease()) || rule.hold.is_zero() {
        return;
    }
    let Some((reason, consequence)) = why_hold_is_short(rule, context) else {
        return;
    };
    let message = format!("`hold` of {}s is {reason}", rule.hold.as_secs_f64());
    let help = match unchecked.hold_span {
        Some(_) => format!("{consequence}; make it longer"),
        None => format!(
            "the default is {}s; set `hold`, or let Alertmanager repeat sooner",
            DEFAULT_HOLD.as_secs()
        ),
    };
    findings.warning(unchecked.hold_span.unwrap_or(unchecked.span), message, help);
}

/// The interval that is longer than `hold`, and the consequence.
fn why_hold_is_short(rule: &Rule, context: &Context) -> Option<(String, &'static str)> {
    let ends_early = "leases would expire while the alert still fires";
    let own = context.own_alerts.iter().filter(|alert| alert.may_match(rule));
    let slowest = own.max_by_key(|alert| alert.interval);
    if let Some(repeat) = context.repeat_interval.filter(|repeat| rule.hold <= *repeat) {
        let repeat = repeat.as_secs_f64();
        let reason = format!("not longer than Alertmanager's repeat_interval of {repeat}s");
        return Some((reason, ends_early));
    }
    if let Some(alert) = slowest.filter(|alert| rule.hold < alert.interval) {
        let (group, interval) = (&alert.group, alert.interval.as_secs_f64());
        let name = alert.labels.get("alertname").unwrap_or_default();
        let reason = format!("shorter than the {interval}s after which group `{group}` evaluates alert `{name}` again");
        return Some((reason, "leases would be renewed without a new evaluation"));
    }
    // An Alertmanager that is known to repeat sooner is enough for a rule that answers no own alert.
    let is_repeated_sooner = slowest.is_none() && context.repeat_interval.is_some();
    let is_short = rule.hold <= FIRING_SET_INTERVAL && !is_repeated_sooner;
    is_short.then(|| {
        let interval = FIRING_SET_INTERVAL.as_secs();
        let reason =
            format!("not longer than {interval}s, the shortest interval at which alerts are certain to repeat");
        (reason, ends_early)
    })
}

fn warn_of_moot_limit(unchecked: &UncheckedRule, findings: &mut Findings) {
    let rule = &unchecked.rule;
    let (Some(span), None) = (unchecked.limit_span, &rule.condition) else {
        return;
    };
    // Reversible steps apply to `limit` processes, regardless of the sender.
    let ends_at_once = rule.actions.iter().find(|step| !step.is_wait());
    if rule.limit > 1 && ends_at_once.is_some_and(|step| step.is_final()) {
        let message = format!(
            "`limit: {}` has no effect for alerts from Alertmanager: without `while` one process is killed per episode",
            rule.limit
        );
        let help = "add what must still be true before each next one, such as \
                    while: node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1";
        findings.warning(span, message, help);
    }
}

/// The values that a rule sets, by knob. Of several for one knob the last counts.
fn knobs(rule: &Rule) -> BTreeMap<Knob, &Value> {
    let set = |step| match step {
        &Step::Set(Change::To(ref value)) => Some((value.knob(), value)),
        _ => None,
    };
    rule.actions.iter().filter_map(set).collect()
}

fn warn_of_fights(rules: &[UncheckedRule], findings: &mut [Findings]) {
    let setters: Vec<(&UncheckedRule, BTreeMap<Knob, &Value>)> = rules
        .iter()
        .map(|unchecked| (unchecked, knobs(&unchecked.rule)))
        .filter(|(_, knobs)| !knobs.is_empty())
        .collect();
    for (index, (second, second_knobs)) in setters.iter().enumerate() {
        for (first, first_knobs) in &setters[..index] {
            let fight = second_knobs
                .iter()
                .find(|(knob, value)| first_knobs.get(knob).is_some_and(|other| other != *value));
            let Some((knob, value)) = fight else { continue };
            let matchers: Vec<&Matcher> = first.rule.matchers.iter().chain(&second.rule.matchers).collect();
            let (Some(one), Some(other)) = (first.rule.selector(), second.rule.selector()) else {
                continue;
            };
            if contradiction(&matchers).is_some() || !overlap(one, other) {
                continue;
            }
            let message = format!(
                "two rules set `{knob}` of the same processes: {value} here, {} in `{}`",
                first_knobs[knob], first.rule.name
            );
            let place = &mut findings[second.file];
            place.set_rule(Some(&second.rule.name));
            place.warning(
                second.span,
                message,
                "while both alerts fire, the newer lease decides; select different processes",
            );
        }
    }
}

/// Whether two selectors certainly overlap. Different patterns count as disjoint, because their overlap would be a guess.
fn overlap(first: &Selector, second: &Selector) -> bool {
    first.conditions.iter().all(|condition| {
        second
            .conditions
            .iter()
            .filter(|other| other.key() == condition.key())
            .all(|other| match (condition, other) {
                (Condition::Group { name, .. }, Condition::Group { name: other, .. }) => name == other,
                _ => match (condition.pattern(), other.pattern()) {
                    (Some(one), Some(two)) => patterns_overlap(one, two),
                    _ => true,
                },
            })
    })
}

fn patterns_overlap(first: &Pattern, second: &Pattern) -> bool {
    let (one, two) = (first.to_string(), second.to_string());
    if one == two {
        return true;
    }
    let (Some(one), Some(two)) = (literals(first), literals(second)) else {
        return false;
    };
    one.iter().any(|text| two.contains(text))
}

/// The strings that a pattern matches, if it lists them.
fn literals(pattern: &Pattern) -> Option<Vec<String>> {
    let Pattern::Fixed(fixed) = pattern else { return None };
    let alternatives = alternatives(fixed.as_str());
    alternatives
        .iter()
        .all(|(_, text)| is_plain(text))
        .then(|| alternatives.iter().map(|(_, text)| (*text).to_owned()).collect())
}
