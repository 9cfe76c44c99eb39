//! Durations in the notation of Prometheus's configuration: `1h30m`, with each unit from years to milliseconds at
//! most once.

use crate::yaml::parse_milliseconds;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration, expected for example 30s, 5m or 1h30m")]
pub struct InvalidDuration(String);

/// Milliseconds of a duration; `0` needs no unit.
///
/// # Errors
/// Says what would be right.
pub fn parse_ms(text: &str) -> Result<i64, InvalidDuration> {
    let milliseconds = parse_milliseconds(text, i64::MAX as u64);
    milliseconds
        .map(|milliseconds| milliseconds as i64)
        .map_err(|_| InvalidDuration(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_prometheus() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("15s", Some(15_000)),
            ("1h30m", Some(5_400_000)),
            ("1d2ms", Some(86_400_002)),
            ("1y1w", Some(32_140_800_000)),
            ("", None),
            ("5", None),
            ("30m1h", None),
            ("1m1m", None),
            ("1.5h", None),
            ("-1m", None),
            ("99999999999y", None),
        ] {
            assert_eq!(parse_ms(text).ok(), expected, "{text}");
        }
    }
}
