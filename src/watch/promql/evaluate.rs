//! The evaluation of an expression at one moment.

use super::expression::{At, Expression, Query, Range, SeriesSelector, When};
use super::histogram::HistogramFunction;
use super::over_time::{RangeFunction, Window};
use super::{Dialect, Element, QueryValue, Semantics};
use crate::watch::history::{History, Series, is_stale};
use crate::watch::labels::{LabelSet, METRIC_NAME};
use std::collections::{BTreeMap, HashSet};

/// Prometheus's bound on the points of a query, so that one rule cannot block the others.
pub(super) const MAX_SUBQUERY_STEPS: i64 = 11_000;

/// An error of an evaluation, which the same data causes in Prometheus as well.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    #[error("vector cannot contain metrics with the same labelset: {0}")]
    DuplicateLabels(LabelSet),
    #[error(
        "found duplicate series for the match group {group} on the {side} hand-side of the operation: \
         [{first}, {second}]; matching labels must be unique on one side"
    )]
    ManyToMany {
        group: LabelSet,
        side: &'static str,
        first: LabelSet,
        second: LabelSet,
    },
    #[error("multiple matches for labels {group}: many-to-one matching must be explicit (group_left/group_right)")]
    ManyToOne { group: LabelSet },
    #[error("multiple matches for labels {group}: grouping labels must ensure unique matches")]
    SameResult { group: LabelSet },
    #[error("a subquery of {0} steps, at most {MAX_SUBQUERY_STEPS} are evaluated")]
    TooManySteps(i64),
    #[error("{0} is not a number of series")]
    NotAnInteger(f64),
}

impl Query {
    /// The value at `at_ms`, Unix time in milliseconds.
    ///
    /// # Errors
    /// When series have the same labels or do not match, as in Prometheus.
    pub fn evaluate(&self, history: &History, at_ms: i64, semantics: Semantics) -> Result<QueryValue, EvaluationError> {
        let evaluation = Evaluation {
            history,
            semantics,
            query_ms: at_ms,
        };
        evaluation.value(&self.expression, at_ms)
    }
}

struct Evaluation<'a> {
    history: &'a History,
    semantics: Semantics,
    /// When the whole query is evaluated, unlike the expression in a subquery.
    query_ms: i64,
}

impl Evaluation<'_> {
    /// The time that a selector or a subquery reads, where the expression around it is evaluated at `at_ms`.
    fn time_of(&self, when: When, at_ms: i64) -> i64 {
        let at_ms = match when.at {
            At::Around => at_ms,
            At::Query => self.query_ms,
            At::Fixed(fixed_ms) => fixed_ms,
        };
        at_ms - when.offset_ms
    }

    fn value(&self, expression: &Expression, at_ms: i64) -> Result<QueryValue, EvaluationError> {
        Ok(match expression {
            Expression::Number(value) => QueryValue::Scalar(*value),
            Expression::Time => QueryValue::Scalar(at_ms as f64 / 1000.0),
            Expression::ScalarOf(inner) => match self.vector(inner, at_ms)?.as_slice() {
                [only] => QueryValue::Scalar(only.value),
                _ => QueryValue::Scalar(f64::NAN),
            },
            Expression::Negate(inner) => match self.value(inner, at_ms)? {
                QueryValue::Scalar(value) => QueryValue::Scalar(-value),
                other => QueryValue::Vector(nameless(other.into_vector(), |value| Some(-value))?),
            },
            Expression::Binary(binary) => {
                let (left, right) = (self.value(&binary.left, at_ms)?, self.value(&binary.right, at_ms)?);
                binary.apply(left, right, self.semantics.dialect)?
            }
            _ => QueryValue::Vector(self.vector(expression, at_ms)?),
        })
    }

    fn scalar(&self, expression: &Expression, at_ms: i64) -> Result<f64, EvaluationError> {
        match self.value(expression, at_ms)? {
            QueryValue::Scalar(value) => Ok(value),
            // The parser has checked that the type is a scalar.
            QueryValue::Vector(_) => Ok(f64::NAN),
        }
    }

    /// A parameter, which not every function has.
    fn optional(&self, expression: Option<&Expression>, at_ms: i64) -> Result<f64, EvaluationError> {
        expression.map_or(Ok(f64::NAN), |expression| self.scalar(expression, at_ms))
    }

    fn vector(&self, expression: &Expression, at_ms: i64) -> Result<Vec<Element>, EvaluationError> {
        match expression {
            Expression::SeriesSelector(selector) => Ok(self.instant(selector, at_ms, |_, value| value)),
            Expression::SampleTime(selector) => {
                let times = self.instant(selector, at_ms, |sample_ms, _| sample_ms as f64 / 1000.0);
                nameless(times, Some)
            }
            Expression::EvaluationTime(inner) => nameless(self.vector(inner, at_ms)?, |_| Some(at_ms as f64 / 1000.0)),
            Expression::Aggregate(aggregate) => {
                let parameter = self.optional(aggregate.aggregation.parameter(), at_ms)?;
                let elements = self.vector(&aggregate.inner, at_ms)?;
                aggregate
                    .aggregation
                    .apply(elements, &aggregate.grouping, parameter, self.semantics.dialect)
            }
            Expression::OverTime {
                function,
                range,
                parameter,
            } => {
                let parameter = self.optional(parameter.as_deref(), at_ms)?;
                self.over_time(*function, range, parameter, at_ms)
            }
            Expression::AbsentOverTime { range, labels } => {
                let present = self.over_time(RangeFunction::LastOverTime, range, f64::NAN, at_ms)?;
                Ok(absent(&present, labels))
            }
            Expression::Absent { inner, labels } => Ok(absent(&self.vector(inner, at_ms)?, labels)),
            Expression::Elementwise {
                function,
                inner,
                parameters,
            } => {
                let parameters = parameters.iter().map(|parameter| self.scalar(parameter, at_ms));
                let parameters = parameters.collect::<Result<Vec<f64>, _>>()?;
                nameless(self.vector(inner, at_ms)?, |value| function.apply(value, &parameters))
            }
            Expression::Date {
                part,
                inner: Some(inner),
            } => nameless(self.vector(inner, at_ms)?, |value| Some(part.of(value))),
            Expression::Date { part, inner: None } => {
                Ok(QueryValue::Scalar(part.of(at_ms.div_euclid(1000) as f64)).into_vector())
            }
            Expression::VectorOf(inner) => Ok(QueryValue::Scalar(self.scalar(inner, at_ms)?).into_vector()),
            Expression::Sort { inner, descending } => {
                let mut elements = self.vector(inner, at_ms)?;
                elements.sort_by(|a, b| {
                    let (a, b) = if *descending {
                        (b.value, a.value)
                    } else {
                        (a.value, b.value)
                    };
                    a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(&b))
                });
                Ok(elements)
            }
            Expression::LabelFunction(function) => function.apply(self.vector(&function.inner, at_ms)?),
            Expression::OfNativeHistograms(inner) => {
                self.vector(inner, at_ms)?;
                Ok(Vec::new())
            }
            Expression::OfHistograms { inner, parameters } => {
                let parameters = parameters.iter().map(|parameter| self.scalar(parameter, at_ms));
                let function = match *parameters.collect::<Result<Vec<f64>, _>>()? {
                    [lower, upper] => HistogramFunction::Fraction(lower, upper),
                    [phi, ..] => HistogramFunction::Quantile(phi),
                    [] => HistogramFunction::Quantile(f64::NAN),
                };
                unique(function.apply(self.vector(inner, at_ms)?))
            }
            Expression::Number(_)
            | Expression::Time
            | Expression::ScalarOf(_)
            | Expression::Negate(_)
            | Expression::Binary(_) => self.value(expression, at_ms).map(QueryValue::into_vector),
        }
    }

    /// Calls `visit` with every series that the selector selects.
    fn select(&self, selector: &SeriesSelector, mut visit: impl FnMut(&Series)) {
        let mut in_metric = |name: &str| {
            // Matchers on the name apply to the metric, not to each series.
            let (on_name, on_labels): (Vec<_>, Vec<_>) = selector
                .matchers
                .iter()
                .partition(|matcher| &*matcher.name == METRIC_NAME);
            if on_name.iter().all(|matcher| matcher.is_match(name)) {
                let series = self.history.series(name).iter();
                let selected = series.filter(|series| on_labels.iter().all(|m| m.selects(series.labels())));
                selected.for_each(&mut visit);
            }
        };
        match &selector.metric_name {
            Some(name) => in_metric(name),
            None => self.history.metric_names().into_iter().for_each(in_metric),
        }
    }

    fn instant(&self, selector: &SeriesSelector, at_ms: i64, value_of: impl Fn(i64, f64) -> f64) -> Vec<Element> {
        let until_ms = self.time_of(selector.when, at_ms);
        let oldest_ms = until_ms - self.semantics.lookback_ms + self.left_open_ms();
        let mut elements = Vec::new();
        self.select(selector, |series| {
            if let Some((sample_ms, value)) = series.newest_until(until_ms)
                && sample_ms >= oldest_ms
                && !is_stale(value)
            {
                elements.push(Element {
                    labels: series.labels().clone(),
                    value: value_of(sample_ms, value),
                });
            }
        });
        elements
    }

    /// The shift of the left end of a range that excludes that end, in milliseconds.
    fn left_open_ms(&self) -> i64 {
        match self.semantics.dialect {
            Dialect::V3 => 1,
            Dialect::V2_42 => 0,
        }
    }

    fn over_time(
        &self,
        function: RangeFunction,
        range: &Range,
        parameter: f64,
        at_ms: i64,
    ) -> Result<Vec<Element>, EvaluationError> {
        let (range_ms, when) = range.extent();
        let end_ms = self.time_of(when, at_ms);
        let start_ms = end_ms - range_ms;
        let window = Window {
            start_ms,
            end_ms,
            now_ms: at_ms,
            dialect: self.semantics.dialect,
        };
        let mut elements = Vec::new();
        let mut push = |labels: &LabelSet, samples: &[(i64, f64)]| {
            if !samples.is_empty()
                && let Some(value) = function.apply(samples, parameter, window)
            {
                let labels = if function.keeps_metric_name() {
                    labels.clone()
                } else {
                    labels.without_metric_name()
                };
                elements.push(Element { labels, value });
            }
        };
        match range {
            Range::Samples { selector, .. } => {
                let mut samples = Vec::new();
                let after_ms = start_ms - 1 + self.left_open_ms();
                self.select(selector, |series| {
                    series.read_window(after_ms, end_ms, &mut samples);
                    push(series.labels(), &samples);
                });
                if selector.metric_name.is_some() {
                    // Series of one metric stay distinct without its name, and checking costs more than the function.
                    return Ok(elements);
                }
            }
            Range::Subquery { inner, step_ms, .. } => {
                let step_ms = step_ms.unwrap_or(self.semantics.default_step_ms);
                for (labels, samples) in &self.subquery(inner, start_ms + self.left_open_ms(), end_ms, step_ms)? {
                    push(labels, samples);
                }
            }
        }
        unique(elements)
    }

    /// The values of an expression at every multiple of the step from `start_ms` to `end_ms`.
    fn subquery(
        &self,
        inner: &Expression,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    ) -> Result<BTreeMap<LabelSet, Vec<(i64, f64)>>, EvaluationError> {
        let steps = (end_ms - start_ms) / step_ms;
        if steps > MAX_SUBQUERY_STEPS {
            return Err(EvaluationError::TooManySteps(steps));
        }
        let mut series: BTreeMap<LabelSet, Vec<(i64, f64)>> = BTreeMap::new();
        let mut at_ms = (start_ms + step_ms - 1).div_euclid(step_ms) * step_ms;
        while at_ms <= end_ms {
            for element in self.vector(inner, at_ms)? {
                series.entry(element.labels).or_default().push((at_ms, element.value));
            }
            at_ms += step_ms;
        }
        Ok(series)
    }
}

fn absent(present: &[Element], labels: &LabelSet) -> Vec<Element> {
    if present.is_empty() {
        vec![Element {
            labels: labels.clone(),
            value: 1.0,
        }]
    } else {
        Vec::new()
    }
}

/// Changes values, and drops the metric name, which no longer describes them.
fn nameless(elements: Vec<Element>, change: impl Fn(f64) -> Option<f64>) -> Result<Vec<Element>, EvaluationError> {
    let changed = elements.into_iter().filter_map(|element| {
        let value = change(element.value)?;
        Some(Element {
            labels: element.labels.without_metric_name(),
            value,
        })
    });
    unique(changed.collect())
}

/// Checks that no two series of a vector have the same labels.
pub(super) fn unique(elements: Vec<Element>) -> Result<Vec<Element>, EvaluationError> {
    if elements.len() > 1 {
        let mut seen = HashSet::with_capacity(elements.len());
        if let Some(duplicate) = elements.iter().find(|element| !seen.insert(&element.labels)) {
            return Err(EvaluationError::DuplicateLabels(duplicate.labels.clone()));
        }
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::super::super::history::{ReadSet, stale};
    use super::super::parse;
    use super::*;

    /// Samples of `m{l="x"}` every 10 s from 0 to 60 s, of `gone` until it ends at 30 s.
    fn history() -> History {
        let mut read_set = ReadSet::default();
        read_set.add(&[], i64::MAX / 4);
        let mut history = History::new(read_set);
        let (m, gone) = (
            LabelSet::from_pairs([(METRIC_NAME, "m"), ("l", "x")]),
            LabelSet::from_pairs([(METRIC_NAME, "gone")]),
        );
        for second in (0..=60).step_by(10) {
            history.record(second * 1000, &m, second as f64);
            history.record(second * 1000, &gone, if second < 30 { 1.0 } else { stale() });
        }
        history
    }

    fn evaluate(text: &str, second: i64, dialect: Dialect) -> String {
        let semantics = Semantics {
            dialect,
            default_step_ms: 20_000,
            ..Semantics::default()
        };
        match parse(text).unwrap().evaluate(&history(), second * 1000, semantics) {
            Ok(QueryValue::Scalar(value)) => value.to_string(),
            Ok(QueryValue::Vector(elements)) => elements
                .iter()
                .map(|e| format!("{} {}", e.labels, e.value))
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn dialects_differ_at_the_left_end_of_ranges() {
        for (text, second, v3, v2_42) in [
            ("count_over_time(m[20s])", 60, "{l=\"x\"} 2", "{l=\"x\"} 3"),
            ("count_over_time(m[20s] offset 5s)", 60, "{l=\"x\"} 2", "{l=\"x\"} 2"),
            ("count_over_time(m[40s:])", 60, "{l=\"x\"} 2", "{l=\"x\"} 3"),
            ("m", 360, "", "m{l=\"x\"} 60"),
            ("m", 359, "m{l=\"x\"} 60", "m{l=\"x\"} 60"),
            ("stddev(vector(1 / 0))", 0, "{} NaN", "{} 0"),
            (
                "m atan2 0",
                10,
                "{l=\"x\"} 1.5707963267948966",
                "m{l=\"x\"} 1.5707963267948966",
            ),
        ] {
            assert_eq!(evaluate(text, second, Dialect::V3), v3, "{text} at {second}, as 3");
            assert_eq!(
                evaluate(text, second, Dialect::V2_42),
                v2_42,
                "{text} at {second}, as 2.42"
            );
        }
    }

    #[test]
    fn the_deepest_expression_fits_the_stack() {
        let text = format!("{}m{}", "(".repeat(200), " + 1)".repeat(200));
        assert_eq!(evaluate(&text, 10, Dialect::V3), "{l=\"x\"} 210");
        let text = format!("m{}", " and m".repeat(400));
        assert_eq!(evaluate(&text, 10, Dialect::V3), "m{l=\"x\"} 10");
    }

    #[test]
    fn staleness_markers_end_series() {
        for (text, second, expected) in [
            ("gone", 29, "gone 1"),
            ("gone", 30, ""),
            ("gone offset 5s", 30, "gone 1"),
            ("sum_over_time(gone[1m])", 40, "{} 3"),
            ("absent(gone{l=\"y\", k=~\"z\"})", 40, "{l=\"y\"} 1"),
            ("timestamp(m)", 15, "{l=\"x\"} 10"),
            ("timestamp(m + 0)", 15, "{l=\"x\"} 15"),
            ("scalar(m) + time()", 15, "25"),
            ("-{__name__=~\"m|gone\"}", 20, "{} -1, {l=\"x\"} -20"),
            ("m + on (l) group_left m", 20, "{l=\"x\"} 40"),
            (
                "m + on () (m or gone)",
                20,
                "error: found duplicate series for the match group {} on the right hand-side \
              of the operation: [m{l=\"x\"}, gone]; matching labels must be unique on one side",
            ),
            ("topk(NaN, m)", 20, "error: NaN is not a number of series"),
        ] {
            assert_eq!(evaluate(text, second, Dialect::V3), expected, "{text} at {second}");
        }
    }
}
