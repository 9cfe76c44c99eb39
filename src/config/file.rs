//! The configuration file: its keys and their meaning.

use super::alertmanagers::{self, ALERTMANAGERS, RECONCILE, read_reconcile};
use super::file_source::FileSource;
use super::groups::{GROUP, GROUPING, read_grouping, read_groups};
use super::{Config, FileKind, HostNames, Reconcile, Sampling, Webhook};
use crate::act::budget::Budget;
use crate::diagnostic::{Findings, Spanned};
use crate::http::token::TokenFile;
use crate::ledger::Retention;
use crate::rule::file::{SELECT, read_select};
use crate::rule::{Scope, compile_select};
use crate::schema::{Key, Kind, Object, optional};
use crate::sense::groups::group::Grouping;
use crate::template::is_label_name;
use crate::yaml::{self, Content, Entry, Fields, Node, Text};
use std::collections::BTreeMap;
use std::time::Duration;

pub static CONFIG: Object = Object::new(
    "the configuration",
    &[
        optional(
            "mode",
            Kind::Choice(&["dry-run", "enforce"]),
            "Whether evenkeel applies actions or only logs them. Default dry-run.",
        ),
        optional(
            "sampling",
            Kind::Object(&SAMPLING),
            "How often evenkeel reads the host.",
        ),
        optional(
            "rule_files",
            Kind::List(&Kind::Text),
            "Files with the rules that map alerts to actions: paths or globs, relative to this file. Default none.",
        ),
        optional(
            "alerting_rule_files",
            Kind::List(&Kind::Text),
            "Files with Prometheus alerting rules that evenkeel evaluates itself: paths or globs. Default none.",
        ),
        EVALUATION_INTERVAL,
        optional("webhook", Kind::Object(&WEBHOOK), "How senders of alerts authenticate."),
        optional(
            "alertmanagers",
            Kind::List(&Kind::Object(&ALERTMANAGERS)),
            "Alertmanagers that evenkeel polls for firing alerts, as in Prometheus's `alerting` section. Default none.",
        ),
        optional(
            "reconcile",
            Kind::Object(&RECONCILE),
            "How often evenkeel polls Alertmanagers, and for how long an alert must be missing to be over.",
        ),
        optional(
            "identity",
            Kind::Object(&IDENTITY),
            "How evenkeel recognises alerts about this host.",
        ),
        optional(
            "protect",
            Kind::List(&Kind::Object(&SELECT)),
            "Processes that evenkeel never touches, in addition to the built-in ones. Default none.",
        ),
        optional(
            "budget",
            Kind::Object(&BUDGET),
            "How many processes evenkeel may kill, and how many commands it may run, on this host within a period.",
        ),
        optional(
            "allow_exec",
            Kind::Flag,
            "Whether rules may run commands. Default false.",
        ),
        optional(
            "lock_memory",
            Kind::Flag,
            "Whether evenkeel locks its own memory, where permitted, so that the kernel never swaps it out. Read at start. Default true.",
        ),
        optional(
            "on_exit",
            Kind::Choice(&["restore", "keep"]),
            "Whether evenkeel reverts its leases on exit or keeps the values. Default restore.",
        ),
        optional(
            "storage",
            Kind::Object(&STORAGE),
            "What evenkeel keeps under `--storage.path`.",
        ),
        optional(
            "process_groups",
            Kind::List(&Kind::Object(&GROUP)),
            "Named selectors: evenkeel publishes metrics for each, and rules refer to one with `group`. Default none.",
        ),
        optional(
            "grouping",
            Kind::Object(&GROUPING),
            "How processes are assigned to process groups, and under which names their metrics are published.",
        ),
        optional(
            "local",
            Kind::Texts,
            "Labels that evenkeel adds to its own alerts. Default job=evenkeel.",
        ),
    ],
);

const EVALUATION_INTERVAL: Key = optional(
    "evaluation_interval",
    Kind::Duration,
    "How often evenkeel evaluates alerting rules. Default 1s.",
);

pub(super) static SAMPLING: Object = Object::new(
    "sampling",
    &[
        optional(
            "interval",
            Kind::Duration,
            "For metrics that are cheap to read and change fast, if a rule, a distribution or the status page uses them. A scrape reads them again. Default 1s.",
        ),
        optional(
            "slow_interval",
            Kind::Duration,
            "For metrics that hardly change or whose source may block, and while there are rules for all that no scrape has read meanwhile. Default 15s.",
        ),
    ],
);

pub(super) static WEBHOOK: Object = Object::new(
    "webhook",
    &[
        optional(
            "token_file",
            Kind::Text,
            "File with the bearer token that Alertmanager must send. Default none.",
        ),
        optional(
            "allow_unauthenticated",
            Kind::Flag,
            "Allow every local user to trigger actions through a loopback listener. Default false.",
        ),
    ],
);

pub(super) static IDENTITY: Object = Object::new(
    "identity",
    &[
        optional(
            "labels",
            Kind::List(&Kind::Text),
            "Labels that name the host of an alert. Default [instance].",
        ),
        optional(
            "names",
            Kind::List(&Kind::Text),
            "Names of this host in addition to its node name and its full name. Default none.",
        ),
    ],
);

pub(super) static BUDGET: Object = Object::new(
    "the budget",
    &[
        optional(
            "final_steps",
            Kind::Integer(0, 10_000),
            "Number of processes that evenkeel may kill within the period. Default 3.",
        ),
        optional(
            "commands",
            Kind::Integer(0, 10_000),
            "Number of episodes that may run commands without `undo` within the period. Default 10, or 0 with \
             `final_steps: 0`.",
        ),
        optional("per", Kind::Duration, "Length of the period. Default 5m."),
    ],
);

pub(super) static STORAGE: Object = Object::new(
    "storage",
    &[optional(
        "retention",
        Kind::Object(&RETENTION),
        "How much history the ledger keeps. evenkeel deletes the oldest lines first, and never deletes what is open.",
    )],
);

pub(super) static RETENTION: Object = Object::new(
    "the retention",
    &[
        optional(
            "time",
            Kind::Duration,
            "Age of the oldest line relative to the newest line, at least 1h. Default 90d.",
        ),
        optional(
            "size",
            Kind::Size,
            "Size of the ledger file above which evenkeel deletes the oldest lines, at least 1MiB. Default 100MiB.",
        ),
    ],
);

/// Minimum interval, because sampling itself would be a load with shorter ones.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Minimum retention, because `history` would miss recent actions with less.
const MIN_RETENTION: Duration = Duration::from_secs(3600);
const MIN_RETENTION_BYTES: u64 = 1 << 20;

/// The configuration, and the files that it names.
pub(super) struct Written {
    pub config: Config,
    pub rule_files: Vec<Text>,
    pub alerting_rule_files: Vec<Text>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enforce: false,
            sampling: Sampling::default(),
            alerting_rules: Vec::new(),
            evaluation_interval: Duration::from_secs(1),
            webhook: Webhook::default(),
            alertmanagers: Vec::new(),
            reconcile: Reconcile::default(),
            host_names: HostNames {
                labels: vec!["instance".to_owned()],
                names: Vec::new(),
            },
            protect: Vec::new(),
            budget: Budget::default(),
            restore_on_exit: true,
            retention: Retention::default(),
            lock_memory: true,
            allow_exec: false,
            process_groups: Vec::new(),
            grouping: Grouping::default(),
            exporter: None,
            local: BTreeMap::from([("job".to_owned(), "evenkeel".to_owned())]),
        }
    }
}

/// Reads a configuration. A key with an error keeps its default, and is among the findings.
pub(super) fn read(file_source: &FileSource, findings: &mut Findings) -> Written {
    let mut written = Written {
        config: Config::default(),
        rule_files: Vec::new(),
        alerting_rule_files: Vec::new(),
    };
    // An empty file is a valid configuration without rules.
    let Some(root) = yaml::parse(findings).filter(|root| !root.is_null()) else {
        return written;
    };
    if let Some((key, help)) = other_kind(&root) {
        let message = format!("unknown key `{}` in {}", key.key, CONFIG.title);
        findings.error(key.key_span, message, help);
        return written;
    }
    let Some(fields) = Fields::open(&root, &CONFIG, findings) else {
        return written;
    };
    let config = &mut written.config;

    config.enforce = fields
        .choice("mode", findings)
        .is_some_and(|mode| mode.value == "enforce");
    config.allow_exec = fields.flag("allow_exec", findings).is_some_and(|flag| flag.value);
    config.lock_memory = fields.flag("lock_memory", findings).is_none_or(|flag| flag.value);
    config.restore_on_exit = fields
        .choice("on_exit", findings)
        .is_none_or(|what| what.value == "restore");
    if let Some(sampling) = fields.nested("sampling", &SAMPLING, findings) {
        set_interval(&mut config.sampling.interval, "interval", &sampling, findings);
        set_interval(&mut config.sampling.slow_interval, "slow_interval", &sampling, findings);
        let Sampling {
            interval,
            slow_interval,
        } = config.sampling;
        if slow_interval < interval {
            let span = sampling
                .get("slow_interval")
                .or(sampling.get("interval"))
                .map_or(sampling.span, |node| node.span);
            findings.error(
                span,
                "`slow_interval` is shorter than `interval`",
                "make it at least as long",
            );
        }
    }
    set_interval(
        &mut config.evaluation_interval,
        "evaluation_interval",
        &fields,
        findings,
    );
    if let Some(webhook) = fields.nested("webhook", &WEBHOOK, findings) {
        config.webhook = read_webhook(&webhook, file_source, findings);
    }
    for fields in fields.objects("alertmanagers", &ALERTMANAGERS, findings) {
        config
            .alertmanagers
            .push(alertmanagers::read(&fields, file_source, findings));
    }
    if let Some(reconcile) = fields.nested("reconcile", &RECONCILE, findings) {
        config.reconcile = read_reconcile(&reconcile, findings);
    }
    if let Some(identity) = fields.nested("identity", &IDENTITY, findings) {
        read_host_names(&mut config.host_names, &identity, findings);
    }
    if let Some(budget) = fields.nested("budget", &BUDGET, findings) {
        if let Some(steps) = budget.integer("final_steps", findings) {
            config.budget.final_steps = u32::try_from(steps.value).unwrap_or(u32::MAX);
            // A budget of 0 forbade commands before they had a budget of their own.
            if config.budget.final_steps == 0 {
                config.budget.commands = 0;
            }
        }
        if let Some(commands) = budget.integer("commands", findings) {
            config.budget.commands = u32::try_from(commands.value).unwrap_or(u32::MAX);
        }
        set_interval(&mut config.budget.per, "per", &budget, findings);
    }
    if let Some(storage) = fields.nested("storage", &STORAGE, findings)
        && let Some(retention) = storage.nested("retention", &RETENTION, findings)
    {
        read_retention(&mut config.retention, &retention, findings);
    }
    config.process_groups = read_groups(&fields, findings);
    config.grouping = read_grouping(&fields, findings);
    let groups = config.groups();
    let scope = Scope {
        groups: &groups,
        labels: false,
        cgroups: false,
    };
    for node in fields.list("protect", findings) {
        let select = read_select(node, findings);
        config
            .protect
            .extend(select.map(|select| compile_select(&select, scope, findings)));
    }
    read_local(&mut config.local, &fields, findings);

    written.rule_files = fields.texts("rule_files", findings);
    written.alerting_rule_files = fields.texts("alerting_rule_files", findings);
    written
}

/// The kind of a file by its keys.
pub(super) fn kind_of(root: &Node) -> FileKind {
    let has = |key: &str| root.entry(key).is_some();
    match () {
        () if has("tests") => FileKind::Tests,
        () if has("rules") => FileKind::Rules,
        () if has("groups") || has("apiVersion") => FileKind::AlertingRules,
        () => FileKind::Config,
    }
}

/// The key that identifies a file of another kind, and a hint where to list such a file.
fn other_kind(root: &Node) -> Option<(&Entry, &'static str)> {
    let Content::Mapping(entries) = &root.content else {
        return None;
    };
    entries.iter().find_map(|entry| match entry.key.as_str() {
        "rules" => Some((entry, "this is a rule file: list it under `rule_files`")),
        "process_names" => Some((
            entry,
            "this is a file of process-exporter: set it with --process-exporter.config",
        )),
        "groups" | "apiVersion" => Some((
            entry,
            "this is a file of alerting rules: list it under `alerting_rule_files`",
        )),
        _ => None,
    })
}

fn set_interval(interval: &mut Duration, key: &str, fields: &Fields, findings: &mut Findings) {
    let (found, problem) = (fields.duration(key, findings), format!("`{key}` is too short"));
    set_at_least(interval, found, MIN_INTERVAL, (&problem, "at least 100ms"), findings);
}

/// Sets a value that is not below the least one; the others have this problem and correction.
fn set_at_least<T: PartialOrd>(
    value: &mut T,
    found: Option<Spanned<T>>,
    least: T,
    (problem, help): (&str, &str),
    findings: &mut Findings,
) {
    match found {
        Some(found) if found.value < least => findings.error(found.span, problem, help),
        Some(found) => *value = found.value,
        None => {}
    }
}

fn read_retention(retention: &mut Retention, fields: &Fields, findings: &mut Findings) {
    let (time, size) = (fields.duration("time", findings), fields.size("size", findings));
    let too_short = ("`time` is too short", "at least 1h");
    set_at_least(&mut retention.time, time, MIN_RETENTION, too_short, findings);
    let too_small = ("`size` is too small", "at least 1MiB");
    set_at_least(
        &mut retention.size_bytes,
        size,
        MIN_RETENTION_BYTES,
        too_small,
        findings,
    );
}

fn read_webhook(fields: &Fields, file_source: &FileSource, findings: &mut Findings) -> Webhook {
    let allowed = fields.flag("allow_unauthenticated", findings);
    let mut webhook = Webhook {
        token_file: None,
        allow_unauthenticated: allowed.is_some_and(|flag| flag.value),
    };
    if let Some(text) = fields.text("token_file", findings) {
        let path = file_source.path(&text.value);
        // Opened here so that a missing token is reported before the start; the listener reads it again.
        let make = || format!("make one: (umask 077; openssl rand -hex 32 >{})", path.display());
        match TokenFile::open(&path) {
            Ok(token) if token.is_weak() => {
                let message = format!("the token in {} has fewer than 16 characters", path.display());
                findings.warning(text.span, message, format!("guesses may find it; {}", make()));
            }
            Ok(_) => {}
            Err(error) => findings.error(text.span, error.to_string(), error.correction()),
        }
        webhook.token_file = Some(path);
    }
    webhook
}

fn read_host_names(host_names: &mut HostNames, fields: &Fields, findings: &mut Findings) {
    if fields.get("labels").is_some() {
        let labels = fields.texts("labels", findings);
        for label in labels.iter().filter(|label| !is_label_name(&label.value)) {
            let help = "label names are made of letters, digits and `_`";
            findings.error(label.span, format!("`{}` is no label name", label.value), help);
        }
        host_names.labels = labels.into_iter().map(|label| label.value).collect();
    }
    host_names.names = fields
        .texts("names", findings)
        .into_iter()
        .map(|name| name.value)
        .collect();
}

fn read_local(local: &mut BTreeMap<String, String>, fields: &Fields, findings: &mut Findings) {
    if fields.get("local").is_none() {
        return;
    }
    for (name, text) in fields.map_of_texts("local", findings) {
        if !is_label_name(&name) || name == "alertname" {
            let help = "label names are made of letters, digits and `_`; `alertname` comes from the alerting rule";
            findings.error(text.span, format!("`{name}` is no label to add"), help);
        }
        local.insert(name, text.value);
    }
}
