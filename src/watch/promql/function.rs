//! Functions of one value at a time.

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

#[cfg(test)]
mod tests {
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
}
