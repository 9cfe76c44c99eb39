//! The selector of a rule's targets: processes, cgroups, or the host.

use super::context::Context;
use super::file::{WrittenRule, WrittenSelect, WrittenStep};
use super::ruleset::TargetSelector;
use super::select::{ROOT_HELP, Scope, compile_select, names_cgroups, names_unit};
use crate::diagnostic::{Findings, Spanned};
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::process::target::Targets;
use crate::step::Step;
use crate::yaml::Text;

/// Whether processes, cgroups or the host are meant.
pub(super) fn compile_target_selector(
    written: &WrittenRule,
    actions: &[Step],
    context: &Context,
    findings: &mut Findings,
) -> TargetSelector {
    let named: Vec<&Text> = written
        .actions
        .iter()
        .filter_map(|step| step.read.cgroup.as_ref())
        .collect();
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
    let only = |targets| written.actions.iter().find(|step| step.targets == targets);
    let (of_cgroups, of_processes) = (only(Targets::Cgroups), only(Targets::Processes));
    if let (Some(cgroups), Some(processes)) = (of_cgroups, of_processes) {
        let later = if cgroups.span > processes.span {
            cgroups
        } else {
            processes
        };
        let help = "make two rules: one that selects cgroups, one that selects processes";
        let message = "some steps of this rule are done to cgroups, others to processes";
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

/// Of steps that can be done to either: a unit is one thing, and memory is reclaimed where it is counted. To stop what is in
/// a cgroup means its processes, one by one, unless `targets` says otherwise.
fn means_cgroups(select: &WrittenSelect, actions: &[Step]) -> bool {
    let mut of_either = actions
        .iter()
        .filter(|step| step.targets() == Targets::ProcessesOrCgroups);
    names_cgroups(select) && of_either.any(|step| matches!(step, Step::Reclaim(_)) || names_unit(select))
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
    if first.value == "/" {
        let message = "the root cgroup is never touched, so this step is always refused";
        findings.warning(first.span, message, ROOT_HELP);
    }
    TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Cgroup(Pattern::exactly(&first.value))],
    })
}
