//! PromQL: a parser from strings to checked expressions, and their evaluation on a history at one moment. Pure.

mod aggregate;
mod binary;
mod compile;
mod evaluate;
mod expression;
mod function;
mod matcher;
mod over_time;
mod scan;

pub(super) use compile::is_label_name;
pub use compile::{Refusal, parse};
pub use evaluate::EvaluationError;
pub use expression::Query;
pub use matcher::Matcher;

use super::labels::LabelSet;

/// One series of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub labels: LabelSet,
    pub value: f64,
}

/// What an expression yields at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Scalar(f64),
    Vector(Vec<Element>),
}

impl Value {
    /// As the result of a rule: a scalar is one series without labels.
    pub fn into_vector(self) -> Vec<Element> {
        match self {
            Value::Scalar(value) => vec![Element {
                labels: LabelSet::default(),
                value,
            }],
            Value::Vector(elements) => elements,
        }
    }
}

/// Whose rules of arithmetic apply where versions of Prometheus differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Ranges and the lookback exclude their left end; extrapolation to zero is bounded by half an interval;
    /// the deviation of a single infinity or NaN is NaN.
    #[default]
    V3,
    /// Ranges include their left end, as in Prometheus 2.42.
    V2_42,
}

/// What an evaluation depends on beside expression, history and time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Semantics {
    pub dialect: Dialect,
    /// How old the newest sample of a series may be.
    pub lookback_ms: i64,
    /// The step of a subquery that names none.
    pub default_step_ms: i64,
}

/// Prometheus's default of `--query.lookback-delta`.
pub const LOOKBACK_MS: i64 = 5 * 60 * 1000;

impl Default for Semantics {
    fn default() -> Self {
        Semantics {
            dialect: Dialect::V3,
            lookback_ms: LOOKBACK_MS,
            default_step_ms: 60_000,
        }
    }
}
