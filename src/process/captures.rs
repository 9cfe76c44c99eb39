//! What the named groups `(?P<NAME>…)` of a selector's patterns match in a process. Pure.

use super::cgroup::unit_of;
use super::fields::Process;
use super::pattern::Fixed;
use super::selector::{Condition, Pattern, Selector};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The names of the groups in the patterns of a selector, except those below `not`, which match nothing.
pub fn group_names(selector: &Selector) -> Vec<&str> {
    let mut names = Vec::new();
    for condition in &selector.conditions {
        match condition {
            Condition::Group { selector, .. } => names.extend(group_names(selector)),
            condition => names.extend(fixed(condition).map(Fixed::group_names).unwrap_or_default()),
        }
    }
    names
}

/// The matches of these groups in a process that the selector selects. A group that takes part in no match is empty.
pub fn captures(selector: &Selector, process: &Process) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    add_captures(selector, process, &mut found);
    found
}

fn add_captures(selector: &Selector, process: &Process, found: &mut BTreeMap<String, String>) {
    for condition in &selector.conditions {
        if let Condition::Group { selector, .. } = condition {
            add_captures(selector, process, found);
        } else if let (Some(pattern), Some(text)) = (fixed(condition), text(condition, process)) {
            found.extend(pattern.captures(&text));
        }
    }
}

fn fixed(condition: &Condition) -> Option<&Fixed> {
    match condition.pattern()? {
        Pattern::Fixed(fixed) => Some(fixed),
        Pattern::Template(_) => None,
    }
}

/// The string that a condition compares.
fn text<'p>(condition: &Condition, process: &'p Process) -> Option<Cow<'p, str>> {
    let details = &process.details;
    let text = match condition {
        Condition::Name(_) => Some(process.name.as_str()),
        Condition::Cmdline(_) => details.cmdline.as_deref(),
        Condition::Exe(_) => details.exe.as_deref(),
        Condition::User(_) => details.user.as_deref(),
        Condition::Cgroup(_) => details.cgroup.as_deref(),
        Condition::Unit(_) => details.cgroup.as_deref().map(|path| unit_of(path).unwrap_or_default()),
        Condition::Pid(_) => return Some(process.identity.pid.to_string().into()),
        _ => None,
    };
    text.map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn named_groups_match_except_below_not() {
        let pattern = |text| Pattern::fixed(text).unwrap();
        let inner = Selector {
            conditions: vec![Condition::Unit(pattern(r"app-(?P<app>.*)\.service"))],
        };
        let selector = Selector {
            conditions: vec![
                Condition::Cmdline(pattern(".* --config=(?P<config>[^ ]+).*(?P<debug>-d)?")),
                Condition::Name(pattern("x264")),
                Condition::Not(Selector {
                    conditions: vec![Condition::Name(pattern("(?P<other>y)"))],
                }),
                Condition::Group {
                    name: "apps".into(),
                    selector: Arc::new(inner),
                },
            ],
        };
        assert_eq!(group_names(&selector), ["config", "debug", "app"]);
        let mut process = Process::example(7, "x264");
        process.details.cmdline = Some("x264 --config=a.yml".into());
        process.details.cgroup = Some("/system.slice/app-mail.service".into());
        let expected = [("app", "mail"), ("config", "a.yml"), ("debug", "")];
        assert_eq!(
            captures(&selector, &process),
            expected.map(|(name, text)| (name.into(), text.into())).into()
        );
    }
}
