//! A matcher on one label of a series, prepared for frequent use.

use crate::alert::go_regex::{self, PatternError};
use crate::watch::labels::{LabelSet, Text, label_name};
use promql_parser::label::{MatchOp, Matcher as Parsed};
use regex::Regex;
use std::fmt;

#[derive(Debug, Clone)]
pub struct Matcher {
    pub name: Text,
    test: Test,
    /// Whether the values that the test accepts are those that the matcher refuses.
    is_negated: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(Text),
    /// An expression of literal alternatives. Comparing is faster, and a compiled expression takes kilobytes.
    OneOf(Vec<Text>),
    Matches {
        pattern: Text,
        regex: Regex,
    },
}

impl Matcher {
    pub fn equal(name: &str, value: &str) -> Self {
        Matcher {
            name: name.into(),
            test: Test::Equal(value.into()),
            is_negated: false,
        }
    }

    /// # Errors
    /// When Go would refuse a regular expression that the parser accepts.
    pub fn from_parsed(parsed: &Parsed) -> Result<Self, PatternError> {
        let test = match (&parsed.op, alternatives(&parsed.value)) {
            (MatchOp::Equal | MatchOp::NotEqual, _) => Test::Equal(parsed.value.as_str().into()),
            (MatchOp::Re(_) | MatchOp::NotRe(_), Some(values)) => Test::OneOf(values),
            // The parser's own has the classes of the regex crate, and `.` without line feeds.
            (MatchOp::Re(_) | MatchOp::NotRe(_), None) => Test::Matches {
                pattern: parsed.value.as_str().into(),
                regex: go_regex::of_promql(&parsed.value)?,
            },
        };
        Ok(Matcher {
            name: parsed.name.as_str().into(),
            test,
            is_negated: matches!(parsed.op, MatchOp::NotEqual | MatchOp::NotRe(_)),
        })
    }

    /// Whether the matcher accepts a value. A missing label has the empty value.
    pub fn is_match(&self, value: &str) -> bool {
        let is_accepted = match &self.test {
            Test::Equal(wanted) => &**wanted == value,
            Test::OneOf(values) => values.iter().any(|one| &**one == value),
            Test::Matches { regex, .. } => regex.is_match(value),
        };
        is_accepted != self.is_negated
    }

    pub fn selects(&self, labels: &LabelSet) -> bool {
        self.is_match(labels.get(&self.name))
    }

    /// A value that the matcher accepts and that it names.
    pub fn named_value(&self) -> Option<&str> {
        match &self.test {
            Test::Equal(value) => Some(&**value),
            Test::OneOf(values) => values.first().map(|value| &**value),
            _ => None,
        }
        .filter(|value| !self.is_negated && !value.is_empty())
    }

    /// The value of an equality matcher.
    pub fn equal_to(&self) -> Option<&str> {
        match &self.test {
            Test::Equal(value) if !self.is_negated => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.test {
            Test::Equal(value) => value.to_string(),
            Test::OneOf(values) => values.join("|"),
            Test::Matches { pattern, .. } => pattern.to_string(),
        };
        let op = match (&self.test, self.is_negated) {
            (Test::Equal(_), false) => "=",
            (Test::Equal(_), true) => "!=",
            (_, false) => "=~",
            (_, true) => "!~",
        };
        write!(f, "{}{op}{value:?}", label_name(&self.name))
    }
}

fn alternatives(pattern: &str) -> Option<Vec<Text>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-/:, |".contains(c);
    pattern
        .chars()
        .all(is_plain)
        .then(|| pattern.split('|').map(Text::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_are_anchored_whether_compiled_or_not() {
        for (selector, value, matches) in [
            (r#"{l=~"a|bc"}"#, "bc", true),
            (r#"{l=~"a|bc"}"#, "abc", false),
            (r#"{l=~"a.*|bc"}"#, "axy", true),
            (r#"{l=~"a.c|b"}"#, "xb", false),
            (r#"{l!~"a|b"}"#, "c", true),
            (r#"{l!~"a.*"}"#, "ab", false),
            (r#"{l=~"a|"}"#, "", true),
            (r#"{l!=""}"#, "", false),
            (r#"{l=~"a.b"}"#, "a\nb", true),
            (r#"{l=~"\\d+"}"#, "12", true),
            (r#"{l=~"\\d+"}"#, "\u{663}", false),
            (r#"{l=~"\\w+"}"#, "é", false),
        ] {
            let text = format!("m{selector}");
            let Ok(promql_parser::parser::Expr::VectorSelector(parsed)) = promql_parser::parser::parse(&text) else {
                panic!("{text}");
            };
            let matcher = Matcher::from_parsed(&parsed.matchers.matchers[0]).unwrap();
            assert_eq!(matcher.is_match(value), matches, "{selector} on {value:?}");
        }
    }
}
