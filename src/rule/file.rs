//! The rule file as written: its keys, and structs that know the place of each value. `compile` checks what the
//! values mean.

use crate::diagnostic::{Findings, SourceText, Span, Spanned};
use crate::process::target::Targets;
use crate::schema::{Kind, Object, optional, required};
use crate::step::{self, ReadStep, STEP, wait};
use crate::yaml::{self, Content, Fields, Node, Text};
use std::time::Duration;

pub static RULE_FILE: Object = Object::new(
    "a rule file",
    &[required(
        "rules",
        Kind::List(&Kind::Object(&RULE)),
        "The rules, in any order.",
    )],
);

pub static RULE: Object = Object::new(
    "a rule",
    &[
        required(
            "name",
            Kind::Text,
            "Unique among all rules; the label `rule` of metrics.",
        ),
        required(
            "matchers",
            Kind::List(&Kind::Text),
            "Alerts that trigger the rule, as Alertmanager matchers such as 'alertname=\"HostCpuSaturated\"'. All \
             must match.",
        ),
        optional(
            "select",
            Kind::Object(&SELECT),
            "Processes that the rule acts on. All keys must match. Omit it if every step is for the host as a whole.",
        ),
        optional(
            "targets",
            Kind::Choice(&["processes", "cgroups"]),
            "Whether `freeze` and `reclaim`, which work on both, act on processes or on whole cgroups.",
        ),
        optional(
            "order_by",
            Kind::Choice(&[
                "cpu",
                "memory",
                "age",
                "oom_score",
                "-cpu",
                "-memory",
                "-age",
                "-oom_score",
            ]),
            "Order of the targets, largest first; with `-` smallest first. Age breaks ties. Default age.",
        ),
        optional(
            "limit",
            Kind::Integer(1, 100_000),
            "Targets held at the same time in an episode; for irreversible actions, victims per episode. Default 1: \
             set it if more than one process may be meant.",
        ),
        optional(
            "max_matches",
            Kind::Integer(1, 100_000),
            "Leave out the matches of a user who has more, and refuse the whole plan if more remain. Default 100.",
        ),
        optional(
            "while",
            Kind::Text,
            "PromQL on evenkeel's own samples, evaluated before every step. While it is false, evenkeel applies nothing \
             new and keeps its leases: `node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1`. **Without \
             it, an alert from Alertmanager kills one process per episode, regardless of `limit`.**",
        ),
        required(
            "actions",
            Kind::List(&Kind::Object(&STEP)),
            "The steps, in order. Each target runs through them independently.",
        ),
        optional(
            "hold",
            Kind::Duration,
            "Deadline of leases, renewed while the alert is known to fire. Default 5h.",
        ),
        optional(
            "cooldown",
            Kind::Duration,
            "Time between two victims of this rule. Default 5m.",
        ),
        optional(
            "any_host",
            Kind::Flag,
            "Also act on alerts that do not name a host. Default false.",
        ),
        optional(
            "mode",
            Kind::Choice(&["dry-run"]),
            "Dry-run for this rule only. A rule can be stricter than the daemon, never looser.",
        ),
        optional(
            "override_protection",
            Kind::List(&Kind::Text),
            "Names of built-in protections that do not apply to this rule.",
        ),
        optional(
            "without_ledger",
            Kind::Choice(&["allow"]),
            "Apply irreversible actions while the ledger cannot be written, and record them later. Without it no step \
             is applied then.",
        ),
    ],
);

pub static SELECT: Object = Object::new(
    "a selector",
    &[
        optional(
            "group",
            Kind::Text,
            "A name from `process_groups` of the configuration.",
        ),
        optional(
            "name",
            Kind::Text,
            "Regular expression on the name that the kernel keeps, at most 15 bytes.",
        ),
        optional(
            "cmdline",
            Kind::Text,
            "Regular expression on the arguments, joined by one space.",
        ),
        optional("exe", Kind::Text, "Regular expression on the path of the executable."),
        optional(
            "user",
            Kind::Text,
            "Regular expression on the name or the number of the effective user.",
        ),
        optional(
            "cgroup",
            Kind::Text,
            "Regular expression on the path of the cgroup, which begins with `/`. Processes sit below a slice: \
             '/batch\\.slice(/.*)?'.",
        ),
        optional(
            "unit",
            Kind::Text,
            "Regular expression on the name of the systemd unit, as `systemctl status` shows it: \
             'render@.*\\.service'.",
        ),
        optional(
            "pid",
            Kind::Text,
            "Process id, usually from a label: '{{ $labels.pid }}'.",
        ),
        optional("min_age", Kind::Duration, "Time since the process started."),
        optional("min_memory", Kind::Size, "Resident memory."),
        optional(
            "min_cpu",
            Kind::Number(0.001, 10_000.0),
            "Processor cores in use, measured over at least 5 s.",
        ),
        optional(
            "not",
            Kind::Object(&SELECT),
            "Excludes the processes that match all of these keys.",
        ),
    ],
);

/// The rules of one file, and the findings so far.
#[derive(Debug)]
pub struct RuleFile<'s> {
    pub(super) rules: Vec<WrittenRule>,
    pub(super) findings: Findings<'s>,
}

/// A rule as written. Unreadable parts are missing here, and are among the findings.
#[derive(Debug)]
pub(super) struct WrittenRule {
    pub span: Span,
    pub name: Option<Text>,
    pub matchers: Vec<Text>,
    pub select: Option<WrittenSelect>,
    /// Whether there is a `select`, even an unreadable one.
    pub has_select: bool,
    pub targets: Option<Spanned<&'static str>>,
    pub order_by: Option<Spanned<&'static str>>,
    pub limit: Option<Spanned<i64>>,
    pub max_matches: Option<Spanned<i64>>,
    pub condition: Option<Text>,
    pub actions: Vec<WrittenStep>,
    /// The place of the list of actions, if all of them are readable.
    pub actions_span: Option<Span>,
    pub hold: Option<Spanned<Duration>>,
    pub cooldown: Option<Spanned<Duration>>,
    pub any_host: bool,
    pub dry_run: bool,
    pub overrides: Vec<Text>,
    pub without_ledger: bool,
}

/// Keys of a selector in the order of the file.
#[derive(Debug)]
pub struct WrittenSelect {
    pub(super) span: Span,
    pub(super) keys: Vec<Written>,
}

#[derive(Debug)]
pub(super) enum Written {
    /// A regular expression, perhaps with labels.
    Pattern(&'static str, Text),
    MinAge(Duration),
    MinMemory(u64),
    MinCpu(f64),
    Group(Text),
    Not(WrittenSelect),
}

#[derive(Debug)]
pub(super) struct WrittenStep {
    /// The place of its key.
    pub span: Span,
    pub key: &'static str,
    pub targets: Targets,
    pub read: ReadStep,
}

impl WrittenStep {
    pub fn is_wait(&self) -> bool {
        self.key == wait::KEYS[0].name
    }
}

/// Reads a rule file.
pub fn read(source: &SourceText) -> RuleFile<'_> {
    let mut findings = Findings::new(source);
    let mut rules = Vec::new();
    match yaml::parse(&mut findings) {
        Some(root) if root.is_null() => no_rules(&mut findings, Span::START),
        Some(root) => {
            if let Some(fields) = Fields::open(&root, &RULE_FILE, &mut findings) {
                let items = fields.list("rules", &mut findings);
                rules.extend(items.iter().filter_map(|item| read_rule(item, &mut findings)));
            }
        }
        None if !findings.has_errors() => no_rules(&mut findings, Span::START),
        None => {}
    }
    RuleFile { rules, findings }
}

fn no_rules(findings: &mut Findings, span: Span) {
    findings.error(
        span,
        "no rules in this file",
        "a rule file starts with `rules:` and a list of rules",
    );
}

fn read_rule(node: &Node, findings: &mut Findings) -> Option<WrittenRule> {
    // Looked up first, so that errors in the mapping itself name the rule, too.
    if let Some(Content::Scalar { text, .. }) = node.entry("name").map(|entry| &entry.value.content) {
        findings.set_rule(Some(text));
    }
    let rule = Fields::open(node, &RULE, findings).map(|fields| read_fields(node, fields, findings));
    findings.set_rule(None);
    rule
}

fn read_fields(node: &Node, fields: Fields, findings: &mut Findings) -> WrittenRule {
    let steps = fields.filled_list("actions", findings);
    let actions: Vec<WrittenStep> = steps.iter().filter_map(|item| read_step(item, findings)).collect();
    let actions_span = fields
        .get("actions")
        .filter(|_| !steps.is_empty() && steps.len() == actions.len());
    let actions_span = actions_span.map(|node| node.span);
    WrittenRule {
        span: node.span,
        name: fields.text("name", findings),
        matchers: fields
            .filled_list("matchers", findings)
            .iter()
            .filter_map(|item| item.text("matchers", &Kind::Text, findings))
            .collect(),
        has_select: fields.get("select").is_some(),
        select: fields.get("select").and_then(|node| read_select(node, findings)),
        targets: fields.choice("targets", findings),
        order_by: fields.choice("order_by", findings),
        limit: fields.integer("limit", findings),
        max_matches: fields.integer("max_matches", findings),
        condition: fields.text("while", findings),
        actions,
        actions_span,
        hold: fields.duration("hold", findings),
        cooldown: fields.duration("cooldown", findings),
        any_host: fields.flag("any_host", findings).is_some_and(|flag| flag.value),
        dry_run: read_mode(&fields, findings),
        overrides: fields.texts("override_protection", findings),
        without_ledger: fields.choice("without_ledger", findings).is_some(),
    }
}

/// Whether a rule says dry-run.
fn read_mode(fields: &Fields, findings: &mut Findings) -> bool {
    if let Some(node) = fields.get("mode")
        && matches!(&node.content, Content::Scalar { text, .. } if text == "enforce")
    {
        let help = "remove it: the daemon's mode applies";
        findings.error(node.span, "`mode` must be dry-run, found `enforce`", help);
        return false;
    }
    fields.choice("mode", findings).is_some()
}

/// Reads one pattern. A list is a common mistake, because other tools accept one.
fn read_pattern(node: &Node, key: &str, findings: &mut Findings) -> Option<Text> {
    if let Content::Sequence(items) = &node.content {
        let texts: Option<Vec<&str>> = items
            .iter()
            .map(|item| match &item.content {
                Content::Scalar { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        if let Some(texts) = texts.filter(|texts| !texts.is_empty()) {
            let help = format!(
                "write the alternatives as one pattern: '{}'",
                texts.join("|").replace('\'', "''")
            );
            findings.error(node.span, format!("`{key}` must be {}, found a list", Kind::Text), help);
            return None;
        }
    }
    node.text(key, &Kind::Text, findings)
}

/// Reads a selector at any place.
pub fn read_select(node: &Node, findings: &mut Findings) -> Option<WrittenSelect> {
    if let Content::Scalar { text, .. } = &node.content
        && !node.is_null()
    {
        let is_plain = text
            .chars()
            .all(|character| character.is_alphanumeric() || "-_./".contains(character));
        let value = if is_plain {
            text.clone()
        } else {
            format!("'{}'", text.replace('\'', "''"))
        };
        let message = format!("{} must be a mapping, found `{text}`", SELECT.title);
        findings.error(
            node.span,
            message,
            format!("write {{name: {value}}}, or another key of a selector"),
        );
        return None;
    }
    let fields = Fields::open(node, &SELECT, findings)?;
    let mut keys = Vec::new();
    for (entry, key) in fields.known() {
        let written = match key {
            "group" => fields.text(key, findings).map(Written::Group),
            "min_age" => fields.duration(key, findings).map(|age| Written::MinAge(age.value)),
            "min_memory" => fields.size(key, findings).map(|size| Written::MinMemory(size.value)),
            "min_cpu" => fields.number(key, findings).map(|cores| Written::MinCpu(cores.value)),
            "not" => read_select(&entry.value, findings).map(Written::Not),
            _ => read_pattern(&entry.value, key, findings).map(|text| Written::Pattern(key, text)),
        };
        keys.extend(written);
    }
    let is_empty = matches!(&node.content, Content::Mapping(entries) if entries.is_empty());
    if is_empty {
        let help = format!("give at least one key: {}", SELECT.names().join(", "));
        findings.error(node.span, "a selector without keys", help);
    }
    Some(WrittenSelect { span: node.span, keys })
}

fn read_step(node: &Node, findings: &mut Findings) -> Option<WrittenStep> {
    let fields = Fields::open(node, &STEP, findings)?;
    let (entry, key) = fields.known().next()?;
    Some(WrittenStep {
        span: entry.key_span,
        key,
        targets: step::targets_of(key),
        read: step::read(&fields, key, entry.key_span, findings)?,
    })
}
