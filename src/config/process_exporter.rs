//! process-exporter's configuration file (`-config.path`). What process-exporter ignores is a warning, so that each file
//! that it reads is read here as well.

use super::groups::report;
use crate::alert::go_regex;
use crate::diagnostic::{Diagnostic, Findings, Severity, SourceText, Span, suggest};
use crate::schema::Kind;
use crate::sense::groups::group::{ExporterGroups, ExporterOptions, OTHER};
use crate::sense::groups::name_matcher::NameMatcher;
use crate::sense::groups::name_template::NameTemplate;
use crate::yaml::{self, Content, Entry, Node, Text};
use regex::Regex;
use std::sync::Arc;

/// `TASK_COMM_LEN` of the kernel, without the closing NUL (proc_pid_comm(5)).
const MAX_COMM_BYTES: usize = 15;
const ROOT: &str = "process_names";
const KEYS: [&str; 4] = ["name", "comm", "exe", "cmdline"];
const DEFAULT_NAME: &str = "{{.ExeBase}}";
const EXAMPLE: &str = "such as - {name: '{{.Comm}}', cmdline: ['.+']}";

/// Reads the file, with warnings about what has no effect.
///
/// # Errors
/// All findings in it, warnings included.
pub fn read(
    source: &SourceText,
    options: ExporterOptions,
) -> Result<(ExporterGroups, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut findings = Findings::new(source);
    let matchers = read_root(&mut findings);
    let diagnostics = findings.into_diagnostics();
    if diagnostics.iter().any(|found| found.severity == Severity::Error) {
        return Err(diagnostics);
    }
    let groups = ExporterGroups {
        source: Arc::from(source.text()),
        matchers,
        options,
    };
    Ok((groups, diagnostics))
}

fn read_root(findings: &mut Findings) -> Vec<NameMatcher> {
    let missing = |findings: &mut Findings, span: Span| {
        findings.error(
            span,
            format!("no `{ROOT}`"),
            format!("list the groups under `{ROOT}`, {EXAMPLE}"),
        );
    };
    let start = Span {
        line: 1,
        column: 1,
        width: 1,
    };
    let Some(root) = yaml::parse(findings) else {
        if !findings.has_errors() {
            missing(findings, start);
        }
        return Vec::new();
    };
    let Some(entries) = entries(&root, "the file", &[ROOT], findings) else {
        return Vec::new();
    };
    let Some(list) = entries.iter().find(|entry| entry.key == ROOT) else {
        missing(findings, start);
        return Vec::new();
    };
    let Content::Sequence(items) = &list.value.content else {
        let message = format!("`{ROOT}` must be a list");
        findings.error(list.key_span, message, format!("begin each entry with `-`, {EXAMPLE}"));
        return Vec::new();
    };
    if items.is_empty() {
        findings.error(
            list.key_span,
            format!("`{ROOT}` is empty"),
            format!("add an entry, {EXAMPLE}"),
        );
    }
    let read = |item| Some((item, read_matcher(item, findings)?));
    let matchers: Vec<(&Node, NameMatcher)> = items.iter().filter_map(read).collect();
    let (fixed, made): (Vec<_>, Vec<_>) = matchers
        .iter()
        .map(|(item, matcher)| (item, matcher.fixed_name()))
        .partition(|(_, name)| name.is_some());
    let others = fixed.iter().filter(|(_, name)| name.as_deref() == Some(OTHER));
    for (item, _) in others.filter(|_| !made.is_empty()) {
        findings.warning(
            item.span,
            format!("the group `{OTHER}` also counts processes for which templates make too many names"),
            "give the group another name",
        );
    }
    matchers.into_iter().map(|(_, matcher)| matcher).collect()
}

/// The entries of a mapping after merge keys were followed; warns of those that process-exporter ignores.
fn entries<'n>(node: &'n Node, title: &str, known: &[&str], findings: &mut Findings) -> Option<Vec<&'n Entry>> {
    let Content::Mapping(own) = &node.content else {
        findings.error(
            node.span,
            format!("{title} must be a mapping"),
            format!("its keys: {}", known.join(", ")),
        );
        return None;
    };
    let merged = own
        .iter()
        .filter(|entry| entry.key == "<<")
        .flat_map(|entry| match &entry.value.content {
            Content::Mapping(entries) => entries.iter().collect::<Vec<_>>(),
            Content::Sequence(items) => items
                .iter()
                .filter_map(|item| match &item.content {
                    Content::Mapping(entries) => Some(entries),
                    _ => None,
                })
                .flatten()
                .collect(),
            Content::Scalar { .. } => Vec::new(),
        });
    // An own key, or an earlier mapping, is stronger than a later one.
    let mut all: Vec<&Entry> = own.iter().filter(|entry| entry.key != "<<").collect();
    for entry in merged {
        if !all.iter().any(|other| other.key == entry.key) {
            all.push(entry);
        }
    }
    for entry in all.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
        let message = format!("`{}` in {title} has no effect", entry.key);
        findings.warning(entry.key_span, message, suggest(&entry.key, "known keys", known));
    }
    Some(all)
}

fn read_matcher(node: &Node, findings: &mut Findings) -> Option<NameMatcher> {
    let entries = entries(node, "an entry", &KEYS, findings)?;
    let get = |key: &str| {
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.value).filter(|value| !value.is_null())
    };
    let texts = |key: &str, findings: &mut Findings| Some(read_texts(key, get(key)?, findings));
    let comms = texts("comm", findings);
    let exes = texts("exe", findings);
    let cmdlines = texts("cmdline", findings);
    if comms.is_none() && exes.is_none() && cmdlines.is_none() {
        let help = "add `comm`, `exe` or `cmdline`; `cmdline: ['.+']` selects every process with arguments";
        findings.error(node.span, "an entry selects no processes", help);
        return None;
    }
    for comm in comms.iter().flatten().filter(|comm| comm.value.len() > MAX_COMM_BYTES) {
        let mut end = MAX_COMM_BYTES;
        while !comm.value.is_char_boundary(end) {
            end -= 1;
        }
        findings.warning(
            comm.span,
            format!(
                "`comm` never has more than {MAX_COMM_BYTES} bytes, so that `{}` matches no process",
                comm.value
            ),
            format!("write `{}`, or use `exe`", &comm.value[..end]),
        );
    }
    for key in ["comm", "exe"] {
        if let Some(node) = get(key).filter(|node| node.content == Content::Sequence(Vec::new())) {
            findings.warning(
                node.span,
                format!("`{key}` is empty, so that the entry selects no process"),
                "add a name, or remove the key",
            );
        }
    }
    let cmdlines = cmdlines.unwrap_or_default();
    let cmdlines: Vec<Regex> = cmdlines
        .iter()
        .filter_map(|text| read_pattern(text, findings))
        .collect();
    let template = read_name(get("name"), &cmdlines, findings)?;
    let values = |texts: Vec<Text>| texts.into_iter().map(|text| text.value).collect();
    Some(NameMatcher {
        comms: comms.map(values),
        exes: exes.map(values),
        cmdlines,
        template,
    })
}

fn read_texts(key: &str, node: &Node, findings: &mut Findings) -> Vec<Text> {
    match &node.content {
        Content::Sequence(items) => items
            .iter()
            .filter_map(|item| item.text(key, &Kind::Text, findings))
            .collect(),
        Content::Scalar { text, .. } => {
            findings.error(
                node.span,
                format!("`{key}` must be a list"),
                format!("write it as a list: ['{text}']"),
            );
            Vec::new()
        }
        Content::Mapping(_) => {
            findings.error(
                node.span,
                format!("`{key}` must be a list of strings"),
                "quote a string that begins with `{`",
            );
            Vec::new()
        }
    }
}

fn read_pattern(text: &Text, findings: &mut Findings) -> Option<Regex> {
    let compiled = go_regex::unanchored(&text.value);
    let report = |error: go_regex::PatternError| {
        findings.error(
            text.span,
            error.to_string(),
            "the syntax is that of Go: https://golang.org/s/re2syntax",
        );
    };
    compiled.map_err(report).ok()
}

fn read_name(node: Option<&Node>, cmdlines: &[Regex], findings: &mut Findings) -> Option<NameTemplate> {
    let name = match node {
        Some(node) => Some(node.text("name", &Kind::Text, findings)?),
        None => None,
    };
    // An empty name counts as none.
    let written = name.as_ref().map_or("", |name| &name.value);
    let template = match NameTemplate::parse(if written.is_empty() { DEFAULT_NAME } else { written }) {
        Ok(template) => template,
        Err(error) => {
            name.iter().for_each(|name| report(&error, name, findings));
            return None;
        }
    };
    let known: Vec<&str> = cmdlines
        .iter()
        .flat_map(|regex| regex.capture_names().flatten())
        .collect();
    for missing in template.matches().filter(|used| !known.contains(used)) {
        let help = match known.as_slice() {
            [] => format!("write (?P<{missing}>…) in `cmdline`"),
            known => suggest(missing, "groups of the patterns in `cmdline`", known),
        };
        let message = format!("no pattern has the group `{missing}`, so that the name has no value there");
        name.iter()
            .for_each(|name| findings.warning(name.span, message.as_str(), help.as_str()));
    }
    Some(template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::render_all;

    fn read_text(text: &str) -> Result<(ExporterGroups, Vec<Diagnostic>), Vec<Diagnostic>> {
        read(&SourceText::new("all.yaml", text), ExporterOptions::default())
    }

    #[test]
    fn default_file_of_the_packages_is_read() {
        let (groups, warnings) =
            read_text("process_names:\n  - name: \"{{.Comm}}\"\n    cmdline: \n    - '.+'").unwrap();
        assert!(warnings.is_empty(), "{}", render_all(&warnings, false));
        assert_eq!(groups.matchers.len(), 1);
        assert_eq!(groups.matchers[0].template.source(), "{{.Comm}}");
        assert!(groups.matchers[0].comms.is_none() && groups.matchers[0].cmdlines[0].is_match("x"));
    }

    #[test]
    fn literal_name_of_the_overflow_is_a_warning() {
        for (second, expected) in [("'{{.Comm}}'", 1), ("'{{\"b\"}}'", 0)] {
            let entries = format!("process_names:\n- {{name: other, comm: [a]}}\n- {{name: {second}, comm: [b]}}\n");
            let (_, warnings) = read_text(&entries).unwrap();
            assert_eq!(warnings.len(), expected, "{}", render_all(&warnings, false));
        }
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let text = "process_names:\n  - &base {name: a, comm: [x]}\n  - {<<: *base, name: b}\n";
        let (groups, warnings) = read_text(text).unwrap();
        assert!(warnings.is_empty(), "{}", render_all(&warnings, false));
        let names: Vec<&str> = groups
            .matchers
            .iter()
            .map(|matcher| matcher.template.source())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(groups.matchers[1].comms.as_deref(), Some(&["x".to_owned()][..]));
    }
}
