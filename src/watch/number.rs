//! The formatting of numbers as in Go, because labels and annotations of alerts must be the same as in Prometheus.

use std::cmp::Ordering;

/// The exponent from which Go's shortest form has an exponent, as for six digits.
const EXPONENT_FROM: i32 = 6;

/// Go's `strconv.FormatFloat(value, 'f', -1, 64)`: the shortest decimal that reads back equal, without exponent.
pub fn shortest(value: f64) -> String {
    special(value).unwrap_or_else(|| format!("{value}"))
}

/// Go's `%v` and `%g` of a float64: the shortest form, with an exponent below 1e-4 and from 1e6 on.
pub fn general(value: f64) -> String {
    special(value).unwrap_or_else(|| {
        let scientific = format!("{value:e}");
        let exponent = exponent_of(&scientific);
        if !(-4..EXPONENT_FROM).contains(&exponent) {
            go_exponent(&scientific)
        } else {
            format!("{value}")
        }
    })
}

/// Go's `%.*g`, with an exponent below 1e-4 and from `significant_digits` digits on.
pub fn general_precise(value: f64, significant_digits: usize) -> String {
    let Some(text) = special(value) else {
        let digits = significant_digits.max(1);
        let scientific = format!("{value:.*e}", digits - 1);
        let exponent = exponent_of(&scientific);
        if exponent < -4 || exponent >= digits as i32 {
            return go_exponent(&trim_zeros(&scientific));
        }
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        return trim_zeros(&format!("{value:.decimals$}"));
    };
    text
}

/// Go's `%.*e`; without decimals the shortest form.
pub fn exponential(value: f64, decimals: Option<usize>) -> String {
    special(value).unwrap_or_else(|| match decimals {
        Some(decimals) => go_exponent(&format!("{value:.decimals$e}")),
        None => go_exponent(&format!("{value:e}")),
    })
}

/// Go's `%.*f`.
pub fn fixed(value: f64, decimals: usize) -> String {
    special(value).unwrap_or_else(|| format!("{value:.decimals$}"))
}

fn special(value: f64) -> Option<String> {
    if value.is_nan() {
        Some("NaN".into())
    } else if value.is_infinite() {
        Some(if value > 0.0 { "+Inf".into() } else { "-Inf".into() })
    } else {
        None
    }
}

fn exponent_of(scientific: &str) -> i32 {
    scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0)
}

/// Removes trailing zeros of the fraction, before an exponent if there is one.
fn trim_zeros(text: &str) -> String {
    let (mantissa, exponent) = text.split_at(text.find('e').unwrap_or(text.len()));
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    format!("{mantissa}{exponent}")
}

/// Converts Rust's `1e9` to Go's `1e+09`.
fn go_exponent(scientific: &str) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific.into();
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Ascending with NaN first, the order in which Prometheus ranks values.
pub fn nan_first(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_prints_them() {
        for (value, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (123456.0, "123456"),
            (1234567.0, "1.234567e+06"),
            (1e21, "1e+21"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-2.5, "-2.5"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(general(value), text);
        }
        assert_eq!(shortest(1e21), "1000000000000000000000");
        for (value, text) in [
            (1234567.0, "1.235e+06"),
            (999.95, "1000"),
            (99999.0, "1e+05"),
            (12.3456, "12.35"),
            (0.00001234567, "1.235e-05"),
            (0.0, "0"),
            (100.0, "100"),
        ] {
            assert_eq!(general_precise(value, 4), text);
        }
        assert_eq!(exponential(123456.0, Some(2)), "1.23e+05");
        assert_eq!(exponential(0.5, None), "5e-01");
        assert_eq!(fixed(2.0 / 3.0, 3), "0.667");
    }
}
