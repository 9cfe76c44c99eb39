//! Functions of classic histograms: series with the label `le`, each of which counts the observations up to its bound.

use super::Element;
use crate::watch::labels::{LabelSet, METRIC_NAME};
use std::collections::BTreeMap;

/// The label with the upper bound of a bucket.
const BOUND: &str = "le";
/// Relative differences between neighbouring counts that come from the arithmetic of floats.
const TOLERANCE: f64 = 1e-12;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    upper_bound: f64,
    /// Observations up to the bound.
    count: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HistogramFunction {
    /// The value below which this share of the observations lies.
    Quantile(f64),
    /// The share of the observations between two values.
    Fraction(f64, f64),
}

impl HistogramFunction {
    /// The result for each histogram in `elements`. Series without a valid bound are ignored. Results of histograms that
    /// differ in their names only have the same labels.
    pub fn apply(self, elements: Vec<Element>) -> Vec<Element> {
        let mut histograms: BTreeMap<LabelSet, Vec<Bucket>> = BTreeMap::new();
        for element in elements {
            let Some(upper_bound) = bound(element.labels.get(BOUND)) else {
                continue;
            };
            let labels = element.labels.retain(|name| name != BOUND);
            histograms.entry(labels).or_default().push(Bucket {
                upper_bound,
                count: element.value,
            });
        }
        let results = histograms.into_iter().map(|(labels, buckets)| Element {
            labels: labels.retain(|name| name != METRIC_NAME),
            value: self.of(buckets),
        });
        results.collect()
    }

    fn of(self, mut buckets: Vec<Bucket>) -> f64 {
        match self {
            HistogramFunction::Quantile(phi) if phi < 0.0 => return f64::NEG_INFINITY,
            HistogramFunction::Quantile(phi) if phi > 1.0 => return f64::INFINITY,
            HistogramFunction::Quantile(phi) if phi.is_nan() => return f64::NAN,
            _ => {}
        }
        buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
        buckets.dedup_by(|next, kept| {
            let is_same = next.upper_bound == kept.upper_bound;
            if is_same {
                kept.count += next.count;
            }
            is_same
        });
        if buckets.last().is_none_or(|last| last.upper_bound != f64::INFINITY) {
            return f64::NAN;
        }
        match self {
            HistogramFunction::Quantile(phi) => quantile(phi, buckets),
            HistogramFunction::Fraction(lower, upper) => fraction(lower, upper, &buckets),
        }
    }
}

fn bound(text: &str) -> Option<f64> {
    text.parse().ok().filter(|bound: &f64| !bound.is_nan())
}

fn quantile(phi: f64, mut buckets: Vec<Bucket>) -> f64 {
    never_decrease(&mut buckets);
    let [.., before_last, last] = buckets.as_slice() else {
        return f64::NAN;
    };
    if last.count == 0.0 {
        return f64::NAN;
    }
    let rank = phi * last.count;
    let finite = &buckets[..buckets.len() - 1];
    // As in Prometheus, no bucket reaches a rank that is no number.
    let index = finite.partition_point(|bucket| bucket.count < rank || rank.is_nan());
    let Some(found) = finite.get(index) else {
        return before_last.upper_bound;
    };
    if index == 0 && found.upper_bound <= 0.0 {
        return found.upper_bound;
    }
    let below = index.checked_sub(1).map_or(
        Bucket {
            upper_bound: 0.0,
            count: 0.0,
        },
        |index| finite[index],
    );
    let share = (rank - below.count) / (found.count - below.count);
    below.upper_bound + (found.upper_bound - below.upper_bound) * share
}

/// Raises counts that are below the one before, and evens out differences that come from rounding.
fn never_decrease(buckets: &mut [Bucket]) {
    let mut before = buckets.first().map_or(0.0, |bucket| bucket.count);
    for bucket in buckets {
        let distance = (bucket.count - before).abs();
        if bucket.count < before || distance < TOLERANCE * (bucket.count.abs() + before.abs()) {
            bucket.count = before;
        }
        before = bucket.count;
    }
}

fn fraction(lower: f64, upper: f64, buckets: &[Bucket]) -> f64 {
    let total = buckets.last().map_or(0.0, |last| last.count);
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets).min(total) - rank_of(lower, buckets).min(total)) / total
}

/// The number of observations up to `value`, interpolated within its bucket. The lowest bucket begins at zero, or has
/// no lower bound where its upper one is not positive.
fn rank_of(value: f64, buckets: &[Bucket]) -> f64 {
    let is_positive = buckets.first().is_some_and(|first| first.upper_bound > 0.0);
    let mut below = Bucket {
        upper_bound: if is_positive { 0.0 } else { f64::NEG_INFINITY },
        count: 0.0,
    };
    for bucket in buckets {
        if below.upper_bound >= value {
            return below.count;
        }
        if bucket.upper_bound > value {
            if below.upper_bound == f64::NEG_INFINITY {
                return bucket.count;
            }
            let share = (value - below.upper_bound) / (bucket.upper_bound - below.upper_bound);
            return below.count + (bucket.count - below.count) * share;
        }
        below = *bucket;
    }
    below.count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(&str, f64)]) -> Vec<Element> {
        let bucket = |(bound, count): &(&str, f64)| Element {
            labels: LabelSet::from_pairs([(METRIC_NAME, "b"), ("l", "x"), (BOUND, bound)]),
            value: *count,
        };
        counts.iter().map(bucket).collect()
    }

    fn value(function: HistogramFunction, counts: &[(&str, f64)]) -> f64 {
        let results = function.apply(histogram(counts));
        let [only] = results.as_slice() else {
            panic!("{results:?}")
        };
        assert_eq!(only.labels.to_string(), "{l=\"x\"}");
        only.value
    }

    #[test]
    fn histograms_of_two_names_are_not_one() {
        let mut elements = histogram(&[("1", 1.0), ("+Inf", 2.0)]);
        let other = elements.iter().map(|element| Element {
            labels: element.labels.with([(METRIC_NAME.into(), "c".into())]),
            value: element.value,
        });
        let other: Vec<Element> = other.collect();
        elements.extend(other);
        let results = HistogramFunction::Quantile(0.5).apply(elements);
        assert_eq!(results.len(), 2, "{results:?}");
    }

    #[test]
    fn total_that_is_no_number_gives_the_highest_bound() {
        let counts = [("1", 1.0), ("2", 3.0), ("+Inf", f64::NAN)];
        assert_eq!(value(HistogramFunction::Quantile(0.9), &counts), 2.0);
    }

    #[test]
    fn quantiles_interpolate_within_a_bucket() {
        use HistogramFunction::Quantile;
        let counts = [("+Inf", 20.0), ("1", 5.0), ("2", 15.0), ("text", 7.0)];
        for (phi, expected) in [
            (0.0, 0.0),
            (0.125, 0.5),
            (0.25, 1.0),
            (0.5, 1.5),
            (0.75, 2.0),
            (0.9, 2.0),
            (-0.1, f64::NEG_INFINITY),
            (1.1, f64::INFINITY),
        ] {
            assert_eq!(value(Quantile(phi), &counts), expected, "{phi}");
        }
        assert_eq!(value(Quantile(2.0), &[("1", 5.0)]), f64::INFINITY);
        assert_eq!(value(Quantile(0.1), &[("-1", 5.0), ("+Inf", 9.0)]), -1.0);
        // The count of a bucket is never below that of a smaller one.
        assert_eq!(value(Quantile(0.5), &[("1", 4.0), ("2", 3.0), ("+Inf", 8.0)]), 1.0);
        for counts in [
            &[("1", 1.0), ("2", 2.0)] as &[_],
            &[("+Inf", 2.0)],
            &[("1", 0.0), ("+Inf", 0.0)],
        ] {
            assert!(value(Quantile(0.5), counts).is_nan(), "{counts:?}");
        }
    }

    #[test]
    fn fractions_interpolate_at_both_ends() {
        use HistogramFunction::Fraction;
        let counts = [("1", 5.0), ("2", 15.0), ("+Inf", 20.0)];
        for (lower, upper, expected) in [
            (0.0, 1.0, 0.25),
            (0.5, 1.5, 0.375),
            (f64::NEG_INFINITY, 2.0, 0.75),
            (2.0, f64::INFINITY, 0.25),
            (2.0, 9.0, 0.0),
            (1.0, 1.0, 0.0),
        ] {
            assert_eq!(value(Fraction(lower, upper), &counts), expected, "{lower} {upper}");
        }
        assert_eq!(value(Fraction(-3.0, -1.0), &[("-1", 5.0), ("+Inf", 10.0)]), 0.0);
        assert!(value(Fraction(f64::NAN, 1.0), &counts).is_nan());
    }
}
