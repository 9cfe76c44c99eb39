//! The template of a group's name, as process-exporter writes it: `{{.Comm}}`, `{{.Matches.x}}`. The parts of Go's
//! template language without control flow are understood. Pure.

use crate::diagnostic::suggest;
use crate::process::ProcessFields;
use crate::process::cgroup::unit_of;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

/// The fields, as messages list them.
const FIELDS: [&str; 10] = [
    ".Comm",
    ".ExeBase",
    ".ExeFull",
    ".Username",
    ".Matches.NAME",
    ".PID",
    ".StartTime",
    ".Cgroups",
    ".Unit",
    "index .Cgroups N",
];

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `comm`.
    Comm,
    /// The file name of the first argument.
    ExeBase,
    /// The first argument.
    ExeFull,
    Username,
    Pid,
    StartTime,
    /// The paths of all hierarchies, as Go prints a list.
    Cgroups,
    /// One of these paths.
    Cgroup(usize),
    Unit,
    /// What a named group of the patterns matched, and the text for a name that no pattern has.
    Match(String, &'static str),
}

/// What is wrong with a template, and where: a range of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    pub place: Range<usize>,
    pub problem: String,
    pub help: String,
}

/// The values of one process that fill in a template.
#[derive(Debug)]
pub struct NameValues<'p> {
    pub comm: &'p str,
    pub arguments: &'p [String],
    /// The name of the effective user, or its number.
    pub user: &'p str,
    pub pid: i32,
    /// Since 1970.
    pub started: Duration,
    pub cgroups: &'p [String],
    /// The path in cgroup v2.
    pub cgroup: &'p str,
    pub matches: &'p BTreeMap<String, String>,
}

impl NameTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// When an action is none of those that are understood.
    pub fn parse(source: &str) -> Result<NameTemplate, TemplateError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = source;
        let mut trims_next = false;
        loop {
            let (text, action) = match rest.split_once("{{") {
                Some((text, action)) => (text, Some(action)),
                None => (rest, None),
            };
            let text = if trims_next { text.trim_start() } else { text };
            let Some(action) = action else {
                push_text(&mut parts, text);
                break;
            };
            let begin = source.len() - action.len() - 2;
            let (inside, after) = split_action(action).ok_or_else(|| {
                error(
                    source,
                    begin..source.len(),
                    "an action is not closed",
                    "close it with }}".to_owned(),
                )
            })?;
            let place = begin..source.len() - after.len();
            let (trims_before, inside) = match inside.strip_prefix('-') {
                Some(inside) if inside.starts_with([' ', '\t', '\n', '\r']) => (true, inside),
                _ => (false, inside),
            };
            let inside = match inside.strip_suffix('-') {
                Some(inside) if inside.ends_with([' ', '\t', '\n', '\r']) => {
                    trims_next = true;
                    inside
                }
                _ => {
                    trims_next = false;
                    inside
                }
            };
            push_text(&mut parts, if trims_before { text.trim_end() } else { text });
            let action = parse_action(inside.trim());
            parts.extend(action.map_err(|(problem, help)| error(source, place, &problem, help))?);
            rest = after;
        }
        Ok(NameTemplate {
            source: source.to_owned(),
            parts,
        })
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The name, where it is the same for each process.
    pub fn fixed_name(&self) -> Option<String> {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The names of groups of patterns that the template uses.
    pub fn matches(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Match(name, _) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The fields that must be read. `CMDLINE` stands for the arguments, `CGROUP` for all cgroups.
    pub fn needs(&self) -> ProcessFields {
        let needs = self.parts.iter().map(|part| match part {
            Part::ExeBase | Part::ExeFull => ProcessFields::CMDLINE,
            Part::Username => ProcessFields::USER,
            Part::Cgroups | Part::Cgroup(_) | Part::Unit => ProcessFields::CGROUP,
            _ => ProcessFields::empty(),
        });
        needs.fold(ProcessFields::empty(), ProcessFields::union)
    }

    /// The name of the group of a process.
    pub fn render(&self, values: &NameValues) -> String {
        let mut name = String::new();
        let first_argument = values.arguments.first().map_or(values.comm, String::as_str);
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Comm => name.push_str(values.comm),
                Part::ExeBase if values.arguments.is_empty() => name.push_str(values.comm),
                Part::ExeBase => name.push_str(base_name(first_argument)),
                Part::ExeFull => name.push_str(first_argument),
                Part::Username => name.push_str(values.user),
                Part::Pid => write!(name, "{}", values.pid).unwrap_or_default(),
                Part::StartTime => name.push_str(&go_time(values.started)),
                Part::Cgroups => write!(name, "[{}]", values.cgroups.join(" ")).unwrap_or_default(),
                Part::Cgroup(index) => name.push_str(values.cgroups.get(*index).map_or("", String::as_str)),
                Part::Unit => name.push_str(unit_of(values.cgroup).unwrap_or_default()),
                Part::Match(group, missing) => {
                    name.push_str(values.matches.get(group).map_or(*missing, String::as_str));
                }
            }
        }
        name
    }
}

/// The file name of a path as Go's `filepath.Base` finds it.
pub fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (path.is_empty(), trimmed.is_empty()) {
        (true, _) => ".",
        (false, true) => "/",
        (false, false) => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// A time as Go prints it: `2026-01-02 03:04:05.67 +0000 UTC`.
fn go_time(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let fraction = format!(".{:09}", since_1970.subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction} +0000 UTC", time.strftime("%Y-%m-%d %H:%M:%S"))
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// Splits what follows `{{` into the action and the rest. A comment and a quoted string may contain `}}`.
fn split_action(text: &str) -> Option<(&str, &str)> {
    let start = text.trim_start_matches(['-', ' ']);
    let skipped = text.len() - start.len();
    let closed = |opening: &str, closing: &str| {
        let inner = start.strip_prefix(opening)?;
        Some(skipped + opening.len() + inner.find(closing)? + closing.len())
    };
    let from = closed("/*", "*/").or(closed("\"", "\"")).or(closed("`", "`"));
    let from = from.unwrap_or(0);
    let end = from + text.get(from..)?.find("}}")?;
    Some((&text[..end], &text[end + 2..]))
}

fn error(source: &str, bytes: Range<usize>, problem: &str, help: String) -> TemplateError {
    let characters = |end: usize| source[..end].chars().count();
    TemplateError {
        place: characters(bytes.start)..characters(bytes.end),
        problem: format!("in the template of the name: {problem}"),
        help,
    }
}

/// Parses the text between the braces; `None` for a comment.
fn parse_action(action: &str) -> Result<Option<Part>, (String, String)> {
    if action.starts_with("/*") && action.ends_with("*/") {
        return Ok(None);
    }
    for quote in ['"', '`'] {
        let inner = action.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner.filter(|inner| !inner.contains([quote, '\\'])) {
            return Ok(Some(Part::Text(inner.to_owned())));
        }
    }
    let words: Vec<&str> = action.split_ascii_whitespace().collect();
    let unquoted = |word: &str| {
        let inner = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.map(str::to_owned)
    };
    let part = match words[..] {
        [".Comm"] => Part::Comm,
        [".ExeBase"] => Part::ExeBase,
        [".ExeFull"] => Part::ExeFull,
        [".Username"] => Part::Username,
        [".PID"] => Part::Pid,
        [".StartTime"] => Part::StartTime,
        [".Cgroups"] => Part::Cgroups,
        [".Unit"] => Part::Unit,
        ["index", ".Cgroups", index] if index.parse::<usize>().is_ok() => {
            Part::Cgroup(index.parse().unwrap_or_default())
        }
        ["index", ".Matches", name] if unquoted(name).is_some() => Part::Match(unquoted(name).unwrap_or_default(), ""),
        [field] if field.starts_with(".Matches.") => {
            let name = &field[".Matches.".len()..];
            if name.is_empty() || name.contains('.') {
                return Err((
                    format!("`{field}` names no match"),
                    "write {{.Matches.NAME}} for the group (?P<NAME>…) of a pattern".to_owned(),
                ));
            }
            // What Go prints for a key that a map lacks.
            Part::Match(name.to_owned(), "<no value>")
        }
        [".Matches"] => {
            return Err((
                "`.Matches` without a name".to_owned(),
                "write {{.Matches.NAME}} for the group (?P<NAME>…) of a pattern".to_owned(),
            ));
        }
        [] => {
            return Err((
                "an action is empty".to_owned(),
                format!("fields: {}", FIELDS.join(", ")),
            ));
        }
        [field] if field.starts_with('.') => {
            return Err((format!("no field `{field}`"), suggest(field, "fields", &FIELDS)));
        }
        [first, ..] => {
            return Err((
                format!("`{first}` is not understood"),
                format!("evenkeel understands single fields: {}", FIELDS.join(", ")),
            ));
        }
    };
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> String {
        let matches = BTreeMap::from([("Path".to_owned(), "pg".to_owned())]);
        let values = NameValues {
            comm: "postmaster",
            arguments: &["/usr/bin/postmaster".to_owned(), "-D".to_owned(), "/data/pg".to_owned()],
            user: "postgres",
            pid: 23,
            started: Duration::new(1_700_000_000, 120_000_000),
            cgroups: &["/a".to_owned(), "/system.slice/pg.service".to_owned()],
            cgroup: "/system.slice/pg.service/x",
            matches: &matches,
        };
        NameTemplate::parse(template).unwrap().render(&values)
    }

    #[test]
    fn templates_render_as_in_go() {
        for (template, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("{{.ExeBase}}:{{.Matches.Path}}", "postmaster:pg"),
            ("{{ .ExeFull }}:{{.PID}}", "/usr/bin/postmaster:23"),
            ("{{.Comm}}-{{.Username}}", "postmaster-postgres"),
            ("{{.StartTime}}", "2023-11-14 22:13:20.12 +0000 UTC"),
            ("{{.Cgroups}}", "[/a /system.slice/pg.service]"),
            ("{{index .Cgroups 1}}|{{index .Cgroups 7}}", "/system.slice/pg.service|"),
            ("{{.Unit}}", "pg.service"),
            ("{{.Matches.none}}|{{index .Matches \"none\"}}", "<no value>|"),
            ("a {{- .PID -}} b", "a23b"),
            ("a{{/* a }} comment */}}b{{\"{{\"}}{{`}}`}}", "ab{{}}"),
            ("é{{.PID}}", "é23"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn process_without_arguments_has_its_own_name() {
        let template = NameTemplate::parse("{{.ExeBase}} {{.ExeFull}}").unwrap();
        let matches = BTreeMap::new();
        let values = |arguments| NameValues {
            comm: "kworker/0:1",
            arguments,
            user: "root",
            pid: 7,
            started: Duration::ZERO,
            cgroups: &[],
            cgroup: "",
            matches: &matches,
        };
        assert_eq!(template.render(&values(&[])), "kworker/0:1 kworker/0:1");
        assert_eq!(template.render(&values(std::slice::from_ref(&String::new()))), ". ");
    }

    #[test]
    fn base_names_are_those_of_go() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("a/b/", "b"),
            ("b", "b"),
            ("/a b/c d", "c d"),
        ] {
            assert_eq!(base_name(path), expected, "{path:?}");
        }
    }

    #[test]
    fn mistakes_have_a_place_and_a_correction() {
        for (template, place, problem, help) in [
            ("é{{.Com}}x", 1..9, "no field `.Com`", "did you mean `.Comm`?"),
            ("{{.Comm", 0..7, "an action is not closed", "close it with }}"),
            ("{{}}", 0..4, "an action is empty", "fields: .Comm"),
            ("{{.Matches}}", 0..12, "`.Matches` without a name", "{{.Matches.NAME}}"),
            (
                "{{.Matches.}}",
                0..13,
                "`.Matches.` names no match",
                "{{.Matches.NAME}}",
            ),
            ("{{if .Comm}}", 0..12, "`if` is not understood", "single fields: .Comm"),
            (
                "{{.Comm | printf}}",
                0..18,
                "`.Comm` is not understood",
                "single fields",
            ),
        ] {
            let error = NameTemplate::parse(template).unwrap_err();
            assert_eq!(error.place, place, "{template}");
            assert!(error.problem.ends_with(problem), "{template}: {}", error.problem);
            assert!(error.help.contains(help), "{template}: {}", error.help);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_makes_parsing_panic(text in r#"([a-zé .\-"`/*]|\{\{|\}\}|\.Comm|\.Matches\.x|index){0,12}"#) {
            if let Err(error) = NameTemplate::parse(&text) {
                proptest::prop_assert!(error.place.end <= text.chars().count() && !error.help.is_empty());
            }
        }
    }
}
