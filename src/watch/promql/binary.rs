//! Operators between scalars and vectors, and the matching of series of two vectors.

use super::evaluate::{EvaluationError, unique};
use super::expression::{Binary, Cardinality, Operator};
use super::{Dialect, Element, QueryValue};
use crate::watch::labels::{LabelSet, METRIC_NAME, Selected, Signature};
use std::collections::{HashMap, HashSet};

impl Binary {
    pub(super) fn apply(
        &self,
        left: QueryValue,
        right: QueryValue,
        dialect: Dialect,
    ) -> Result<QueryValue, EvaluationError> {
        match (left, right) {
            (QueryValue::Scalar(left), QueryValue::Scalar(right)) => {
                Ok(QueryValue::Scalar(self.operator.value(left, right)))
            }
            (QueryValue::Vector(left), QueryValue::Scalar(right)) => self
                .with_scalar(left, dialect, |value| (value, right))
                .map(QueryValue::Vector),
            (QueryValue::Scalar(left), QueryValue::Vector(right)) => self
                .with_scalar(right, dialect, |value| (left, value))
                .map(QueryValue::Vector),
            (QueryValue::Vector(left), QueryValue::Vector(right)) if self.operator.is_set() => {
                Ok(QueryValue::Vector(self.set(left, right)))
            }
            (QueryValue::Vector(left), QueryValue::Vector(right)) => {
                self.matched(&left, &right, dialect).map(QueryValue::Vector)
            }
        }
    }

    fn drops_metric_name(&self, dialect: Dialect) -> bool {
        match self.operator {
            // 2.42 keeps the metric name by mistake.
            Operator::Atan2 => dialect != Dialect::V2_42,
            operator => self.returns_bool || !operator.is_comparison(),
        }
    }

    /// Applies the operator. `sides` orders the element's value and the scalar.
    fn with_scalar(
        &self,
        mut elements: Vec<Element>,
        dialect: Dialect,
        sides: impl Fn(f64) -> (f64, f64),
    ) -> Result<Vec<Element>, EvaluationError> {
        if self.operator.is_comparison() && !self.returns_bool {
            elements.retain(|element| {
                let (left, right) = sides(element.value);
                self.operator.value(left, right) == 1.0
            });
            return Ok(elements);
        }
        for element in &mut elements {
            let (left, right) = sides(element.value);
            element.value = self.operator.value(left, right);
            if self.drops_metric_name(dialect) {
                element.labels = element.labels.without_metric_name();
            }
        }
        unique(elements)
    }

    fn set(&self, left: Vec<Element>, right: Vec<Element>) -> Vec<Element> {
        fn signatures<'a>(of: &'a [Element], binary: &'a Binary) -> HashSet<Signature<'a>> {
            of.iter().map(|element| binary.matching.of(&element.labels)).collect()
        }
        match self.operator {
            Operator::And | Operator::Unless => {
                let right = signatures(&right, self);
                let wanted = self.operator == Operator::And;
                left.iter()
                    .filter(|element| right.contains(&self.matching.of(&element.labels)) == wanted)
                    .cloned()
                    .collect()
            }
            _ => {
                let known = signatures(&left, self);
                let additional: Vec<Element> = right
                    .into_iter()
                    .filter(|element| !known.contains(&self.matching.of(&element.labels)))
                    .collect();
                drop(known);
                left.into_iter().chain(additional).collect()
            }
        }
    }

    fn matched(&self, left: &[Element], right: &[Element], dialect: Dialect) -> Result<Vec<Element>, EvaluationError> {
        if left.is_empty() || right.is_empty() {
            return Ok(Vec::new());
        }
        let swapped = matches!(self.cardinality, Cardinality::OneToMany(_));
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let mut one_by_signature: HashMap<Signature<'_>, &Element> = HashMap::with_capacity(one.len());
        for element in one {
            let signature = self.matching.of(&element.labels);
            if let Some(other) = one_by_signature.insert(signature, element) {
                let side = if swapped { "left" } else { "right" };
                let (first, second) = (other.labels.clone(), element.labels.clone());
                return Err(EvaluationError::ManyToMany {
                    group: signature.to_labels(),
                    side,
                    first,
                    second,
                });
            }
        }
        let one_to_one = self.cardinality == Cardinality::OneToOne;
        let mut used: HashSet<Signature<'_>> = HashSet::new();
        let is_filter = self.operator.is_comparison() && !self.returns_bool;
        let mut grouped: HashSet<(Signature<'_>, LabelSet)> = HashSet::new();
        let mut results = Vec::with_capacity(many.len());
        for element in many {
            let signature = self.matching.of(&element.labels);
            let Some(other) = one_by_signature.get(&signature) else {
                continue;
            };
            // 2.42 counts only the series that a comparison keeps.
            if one_to_one && dialect != Dialect::V2_42 && !used.insert(signature) {
                return Err(many_to_one(signature));
            }
            if is_filter && self.cardinality.adds_labels() && dialect != Dialect::V2_42 {
                let labels = self.result_labels(&element.labels, &other.labels, dialect);
                if !grouped.insert((signature, labels)) {
                    let group = signature.to_labels();
                    return Err(EvaluationError::SameResult { group });
                }
            }
            let (left, right) = if swapped {
                (other.value, element.value)
            } else {
                (element.value, other.value)
            };
            let mut value = self.operator.value(left, right);
            if is_filter {
                if value != 1.0 {
                    continue;
                }
                value = left;
            }
            if one_to_one && dialect == Dialect::V2_42 && !used.insert(signature) {
                return Err(many_to_one(signature));
            }
            results.push(Element {
                labels: self.result_labels(&element.labels, &other.labels, dialect),
                value,
            });
        }
        // Equal labels are an error within a match and in the whole vector. Both stop a rule.
        unique(results)
    }

    fn result_labels(&self, many: &LabelSet, one: &LabelSet, dialect: Dialect) -> LabelSet {
        let keeps_name = !self.drops_metric_name(dialect);
        match &self.cardinality {
            Cardinality::OneToOne => match &self.matching {
                Selected::Only(names) => {
                    many.retain(|name| names.iter().any(|n| &**n == name) && (keeps_name || name != METRIC_NAME))
                }
                matching @ Selected::AllBut(_) => many.retain(|name| {
                    if name == METRIC_NAME {
                        keeps_name
                    } else {
                        matching.includes(name)
                    }
                }),
            },
            Cardinality::ManyToOne(included) | Cardinality::OneToMany(included) => {
                let labels = many.retain(|name| keeps_name || name != METRIC_NAME);
                if included.is_empty() {
                    return labels;
                }
                labels.with(included.iter().map(|name| (name.clone(), one.get(name).into())))
            }
        }
    }
}

fn many_to_one(signature: Signature<'_>) -> EvaluationError {
    EvaluationError::ManyToOne {
        group: signature.to_labels(),
    }
}

impl Operator {
    /// The result of the operator; 1 or 0 for a comparison.
    fn value(self, left: f64, right: f64) -> f64 {
        let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
        match self {
            Operator::Add => left + right,
            Operator::Subtract => left - right,
            Operator::Multiply => left * right,
            Operator::Divide => left / right,
            Operator::Modulo => left % right,
            Operator::Power => left.powf(right),
            Operator::Atan2 => left.atan2(right),
            Operator::Equal => truth(left == right),
            Operator::NotEqual => truth(left != right),
            Operator::Greater => truth(left > right),
            Operator::Less => truth(left < right),
            Operator::GreaterOrEqual => truth(left >= right),
            Operator::LessOrEqual => truth(left <= right),
            Operator::And | Operator::Or | Operator::Unless => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{QueryValue, Semantics, parse};
    use super::*;
    use crate::watch::history::{History, ReadSet};

    /// A comparison drops one of two series on the left.
    #[test]
    fn dialects_differ_in_counting_series_that_a_comparison_drops() {
        let mut read_set = ReadSet::default();
        read_set.add(&[], 0);
        let mut history = History::new(read_set);
        for (name, l, value) in [("a", "x", 1.0), ("a", "y", 3.0), ("b", "", 2.0)] {
            history.record(0, &LabelSet::from_pairs([(METRIC_NAME, name), ("l", l)]), value);
        }
        let evaluate = |text: &str, dialect| {
            let semantics = Semantics {
                dialect,
                ..Semantics::default()
            };
            parse(text).unwrap().evaluate(&history, 0, semantics)
        };
        for (text, error) in [
            (
                "a > on () b",
                "multiple matches for labels {}: many-to-one matching must be explicit (group_left/group_right)",
            ),
            (
                "b < on () a",
                "found duplicate series for the match group {} on the right hand-side of the operation: [a{l=\"x\"}, \
                 a{l=\"y\"}]; matching labels must be unique on one side",
            ),
            (
                "a > on () group_left (l) b",
                "multiple matches for labels {}: grouping labels must ensure unique matches",
            ),
            (
                "b < on () group_right (l) a",
                "multiple matches for labels {}: grouping labels must ensure unique matches",
            ),
        ] {
            let result = evaluate(text, Dialect::V2_42).map(QueryValue::into_vector);
            assert!(text.starts_with("b < on () a") || result.unwrap().len() == 1, "{text}");
            let result = evaluate(text, Dialect::V3).map_err(|error| error.to_string());
            assert_eq!(result, Err(error.to_owned()), "{text}");
        }
        for text in ["a > on () group_left b", "a > bool on () group_left b"] {
            assert!(evaluate(text, Dialect::V3).is_ok(), "{text}");
        }
    }
}
