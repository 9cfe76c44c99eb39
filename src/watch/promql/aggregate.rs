//! Aggregations, which reduce many series to one per group.

use super::evaluate::{EvaluationError, unique};
use super::expression::Aggregation;
use super::over_time::{Sum, average, extreme, quantile};
use super::{Dialect, Element};
use crate::watch::labels::{LabelSet, Selected, Signature, Text};
use crate::watch::number::{self, nan_first};
use std::collections::HashMap;

impl Aggregation {
    /// Aggregates. `parameter` is the value of the scalar argument, if there is one.
    pub(super) fn apply(
        &self,
        elements: Vec<Element>,
        grouping: &Selected,
        parameter: f64,
        dialect: Dialect,
    ) -> Result<Vec<Element>, EvaluationError> {
        match self {
            Aggregation::Top(_) | Aggregation::Bottom(_) => {
                let limit = count_of(parameter)?;
                let is_top = matches!(self, Aggregation::Top(_));
                let mut groups = grouped(&elements, grouping);
                let ranked = groups.iter_mut().flat_map(|(_, members)| {
                    // NaN comes last in either direction.
                    members.sort_by(|a, b| match (a.value.is_nan() || b.value.is_nan(), is_top) {
                        (false, false) => nan_first(a.value, b.value),
                        _ => nan_first(b.value, a.value),
                    });
                    members.iter().take(limit).map(|element| (*element).clone())
                });
                Ok(ranked.collect())
            }
            Aggregation::CountValues(label) => count_values(elements, grouping, label),
            _ => {
                let groups = grouped(&elements, grouping);
                let aggregated = groups.into_iter().map(|(signature, members)| {
                    let values = || members.iter().map(|element| element.value);
                    let value = match self {
                        Aggregation::Sum => values().collect::<Sum>().total(),
                        Aggregation::Average => average(values()),
                        Aggregation::Minimum => extreme(values(), |value, least| value < least),
                        Aggregation::Maximum => extreme(values(), |value, most| value > most),
                        Aggregation::Group => 1.0,
                        Aggregation::StandardDeviation => variance(values(), dialect).sqrt(),
                        Aggregation::StandardVariance => variance(values(), dialect),
                        Aggregation::Quantile(_) => quantile(parameter, values().collect()),
                        Aggregation::Count
                        | Aggregation::Top(_)
                        | Aggregation::Bottom(_)
                        | Aggregation::CountValues(_) => members.len() as f64,
                    };
                    Element {
                        labels: signature.to_labels(),
                        value,
                    }
                });
                Ok(aggregated.collect())
            }
        }
    }

    /// The expression of the scalar argument.
    pub(super) fn parameter(&self) -> Option<&super::expression::Expression> {
        match self {
            Aggregation::Top(parameter) | Aggregation::Bottom(parameter) | Aggregation::Quantile(parameter) => {
                Some(parameter)
            }
            _ => None,
        }
    }
}

/// The groups in the order of their first members, so that results have an order that does not depend on hashing.
fn grouped<'a>(elements: &'a [Element], grouping: &'a Selected) -> Vec<(Signature<'a>, Vec<&'a Element>)> {
    let mut index: HashMap<Signature<'a>, usize> = HashMap::new();
    let mut groups: Vec<(Signature<'a>, Vec<&'a Element>)> = Vec::new();
    for element in elements {
        let signature = grouping.of(&element.labels);
        let at = *index.entry(signature).or_insert_with(|| {
            groups.push((signature, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(element);
    }
    groups
}

fn count_values(
    mut elements: Vec<Element>,
    grouping: &Selected,
    label: &Text,
) -> Result<Vec<Element>, EvaluationError> {
    for element in &mut elements {
        element.labels = element
            .labels
            .with([(label.clone(), number::shortest(element.value).into())]);
    }
    let grouping = match grouping {
        Selected::Only(names) => Selected::Only(names.iter().chain([label]).cloned().collect()),
        all_but => all_but.clone(),
    };
    let groups = grouped(&elements, &grouping);
    let count = |(signature, members): (Signature<'_>, Vec<&Element>)| -> (LabelSet, f64) {
        (signature.to_labels(), members.len() as f64)
    };
    unique(
        groups
            .into_iter()
            .map(count)
            .map(|(labels, value)| Element { labels, value })
            .collect(),
    )
}

fn count_of(parameter: f64) -> Result<usize, EvaluationError> {
    // Prometheus's float bounds of an int64.
    if parameter.is_nan() || parameter >= 9_223_372_036_854_774_784.0 || parameter <= -9_223_372_036_854_775_808.0 {
        return Err(EvaluationError::NotAnInteger(parameter));
    }
    Ok(parameter.max(0.0) as usize)
}

/// The variance of a population (Welford's method).
fn variance(values: impl Iterator<Item = f64>, dialect: Dialect) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        if count == 1.0 {
            mean = value;
            // In 2.42 the deviation of one value is always zero.
            squares = if dialect == Dialect::V2_42 || value.is_finite() {
                0.0
            } else {
                f64::NAN
            };
            continue;
        }
        let delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }
    squares / count
}
