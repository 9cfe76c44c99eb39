//! The notation of series and values that promtool's unit-test files use.

use super::history::stale;
use super::labels::{LabelSet, METRIC_NAME};
use promql_parser::label::MatchOp;
use promql_parser::parser::{self, Expr};

/// Bound on the number of values, because a typing error must not use up the memory.
const MAX_VALUES: usize = 1_000_000;

/// An error in the notation of series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotationError {
    #[error("{0:?} is not a series, expected for example metric{{label=\"value\"}}")]
    Series(String),
    #[error("{0:?} is no value, expected for example 1, NaN, stale, _, _x5, 1x5, 0+10x5 or 100-10x5")]
    Value(String),
    #[error("native histograms are not supported, because evenkeel has none")]
    NativeHistogram,
    #[error("{0:?} makes more than {MAX_VALUES} values")]
    TooMany(String),
}

/// Parses `metric{label="value"}`; `{}` is the series without labels.
///
/// # Errors
/// A sentence that quotes the error.
pub fn parse_series(text: &str) -> Result<LabelSet, NotationError> {
    let wrong = || NotationError::Series(text.to_owned());
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed == "{}" {
        return Ok(LabelSet::default());
    }
    let Ok(Expr::VectorSelector(selector)) = parser::parse(trimmed) else {
        return Err(wrong());
    };
    let matchers = &selector.matchers.matchers;
    let is_plain = matchers.iter().all(|matcher| matches!(matcher.op, MatchOp::Equal))
        && selector.matchers.or_matchers.is_empty()
        && selector.offset.is_none()
        && selector.at.is_none();
    if !is_plain {
        return Err(wrong());
    }
    let name = selector.name.iter().map(|name| (METRIC_NAME, name.as_str()));
    let labels = matchers
        .iter()
        .map(|matcher| (matcher.name.as_str(), matcher.value.as_str()));
    Ok(LabelSet::from_pairs(name.chain(labels)))
}

/// Parses values one interval apart: numbers, `_` for none, `stale`, and `a+bxn`, `a-bxn`, `axn`, `_xn` for many.
///
/// # Errors
/// A sentence that quotes the error.
pub fn parse_values(text: &str) -> Result<Vec<Option<f64>>, NotationError> {
    if text.contains("{{") {
        return Err(NotationError::NativeHistogram);
    }
    let mut values = Vec::new();
    for item in text.split_whitespace() {
        parse_item(item, &mut values).ok_or_else(|| NotationError::Value(item.to_owned()))?;
        if values.len() > MAX_VALUES {
            return Err(NotationError::TooMany(item.to_owned()));
        }
    }
    Ok(values)
}

fn parse_item(item: &str, values: &mut Vec<Option<f64>>) -> Option<()> {
    match item {
        "_" => values.push(None),
        "stale" => values.push(Some(stale())),
        _ => match item.split_once('x') {
            None => values.push(Some(parse_number(item)?)),
            Some((start, times)) => {
                let times: usize = times.parse().ok().filter(|times| *times <= MAX_VALUES)?;
                if start == "_" {
                    values.extend(std::iter::repeat_n(None, times));
                    return Some(());
                }
                let Some((start, step)) = split_step(start) else {
                    values.extend(std::iter::repeat_n(Some(parse_number(start)?), times + 1));
                    return Some(());
                };
                let (mut value, step) = (parse_number(start)?, parse_number(step)?);
                // One value for the start and one for each addition, summed up as in promtool.
                for _ in 0..=times {
                    values.push(Some(value));
                    value += step;
                }
            }
        },
    }
    Some(())
}

/// Splits `a+b` before the sign. The sign is neither the first character nor that of an exponent.
fn split_step(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let is_sign = |at: &usize| matches!(bytes[*at], b'+' | b'-') && !matches!(bytes[*at - 1], b'e' | b'E');
    (1..bytes.len()).find(is_sign).map(|at| text.split_at(at))
}

fn parse_number(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let is_number = digits.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.');
    digits
        .parse::<f64>()
        .ok()
        .filter(|_| is_number)
        .map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::super::history::is_stale;
    use super::*;

    #[test]
    fn values_expand_as_promtool_expands_them() {
        for (text, expected) in [
            ("1 _ 2.5", vec![Some(1.0), None, Some(2.5)]),
            ("0+10x2", vec![Some(0.0), Some(10.0), Some(20.0)]),
            ("5-2x2", vec![Some(5.0), Some(3.0), Some(1.0)]),
            ("-5-2x1", vec![Some(-5.0), Some(-7.0)]),
            ("7x1 _x2", vec![Some(7.0), Some(7.0), None, None]),
            ("0x1", vec![Some(0.0), Some(0.0)]),
            ("1e3 1e-3+1x1", vec![Some(1000.0), Some(0.001), Some(1.001)]),
            ("inf -Inf", vec![Some(f64::INFINITY), Some(f64::NEG_INFINITY)]),
        ] {
            assert_eq!(parse_values(text).unwrap(), expected, "{text}");
        }
        let negative = parse_values("-0 -0x1").unwrap();
        assert!(
            negative.iter().flatten().all(|zero| zero.is_sign_negative()),
            "{negative:?}"
        );
        let special: Vec<f64> = parse_values("NaN stale").unwrap().into_iter().flatten().collect();
        assert!(special[0].is_nan() && !is_stale(special[0]) && is_stale(special[1]));
        for text in ["x5", "1+-2x5", "1+x5", "1x", "1x-2", "--1", "a", "1x99999999", "{{1}}"] {
            assert!(parse_values(text).is_err(), "{text}");
        }
    }

    #[test]
    fn series_are_names_and_equal_labels_only() {
        assert_eq!(
            parse_series(r#"m{b="2", a="1"}"#).unwrap().to_string(),
            r#"m{a="1", b="2"}"#
        );
        assert_eq!(parse_series("{}").unwrap(), LabelSet::default());
        assert_eq!(parse_series(r#"{a="1"}"#).unwrap().to_string(), r#"{a="1"}"#);
        for text in [r#"{"my.metric", "a.b"="1", c="2"}"#, r#"{"é"}"#] {
            assert_eq!(parse_series(text).unwrap().to_string(), text);
        }
        for text in ["m{a=~\"1\"}", "m offset 5m", "m[5m]", "1", "m{"] {
            assert!(parse_series(text).is_err(), "{text}");
        }
    }
}
