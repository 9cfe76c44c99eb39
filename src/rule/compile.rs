//! The compiler from rules as written to a `RuleSet`. It reports all errors at once, and its result is valid.

use super::context::Context;
use super::file::{RuleFile, WrittenRule, WrittenStep};
use super::lint;
use super::narrow::why_too_wide;
use super::ruleset::{
    DEFAULT_COOLDOWN, DEFAULT_HOLD, DEFAULT_LIMIT, DEFAULT_MAX_MATCHES, OrderBy, OrderKey, Rule, RuleSet,
    TargetSelector,
};
use super::select::warn_of_anchors;
use super::steps::compile_steps;
use super::target_selector::compile_target_selector;
use super::unchecked_rule::UncheckedRule;
use crate::alert::Labels;
use crate::alert::matcher::{Matcher, Op};
use crate::diagnostic::{Diagnostic, Findings, HostReference, Severity, suggest};
use crate::host::Knob;
use crate::process::Target;
use crate::process::protection::BUILT_IN;
use crate::step::Step;
use crate::template::is_label_name;
use crate::yaml::Text;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Bounds how deep a hostile expression can nest.
const MAX_CONDITION_BYTES: usize = 4096;

/// What became of some rule files.
#[derive(Debug)]
pub struct Compiled {
    /// Present when no rule has an error.
    pub rules: Option<RuleSet>,
    /// Errors and warnings of all files, file by file.
    pub diagnostics: Vec<Diagnostic>,
    /// Every reversible step.
    pub settings: Vec<HostReference<Knob>>,
    /// The users and programs that the rules name.
    pub references: Vec<HostReference>,
}

/// Compiles the rules of all files together.
pub fn compile(files: Vec<RuleFile>, context: &Context) -> Compiled {
    let mut unchecked_rules = Vec::new();
    let mut all_findings = Vec::new();
    for (file, RuleFile { rules, mut findings }) in files.into_iter().enumerate() {
        for written in rules {
            findings.set_rule(written.name.as_ref().map(|name| name.value.as_str()));
            unchecked_rules.extend(compile_rule(written, file, context, &mut findings));
        }
        all_findings.push(findings);
    }
    lint::check(&unchecked_rules, context, &mut all_findings);
    let sound = !all_findings.iter().any(Findings::has_errors);
    let settings = unchecked_rules
        .iter_mut()
        .flat_map(|unchecked| unchecked.settings.drain(..));
    Compiled {
        settings: settings.collect(),
        references: all_findings.iter_mut().flat_map(Findings::take_references).collect(),
        rules: sound.then(|| RuleSet {
            rules: unchecked_rules.into_iter().map(|unchecked| unchecked.rule).collect(),
        }),
        diagnostics: all_findings.into_iter().flat_map(Findings::into_diagnostics).collect(),
    }
}

/// `None` if the rule has no name. With other errors the rule is only used for further checks.
fn compile_rule(
    written: WrittenRule,
    file: usize,
    context: &Context,
    findings: &mut Findings,
) -> Option<UncheckedRule> {
    let matchers = compile_matchers(&written.matchers, findings);
    let actions = compile_steps(&written.actions, context.allow_exec, findings);
    let settings = settings(&written.actions, findings);
    warn_of_idle_select(&written, &actions, findings);
    let target_selector = compile_target_selector(&written, &actions, context, findings);
    if let Some(condition) = &written.condition {
        check_condition(condition, context, findings);
    }
    let overrides = compile_overrides(&written.overrides, findings);
    let limit_span = written.limit.as_ref().map(|limit| limit.span);
    let name = written.name?;
    if name.value.trim().is_empty() || name.value.chars().any(char::is_control) {
        findings.error(
            name.span,
            "a rule's name must be a printable string",
            "it is shown in metrics and in the history",
        );
    }
    let rule = Rule {
        name: name.value.into(),
        matchers,
        target_selector,
        order_by: written
            .order_by
            .map(|order| parse_order(order.value))
            .unwrap_or_default(),
        limit: written.limit.map_or(DEFAULT_LIMIT, |limit| as_count(limit.value)),
        max_matches: written
            .max_matches
            .map_or(DEFAULT_MAX_MATCHES, |most| as_count(most.value)),
        condition: written.condition.map(|condition| condition.value),
        actions,
        hold: written.hold.as_ref().map_or(DEFAULT_HOLD, |hold| hold.value),
        cooldown: written.cooldown.map_or(DEFAULT_COOLDOWN, |cooldown| cooldown.value),
        any_host: written.any_host,
        dry_run: written.dry_run,
        overrides,
        without_ledger: written.without_ledger,
    };

    // An unreadable selector or list of steps is among the findings already.
    if matches!(rule.target_selector, TargetSelector::Host)
        && !written.has_select
        && let Some(step) = rule.actions.iter().find(|step| step.is_for_processes())
    {
        let message = format!("a rule without `select`, but `{}` needs processes", step.action());
        let help = "select them: select: {name: ffmpeg}, or another key of a selector";
        findings.error(written.span, message, help);
    }
    if rule.hold.is_zero() {
        let span = written.hold.as_ref().map_or(written.span, |hold| hold.span);
        findings.error(
            span,
            "`hold` must be longer than 0s",
            "otherwise leases expire at once; the default is 5h",
        );
    }
    if let Some(actions_span) = written.actions_span
        && written.actions.iter().all(WrittenStep::is_wait)
    {
        findings.error(
            actions_span,
            "a rule that only waits",
            "add a step to `actions`, such as `nice: 10`",
        );
    }
    // A condition with an error is missing here, and may be the narrow one.
    if rule.ends_processes()
        && let (Some(select), Some(selector)) = (written.select.as_ref(), rule.selector())
        && select.keys.len() == selector.conditions.len()
        && !select.keys.is_empty()
        && let Some(reasons) = why_too_wide(selector)
    {
        let message = "a rule that kills processes must select them by fixed text";
        let help = format!(
            "{}; add a key with fixed text, such as name, user or group",
            reasons.join(", ")
        );
        findings.error(select.span, message, help);
    }
    let waits: Duration = rule
        .actions
        .iter()
        .map(|step| {
            if let Step::Wait(wait) = step {
                wait.0
            } else {
                Duration::ZERO
            }
        })
        .sum();
    if rule.hold < waits {
        let span = written.hold.as_ref().map_or(written.span, |hold| hold.span);
        let message = format!(
            "`hold` is shorter than the waits of the rule: {}s in total",
            waits.as_secs_f64()
        );
        findings.warning(span, message, "make `hold` longer than all waits together");
    }
    Some(UncheckedRule {
        file,
        span: written.span,
        name_span: name.span,
        matcher_texts: written.matchers,
        hold_span: written.hold.map(|hold| hold.span),
        limit_span,
        settings,
        rule: Arc::new(rule),
    })
}

fn settings(written: &[WrittenStep], findings: &Findings) -> Vec<HostReference<Knob>> {
    let steps = written
        .iter()
        .flat_map(|written| written.read.steps.iter().map(move |step| (written, step)));
    let setting = |(written, step): (&WrittenStep, &Step)| match step {
        Step::Set(change) => {
            let place = findings.at(Severity::Warning, written.span, "", "");
            Some(HostReference::new(change.knob(), place))
        }
        _ => None,
    };
    steps.filter_map(setting).collect()
}

/// Warns of keys that select processes in a rule without steps for processes.
fn warn_of_idle_select(written: &WrittenRule, actions: &[Step], findings: &mut Findings) {
    // A step with an error may have been one for processes.
    let is_whole = written.actions_span.is_some() && actions.len() == written.actions.len();
    let is_for_host = |step: &Step| step.is_for(Target::Host);
    if let Some(select) = &written.select
        && is_whole
        && actions.iter().all(is_for_host)
        && !actions.iter().all(Step::is_wait)
    {
        let help = "remove it: these steps apply to the host as a whole";
        findings.warning(select.span, "`select`, but no step applies to processes", help);
    }
    if written.has_select {
        return;
    }
    let spans = [
        ("order_by", written.order_by.as_ref().map(|key| key.span)),
        ("limit", written.limit.as_ref().map(|key| key.span)),
        ("max_matches", written.max_matches.as_ref().map(|key| key.span)),
    ];
    for (key, span) in spans {
        if let Some(span) = span {
            let message = format!("`{key}` has no effect without `select`");
            findings.warning(span, message, "leave it out");
        }
    }
}

fn check_condition(condition: &Text, context: &Context, findings: &mut Findings) {
    if condition.value.len() > MAX_CONDITION_BYTES {
        let help = "record the expression in an alerting rule file, and use the recorded series here";
        findings.error(
            condition.span,
            format!("`while` is longer than {MAX_CONDITION_BYTES} bytes"),
            help,
        );
        return;
    }
    match (context.check_promql)(&condition.value) {
        Ok(doubts) => {
            for doubt in doubts {
                findings.warning(condition.part(doubt.offset, doubt.width), doubt.message, doubt.help);
            }
        }
        Err((offset, problem)) => {
            let place = condition.part(offset, 1);
            findings.error(place, format!("`while` is not PromQL: {problem}"), "");
        }
    }
}

fn compile_matchers(texts: &[Text], findings: &mut Findings) -> Vec<Matcher> {
    let mut matchers = Vec::new();
    for text in texts {
        match Matcher::parse(&text.value) {
            Ok(matcher) => {
                if matches!(matcher.op, Op::Regex | Op::NotRegex) {
                    warn_of_anchors(&matcher.value, text, findings);
                } else {
                    warn_of_odd_value(&matcher, text, findings);
                }
                matchers.push(matcher);
            }
            Err(error) => {
                let place = text.part(error.column.saturating_sub(1), 1);
                let help = match text.value.split_once("==") {
                    Some((name, value)) if is_label_name(name.trim()) => {
                        format!("one `=` is enough: {}={}", name.trim(), value.trim())
                    }
                    _ => error.hint.to_string(),
                };
                findings.error(place, format!("not a matcher: {}", error.problem), help);
            }
        }
    }
    if matchers.len() < texts.len() || texts.is_empty() {
        return matchers;
    }
    if matchers.iter().all(|matcher| matcher.matches(&Labels::new())) {
        let help = "add one that requires a value, such as 'alertname=\"HostCpuSaturated\"'";
        findings.error(texts[0].span, "these matchers match every alert", help);
        return matchers;
    }
    let is_moot =
        |matcher: &Matcher| matcher.name == "alertname" && matcher.op == Op::Regex && matcher.matches_value("");
    for (_, text) in matchers.iter().zip(texts).filter(|(matcher, _)| is_moot(matcher)) {
        let help = "remove it to match every alert, or name the alerts: a|b";
        findings.warning(text.span, "matches alerts of any name, and alerts without a name", help);
    }
    matchers
}

/// Warns of a value that is probably more than was meant: `a==b` wants the value `=b`, as in Alertmanager.
fn warn_of_odd_value(matcher: &Matcher, text: &Text, findings: &mut Findings) {
    let (name, value) = (&matcher.name, matcher.value.as_str());
    let regex = if matcher.op == Op::Equal { "=~" } else { "!~" };
    let bare = value.trim_start_matches(['=', '~']).trim().trim_matches('"');
    let quoted = value.len() > 2 && value.starts_with('\'') && value.ends_with('\'');
    let is_list = value.contains('|') && value.split('|').all(is_label_name);
    let help = if bare.len() < value.len() && value.starts_with('=') {
        format!("one `=` is enough: {name}=\"{bare}\"")
    } else if value.starts_with('~') {
        format!("for a regular expression write {name}{regex}\"{bare}\"")
    } else if quoted {
        format!(
            "only double quotes delimit the value: {name}{}\"{}\"",
            matcher.op.as_str(),
            value.trim_matches('\'')
        )
    } else if is_list || value.ends_with(".*") || value.ends_with(".+") {
        format!("for a regular expression write {name}{regex}\"{value}\"")
    } else {
        return;
    };
    findings.warning(
        text.span,
        format!("this compares with the literal string `{value}`"),
        help,
    );
}

fn compile_overrides(names: &[Text], findings: &mut Findings) -> BTreeSet<String> {
    let known: Vec<&str> = BUILT_IN.iter().map(|protection| protection.name).collect();
    for name in names.iter().filter(|name| !known.contains(&name.value.as_str())) {
        let message = format!("no built-in protection `{}`", name.value);
        findings.error(name.span, message, suggest(&name.value, "built-in protections", &known));
    }
    names.iter().map(|name| name.value.clone()).collect()
}

fn parse_order(word: &str) -> OrderBy {
    let key = match word.trim_start_matches('-') {
        "cpu" => OrderKey::Cpu,
        "memory" => OrderKey::Memory,
        "oom_score" => OrderKey::OomScore,
        _ => OrderKey::Age,
    };
    OrderBy {
        key,
        reverse: word.starts_with('-'),
    }
}

/// The table of keys bounds these to 1 and more.
fn as_count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
