//! PromQL: a parser from strings to checked expressions, and their evaluation on a history at one moment. Pure.

mod aggregate;
mod binary;
mod compile;
mod date;
mod duration;
mod evaluate;
mod expression;
mod function;
mod histogram;
mod label_function;
mod matcher;
mod over_time;
mod refusal;
mod scan;

pub use compile::parse;
pub use evaluate::EvaluationError;
pub use expression::{MAX_REACH_MS, Query};
pub use matcher::Matcher;
pub use refusal::Refusal;

use super::labels::LabelSet;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as Unnamed, StrDeserializer};

/// One series of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub labels: LabelSet,
    pub value: f64,
}

/// The result of an expression at one time.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryValue {
    Scalar(f64),
    Vector(Vec<Element>),
}

impl QueryValue {
    /// The result of a rule, where a scalar is one series without labels.
    pub fn into_vector(self) -> Vec<Element> {
        match self {
            QueryValue::Scalar(value) => vec![Element {
                labels: LabelSet::default(),
                value,
            }],
            QueryValue::Vector(elements) => elements,
        }
    }
}

/// The version of Prometheus to follow where versions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Ranges and the lookback exclude their left end; extrapolation to zero is bounded by half an interval;
    /// the deviation of a single infinity or NaN is NaN.
    #[default]
    V3,
    /// Ranges include their left end, as in Prometheus 2.42.
    V2_42,
}

/// The settings of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Semantics {
    pub dialect: Dialect,
    /// Maximum age of the newest sample of a series.
    pub lookback_ms: i64,
    /// The resolution of a subquery that sets none.
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

/// The variant of an enum of functions that has this name.
pub(super) fn by_name<T: DeserializeOwned>(name: &str) -> Option<T> {
    T::deserialize(StrDeserializer::<Unnamed>::new(name)).ok()
}
