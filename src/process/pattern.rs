//! A pattern for strings of a process: a regular expression, anchored at both ends. Most patterns are literal
//! strings, which are compared without a regular expression, because compiling one takes longer than the rest of a
//! reaction.

use crate::labels::Labels;
use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// An anchored regular expression, or a template that needs labels of the alert.
#[derive(Debug, Clone)]
pub enum Pattern {
    Fixed(Fixed),
    Template(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Regular expression as written in the rule.
    Regex(String),
    /// `{{ $labels.NAME }}`: the label's value, matched literally.
    Label(String),
}

/// A regular expression without labels, anchored at both ends.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// The source in a rule file.
    text: String,
    meaning: Meaning,
    /// Whether a label of the alert is in it.
    has_label: bool,
}

#[derive(Debug, Clone)]
enum Meaning {
    Exactly(String),
    // Shared, because each clone would allocate its own search cache.
    Any(Arc<Regex>),
}

impl Fixed {
    /// Compiles `text`; `.` also matches a newline, which command lines may contain.
    fn new(text: String) -> Result<Fixed, regex::Error> {
        if is_plain(&text) {
            return Ok(Fixed::exactly(text));
        }
        // Compiles the source by itself first, because the parentheses below would make `a)|(b` valid.
        Regex::new(&text)?;
        let regex = Regex::new(&format!("^(?s:{text})$"))?;
        Ok(Fixed {
            text,
            meaning: Meaning::Any(Arc::new(regex)),
            has_label: false,
        })
    }

    /// Matches this string literally.
    fn exactly(text: String) -> Fixed {
        Fixed {
            text: if is_plain(&text) {
                text.clone()
            } else {
                regex::escape(&text)
            },
            meaning: Meaning::Exactly(text),
            has_label: false,
        }
    }

    /// The source in a rule file.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_match(&self, text: &str) -> bool {
        match &self.meaning {
            Meaning::Exactly(wanted) => text == wanted,
            Meaning::Any(regex) => regex.is_match(text),
        }
    }

    fn regex(&self) -> Option<&Regex> {
        match &self.meaning {
            Meaning::Exactly(_) => None,
            Meaning::Any(regex) => Some(regex),
        }
    }

    /// The names of the groups `(?P<NAME>…)`.
    pub fn group_names(&self) -> Vec<&str> {
        self.regex()
            .into_iter()
            .flat_map(|regex| regex.capture_names().flatten())
            .collect()
    }

    /// What these groups match in a string, if the pattern matches it.
    pub fn captures(&self, text: &str) -> Vec<(String, String)> {
        self.regex()
            .and_then(|regex| named_captures(regex, text))
            .unwrap_or_default()
    }
}

/// What the named groups of an expression match in a string. A group that takes part in no match is empty. `None` where
/// the expression does not match.
pub fn named_captures(regex: &Regex, text: &str) -> Option<Vec<(String, String)>> {
    let found = regex.captures(text)?;
    let names = regex.capture_names().flatten();
    let texts = names.map(|name| (name, found.name(name).map_or("", |found| found.as_str())));
    Some(texts.map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
}

/// Whether a regular expression is a literal string.
pub fn is_plain(regex: &str) -> bool {
    !regex.contains(['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'])
}

impl Pattern {
    /// Compiles `text`, anchored at both ends; `.` also matches a newline, which command lines may contain.
    ///
    /// # Errors
    /// The error of `regex` about the source as written.
    pub fn fixed(text: &str) -> Result<Pattern, regex::Error> {
        Fixed::new(text.to_owned()).map(Pattern::Fixed)
    }

    /// The labels that the pattern needs.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let parts = match self {
            Pattern::Fixed(_) => &[][..],
            Pattern::Template(parts) => parts,
        };
        parts.iter().filter_map(|part| match part {
            Part::Label(name) => Some(name.as_str()),
            Part::Regex(_) => None,
        })
    }

    /// Matches this string literally.
    pub fn exactly(text: &str) -> Pattern {
        Pattern::Fixed(Fixed::exactly(text.to_owned()))
    }

    /// The number, if the pattern is a literal number.
    pub(super) fn number(&self) -> Option<i32> {
        match self {
            Pattern::Fixed(fixed) => fixed.text.parse().ok().filter(|number| *number > 0),
            Pattern::Template(_) => None,
        }
    }

    /// The pattern with the labels filled in; `None` if one is missing.
    pub(super) fn resolve(&self, labels: &Labels) -> Option<Pattern> {
        let Pattern::Template(parts) = self else {
            return Some(self.clone());
        };
        // An empty label counts as missing, as in Prometheus.
        let text_of = |name| labels.get(name).filter(|value| !value.is_empty());
        let is_plain =
            |part: &Part| matches!(part, Part::Label(_)) || matches!(part, Part::Regex(regex) if is_plain(regex));
        let are_plain = parts.iter().all(is_plain);
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Regex(regex) if are_plain => text.push_str(regex),
                Part::Regex(regex) => text.push_str(&format!("(?:{regex})")),
                Part::Label(name) if are_plain => text.push_str(text_of(name)?),
                Part::Label(name) => text.push_str(&regex::escape(text_of(name)?)),
            }
        }
        let fixed = match are_plain {
            true => Fixed::exactly(text),
            false => Fixed::new(text).ok()?,
        };
        Some(Pattern::Fixed(Fixed {
            has_label: true,
            ..fixed
        }))
    }

    /// The only strings that match, if the pattern lists them: `alice`, `alice|bob`. A label is known too late for what
    /// this serves.
    pub fn listed(&self) -> Option<impl Iterator<Item = &str>> {
        match self {
            Pattern::Fixed(fixed) if !fixed.has_label && fixed.text.split('|').all(is_plain) => {
                Some(fixed.text.split('|'))
            }
            _ => None,
        }
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        match self {
            Pattern::Fixed(fixed) => fixed.is_match(text),
            Pattern::Template(_) => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Fixed(fixed) => write!(f, "{:?}", fixed.text),
            Pattern::Template(parts) => {
                f.write_str("\"")?;
                for part in parts {
                    match part {
                        Part::Regex(regex) => f.write_str(regex)?,
                        Part::Label(name) => write!(f, "{{{{ $labels.{name} }}}}")?,
                    }
                }
                f.write_str("\"")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(parts: Vec<Part>, label: &str) -> Option<Pattern> {
        let labels = Labels::from([("l", label)]);
        Pattern::Template(parts).resolve(&labels)
    }

    #[test]
    fn pattern_lists_names_only_if_no_other_string_matches() {
        let listed = |pattern: Pattern| pattern.listed().map(|names| names.collect::<Vec<_>>().join(" "));
        for (text, expected) in [
            ("alice", Some("alice")),
            ("alice|app-1", Some("alice app-1")),
            ("app-.*", None),
            ("alice|(bob)", None),
        ] {
            assert_eq!(listed(Pattern::fixed(text).unwrap()).as_deref(), expected, "{text}");
        }
        assert_eq!(listed(resolved(vec![Part::Label("l".into())], "alice").unwrap()), None);
    }

    #[test]
    fn parentheses_of_a_pattern_cannot_close_the_anchor() {
        assert!(Pattern::fixed("a)|(b").is_err());
    }

    #[test]
    fn label_is_literal_beside_any_pattern() {
        let label = || Part::Label("l".into());
        for regex in ["/work/", "/.*/"] {
            let pattern = resolved(vec![Part::Regex(regex.into()), label()], "a.b|c").unwrap();
            assert!(pattern.is_match("/work/a.b|c"), "{pattern}");
            for other in ["/work/axb|c", "/work/a.b", "c", "/work/a.b|c\n"] {
                assert!(!pattern.is_match(other), "{pattern} {other:?}");
            }
        }
        assert!(resolved(vec![label()], "").is_none());
    }

    proptest! {
    /// Comparing a literal string has the same result as its compiled expression.
            #[test]
            fn a_plain_text_means_what_its_regular_expression_means(text in "[a-c&~#\\- \n/.*?|()\\[\\]\\\\^$+{}]{0,4}", other in "[a-c&~#\\- \n/.*]{0,4}") {
                let compiled = Regex::new(&text).ok().and_then(|_| Regex::new(&format!("^(?s:{text})$")).ok());
                let pattern = Pattern::fixed(&text).ok();
                prop_assert_eq!(compiled.is_some(), pattern.is_some());
                if let (Some(compiled), Some(pattern)) = (compiled, pattern) {
                    for found in [&text, &other] {
                        prop_assert_eq!(compiled.is_match(found), pattern.is_match(found), "{:?} {:?}", text, found);
                    }
                }
            }

    /// Any label value matches itself and nothing else.
            #[test]
            fn a_label_means_itself(label in "\\PC{1,6}", other in "\\PC{0,6}") {
                let pattern = resolved(vec![Part::Label("l".into())], &label).unwrap();
                prop_assert!(pattern.is_match(&label));
                prop_assert_eq!(pattern.is_match(&other), label == other);
                let as_written = format!("{pattern}");
                prop_assert_eq!(as_written, format!("{:?}", if is_plain(&label) { label.clone() } else { regex::escape(&label) }));
            }
        }
}
