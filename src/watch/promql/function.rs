//! Functions of one value at a time.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde::Deserialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Elementwise {
    Abs,
    Ceil,
    Floor,
    Round,
    Clamp,
    ClampMin,
    ClampMax,
    Sgn,
    Sqrt,
    Exp,
    Ln,
    Log2,
    Log10,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Deg,
    Rad,
}

impl Elementwise {
    /// Applies the function. `None` if it has no result for these parameters.
    pub fn apply(self, value: f64, parameters: &[f64]) -> Option<f64> {
        let parameter = |index: usize| parameters.get(index).copied();
        Some(match self {
            Elementwise::Abs => value.abs(),
            Elementwise::Ceil => value.ceil(),
            Elementwise::Floor => value.floor(),
            Elementwise::Round => {
                // Uses the inverse, which is exact for steps such as 0.1 where the step is not.
                let inverse = 1.0 / parameter(0).unwrap_or(1.0);
                (value * inverse + 0.5).floor() / inverse
            }
            Elementwise::Clamp => {
                let (least, most) = (parameter(0)?, parameter(1)?);
                if most < least {
                    return None;
                }
                larger(least, smaller(most, value))
            }
            Elementwise::ClampMin => larger(parameter(0)?, value),
            Elementwise::ClampMax => smaller(parameter(0)?, value),
            Elementwise::Sgn if value < 0.0 => -1.0,
            Elementwise::Sgn if value > 0.0 => 1.0,
            Elementwise::Sgn => value,
            Elementwise::Sqrt => value.sqrt(),
            Elementwise::Exp => value.exp(),
            Elementwise::Ln => value.ln(),
            Elementwise::Log2 => value.log2(),
            Elementwise::Log10 => value.log10(),
            Elementwise::Sin => value.sin(),
            Elementwise::Cos => value.cos(),
            Elementwise::Tan => value.tan(),
            Elementwise::Asin => value.asin(),
            Elementwise::Acos => value.acos(),
            Elementwise::Atan => value.atan(),
            Elementwise::Sinh => value.sinh(),
            Elementwise::Cosh => value.cosh(),
            Elementwise::Tanh => value.tanh(),
            Elementwise::Asinh => value.asinh(),
            Elementwise::Acosh => value.acosh(),
            Elementwise::Atanh => value.atanh(),
            Elementwise::Deg => value.to_degrees(),
            Elementwise::Rad => value.to_radians(),
        })
    }
}

/// Go's `math.Max`, which unlike `f64::max` returns NaN for a NaN argument, except with +Inf.
fn larger(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// Go's `math.Min`, which unlike `f64::min` returns NaN for a NaN argument, except with -Inf.
fn smaller(a: f64, b: f64) -> f64 {
    -larger(-a, -b)
}

/// A calendar field of a time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DatePart {
    Minute,
    Hour,
    DayOfWeek,
    DayOfMonth,
    DayOfYear,
    DaysInMonth,
    Month,
    Year,
}

impl DatePart {
    /// The field of a Unix time, ignoring fractions of a second; NaN outside of the years -9999 to 9999.
    pub fn of(self, unix_seconds: f64) -> f64 {
        if unix_seconds.is_nan() {
            return f64::NAN;
        }
        let Ok(timestamp) = Timestamp::from_second(unix_seconds as i64) else {
            return f64::NAN;
        };
        let date_time: DateTime = Offset::UTC.to_datetime(timestamp);
        f64::from(match self {
            DatePart::Minute => i16::from(date_time.minute()),
            DatePart::Hour => i16::from(date_time.hour()),
            DatePart::DayOfWeek => i16::from(date_time.weekday().to_sunday_zero_offset()),
            DatePart::DayOfMonth => i16::from(date_time.day()),
            DatePart::DayOfYear => date_time.day_of_year(),
            DatePart::DaysInMonth => i16::from(date_time.days_in_month()),
            DatePart::Month => i16::from(date_time.month()),
            DatePart::Year => date_time.year(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_name;
    use super::*;

    #[test]
    fn nan_passes_through_the_clamps_except_beyond_infinity() {
        for (function, parameters, value, expected) in [
            (Elementwise::ClampMin, vec![1.0], f64::NAN, f64::NAN),
            (Elementwise::ClampMin, vec![f64::INFINITY], f64::NAN, f64::INFINITY),
            (
                Elementwise::ClampMax,
                vec![f64::NEG_INFINITY],
                f64::NAN,
                f64::NEG_INFINITY,
            ),
            (Elementwise::ClampMax, vec![2.0], 3.0, 2.0),
            (Elementwise::Clamp, vec![1.0, 2.0], 0.0, 1.0),
            (Elementwise::Round, vec![], 2.5, 3.0),
            (Elementwise::Round, vec![], -2.5, -2.0),
            (Elementwise::Round, vec![0.1], 0.26, 0.3),
        ] {
            let result = function.apply(value, &parameters).unwrap();
            assert_eq!(
                result.to_bits(),
                expected.to_bits(),
                "{function:?} {parameters:?} of {value}: {result}"
            );
        }
        assert_eq!(Elementwise::Clamp.apply(1.0, &[2.0, 1.0]), None);
    }

    #[test]
    fn parts_of_a_leap_day() {
        let leap_day = 1_709_210_096.9; // Thursday 2024-02-29 12:34:56 UTC
        for (name, expected) in [
            ("minute", 34.0),
            ("hour", 12.0),
            ("day_of_week", 4.0),
            ("day_of_month", 29.0),
            ("day_of_year", 60.0),
            ("days_in_month", 29.0),
            ("month", 2.0),
            ("year", 2024.0),
        ] {
            assert_eq!(by_name::<DatePart>(name).unwrap().of(leap_day), expected, "{name}");
        }
    }
}
