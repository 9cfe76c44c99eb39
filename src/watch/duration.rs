//! Durations in the notation of Prometheus's configuration: `1h30m`, with each unit from years to milliseconds at
//! most once.

/// Unit and milliseconds, in the order in which they may appear.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 60 * 60 * 1000),
    ("w", 7 * 24 * 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration, expected for example 30s, 5m or 1h30m")]
pub struct InvalidDuration(String);

/// Milliseconds of a duration; `0` needs no unit.
///
/// # Errors
/// Says what would be right.
pub fn parse_ms(text: &str) -> Result<i64, InvalidDuration> {
    let wrong = || InvalidDuration(text.to_owned());
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total_ms, mut next_unit) = (text, 0i64, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let index = UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .filter(|index| *index >= next_unit);
        let index = index.ok_or_else(wrong)?;
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let part_ms = number.checked_mul(UNITS[index].1).ok_or_else(wrong)?;
        total_ms = total_ms.checked_add(part_ms).ok_or_else(wrong)?;
        (rest, next_unit) = (after, index + 1);
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total_ms) }
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
