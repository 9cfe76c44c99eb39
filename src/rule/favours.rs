//! The warning about rules that favour what any user of the host can supply: a process that a user starts, or a cgroup
//! that a user names.

use super::ruleset::Rule;
use super::unchecked_rule::UncheckedRule;
use crate::diagnostic::Findings;
use crate::knob::limit::{Limit, Relative, Setting};
use crate::knob::{Change, Value};
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::step::Step;
use regex_syntax::hir::literal::Extractor;

/// A user name that no rule means.
const SOME_USER: &str = "someunknownuser";
/// The units of users' processes; a process in no unit has an empty one.
const UNITS_OF_USERS: [&str; 3] = ["user@1000.service", "session-1.scope", ""];
/// The cgroups of users' processes.
const CGROUPS_OF_USERS: &str = "/user.slice/";

pub(super) fn warn(unchecked: &UncheckedRule, findings: &mut Findings) {
    let rule: &Rule = &unchecked.rule;
    let Some(step) = rule.actions.iter().find(|step| is_favour(step)) else {
        return;
    };
    if rule.selector().is_none_or(is_out_of_reach) {
        return;
    }
    let message = format!("`{step}` favours its targets, and any user of the host can supply one");
    let help = "add `user`, or a `unit` or `cgroup` outside of user.slice, which no other user can satisfy";
    findings.warning(unchecked.span, message, help);
}

/// Whether a step gives a usual target more than it has.
fn is_favour(step: &Step) -> bool {
    let Step::Set(change) = step else { return false };
    match change {
        Change::To(Value::Cgroup(setting)) => is_generous(setting),
        Change::To(value) => value.knob().initial().is_some_and(|initial| value.favours(&initial)),
        Change::Affinity(_) => false,
        Change::Limit { by, .. } => match by {
            Relative::Percent(percent) => *percent > 0,
            Relative::Processors(processors) => *processors > 0,
            Relative::Bytes(bytes) => *bytes > 0,
            Relative::OfHost(_) => false,
        },
        Change::Io(change) => change.limit == Limit(None),
    }
}

/// Whether a limit is above that of a cgroup whose limit was never set, or none at all.
fn is_generous(setting: &Setting) -> bool {
    let unlimited = setting.file().unlimited();
    let is_more = Setting::parse(setting.file(), unlimited).is_ok_and(|unlimited| setting.is_more_than(&unlimited));
    is_more || (unlimited.starts_with("max") && setting.line().starts_with("max"))
}

/// Whether a condition leaves out whatever users in general can supply.
fn is_out_of_reach(selector: &Selector) -> bool {
    selector.conditions.iter().any(|condition| match condition {
        Condition::User(pattern) => !matches!(pattern, Pattern::Fixed(fixed) if fixed.is_match(SOME_USER)),
        Condition::Unit(pattern) => {
            !matches!(pattern, Pattern::Fixed(fixed) if UNITS_OF_USERS.iter().any(|unit| fixed.is_match(unit)))
        }
        Condition::Cgroup(pattern) => !matches!(pattern, Pattern::Fixed(fixed) if may_be_of_user(fixed.as_str())),
        Condition::Group { selector, .. } => is_out_of_reach(selector),
        // A user chooses the name, the arguments, the program and the load of a process.
        Condition::Name(_)
        | Condition::Cmdline(_)
        | Condition::Exe(_)
        | Condition::Pid(_)
        | Condition::StartedBy(_)
        | Condition::MinAge(_)
        | Condition::MinMemory(_)
        | Condition::MinCpu(_)
        | Condition::Not(_) => false,
    })
}

/// Whether a pattern matches a path below the users' slice, by the text with which its matches begin.
fn may_be_of_user(regex: &str) -> bool {
    let Ok(hir) = regex_syntax::parse(regex) else {
        return true;
    };
    let beginnings = Extractor::new().extract(&hir);
    let Some(beginnings) = beginnings.literals() else {
        return true;
    };
    beginnings.iter().any(|beginning| {
        let (beginning, slice) = (beginning.as_bytes(), CGROUPS_OF_USERS.as_bytes());
        beginning.starts_with(slice) || slice.starts_with(beginning)
    })
}

#[cfg(test)]
mod tests {
    use super::may_be_of_user;

    #[test]
    fn pattern_of_cgroups_reaches_into_the_users_slice_or_not() {
        for (regex, expected) in [
            (r"/system\.slice/render\.service", false),
            (r"/system\.slice/.*", false),
            (r"/(batch|system)\.slice/.*", false),
            (r"/(batch|user)\.slice/.*", true),
            (r".*/render\.service", true),
            (r"/user\.slice/user-1000\.slice/.*", true),
            ("/[a-z.]*/x", true),
        ] {
            assert_eq!(may_be_of_user(regex), expected, "{regex}");
        }
    }
}
