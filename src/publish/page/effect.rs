//! Whether an action helped: the figures of the host before it and since. Pure.

use super::html::percent;
use crate::publish::status::Status;
use crate::sense::day_history::STEP_SECONDS;
use crate::sense::recent_history::HistoryMetric;
use jiff::{SignedDuration, Timestamp};

/// The period before an action, and the latest one since, over which figures are averaged.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// An action has an effect after this time at the earliest.
const EFFECT_DELAY: SignedDuration = SignedDuration::from_secs(2);

/// A share of time in which tasks waited that is worth telling.
const NOTICEABLE: f32 = 0.05;

const SHOWN: [(HistoryMetric, &str, bool); 5] = [
    (HistoryMetric::CpuBusy, "CPU busy", true),
    (HistoryMetric::MemoryUsed, "memory used", true),
    (HistoryMetric::CpuWaiting, "waiting for CPU", false),
    (HistoryMetric::IoWaiting, "waiting for I/O", false),
    (HistoryMetric::MemoryWaiting, "waiting for memory", false),
];

/// The figures before an action and since, up to `until`: `CPU busy 98.1 % → 61.0 %, ...`. `None` where they are
/// unknown, or the action is too recent.
pub fn effect(status: &Status, action_at: Timestamp, until: Timestamp) -> Option<String> {
    let after_from = (action_at + EFFECT_DELAY).max(until - WINDOW);
    if after_from >= until {
        return None;
    }
    let figures = SHOWN.into_iter().filter_map(|(metric, name, is_always)| {
        let before = mean(status, metric, action_at - WINDOW, action_at)?;
        let after = mean(status, metric, after_from, until)?;
        let is_shown = is_always || before.max(after) >= NOTICEABLE;
        is_shown.then(|| {
            let [before, after] = [before, after].map(|ratio| percent(f64::from(ratio)));
            format!("{name} {before} → {after}")
        })
    });
    let figures: Vec<String> = figures.collect();
    (!figures.is_empty()).then(|| figures.join(", "))
}

/// The mean of a figure in a period, from the finest history that has it.
fn mean(status: &Status, metric: HistoryMetric, from: Timestamp, to: Timestamp) -> Option<f32> {
    let recent = recent_samples(status, metric);
    let first = recent.clone().next().map(|(at, _)| at);
    if first.is_some_and(|first| first <= from) {
        return average(recent.filter(|(at, _)| (from..to).contains(at)).map(|(_, value)| value));
    }
    STEP_SECONDS.into_iter().find_map(|step| {
        let of_period = status.day_history.steps(metric, step).filter(|found| {
            let middle = found.start + step / 2;
            (from.as_second() - step / 2..=to.as_second() + step / 2).contains(&middle)
        });
        average(of_period.map(|step| step.mean))
    })
}

/// The samples of the last minutes with their times.
pub fn recent_samples(status: &Status, metric: HistoryMetric) -> impl Iterator<Item = (Timestamp, f32)> + Clone + '_ {
    let newest = status.recent_history.len().saturating_sub(1);
    let values = status.recent_history.values(metric).enumerate();
    values.map(move |(place, value)| {
        let age = (newest - place) as f64 * status.sampling_interval_seconds;
        let age = SignedDuration::try_from_secs_f64(age).unwrap_or_default();
        (status.sampled_at - age, value)
    })
}

fn average(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values.filter(|value| !value.is_nan()) {
        (sum, count) = (sum + value, count + 1.0);
    }
    (count > 0.0).then(|| sum / count)
}
