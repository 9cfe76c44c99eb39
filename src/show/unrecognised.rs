//! `check`: running programs that have the path of a protected program and are not protected, because they run from a
//! file of a container.

use crate::diagnostic::{Diagnostic, Severity};
use crate::host::Host;
use crate::process::selector::SelectorMatch;
use crate::process::{Process, ProcessFields, Selector, protection};
use crate::rule::{Rule, RuleSet, TargetSelector};
use std::collections::BTreeMap;

/// Warnings about such programs that a rule might select, one for each entry of the built-in protection.
pub fn unrecognised(host: &mut impl Host, rules: &RuleSet, protect: &[Selector]) -> Vec<Diagnostic> {
    let configured = protect.iter().map(Selector::needs);
    let needs = configured.fold(protection::NEEDS, |all, needs| all | needs);
    let mut found: BTreeMap<&str, Vec<Process>> = BTreeMap::new();
    for mut process in host.processes().unwrap_or_default() {
        if process.is_kernel_thread || !rules.rules.iter().any(|rule| may_select(rule, &process)) {
            continue;
        }
        if !host.read_details(&mut process, ProcessFields::EXE) {
            continue;
        }
        let Some(entry) = process.details.exe.as_deref().and_then(protection::entry_of_path) else {
            continue;
        };
        let is_protected = |process: &Process| {
            protection::recognise(process).is_some()
                || protect
                    .iter()
                    .any(|selector| selector.judge(process) == SelectorMatch::Holds)
        };
        if host.read_details(&mut process, needs) && !is_protected(&process) {
            found.entry(entry.name).or_default().push(process);
        }
    }
    found.values().filter_map(|processes| warning(processes)).collect()
}

fn may_select(rule: &Rule, process: &Process) -> bool {
    match &rule.target_selector {
        TargetSelector::Processes(selector) => !matches!(selector.judge_cheaply(process), SelectorMatch::Fails(_)),
        _ => false,
    }
}

fn warning(processes: &[Process]) -> Option<Diagnostic> {
    let first = processes.first()?;
    let others = match processes.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let exe = first.details.exe.as_deref().unwrap_or_default();
    let message = format!(
        "`{exe}` (pid {}{others}) is not protected: it is no file of this host, as in a container",
        first.identity.pid
    );
    let cgroup = first.details.cgroup.as_deref().unwrap_or("unknown");
    let help = format!("if no rule may touch it, name its cgroup in `protect`; the cgroup is {cgroup}");
    Some(Diagnostic::of_file(Severity::Warning, "protection", message, help))
}
