//! The conversion of selectors as written, with warnings about patterns that probably do not mean what they say.

use super::file::{Written, WrittenSelect};
use crate::diagnostic::{Findings, HostName, Span, suggest};
use crate::process::Selector;
use crate::process::pattern::is_plain;
use crate::process::selector::{Condition, Part, Pattern};
use crate::template::{self, Segment};
use crate::yaml::Text;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `TASK_COMM_LEN` of the kernel, without the closing NUL (proc_pid_comm(5)).
const MAX_NAME_BYTES: usize = 15;

/// The hint where the root cgroup is selected.
pub(super) const ROOT_HELP: &str = "select a cgroup below it, such as /system.slice";

/// Keys with patterns that apply to a cgroup as a whole.
const CGROUP_KEYS: [&str; 2] = ["cgroup", "unit"];

/// Whether a selector has only keys of cgroups, and none of processes.
pub(super) fn names_cgroups(select: &WrittenSelect) -> bool {
    select.keys.iter().all(|written| match written {
        Written::Pattern(key, _) => CGROUP_KEYS.contains(key),
        Written::Not(inner) => names_cgroups(inner),
        _ => false,
    })
}

pub(super) fn names_unit(select: &WrittenSelect) -> bool {
    let is_unit = |written: &Written| matches!(written, Written::Pattern("unit", _));
    select.keys.iter().any(is_unit)
}

/// The context of a selector.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'c> {
    pub groups: &'c BTreeMap<String, Arc<Selector>>,
    /// Whether labels of an alert are available.
    pub labels: bool,
    /// Whether it selects cgroups, and not the processes in them.
    pub cgroups: bool,
}

/// Compiles a selector. A key with an error is left out, and is among the findings.
pub fn compile_select(select: &WrittenSelect, scope: Scope, findings: &mut Findings) -> Selector {
    let conditions = select
        .keys
        .iter()
        .filter_map(|written| compile_key(written, scope, findings))
        .collect();
    Selector { conditions }
}

fn compile_key(written: &Written, scope: Scope, findings: &mut Findings) -> Option<Condition> {
    Some(match written {
        Written::MinAge(age) => Condition::MinAge(*age),
        Written::MinMemory(bytes) => Condition::MinMemory(*bytes),
        Written::MinCpu(cores) => Condition::MinCpu(*cores),
        Written::Not(select) => Condition::Not(compile_select(select, scope, findings)),
        Written::Group(name) => {
            let Some(selector) = scope.groups.get(&name.value) else {
                let names: Vec<&str> = scope.groups.keys().map(String::as_str).collect();
                let help = match names.as_slice() {
                    [] => "define it under `process_groups` of the configuration".to_owned(),
                    names => suggest(&name.value, "defined in `process_groups`", names),
                };
                findings.error(name.span, format!("no process group `{}`", name.value), help);
                return None;
            };
            Condition::Group {
                name: name.value.clone(),
                selector: Arc::clone(selector),
            }
        }
        Written::Pattern(key, text) if scope.cgroups && !CGROUP_KEYS.contains(key) => {
            let help = "select them by cgroup, unit, min_memory or min_cpu; steps for single processes need a rule of their own";
            findings.error(text.span, format!("cgroups have no `{key}`"), help);
            return None;
        }
        Written::Pattern(key, text) => {
            let pattern = compile_pattern(key, text, scope, findings)?;
            match *key {
                "name" => Condition::Name(pattern),
                "cmdline" => Condition::Cmdline(pattern),
                "exe" => Condition::Exe(pattern),
                "user" => Condition::User(pattern),
                "cgroup" => Condition::Cgroup(pattern),
                "unit" => Condition::Unit(pattern),
                _ => Condition::Pid(pattern),
            }
        }
    })
}

fn compile_pattern(key: &str, text: &Text, scope: Scope, findings: &mut Findings) -> Option<Pattern> {
    let pieces = match template::parse(&text.value) {
        Ok(pieces) => pieces,
        Err(error) => {
            let help = "write {{ $labels.NAME }}; a regular expression that holds two braces writes them \\{\\{";
            findings.error(text.part(error.offset, error.width), error.problem, help);
            return None;
        }
    };
    if text.value.is_empty() {
        findings.error(
            text.span,
            format!("`{key}` is empty"),
            "an empty pattern matches nothing; remove the key",
        );
        return None;
    }
    let mut offset = 0;
    let mut parts = Vec::new();
    let mut sound = true;
    for piece in pieces {
        match piece {
            Segment::Resource => {
                let help = "it can be used in `allocate` and `exec`";
                findings.error(text.span, "`$resource` cannot select processes", help);
                return None;
            }
            Segment::Label(name) => {
                let start = text
                    .value
                    .char_indices()
                    .skip(offset)
                    .map(|(byte, _)| byte)
                    .next()
                    .unwrap_or(0);
                let width = text.value[start..]
                    .find("}}")
                    .map_or(0, |end| text.value[start..start + end + 2].chars().count());
                if !scope.labels {
                    let help = "labels can be used in rules only; write a literal string";
                    findings.error(
                        text.part(offset, width),
                        "a process group cannot use labels of an alert",
                        help,
                    );
                    sound = false;
                }
                offset += width;
                parts.push(Part::Label(name));
            }
            Segment::Text(regex) => {
                let whole = regex.len() == text.value.len();
                sound &= check_regex(&regex, offset, whole, text, findings);
                offset += regex.chars().count();
                parts.push(Part::Regex(regex));
            }
        }
    }
    if !sound {
        return None;
    }
    match parts.as_slice() {
        [Part::Regex(regex)] => {
            warn_of_misunderstandings(key, regex, text, scope.cgroups, findings);
            match Pattern::fixed(regex) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    // The syntax is valid, so this is the size limit of the compiled form.
                    findings.error(
                        text.span,
                        format!("this pattern cannot be used: {error}"),
                        "make it simpler",
                    );
                    None
                }
            }
        }
        _ => Some(Pattern::Template(parts)),
    }
}

/// Whether a part between labels is a regular expression by itself.
fn check_regex(regex: &str, offset: usize, whole: bool, text: &Text, findings: &mut Findings) -> bool {
    let (at, problem) = match regex_syntax::parse(regex) {
        Ok(_) => return true,
        Err(regex_syntax::Error::Parse(error)) => (error.span().start.offset, error.kind().to_string()),
        Err(regex_syntax::Error::Translate(error)) => (error.span().start.offset, error.kind().to_string()),
        Err(error) => (0, error.to_string()),
    };
    let rest = &regex[at..];
    let help = if rest.starts_with("(?!") || rest.starts_with("(?<!") {
        "use `not:`: processes for which all of its keys hold are left out"
    } else if rest.starts_with('*') {
        &format!("this is not a shell pattern: write `{}`", from_shell(regex))
    } else if whole {
        "the syntax is that of https://docs.rs/regex; `\\` takes the meaning from a special character"
    } else {
        "each part before, between and after labels must be a regular expression by itself"
    };
    let place = text.part(offset + regex[..at].chars().count(), 1);
    findings.error(place, format!("not a regular expression: {problem}"), help);
    false
}

/// The regular expression for a shell pattern.
fn from_shell(pattern: &str) -> String {
    let mut regex = String::new();
    for character in pattern.chars() {
        if character == '*' && !regex.ends_with(['.', ')', ']', '\\']) {
            regex.push('.');
        }
        regex.push(character);
    }
    regex
}

fn warn_of_misunderstandings(key: &str, regex: &str, text: &Text, cgroups: bool, findings: &mut Findings) {
    warn_of_anchors(regex, text, findings);
    for (offset, alternative) in alternatives(regex) {
        let place = text.part(offset, alternative.chars().count());
        warn_of_shell_star(alternative, place, findings);
        if key == "cgroup" && !cgroups && alternative.ends_with(".slice") {
            let message = format!("`{alternative}` is the slice itself, and processes sit in cgroups below it");
            findings.warning(place, message, format!("write '{alternative}(/.*)?'"));
        }
        if key == "user" && is_plain(alternative) && !alternative.bytes().all(|byte| byte.is_ascii_digit()) {
            findings.refer(place, HostName::User(alternative.to_owned()));
        }
        if key == "unit" && is_plain(alternative) {
            // Every name of a unit has a dot, which a literal pattern cannot have.
            let message = format!("can never match: `{alternative}` lacks the suffix of a unit");
            findings.warning(
                place,
                message,
                format!("write '{alternative}\\.service', or another suffix"),
            );
        }
        if key == "cgroup" && cgroups && alternative == "/" {
            let message = "can never match: the root cgroup is never touched";
            findings.warning(place, message, ROOT_HELP);
        }
        let first = alternative.chars().next().unwrap_or(' ');
        let begins_with_text = first.is_alphanumeric() || first == '_' || first == '-';
        if key == "name" {
            let least = regex_syntax::parse(alternative)
                .ok()
                .and_then(|regex| regex.properties().minimum_len());
            if let Some(least) = least.filter(|least| *least > MAX_NAME_BYTES) {
                let message =
                    format!("can never match: the kernel keeps {MAX_NAME_BYTES} bytes of a name, this is {least}");
                let short: String = alternative.chars().take(MAX_NAME_BYTES).collect();
                let help = match is_plain(alternative) && short.len() == MAX_NAME_BYTES {
                    true => format!("write `{short}`, or use `exe` or `cmdline`"),
                    false => "use `exe` or `cmdline`".to_owned(),
                };
                findings.warning(place, message, help);
            }
        } else if matches!(key, "exe" | "cgroup") && begins_with_text {
            let message =
                format!("can never match: `{key}` is a path from `/`, and patterns are anchored at both ends");
            findings.warning(place, message, format!("write the whole path, or `.*/{alternative}`"));
        } else if key == "cmdline" && first == '-' {
            let message = "matches only a command line that begins so: patterns are anchored at both ends";
            findings.warning(place, message, format!("write `.*{alternative}.*`"));
        }
    }
}

/// Warns of `ffmpeg*`, which does not match `ffmpeg-live`.
fn warn_of_shell_star(alternative: &str, place: Span, findings: &mut Findings) {
    let Some(stem) = alternative.strip_suffix('*').filter(|stem| is_plain(stem)) else {
        return;
    };
    let Some((start, last)) = stem.char_indices().next_back().filter(|(start, _)| *start > 0) else {
        return;
    };
    let message = format!(
        "matches {}, {stem}, {stem}{last}…: `*` repeats the character before it",
        &stem[..start]
    );
    findings.warning(place, message, format!("did you mean `{stem}.*`?"));
}

/// Warns of `^` and `$`, because patterns are anchored anyway.
pub fn warn_of_anchors(regex: &str, text: &Text, findings: &mut Findings) {
    let escaped = regex.strip_suffix('$').is_some_and(|rest| rest.ends_with('\\'));
    if regex.starts_with('^') || (regex.ends_with('$') && !escaped) {
        let bare = regex.trim_start_matches('^');
        let bare = if escaped { bare } else { bare.trim_end_matches('$') };
        let help = format!("write `{bare}`; for a text that may stand anywhere write `.*{bare}.*`");
        findings.warning(text.span, "patterns are anchored at both ends already", help);
    }
}

/// Alternatives at the top level, each with its offset in characters.
pub(super) fn alternatives(regex: &str) -> Vec<(usize, &str)> {
    let (mut found, mut depth, mut in_class, mut escaped) = (Vec::new(), 0_usize, false, false);
    let (mut start_byte, mut start_char) = (0, 0);
    for (index, (byte, character)) in regex.char_indices().enumerate() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                found.push((start_char, &regex[start_byte..byte]));
                (start_byte, start_char) = (byte + 1, index + 1);
            }
            _ => {}
        }
    }
    found.push((start_char, &regex[start_byte..]));
    found
}
