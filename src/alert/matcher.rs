//! Label matchers in the syntax of Alertmanager 0.25 (`pkg/labels`), which select the alerts of a rule. Pure. The
//! dialect of regular expressions is Go's, see `go_regex`.

use super::Labels;
use super::go_regex;
use regex::Regex;
use std::fmt;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl Op {
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Equal => "=",
            Op::NotEqual => "!=",
            Op::Regex => "=~",
            Op::NotRegex => "!~",
        }
    }
}

/// One condition on one label; a missing label counts as an empty string.
#[derive(Debug, Clone)]
pub struct Matcher {
    pub name: String,
    pub op: Op,
    /// The value, unquoted and unescaped; for `=~` and `!~` the pattern as written, without the anchors.
    pub value: String,
    /// Anchored at both ends; present exactly for `=~` and `!~`.
    pattern: Option<Regex>,
}

/// An error in a matcher, with its position and a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}; {hint}")]
pub struct MatcherError {
    /// Counted in characters from 1, within the matcher's text.
    pub column: usize,
    pub problem: String,
    /// The correction.
    pub hint: String,
}

/// The white space of Go's `\s`, which is narrower than Unicode's.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

const FORMS: &str = r#"write a matcher as name="value", name!="value", name=~"regex" or name!~"regex""#;

impl Matcher {
    /// Builds a matcher from its parts.
    ///
    /// # Errors
    /// When `op` needs a regular expression and `value` is not valid for Go's `regexp`.
    pub fn new(name: &str, op: Op, value: &str) -> Result<Matcher, go_regex::PatternError> {
        let pattern = match op {
            Op::Equal | Op::NotEqual => None,
            Op::Regex | Op::NotRegex => Some(go_regex::anchored(value)?),
        };
        Ok(Matcher {
            name: name.to_owned(),
            op,
            value: value.to_owned(),
            pattern,
        })
    }

    /// Parses exactly one matcher, as Alertmanager parses an entry of `matchers:`, which may have a pair of braces and
    /// a trailing comma.
    ///
    /// # Errors
    /// With the column of the first error and a hint.
    pub fn parse(text: &str) -> Result<Matcher, MatcherError> {
        let chars: Vec<char> = text.chars().collect();
        let Span { start, end } = the_only_token(&chars)?;
        parse_token(&chars, start, end)
    }

    /// Whether the matcher holds for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_value(labels.get(&self.name).unwrap_or_default())
    }

    /// Whether the matcher holds for this value of its label; a missing label has an empty value.
    pub fn matches_value(&self, value: &str) -> bool {
        let hit = match &self.pattern {
            Some(pattern) => pattern.is_match(value),
            None => self.value == value,
        };
        hit == matches!(self.op, Op::Equal | Op::Regex)
    }

    /// All values of the label for which this matcher can hold, if they can be listed: one for `=`, several for a `=~`
    /// of literal alternatives such as `warning|critical`. `None` if they cannot be listed or include the empty string,
    /// because then the label may be missing.
    ///
    /// An index of rules by (name, value) needs only these values.
    pub fn listed_values(&self) -> Option<Vec<&str>> {
        let values: Vec<&str> = match self.op {
            Op::Equal => vec![&self.value],
            Op::Regex if !self.value.contains(|c| r"\.+*?()[]{}^$".contains(c)) => self.value.split('|').collect(),
            _ => return None,
        };
        values.iter().all(|value| !value.is_empty()).then_some(values)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Matcher) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

/// Prints as Alertmanager does: always quoted, with `\`, `"` and newline escaped. The output parses to an equal
/// matcher.
impl fmt::Display for Matcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}\"", self.name, self.op.as_str())?;
        for c in self.value.chars() {
            match c {
                '\\' => out.write_str(r"\\")?,
                '\n' => out.write_str(r"\n")?,
                '"' => out.write_str("\\\"")?,
                _ => write!(out, "{c}")?,
            }
        }
        out.write_str("\"")
    }
}

/// A range of characters, half open.
struct Span {
    start: usize,
    end: usize,
}

fn error(at: usize, problem: impl Into<String>, hint: impl Into<String>) -> MatcherError {
    MatcherError {
        column: at + 1,
        problem: problem.into(),
        hint: hint.into(),
    }
}

/// Removes braces and splits at commas outside quotes, as Alertmanager's `ParseMatchers` does, and requires one token.
fn the_only_token(chars: &[char]) -> Result<Span, MatcherError> {
    let start = usize::from(chars.first() == Some(&'{'));
    let end = if chars.len() > start && chars.last() == Some(&'}') {
        chars.len() - 1
    } else {
        chars.len()
    };
    let (mut inside_quotes, mut escaped) = (false, false);
    let mut comma = None;
    for (at, c) in chars.iter().enumerate().take(end).skip(start) {
        match c {
            // A comma does not reset `escaped`, as in Alertmanager, because that decides what parses.
            ',' if !inside_quotes => {
                comma = Some(at);
                break;
            }
            ',' => {}
            '"' => {
                inside_quotes ^= !escaped;
                escaped = false;
            }
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    let blank = |from: usize, to: usize| chars[from..to].iter().all(|c| c.is_whitespace());
    match comma {
        None if blank(start, end) => Err(error(start, "there is no matcher here", FORMS)),
        // Only a token without a comma after it is trimmed of Unicode's white space as well.
        None => {
            let is_text = |at: &usize| !chars[*at].is_whitespace();
            let (first, last) = ((start..end).find(is_text), (start..end).rfind(is_text));
            Ok(Span {
                start: first.unwrap_or(start),
                end: last.map_or(end, |last| last + 1),
            })
        }
        Some(at) if blank(at + 1, end) => Ok(Span { start, end: at }),
        Some(at) => Err(error(
            at,
            "a comma begins another matcher",
            "write each matcher as its own entry of the list, and quote a value that has a comma in it",
        )),
    }
}

/// Alertmanager's `ParseMatcher` on one token.
fn parse_token(chars: &[char], start: usize, end: usize) -> Result<Matcher, MatcherError> {
    let skip_space = |mut at: usize| {
        while at < end && is_space(chars[at]) {
            at += 1;
        }
        at
    };
    let name_start = skip_space(start);
    let mut at = name_start;
    let name_goes_on = |at: usize| {
        let c = chars[at];
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > name_start && c.is_ascii_digit())
    };
    while at < end && name_goes_on(at) {
        at += 1;
    }
    if at == name_start {
        let problem = match chars.get(at).filter(|_| at < end) {
            Some(c) => format!("a label name cannot begin with {c:?}"),
            None => "the label name is missing".to_owned(),
        };
        return Err(error(at, problem, FORMS));
    }
    let name: String = chars[name_start..at].iter().collect();
    let op_at = skip_space(at);
    let next = |offset: usize| chars.get(op_at + offset).copied().filter(|_| op_at + offset < end);
    let (op, length) = match (next(0), next(1)) {
        (Some('='), Some('~')) => (Op::Regex, 2),
        (Some('!'), Some('=')) => (Op::NotEqual, 2),
        (Some('!'), Some('~')) => (Op::NotRegex, 2),
        (Some('='), _) => (Op::Equal, 1),
        (Some(c), _) => {
            let problem = format!("expected =, !=, =~ or !~ after the label name {name:?}, found {c:?}");
            return Err(error(op_at, problem, FORMS));
        }
        (None, _) => return Err(error(op_at, format!("nothing follows the label name {name:?}"), FORMS)),
    };
    let value_start = skip_space(op_at + length);
    let mut value_end = end;
    while value_end > value_start && is_space(chars[value_end - 1]) {
        value_end -= 1;
    }
    let value = unquote(chars, value_start, value_end)?;
    Matcher::new(&name, op, &value).map_err(|wrong| {
        let hint = "write a regular expression of Go's regexp package (RE2 syntax); it is anchored at both ends";
        error(value_start, wrong.to_string(), hint)
    })
}

/// Unquotes and unescapes a value. `\n`, `\"` and `\\` are escapes; any other backslash is literal, so that regular
/// expressions need no doubled ones.
fn unquote(chars: &[char], start: usize, end: usize) -> Result<String, MatcherError> {
    let quoted = chars.get(start).filter(|_| start < end) == Some(&'"');
    let mut value = String::new();
    let mut escaped = false;
    let mut closed = false;
    for (at, &c) in chars.iter().enumerate().take(end).skip(start + usize::from(quoted)) {
        let last = at + 1 == end;
        if escaped {
            escaped = false;
            match c {
                'n' => value.push('\n'),
                '"' | '\\' => value.push(c),
                _ => value.extend(['\\', c]),
            }
            continue;
        }
        match c {
            '\\' if !last => escaped = true,
            '"' if quoted && last => closed = true,
            '"' => {
                let hint = r#"write \" for a quote inside a value, and quote the whole value"#;
                return Err(error(at, "a double quote in the midst of the value", hint));
            }
            _ => value.push(c),
        }
    }
    if quoted && !closed {
        return Err(error(
            end,
            "the value's closing double quote is missing",
            r#"end the value with ""#,
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        matcher: String,
        /// Alertmanager's own output for this matcher; none if Alertmanager rejects it.
        reads_as: Option<String>,
        #[serde(default)]
        holds: Vec<String>,
        #[serde(default)]
        fails: Vec<String>,
    }

    fn labels(value: &str) -> Labels {
        // An empty value and a missing label must have the same result, as in Alertmanager.
        let mut labels = Labels::from([("other".to_owned(), "x".to_owned())]);
        if !value.is_empty() {
            labels.insert("a", value);
        }
        labels
    }

    /// The table was run through `amtool check-config` and `amtool config routes test` of Alertmanager 0.25.
    #[test]
    fn matchers_behave_as_those_of_alertmanager() {
        let table = include_str!("../../tests/fixtures/alertmanager/matchers.json");
        let cases: Vec<Case> = serde_json::from_str(table).unwrap();
        assert!(cases.len() > 80, "the table has only {} cases", cases.len());
        for case in cases {
            let parsed = Matcher::parse(&case.matcher);
            let printed = parsed.as_ref().ok().map(ToString::to_string);
            assert_eq!(
                printed,
                case.reads_as,
                "{:?}: {:?}",
                case.matcher,
                parsed.as_ref().err()
            );
            let Ok(matcher) = parsed else { continue };
            assert_eq!(
                Matcher::parse(&matcher.to_string()).as_ref(),
                Ok(&matcher),
                "{:?}",
                case.matcher
            );
            for (values, expected) in [(&case.holds, true), (&case.fails, false)] {
                for value in values {
                    assert_eq!(
                        matcher.matches(&labels(value)),
                        expected,
                        "{:?} on {value:?}",
                        case.matcher
                    );
                }
            }
        }
    }

    #[test]
    fn errors_name_the_column_and_a_fix() {
        let check = |text: &str, column: usize, says: &str| {
            let wrong = Matcher::parse(text).unwrap_err();
            assert_eq!(wrong.column, column, "{text:?}: {wrong}");
            assert!(wrong.to_string().contains(says), "{text:?}: {wrong}");
            assert!(!wrong.hint.is_empty());
        };
        check("", 1, "no matcher");
        check("{ }", 2, "no matcher");
        check("alertname", 10, "nothing follows the label name \"alertname\"");
        check("  9a=\"x\"", 3, "cannot begin with '9'");
        check("=\"x\"", 1, "cannot begin with '='");
        check("a==\"x\"", 4, "double quote in the midst");
        check("a>\"x\"", 2, "expected =, !=, =~ or !~");
        check("größe=\"x\"", 3, "found 'ö'");
        check("a=\"x", 5, "closing double quote is missing");
        check("a=\"x\"y\"", 5, "midst");
        check("a=\"x\",b=\"y\"", 6, "own entry");
        check("a=~\"(x\"", 4, "unclosed group");
        check("a=~\"(?=x)\"", 4, "(?=");
    }

    #[test]
    fn values_are_listed_only_if_the_list_is_complete() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let matcher = Matcher::parse(text).unwrap();
            assert_eq!(matcher.listed_values().as_deref(), expected, "{text}");
        };
        check(r#"a="b.c""#, Some(&["b.c"]));
        check(r#"a=~"warning|critical""#, Some(&["warning", "critical"]));
        check(r#"a=~"x""#, Some(&["x"]));
        check(r#"a=~"b.c""#, None);
        check(r#"a=~"b|""#, None);
        check(r#"a="""#, None);
        check(r#"a!="b""#, None);
        check(r#"a!~"b""#, None);
    }

    proptest::proptest! {
        #[test]
        fn any_value_survives_printing_and_parsing(name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}", value in ".*", equal: bool) {
            let op = if equal { Op::Equal } else { Op::NotEqual };
            let matcher = Matcher::new(&name, op, &value).unwrap();
            proptest::prop_assert_eq!(Matcher::parse(&matcher.to_string()), Ok(matcher));
        }

        #[test]
        fn no_text_makes_parsing_panic_and_errors_point_into_the_text(text in "[ab=!~\"\\\\{},|()\\[\\]*+?é\u{a0} ]{0,20}") {
            match Matcher::parse(&text) {
                Ok(matcher) => proptest::prop_assert_eq!(Matcher::parse(&matcher.to_string()), Ok(matcher)),
                Err(wrong) => proptest::prop_assert!((1..=text.chars().count() + 1).contains(&wrong.column)),
            }
        }
    }
}
