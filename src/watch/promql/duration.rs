//! Arithmetic in durations, such as `[5m * 2]` and `offset (1h / 2)`, which the parser does not know. [`fold`] replaces
//! each by its value before the parser reads the expression.

use super::refusal::Refusal;
use super::scan::unquoted;
use crate::watch::duration::parse_ms;
use std::borrow::Cow;
use std::ops::Range;

/// Longest duration in seconds, as in Prometheus: 292 years.
const MAX_SECONDS: f64 = i64::MAX as f64 / 1e9;

/// The expression with the value of each duration in place of its arithmetic.
///
/// # Errors
/// The first duration that is wrong.
pub(super) fn fold(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let mut folded = String::new();
    let mut copied = 0;
    for (place, seconds) in durations(text)? {
        // Prometheus cuts off parts of a millisecond. Adding 0 makes -0 positive.
        let seconds = (seconds * 1000.0).trunc() / 1000.0 + 0.0;
        folded += &text[copied..place.start];
        folded += &seconds.to_string();
        copied = place.end;
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(folded + &text[copied..]))
}

/// The durations with arithmetic, each with its value in seconds.
fn durations(text: &str) -> Result<Vec<(Range<usize>, f64)>, Refusal> {
    let mut found = Vec::new();
    let mut done = 0;
    let mut previous = ' ';
    for (at, c) in unquoted(text) {
        let before = std::mem::replace(&mut previous, c);
        if at < done {
            continue;
        }
        if c == '[' {
            done = in_brackets(text, at + 1, &mut found)?;
        } else if !is_word(before) && is_offset(&text[at..]) {
            done = after_offset(text, at + OFFSET.len(), &mut found)?;
        }
    }
    Ok(found)
}

const OFFSET: &str = "offset";

fn is_offset(text: &str) -> bool {
    let word = text.get(..OFFSET.len());
    word.is_some_and(|word| word.eq_ignore_ascii_case(OFFSET)) && !text[OFFSET.len()..].starts_with(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Reads a range, or the range and step of a subquery. Returns where the parser's part goes on.
fn in_brackets(text: &str, start: usize, found: &mut Vec<(Range<usize>, f64)>) -> Result<usize, Refusal> {
    let Some(length) = text[start..].find(']') else {
        return Ok(text.len());
    };
    let end = start + length;
    let mut from = start;
    for part in text[start..end].split(':') {
        let place = from..from + part.len();
        from = place.end + 1;
        if part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.' || c.is_whitespace())
        {
            // One literal, or none.
            continue;
        }
        let mut reader = DurationReader::new(text, place.clone());
        let seconds = reader.sum()?;
        if reader.peek().is_some() {
            return Err(reader.unexpected());
        }
        if seconds <= 0.0 {
            let hint = reader.has_query_range.then_some(OF_INSTANT_QUERIES);
            return Err(refusal("a duration must be greater than 0", place.start, hint));
        }
        found.push((reader.place(), seconds));
    }
    Ok(end)
}

/// Reads what follows `offset`: a literal, or one thing in parentheses or of a function, each with or without a sign.
fn after_offset(text: &str, start: usize, found: &mut Vec<(Range<usize>, f64)>) -> Result<usize, Refusal> {
    let mut reader = DurationReader::new(text, start..text.len());
    let sign = reader.take_if(&['+', '-']);
    // A literal, and a metric with this name, are the parser's part.
    if !reader.is_compound() {
        return Ok(start);
    }
    let value = match reader.operand() {
        Ok(value) => value,
        // `offset` may be the name of a metric, as in `offset - (a)`.
        Err(_) if sign.is_some() => return Ok(start),
        Err(refusal) => return Err(refusal),
    };
    let seconds = if sign == Some('-') { -value } else { value };
    found.push((reader.place(), seconds));
    Ok(reader.end)
}

const OF_INSTANT_QUERIES: &str = "step() and range() are 0 in a rule, which is an instant query";

fn refusal(message: impl Into<String>, offset: usize, hint: Option<&str>) -> Refusal {
    Refusal {
        message: message.into(),
        offset: Some(offset),
        hint: hint.map(str::to_owned),
    }
}

/// A recursive-descent parser of duration arithmetic, which computes in seconds. The depth of its recursion is that of
/// the expression, which is bounded before.
struct DurationReader<'a> {
    text: &'a str,
    /// The first character that is no blank, and the end of the last one that was read.
    start: usize,
    end: usize,
    at: usize,
    limit: usize,
    /// Whether `step()` or `range()` was read.
    has_query_range: bool,
}

impl<'a> DurationReader<'a> {
    fn new(text: &'a str, place: Range<usize>) -> Self {
        let mut reader = DurationReader {
            text,
            start: place.start,
            end: place.start,
            at: place.start,
            limit: place.end,
            has_query_range: false,
        };
        reader.skip_blanks();
        reader.start = reader.at;
        reader
    }

    /// What was read.
    fn place(&self) -> Range<usize> {
        self.start..self.end
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..self.limit]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.end = self.at;
        self.skip_blanks();
    }

    fn take_if(&mut self, wanted: &[char]) -> Option<char> {
        let found = self.peek().filter(|c| wanted.contains(c))?;
        self.advance(found.len_utf8());
        Some(found)
    }

    fn expect(&mut self, wanted: char) -> Result<(), Refusal> {
        self.take_if(&[wanted]).map(drop).ok_or_else(|| self.unexpected())
    }

    fn unexpected(&self) -> Refusal {
        let found = match self.peek() {
            Some(c) => format!("unexpected {c:?} in a duration"),
            None => "a duration is not complete".to_owned(),
        };
        let hint = "a duration is for example 5m, 300, 5m * 2 or max_of(5m, 1h / 3)";
        refusal(found, self.at, Some(hint))
    }

    fn word(&self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| is_word(c) && c != ':' || c == '.';
        &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
    }

    /// Whether the next operand is more than a literal.
    fn is_compound(&self) -> bool {
        let word = self.word();
        let is_call = || self.rest()[word.len()..].trim_start().starts_with('(') && Function::of(word).is_some();
        self.peek() == Some('(') || is_call()
    }

    fn sum(&mut self) -> Result<f64, Refusal> {
        let mut value = self.product()?;
        while let Some(operator) = self.take_if(&['+', '-']) {
            let right = self.product()?;
            value = if operator == '+' { value + right } else { value - right };
        }
        self.checked(value)
    }

    fn product(&mut self) -> Result<f64, Refusal> {
        let mut value = self.signed()?;
        let mut at = self.at;
        while let Some(operator) = self.take_if(&['*', '/', '%']) {
            let right = self.signed()?;
            value = match operator {
                '*' => value * right,
                _ if right == 0.0 => return Err(refusal("division by zero in a duration", at, None)),
                '/' => value / right,
                _ => value % right,
            };
            at = self.at;
        }
        Ok(value)
    }

    /// A sign binds less than `^`: `-2 ^ 2` is -4.
    fn signed(&mut self) -> Result<f64, Refusal> {
        match self.take_if(&['+', '-']) {
            Some('-') => Ok(-self.signed()?),
            Some(_) => self.signed(),
            None => self.power(),
        }
    }

    fn power(&mut self) -> Result<f64, Refusal> {
        let base = self.operand()?;
        match self.take_if(&['^']) {
            Some(_) => Ok(base.powf(self.signed()?)),
            None => Ok(base),
        }
    }

    fn operand(&mut self) -> Result<f64, Refusal> {
        if self.take_if(&['(']).is_some() {
            let value = self.sum()?;
            self.expect(')')?;
            return Ok(value);
        }
        let word = self.word();
        let Some(function) = Function::of(word) else {
            let value = literal(word).ok_or_else(|| self.unexpected())?;
            self.advance(word.len());
            return Ok(value);
        };
        self.advance(word.len());
        self.expect('(')?;
        let value = match function {
            Function::OfQueryRange => {
                self.has_query_range = true;
                0.0
            }
            Function::Smaller | Function::Larger => {
                let left = self.sum()?;
                self.expect(',')?;
                let right = self.sum()?;
                if (function == Function::Smaller) == (left < right) {
                    left
                } else {
                    right
                }
            }
        };
        self.expect(')')?;
        Ok(value)
    }

    fn checked(&self, seconds: f64) -> Result<f64, Refusal> {
        let is_possible = seconds.abs() <= MAX_SECONDS;
        let out_of_range = || refusal("a duration is out of range", self.start, None);
        is_possible.then_some(seconds).ok_or_else(out_of_range)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// `step()` and `range()`, which are 0 in an instant query.
    OfQueryRange,
    Smaller,
    Larger,
}

impl Function {
    fn of(word: &str) -> Option<Function> {
        Some(match word.to_ascii_lowercase().as_str() {
            "step" | "range" => Function::OfQueryRange,
            "min_of" => Function::Smaller,
            "max_of" => Function::Larger,
            _ => return None,
        })
    }
}

/// The seconds of a number or of a duration with units.
fn literal(word: &str) -> Option<f64> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return i64::from_str_radix(digits, 16).ok().map(|number| number as f64);
    }
    let in_units = || parse_ms(word).ok().map(|milliseconds| milliseconds as f64 / 1000.0);
    word.parse().ok().or_else(in_units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> String {
        fold(text).map_or_else(|refusal| refusal.to_string(), Cow::into_owned)
    }

    #[test]
    fn arithmetic_in_durations_is_replaced_by_its_value() {
        for (text, expected) in [
            ("rate(a[5m * 2])", "rate(a[600])"),
            ("rate(a[ (5+2)*1m ])", "rate(a[ 420 ])"),
            ("a offset (1h / 2)", "a offset 1800"),
            ("a offset -(1h - 5m) + 1", "a offset -3300 + 1"),
            ("a offset (1m - 5m)", "a offset -240"),
            ("a OFFSET (-2 ^ 2)", "a OFFSET -4"),
            ("a offset (-2 ^ 2 ^ 2)", "a offset -16"),
            ("a offset step() * 0", "a offset 0 * 0"),
            ("a offset -RANGE()", "a offset 0"),
            ("a offset min_of(1s, step()+0.5)+8", "a offset 0.5+8"),
            ("a[4h % 3h:max_of(STep(), 5s)]", "a[3600:5]"),
            ("a[1h:]", "a[1h:]"),
            ("a[-5m+35m:]", "a[1800:]"),
            ("a[1.5*0x10]", "a[24]"),
            ("a[10 - 2 - 3]", "a[5]"),
            ("a[24 / 2 / 3]", "a[4]"),
            // Not durations, and literals, are the parser's part.
            ("a{b=\"[5m * 2]\"} offset 5m", "a{b=\"[5m * 2]\"} offset 5m"),
            ("offset - (a)", "offset - (a)"),
            (
                "sum by (offset) (a[5m] offset -5m)",
                "sum by (offset) (a[5m] offset -5m)",
            ),
            ("my_offset (1)", "my_offset (1)"),
            ("a[5m", "a[5m"),
        ] {
            assert_eq!(folded(text), expected, "{text}");
        }
    }

    #[test]
    fn wrong_durations_are_refused_with_their_place() {
        for (text, expected) in [
            ("a[5m - 5m]", "a duration must be greater than 0 (at character 3)"),
            ("a[step()]", "a duration must be greater than 0 (at character 3)"),
            ("a[5m:1m - 2m]", "a duration must be greater than 0 (at character 6)"),
            ("a[5m / 0]", "division by zero in a duration (at character 6)"),
            ("a[5m % (1 - 1)]", "division by zero in a duration (at character 6)"),
            ("a[5m * ]", "a duration is not complete (at character 8)"),
            ("a[5m * b]", "unexpected 'b' in a duration (at character 8)"),
            ("a[(5m]", "a duration is not complete (at character 6)"),
            ("a[5m 3m * 2]", "unexpected '3' in a duration (at character 6)"),
            ("a offset (b)", "unexpected 'b' in a duration (at character 11)"),
            ("a[10 ^ 300 * 1m]", "a duration is out of range (at character 3)"),
            ("a offset (1m, 2m)", "unexpected ',' in a duration (at character 13)"),
        ] {
            assert_eq!(folded(text), expected, "{text}");
        }
    }
}
