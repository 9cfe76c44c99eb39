//! `process_groups` and `grouping` of the configuration.

use crate::diagnostic::{Findings, suggest};
use crate::process::captures::group_names;
use crate::process::{ProcessFields, Selector};
use crate::rule::file::{SELECT, read_select};
use crate::rule::{Scope, compile_select};
use crate::schema::{Kind, Object, optional, required};
use crate::sense::groups::group::{
    DEFAULT_METRICS, EXPENSIVE_METRICS, EXTRA_METRICS, ExtraMetrics, Group, Grouping, OTHER,
};
use crate::sense::groups::name_template::{NameTemplate, TemplateError};
use crate::yaml::{Fields, Text};
use std::sync::Arc;

pub(super) static GROUP: Object = Object::new(
    "a process group",
    &[
        required(
            "name",
            Kind::Text,
            "Value of the label `group` in metrics; `{{.Comm}}` and other fields make a group for each value.",
        ),
        required("select", Kind::Object(&SELECT), "Which processes belong to the group."),
        optional(
            "metrics",
            Kind::List(&METRIC),
            "Metrics that need more files read per process: swap, context_switches, io, open_fds, threads, smaps. Default swap, context_switches and io.",
        ),
    ],
);

const METRIC: Kind = Kind::Choice(&[
    EXPENSIVE_METRICS[0].0,
    EXPENSIVE_METRICS[1].0,
    EXPENSIVE_METRICS[2].0,
    EXPENSIVE_METRICS[3].0,
    EXTRA_METRICS[0].0,
    EXTRA_METRICS[1].0,
]);

const EVENKEEL: &str = "evenkeel";
const PROCESS_EXPORTER: &str = "process-exporter";

pub(super) static GROUPING: Object = Object::new(
    "the grouping",
    &[
        optional(
            "match",
            Kind::Choice(&["all", "first"]),
            "Whether a process belongs to all groups that select it, or to the first of the list. Default all.",
        ),
        optional(
            "metric_names",
            Kind::List(&METRIC_NAMES),
            "Names of the metrics: evenkeel (`evenkeel_group_*`), process-exporter (`namedprocess_namegroup_*`). Default [evenkeel].",
        ),
        optional(
            "max_groups",
            Kind::Integer(1, 100_000),
            "Maximum number of groups whose names templates make; other processes count in the group `other`. Default 1000.",
        ),
        optional(
            "max_thread_names",
            Kind::Integer(1, 100_000),
            "Maximum number of names of threads in all groups together; other threads count as `other`. Default 1000.",
        ),
        optional(
            "remove_empty",
            Kind::Flag,
            "Whether a group whose name a template made is forgotten once its last process has ended. Default false.",
        ),
    ],
);

const METRIC_NAMES: Kind = Kind::Choice(&[EVENKEEL, PROCESS_EXPORTER]);

pub(super) fn read_groups(fields: &Fields, findings: &mut Findings) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut other = None;
    for group in fields.objects("process_groups", &GROUP, findings) {
        let name = group.text("name", findings);
        let select = group.get("select").and_then(|node| read_select(node, findings));
        let (metrics, extra) = read_metrics(&group, findings);
        let (Some(name), Some(select)) = (name, select) else {
            continue;
        };
        // A group may refer only to groups above it, so there is no cycle.
        let above = super::selectors(&groups);
        let selector: Selector = compile_select(
            &select,
            Scope {
                groups: &above,
                labels: false,
                cgroups: false,
            },
            findings,
        );
        if groups.iter().any(|group| group.name == name.value) {
            findings.error(
                name.span,
                format!("a second group `{}`", name.value),
                "give each a unique name",
            );
        }
        let Ok(template) = read_template(&name, &selector, findings) else {
            continue;
        };
        if name.value == OTHER {
            other = Some(name.span);
        }
        groups.push(Group {
            name: name.value,
            template,
            selector: Arc::new(selector),
            metrics,
            extra,
        });
    }
    let has_template = groups.iter().any(|group| group.template.is_some());
    if let Some(span) = other.filter(|_| has_template) {
        findings.error(
            span,
            format!("beside a template, no group can have the name `{OTHER}`"),
            "give it another name: the processes for which templates make no group of their own count in this group",
        );
    }
    groups
}

/// The template of a name that differs between processes.
///
/// # Errors
/// When it is none; then the findings have the reason.
fn read_template(
    name: &Text,
    selector: &Selector,
    findings: &mut Findings,
) -> Result<Option<Arc<NameTemplate>>, TemplateError> {
    if !name.value.contains("{{") {
        return Ok(None);
    }
    let template = NameTemplate::parse(&name.value).inspect_err(|error| report(error, name, findings))?;
    let known = group_names(selector);
    for missing in template.matches().filter(|used| !known.contains(used)) {
        let help = match known.as_slice() {
            [] => format!("write (?P<{missing}>…) in a pattern of `select`"),
            known => suggest(missing, "groups of the patterns in `select`", known),
        };
        findings.error(name.span, format!("no pattern has the group `{missing}`"), help);
    }
    Ok(Some(Arc::new(template)))
}

/// Reports a mistake in a template at its place.
pub(super) fn report(error: &TemplateError, name: &Text, findings: &mut Findings) {
    let span = name.part(error.place.start, error.place.len());
    findings.error(span, error.problem.as_str(), error.help.as_str());
}

fn read_metrics(group: &Fields, findings: &mut Findings) -> (ProcessFields, ExtraMetrics) {
    if group.get("metrics").is_none() {
        return (DEFAULT_METRICS, ExtraMetrics::empty());
    }
    let (mut metrics, mut extra) = (ProcessFields::empty(), ExtraMetrics::empty());
    for node in group.list("metrics", findings) {
        let Some(word) = node.choice("metrics", &METRIC, findings) else {
            continue;
        };
        let needs = EXPENSIVE_METRICS.iter().filter(|(name, _)| *name == word.value);
        metrics |= needs.fold(ProcessFields::empty(), |all, (_, needs)| all | *needs);
        let needs = EXTRA_METRICS.iter().filter(|(name, _)| *name == word.value);
        extra |= needs.fold(ExtraMetrics::empty(), |all, (_, needs)| all | *needs);
    }
    (metrics, extra)
}

pub(super) fn read_grouping(fields: &Fields, findings: &mut Findings) -> Grouping {
    let mut grouping = Grouping::default();
    let Some(fields) = fields.nested("grouping", &GROUPING, findings) else {
        return grouping;
    };
    grouping.first_match = fields
        .choice("match", findings)
        .is_some_and(|word| word.value == "first");
    if fields.get("metric_names").is_some() {
        let nodes = fields.filled_list("metric_names", findings).iter();
        let words: Vec<&str> = nodes
            .filter_map(|node| Some(node.choice("metric_names", &METRIC_NAMES, findings)?.value))
            .collect();
        grouping.own_names = words.contains(&EVENKEEL);
        grouping.exporter_names = words.contains(&PROCESS_EXPORTER);
    }
    let mut set = |bound: &mut usize, key| {
        if let Some(found) = fields.integer(key, findings) {
            *bound = usize::try_from(found.value).unwrap_or(*bound);
        }
    };
    set(&mut grouping.max_groups, "max_groups");
    set(&mut grouping.max_thread_names, "max_thread_names");
    grouping.remove_empty = fields.flag("remove_empty", findings).is_some_and(|flag| flag.value);
    grouping
}
