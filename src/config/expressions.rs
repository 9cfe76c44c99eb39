//! The check for expressions that can never yield a result, because no collector publishes a metric that they name.
//! Pure.

use crate::diagnostic::{Diagnostic, Severity, SourceText, Span, nearest};
use crate::rule::Warning;
use crate::sense::names::{known, may_be_published, may_have_label};
use crate::watch::alerting::{ALERTS, ALERTS_FOR_STATE};
use crate::watch::promql::{self, Matcher, Query, Refusal};
use crate::watch::rule_file::{Rule, RuleFile};
use std::collections::{BTreeMap, BTreeSet};

/// The own samples, as expressions see them.
#[derive(Clone, Copy)]
pub(super) struct OwnSamples<'o> {
    /// The metrics that recording rules write.
    pub recorded: &'o BTreeSet<String>,
    /// The labels of every own sample beside `instance`.
    pub local: &'o BTreeMap<String, String>,
}

/// The metrics that recording rules of these files write, and those of evaluation itself.
pub(super) fn recorded(files: &[RuleFile]) -> BTreeSet<String> {
    let names = files.iter().flat_map(RuleFile::rules).filter_map(|rule| match rule {
        Rule::Recording(rule) => Some(rule.record.to_string()),
        Rule::Alerting(_) => None,
    });
    names.chain([ALERTS, ALERTS_FOR_STATE].map(str::to_owned)).collect()
}

/// Checks an expression of `while`. If the own samples are unknown, it only checks that the expression can be
/// evaluated.
///
/// # Errors
/// With the position of the error in characters, from 0, and the reason.
pub(super) fn check(text: &str, own: Option<OwnSamples<'_>>) -> Result<Vec<Warning>, (usize, String)> {
    // The parser counts bytes, a position in a file counts characters.
    let characters = |bytes: usize| text.get(..bytes).map_or(0, |before| before.chars().count());
    let query = promql::parse(text).map_err(|refusals| {
        let first = refusals.into_iter().next();
        first.map_or((0, String::new()), |Refusal { message, offset, hint }| {
            let help = hint.map_or_else(String::new, |hint| format!("; {hint}"));
            (offset.map_or(0, characters), message + &help)
        })
    })?;
    let Some(own) = own else {
        return Ok(Vec::new());
    };
    let code = query.code();
    let doubts = query.metric_names().into_iter().filter_map(|(at, name)| {
        let (message, help) = doubt(&name, own.recorded)?;
        Some(Warning {
            offset: characters(at),
            width: name.chars().count(),
            message,
            help,
        })
    });
    let unsatisfied = unsatisfied([&query], own).into_iter().map(|finding| Warning {
        offset: code.find(&finding.matcher).map_or(0, characters),
        width: finding.matcher.chars().count(),
        message: finding.message(),
        help: finding.help,
    });
    let native = query.native_functions.iter().map(|name| Warning {
        offset: code.find(name).map_or(0, characters),
        width: name.len(),
        message: without_result(name),
        help: NO_NATIVE_HISTOGRAMS.to_owned(),
    });
    Ok(doubts.chain(unsatisfied).chain(native).collect())
}

const NO_NATIVE_HISTOGRAMS: &str = "it reads native histograms, which evenkeel does not have";

fn without_result(function: &str) -> String {
    format!("`{function}` never has a result here")
}

/// A matcher on a label that no own sample satisfies.
struct Unsatisfied {
    /// The matcher as Prometheus writes it.
    matcher: String,
    label: String,
    /// The value of the label, where own samples have it.
    own_value: Option<String>,
    help: String,
}

impl Unsatisfied {
    fn message(&self) -> String {
        let (matcher, label) = (&self.matcher, &self.label);
        match &self.own_value {
            Some(value) => format!("no own sample satisfies `{matcher}`: their `{label}` is {value:?}"),
            None => format!("no own sample satisfies `{matcher}`: they have no label `{label}`"),
        }
    }
}

/// The matchers of these expressions that no own sample satisfies, each once.
fn unsatisfied<'q>(queries: impl IntoIterator<Item = &'q Query>, own: OwnSamples<'_>) -> Vec<Unsatisfied> {
    let selectors = queries.into_iter().flat_map(Query::label_matchers);
    let matchers = selectors
        .filter(|(metric, _)| may_be_published(metric) && !own.recorded.contains(metric))
        .flat_map(|(metric, matchers)| matchers.into_iter().map(move |matcher| (metric.clone(), matcher)));
    let mut found: BTreeMap<String, Unsatisfied> = BTreeMap::new();
    for (metric, matcher) in matchers {
        let label = &*matcher.name;
        let own_value = own.local.get(label);
        let is_satisfied = match own_value {
            Some(value) => matcher.is_match(value),
            // The instance is the node name, which this configuration may not know.
            None => label == "instance" || may_have_label(&metric, label) || matcher.is_match(""),
        };
        if !is_satisfied {
            found.entry(matcher.to_string()).or_insert_with(|| Unsatisfied {
                matcher: matcher.to_string(),
                label: label.to_owned(),
                own_value: own_value.cloned(),
                help: offer(&matcher),
            });
        }
    }
    found.into_values().collect()
}

fn offer(matcher: &Matcher) -> String {
    let label = &matcher.name;
    let value = matcher.named_value().map_or_else(|| "…".to_owned(), str::to_owned);
    format!("`local: {{{label}: {value}}}` in the configuration gives own samples and their alerts this label")
}

/// The metrics of an alerting rule file that no collector publishes, and the matchers that no own sample satisfies, each
/// once.
pub(super) fn doubts(file: &RuleFile, source: &SourceText, own: OwnSamples<'_>) -> Vec<Diagnostic> {
    let recorded = own.recorded;
    let unsatisfied = unsatisfied(file.rules().map(Rule::query), own)
        .into_iter()
        .map(|finding| {
            let message = finding.message();
            match place_of_matcher(source, &finding.matcher) {
                Some(span) => source.diagnose(Severity::Warning, span, message, finding.help),
                None => Diagnostic::of_file(Severity::Warning, source.name(), message, finding.help),
            }
        });
    let names: BTreeSet<String> = file
        .rules()
        .flat_map(|rule| rule.query().metric_names())
        .map(|(_, name)| name)
        .collect();
    let found = names.into_iter().filter_map(|name| {
        let (message, help) = doubt(&name, recorded)?;
        Some(match place(source, &name) {
            Some(span) => source.diagnose(Severity::Warning, span, message, help),
            None => Diagnostic::of_file(Severity::Warning, source.name(), message, help),
        })
    });
    let native: BTreeSet<&str> = file
        .rules()
        .flat_map(|rule| rule.query().native_functions.iter().copied())
        .collect();
    let native = native.into_iter().map(|name| {
        let message = without_result(name);
        match place(source, name) {
            Some(span) => source.diagnose(Severity::Warning, span, message, NO_NATIVE_HISTOGRAMS),
            None => Diagnostic::of_file(Severity::Warning, source.name(), message, NO_NATIVE_HISTOGRAMS),
        }
    });
    found.chain(unsatisfied).chain(native).collect()
}

/// The first position of a matcher, whatever its quotes and spaces; that of its label where the text differs more.
fn place_of_matcher(source: &SourceText, matcher: &str) -> Option<Span> {
    let (label, rest) = matcher.split_at(matcher.find(['=', '!'])?);
    let (op, value) = rest.split_at(rest.find('"')?);
    let value = value.trim_matches('"');
    let spellings = ["\"", "'", "\\\""]
        .into_iter()
        .flat_map(|quote| [" ", ""].map(|space| format!("{label}{space}{op}{space}{quote}{value}{quote}")));
    let spellings: Vec<String> = spellings.collect();
    let found = source.lines().enumerate().find_map(|(index, line)| {
        let (at, spelling) = spellings
            .iter()
            .find_map(|spelling| Some((line.find(spelling.as_str())?, spelling)))?;
        Some(Span {
            line: index + 1,
            column: line[..at].chars().count() + 1,
            width: spelling.chars().count(),
        })
    });
    found.or_else(|| place(source, label))
}

/// The finding about a metric that no collector publishes. Names that depend on the kernel or a driver pass, except
/// obvious typos.
fn doubt(name: &str, recorded: &BTreeSet<String>) -> Option<(String, String)> {
    let mut all: Vec<&str> = known().collect();
    all.extend(recorded.iter().map(String::as_str));
    if all.contains(&name) {
        return None;
    }
    let near = nearest(name, all);
    let message = format!("no collector of evenkeel publishes `{name}`");
    match near {
        Some(near) if may_be_published(name) => {
            let is_slip = strsim::damerau_levenshtein(&name.to_lowercase(), &near.to_lowercase()) <= 1;
            is_slip.then(|| (message, format!("did you mean `{near}`?")))
        }
        None if may_be_published(name) => None,
        Some(near) => Some((message, format!("did you mean `{near}`?"))),
        None => {
            let help = "it could only come from a file of the textfile collector; nothing is scraped here";
            Some((message, help.to_owned()))
        }
    }
}

/// The first position of a metric's name as a whole word outside comments.
fn place(source: &SourceText, name: &str) -> Option<Span> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    source.lines().enumerate().find_map(|(index, line)| {
        let code = line.split_once(" #").map_or(line, |(code, _)| code);
        let code = if code.trim_start().starts_with('#') { "" } else { code };
        let (at, _) = code
            .match_indices(name)
            .find(|(at, _)| !code[..*at].ends_with(is_name) && !code[at + name.len()..].starts_with(is_name))?;
        Some(Span {
            line: index + 1,
            column: code[..at].chars().count() + 1,
            width: name.chars().count(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_on_the_line_that_yaml_counts() {
        for text in [
            "a: 1\nb: node_load9 > 1\n",
            "a: 1\r\nb: node_load9 > 1",
            "a: 1\rb: node_load9 > 1",
        ] {
            let found = place(&SourceText::new("x.yml", text), "node_load9");
            assert_eq!(found.map(|span| (span.line, span.column)), Some((2, 4)), "{text:?}");
        }
        assert_eq!(place(&SourceText::new("x.yml", "# node_load9\n"), "node_load9"), None);
    }
}
