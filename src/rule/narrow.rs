//! The check that a selector is narrow by itself. Rules that kill processes need that, because neither an alert nor a
//! pattern that matches everything may choose the victims.

use crate::process::Selector;
use crate::process::selector::{Condition, Part, Pattern};

/// Values from about every host, by key. A pattern that matches all of them selects nothing in particular.
const NAMES: [&str; 5] = ["bash", "java", "python", "postgres", "nginx"];
/// Command lines of several words, because an alert may choose a word.
const CMDLINES: [&str; 4] = [
    "/usr/bin/java -Xmx1g -jar app.jar",
    "python3 /srv/web/main.py --port 8000 --debug",
    "postgres: walwriter idle in transaction",
    "nginx: worker process -q -g daemon",
];
const EXES: [&str; 4] = [
    "/usr/bin/bash",
    "/opt/render/bin/ffmpeg",
    "/usr/lib/jvm/java-21/bin/java",
    "/home/alice/.local/bin/tool",
];
const CGROUPS: [&str; 4] = [
    "/system.slice/nginx.service",
    "/user.slice/user-1000.slice/session-1.scope",
    "/batch.slice/render.service",
    "/kubepods/besteffort/pod1/c0ffee",
];
const UNITS: [&str; 4] = ["nginx.service", "session-1.scope", "batch.slice", "render@7.service"];
const PIDS: [&str; 4] = ["17", "842", "30519", "4194303"];
/// Name and number; a pattern may hold for either.
const USERS: [(&str, &str); 4] = [
    ("root", "0"),
    ("www-data", "33"),
    ("postgres", "112"),
    ("alice", "1000"),
];

/// About every process has this much resident memory.
const MIN_TELLING_BYTES: u64 = 1 << 20;

/// The reasons, for each condition, why a selector is too wide. `None` if one condition is narrow enough.
pub(super) fn why_too_wide(selector: &Selector) -> Option<Vec<String>> {
    let by_label = is_chosen_by_label(selector);
    selector
        .conditions
        .iter()
        .map(|condition| why_not_telling(condition, by_label))
        .collect()
}

/// Whether a label of the alert selects processes, and does not only exclude some.
fn is_chosen_by_label(selector: &Selector) -> bool {
    selector.conditions.iter().any(|condition| match condition {
        Condition::Not(left_out) => left_out
            .conditions
            .iter()
            .any(|inner| matches!(inner, Condition::Not(meant) if is_chosen_by_label(meant))),
        condition => matches!(condition.pattern(), Some(Pattern::Template(_))),
    })
}

fn why_not_telling(condition: &Condition, by_label: bool) -> Option<String> {
    let key = condition.key();
    match condition {
        Condition::Group { name, selector } => {
            why_too_wide(selector).map(|_| format!("group `{name}` matches any process"))
        }
        Condition::Not(_) => Some("`not` only excludes processes".to_owned()),
        Condition::MinAge(_) => Some("`min_age` matches every process that runs long enough".to_owned()),
        // The alert does not choose which process is large, unless its labels also select the processes.
        Condition::MinMemory(_) | Condition::MinCpu(_) if by_label => {
            Some(format!("`{key}` depends on a label of the alert"))
        }
        Condition::MinMemory(bytes) if *bytes < MIN_TELLING_BYTES => {
            Some(format!("`{key}` of less than 1MiB matches everything"))
        }
        Condition::MinMemory(_) | Condition::MinCpu(_) => None,
        condition => {
            let pattern = condition.pattern()?;
            let widest = widest(pattern);
            matches_anything(key, widest.as_ref().unwrap_or(pattern)).then(|| match pattern {
                Pattern::Fixed(_) => format!("`{key}` {pattern} matches everything"),
                Pattern::Template(_) => format!("`{key}` {pattern} depends on a label of the alert"),
            })
        }
    }
}

/// The pattern with the labels that match as much as possible.
fn widest(pattern: &Pattern) -> Option<Pattern> {
    let Pattern::Template(parts) = pattern else { return None };
    let text: String = parts
        .iter()
        .map(|part| match part {
            Part::Regex(regex) => format!("(?:{regex})"),
            Part::Label(_) => ".*".to_owned(),
        })
        .collect();
    Pattern::fixed(&text).ok()
}

fn matches_anything(key: &str, pattern: &Pattern) -> bool {
    // A template that cannot be widened counts as too wide.
    let Pattern::Fixed(fixed) = pattern else { return true };
    let all = |examples: &[&str]| examples.iter().all(|example| fixed.is_match(example));
    match key {
        "name" => all(&NAMES),
        "cmdline" => all(&CMDLINES),
        "exe" => all(&EXES),
        "cgroup" => all(&CGROUPS),
        "unit" => all(&UNITS),
        "user" => USERS
            .iter()
            .all(|(name, number)| fixed.is_match(name) || fixed.is_match(number)),
        _ => all(&PIDS),
    }
}
