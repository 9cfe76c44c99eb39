//! Functions over the samples of a series within a range.

use super::Dialect;
use crate::watch::number::nan_first;
use serde::Deserialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RangeFunction {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Deriv,
    PredictLinear,
    AvgOverTime,
    MinOverTime,
    MaxOverTime,
    SumOverTime,
    CountOverTime,
    QuantileOverTime,
    StddevOverTime,
    StdvarOverTime,
    FirstOverTime,
    LastOverTime,
    PresentOverTime,
    Changes,
    Resets,
}

/// The position of a range in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub start_ms: i64,
    pub end_ms: i64,
    /// The time of the evaluation. The end of the range is earlier by the offset.
    pub now_ms: i64,
    pub dialect: Dialect,
}

impl RangeFunction {
    pub fn keeps_metric_name(self) -> bool {
        matches!(self, RangeFunction::FirstOverTime | RangeFunction::LastOverTime)
    }

    /// Applies the function to at least one sample, in the order of time. `None` if there are too few samples.
    pub fn apply(self, samples: &[(i64, f64)], parameter: f64, window: Window) -> Option<f64> {
        let values = || samples.iter().map(|(_, value)| *value);
        let pairs = || samples.windows(2).map(|pair| (pair[0].1, pair[1].1));
        Some(match self {
            RangeFunction::Rate => {
                extrapolated(samples, true, window)? * 1000.0 / (window.end_ms - window.start_ms) as f64
            }
            RangeFunction::Increase => extrapolated(samples, true, window)?,
            RangeFunction::Delta => extrapolated(samples, false, window)?,
            RangeFunction::Irate => {
                let [(before_ms, before), (last_ms, last)] = newest_two(samples)?;
                let increase = if last < before { last } else { last - before };
                increase / ((last_ms - before_ms) as f64 / 1000.0)
            }
            RangeFunction::Idelta => {
                let [(_, before), (_, last)] = newest_two(samples)?;
                last - before
            }
            RangeFunction::Deriv => line(samples, samples.first()?.0)?.0,
            RangeFunction::PredictLinear => {
                let (slope, intercept) = line(samples, window.now_ms)?;
                slope * parameter + intercept
            }
            RangeFunction::AvgOverTime => average(values()),
            RangeFunction::MinOverTime => extreme(values(), |value, least| value < least),
            RangeFunction::MaxOverTime => extreme(values(), |value, most| value > most),
            RangeFunction::SumOverTime => values().collect::<Sum>().total(),
            RangeFunction::CountOverTime => samples.len() as f64,
            RangeFunction::QuantileOverTime => quantile(parameter, values().collect()),
            RangeFunction::StddevOverTime => variance(values()).sqrt(),
            RangeFunction::StdvarOverTime => variance(values()),
            RangeFunction::FirstOverTime => samples.first()?.1,
            RangeFunction::LastOverTime => samples.last()?.1,
            RangeFunction::PresentOverTime => 1.0,
            RangeFunction::Changes => pairs()
                .filter(|(before, value)| value != before && !(value.is_nan() && before.is_nan()))
                .count() as f64,
            RangeFunction::Resets => pairs().filter(|(before, value)| value < before).count() as f64,
        })
    }
}

fn newest_two(samples: &[(i64, f64)]) -> Option<[(i64, f64); 2]> {
    samples.last_chunk().copied()
}

/// The change over the whole range, extrapolated from its samples. Extends a series that begins or ends well within the
/// range by only half the average distance of samples, and a counter never below zero.
fn extrapolated(samples: &[(i64, f64)], is_counter: bool, window: Window) -> Option<f64> {
    let [(first_ms, first), .., (last_ms, last)] = *samples else {
        return None;
    };
    let mut change = last - first;
    if is_counter {
        let resets = samples.windows(2).filter(|pair| pair[1].1 < pair[0].1);
        change += resets.map(|pair| pair[0].1).sum::<f64>();
    }
    let sampled_seconds = (last_ms - first_ms) as f64 / 1000.0;
    let average_seconds = sampled_seconds / (samples.len() - 1) as f64;
    let threshold_seconds = average_seconds * 1.1;
    let bounded = |seconds: f64| {
        if seconds >= threshold_seconds {
            average_seconds / 2.0
        } else {
            seconds
        }
    };

    let mut to_start_seconds = (first_ms - window.start_ms) as f64 / 1000.0;
    if window.dialect == Dialect::V3 {
        to_start_seconds = bounded(to_start_seconds);
    }
    if is_counter && change > 0.0 && first >= 0.0 {
        to_start_seconds = to_start_seconds.min(sampled_seconds * (first / change));
    }
    if window.dialect == Dialect::V2_42 {
        to_start_seconds = bounded(to_start_seconds);
    }
    let to_end_seconds = bounded((window.end_ms - last_ms) as f64 / 1000.0);
    Some(change * ((sampled_seconds + to_start_seconds + to_end_seconds) / sampled_seconds))
}

/// Slope per second and value at `at_ms` of the least-squares line.
fn line(samples: &[(i64, f64)], at_ms: i64) -> Option<(f64, f64)> {
    let [(_, first), _, ..] = *samples else { return None };
    if samples.iter().all(|(_, value)| *value == first) {
        return Some(if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        });
    }
    let count = samples.len() as f64;
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) =
        (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for (sample_ms, y) in samples {
        let x = (sample_ms - at_ms) as f64 / 1000.0;
        x_sum.add(x);
        y_sum.add(*y);
        xy_sum.add(x * y);
        xx_sum.add(x * x);
    }
    let (x_sum, y_sum) = (x_sum.compensated(), y_sum.compensated());
    let covariance = xy_sum.compensated() - x_sum * y_sum / count;
    let x_variance = xx_sum.compensated() - x_sum * x_sum / count;
    let slope = covariance / x_variance;
    Some((slope, y_sum / count - slope * x_sum / count))
}

/// The extreme value by `beats`. Any value beats a NaN.
pub(super) fn extreme(values: impl IntoIterator<Item = f64>, beats: impl Fn(f64, f64) -> bool) -> f64 {
    let better = |best: f64, value: f64| {
        if beats(value, best) || best.is_nan() {
            value
        } else {
            best
        }
    };
    values.into_iter().reduce(better).unwrap_or(f64::NAN)
}

pub(super) fn average(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    let sum: Sum = values.clone().collect();
    if sum.sum.is_infinite() && values.clone().all(f64::is_finite) {
        // The sum may overflow where the mean does not.
        let mut mean = 0.0;
        for (index, value) in values.enumerate() {
            let so_far = (index + 1) as f64;
            mean += value / so_far - mean / so_far;
        }
        return mean;
    }
    sum.total() / count
}

/// The variance of a population (Welford's method, compensated).
fn variance(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut mean, mut squares, mut count) = (Sum::default(), Sum::default(), 0.0);
    for value in values {
        count += 1.0;
        let delta = value - mean.compensated();
        mean.add(delta / count);
        squares.add(delta * (value - mean.compensated()));
    }
    squares.compensated() / count
}

/// The φ-quantile with linear interpolation; NaN ranks below everything.
pub(super) fn quantile(phi: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| nan_first(*a, *b));
    let rank = phi * (values.len() - 1) as f64;
    let lower = rank.floor();
    let weight = rank - lower;
    let lower = lower as usize;
    let upper = (lower + 1).min(values.len() - 1);
    values[lower] * (1.0 - weight) + values[upper] * weight
}

/// A sum with Neumaier's compensation of rounding errors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    sum: f64,
    compensation: f64,
}

impl Sum {
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.compensation += if self.sum.abs() >= value.abs() {
            (self.sum - sum) + value
        } else {
            (value - sum) + self.sum
        };
        self.sum = sum;
    }

    fn compensated(self) -> f64 {
        self.sum + self.compensation
    }

    /// An infinite sum has no meaningful compensation.
    pub fn total(self) -> f64 {
        if self.sum.is_infinite() {
            self.sum
        } else {
            self.compensated()
        }
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_name;
    use super::*;

    fn apply(name: &str, values: &[f64], dialect: Dialect) -> Option<f64> {
        let samples: Vec<(i64, f64)> = (0..)
            .map(|index| 20_000 + index * 10_000)
            .zip(values.iter().copied())
            .collect();
        let window = Window {
            start_ms: 0,
            end_ms: 60_000,
            now_ms: 60_000,
            dialect,
        };
        by_name::<RangeFunction>(name).unwrap().apply(&samples, 0.5, window)
    }

    #[test]
    fn each_function_of_a_short_series() {
        for (name, values, expected) in [
            ("rate", vec![100.0, 110.0, 120.0, 130.0, 140.0], Some(45.0 / 60.0)),
            (
                "increase",
                vec![100.0, 110.0, 5.0, 15.0, 25.0],
                Some(35.0 * 45.0 / 40.0),
            ),
            ("increase", vec![1.0], None),
            ("delta", vec![5.0, 1.0], Some(-8.0)),
            ("irate", vec![1.0, 9.0, 4.0], Some(0.4)),
            ("idelta", vec![1.0, 9.0, 4.0], Some(-5.0)),
            ("deriv", vec![1.0, 2.0, 3.0], Some(0.1)),
            ("predict_linear", vec![4.0, 4.0], Some(4.0)),
            ("avg_over_time", vec![f64::MAX, f64::MAX], Some(f64::MAX)),
            ("min_over_time", vec![f64::NAN, 3.0, 4.0], Some(3.0)),
            ("max_over_time", vec![3.0, f64::NAN, 4.0], Some(4.0)),
            ("sum_over_time", vec![1e100, 1.0, -1e100], Some(1.0)),
            ("count_over_time", vec![1.0, f64::NAN], Some(2.0)),
            ("quantile_over_time", vec![1.0, 2.0, 4.0, 9.0], Some(3.0)),
            ("stdvar_over_time", vec![1.0, 3.0], Some(1.0)),
            ("last_over_time", vec![1.0, 3.0], Some(3.0)),
            ("present_over_time", vec![7.0], Some(1.0)),
            ("first_over_time", vec![7.0, 8.0], Some(7.0)),
            ("changes", vec![1.0, 1.0, f64::NAN, f64::NAN, 2.0], Some(2.0)),
            ("resets", vec![3.0, 2.0, 2.0, 1.0], Some(2.0)),
        ] {
            let result = apply(name, &values, Dialect::V3);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
            assert!(
                result == expected || near(result.unwrap(), expected.unwrap()),
                "{name} of {values:?}: {result:?}"
            );
        }
    }

    #[test]
    fn dialects_differ_in_extrapolating_a_young_counter() {
        // 20 s before the first sample, 10 s between samples; zero would be reached after 7 s.
        assert_eq!(
            apply("increase", &[7.0, 17.0, 27.0, 37.0, 47.0], Dialect::V3),
            Some(45.0)
        );
        assert_eq!(
            apply("increase", &[7.0, 17.0, 27.0, 37.0, 47.0], Dialect::V2_42),
            Some(47.0)
        );
    }
}
