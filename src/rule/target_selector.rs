//! The selector of a rule's targets: processes, cgroups, or the host.

use super::context::Context;
use super::file::{Action, WrittenRule, WrittenSelect, WrittenStep};
use super::ruleset::TargetSelector;
use super::select::{Scope, compile_select, names_cgroups, names_unit};
use super::step::Step;
use crate::diagnostic::{Findings, Spanned};
use crate::host::Knob;
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::yaml::Text;

/// Whether processes, cgroups or the host are meant.
pub(super) fn compile_aim(
    written: &WrittenRule,
    actions: &[Step],
    context: &Context,
    findings: &mut Findings,
) -> TargetSelector {
    let named: Vec<&Text> = written.actions.iter().filter_map(named_cgroup).collect();
    let Some(select) = &written.select else {
        return aim_at_named(&named, findings);
    };
    if let Some(name) = named.first().filter(|_| written.has_select) {
        let help = "leave `select` out, or write the size alone: `reclaim: 512MiB`";
        findings.error(
            name.span,
            "this rule has a `select` already, which says what is meant",
            help,
        );
    }
    let only = |wanted: Kind| {
        let mut steps = written.actions.iter().zip(kinds(&written.actions));
        steps.find(|(_, kind)| *kind == Some(wanted)).map(|(step, _)| step)
    };
    let (of_cgroups, of_processes) = (only(Kind::Cgroup), only(Kind::Process));
    if let (Some(cgroups), Some(processes)) = (of_cgroups, of_processes) {
        let later = if cgroups.span > processes.span {
            cgroups
        } else {
            processes
        };
        let help = "make two rules: one that selects cgroups, one that selects processes";
        let message = "some steps of this ladder are done to cgroups, others to processes";
        findings.error(later.span, message, help);
    }
    let is_about_cgroups = match &written.targets {
        Some(targets) => {
            contradict(targets, of_cgroups, of_processes, findings);
            targets.value == "cgroups"
        }
        None => of_cgroups.is_some() || (of_processes.is_none() && means_cgroups(select, actions)),
    };
    let scope = Scope {
        groups: context.groups,
        labels: true,
        cgroups: is_about_cgroups,
    };
    let selector = compile_select(select, scope, findings);
    if is_about_cgroups {
        TargetSelector::Cgroups(selector)
    } else {
        TargetSelector::Processes(selector)
    }
}

fn named_cgroup(step: &WrittenStep) -> Option<&Text> {
    match &step.action {
        Action::Reclaim(reclaim) => reclaim.cgroup.as_ref(),
        _ => None,
    }
}

/// What a step can be done to, where that is one thing only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Process,
    Cgroup,
}

fn kinds(steps: &[WrittenStep]) -> impl Iterator<Item = Option<Kind>> {
    steps.iter().map(|step| match step.action {
        Action::Cgroup(_) | Action::Kill(_) => Some(Kind::Cgroup),
        Action::Nice(_)
        | Action::Ionice(_)
        | Action::Affinity(_)
        | Action::Sched(_)
        | Action::OomScoreAdj(_)
        | Action::Signal { .. } => Some(Kind::Process),
        _ => None,
    })
}

/// Of steps that can be done to either: a unit is one thing, and memory is reclaimed where it is counted. To stop what is in
/// a cgroup means its processes, one by one, unless `targets` says otherwise.
fn means_cgroups(select: &WrittenSelect, actions: &[Step]) -> bool {
    let reclaims = actions.iter().any(|step| matches!(step, Step::Reclaim(_)));
    let freezes = actions
        .iter()
        .any(|step| matches!(step, Step::Set(change) if change.knob() == Knob::Freeze));
    names_cgroups(select) && (reclaims || (freezes && names_unit(select)))
}

fn contradict(
    targets: &Spanned<&'static str>,
    of_cgroups: Option<&WrittenStep>,
    of_processes: Option<&WrittenStep>,
    findings: &mut Findings,
) {
    let (other, wrong) = match targets.value {
        "cgroups" => ("processes", of_processes),
        _ => ("cgroups", of_cgroups),
    };
    if wrong.is_some() {
        let message = format!("`targets: {}`, and a step that is done to {other}", targets.value);
        findings.error(
            targets.span,
            message,
            format!("write `targets: {other}`, or leave it out"),
        );
    }
}

/// A rule without `select`: about the host, unless its steps name the cgroup.
fn aim_at_named(named: &[&Text], findings: &mut Findings) -> TargetSelector {
    let Some(first) = named.first() else {
        return TargetSelector::Host;
    };
    if let Some(other) = named.iter().find(|text| text.value != first.value) {
        let help = "a rule without `select` is about one cgroup; make a rule for each";
        findings.error(other.span, format!("another cgroup than {}", first.value), help);
    }
    if !first.value.starts_with('/') {
        let help = "write its path as in /proc/PID/cgroup, such as /system.slice/render.service";
        findings.error(first.span, "the path of a cgroup begins with `/`", help);
    }
    TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Cgroup(Pattern::exactly(&first.value))],
    })
}
