//! The parsers of durations and sizes.

use std::time::Duration;

/// Units of a duration in the order in which Prometheus wants them (prometheus/common, `model.ParseDuration`).
const DURATION_UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Prometheus keeps durations as nanoseconds in an `int64`.
const MAX_DURATION_MS: u64 = i64::MAX as u64 / 1_000_000;

const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Why a text is no duration: what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("write a duration such as 500ms, 30s, 1m30s or 2h")]
    Form,
    #[error("the unit is missing: did you mean {number}s?")]
    NoUnit { number: String },
    #[error("write each unit once, the largest first, as in 1h30m")]
    Order,
    #[error("the longest duration is 292y")]
    TooLong,
}

/// Why a text is no size: what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("write a size such as 200MiB or 1.5GiB, or a whole number of bytes")]
    Form,
    #[error("did you mean {meant}?")]
    Unit { meant: String },
    #[error("the largest size is 8192TiB")]
    TooLarge,
}

/// A duration as Prometheus reads it: `1m30s`, `500ms`, `0`.
///
/// # Errors
/// The correction.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    parse_milliseconds(text, MAX_DURATION_MS).map(Duration::from_millis)
}

/// Milliseconds of a duration, at most `most`.
///
/// # Errors
/// The correction.
pub fn parse_milliseconds(text: &str, most: u64) -> Result<u64, DurationError> {
    if text == "0" {
        return Ok(0);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Err(DurationError::NoUnit {
            number: text.to_owned(),
        });
    }
    let mut rest = text;
    let mut units = DURATION_UNITS.as_slice();
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let place = units.iter().position(|(name, _)| *name == unit);
        let place = place.ok_or_else(|| match DURATION_UNITS.iter().any(|(name, _)| *name == unit) {
            true => DurationError::Order,
            false => DurationError::Form,
        })?;
        let milliseconds = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(units[place].1));
        let sum = milliseconds.and_then(|milliseconds| total_ms.checked_add(milliseconds));
        total_ms = match sum {
            _ if number.is_empty() => return Err(DurationError::Form),
            Some(sum) if sum <= most => sum,
            _ => return Err(DurationError::TooLong),
        };
        units = &units[place + 1..];
        rest = tail;
    }
    if text.is_empty() {
        Err(DurationError::Form)
    } else {
        Ok(total_ms)
    }
}

/// Bytes: a whole number, or a number with `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
/// The correction.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return number.parse().map_err(|_| SizeError::Form);
    }
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let first = unit.chars().next().map(|first| first.to_ascii_uppercase());
        let meant = SIZE_UNITS.iter().find(|(name, _)| name.chars().next() == first);
        return Err(match meant {
            Some((name, _)) if !number.is_empty() => SizeError::Unit {
                meant: format!("{number}{name}"),
            },
            _ => SizeError::Form,
        });
    };
    let number: f64 = number.parse().map_err(|_| SizeError::Form)?;
    let bytes = number * *factor as f64;
    // Beyond this a float is not exact to a byte, and no machine has that much memory.
    if bytes > (1_u64 << 53) as f64 {
        Err(SizeError::TooLarge)
    } else {
        Ok(bytes as u64)
    }
}

/// Formats bytes as in a rule: in the largest unit with a whole number.
pub fn size_text(bytes: u64) -> String {
    let whole = |factor: u64| bytes >= factor && bytes.is_multiple_of(factor);
    let unit = SIZE_UNITS.iter().rev().find(|(_, factor)| whole(*factor));
    unit.map_or_else(
        || bytes.to_string(),
        |(name, factor)| format!("{}{name}", bytes / factor),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_prometheus() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("5h", 18_000_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1y", 31_536_000_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, help) in [
            ("", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("30", "the unit is missing: did you mean 30s?"),
            ("30 s", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("s", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("-1s", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("1.5s", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("1é", "write a duration such as 500ms, 30s, 1m30s or 2h"),
            ("30s1m", "write each unit once, the largest first, as in 1h30m"),
            ("1m1m", "write each unit once, the largest first, as in 1h30m"),
            ("300y", "the longest duration is 292y"),
            ("99999999999999999999s", "the longest duration is 292y"),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), help, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_binary_and_say_so() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("200MiB", 200 << 20),
            ("1.5 GiB", 3 << 29),
            ("4KiB", 4096),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, help) in [
            ("200MB", "did you mean 200MiB?"),
            ("1g", "did you mean 1GiB?"),
            ("", "write a size such as 200MiB or 1.5GiB, or a whole number of bytes"),
            (
                "much",
                "write a size such as 200MiB or 1.5GiB, or a whole number of bytes",
            ),
            (
                "1.5",
                "write a size such as 200MiB or 1.5GiB, or a whole number of bytes",
            ),
            (
                "-1KiB",
                "write a size such as 200MiB or 1.5GiB, or a whole number of bytes",
            ),
            (
                "1.2.3KiB",
                "write a size such as 200MiB or 1.5GiB, or a whole number of bytes",
            ),
            ("99999999TiB", "the largest size is 8192TiB"),
        ] {
            assert_eq!(parse_size(text).unwrap_err().to_string(), help, "{text:?}");
        }
    }

    #[test]
    fn size_is_printed_as_written() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (1 << 30, "1GiB"),
            (3 << 29, "1536MiB"),
            ((1 << 30) + 1, "1073741825"),
        ] {
            assert_eq!(size_text(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }
}
