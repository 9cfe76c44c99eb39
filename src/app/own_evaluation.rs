//! Own evaluation as a state machine: consumes samples and returns the alerts for the engine. It uses no clock, file
//! or thread, so that a test can drive it with its own clock.
//!
//! Time is CLOCK_BOOTTIME. Samples and alerts carry wall-clock times, because PromQL and Alertmanager need them. When
//! the wall clock is stepped, all of them move by the step, so that ranges, `for` and `keep_firing_for` count time
//! that passed.

use super::policy::EvaluationConfig;
use super::sample_age::{READY_MADE, SampleAge};
use crate::alert::alert::FIRING_SET_INTERVAL;
use crate::alert::{Alert, FiringSet};
use crate::engine::Answer;
use crate::sense::{Sampling, Snapshot};
use crate::watch::alerting::Change;
use crate::watch::evaluator::{self, EvaluationRound, Evaluator, EvaluatorSettings};
use crate::watch::history::{History, ReadSet};
use crate::watch::promql::Semantics;
use crate::watch::restart::ActiveAlerts;
use smol_str::SmolStr;
use std::collections::HashSet;
use std::time::Duration;

/// Time after a start, in addition to the longest `for`, until absence from the firing set proves anything: new alerts
/// need their `for`, and slow collectors must have run.
pub const SETTLING: Duration = Duration::from_secs(120);
/// Largest change of the wall clock between two samples that counts as slewing, and not as a step.
const MAX_SLEW_MS: i64 = 1000;

/// Number of sampling intervals without a sample after which the time between does not count for `for`.
const MAX_MISSED_SAMPLES: u32 = 4;

/// The input for the engine, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Alerts that have just started or resolved.
    pub alerts: Vec<Alert>,
    /// The complete set of firing alerts, if it is due.
    pub firing: Option<FiringSet>,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    wall_ms: i64,
    boot: Duration,
}

pub struct OwnEvaluation {
    orders: EvaluationConfig,
    evaluator: Evaluator,
    history: History,
    ages: SampleAge,
    sample_interval: Duration,
    /// The newest sample.
    newest: Option<Moment>,
    /// CLOCK_BOOTTIME from which on absence proves something.
    settled_at: Duration,
    /// CLOCK_BOOTTIME of the last firing set, and whether it was complete.
    said: Option<(Duration, bool)>,
}

impl OwnEvaluation {
    /// `before` are the active alerts of the last run; `boot_now` is CLOCK_BOOTTIME, as everywhere here.
    pub fn new(
        orders: EvaluationConfig,
        sampling: Sampling,
        before: &ActiveAlerts,
        boot_now: Duration,
        settling: Duration,
    ) -> OwnEvaluation {
        let mut evaluator = Evaluator::new(settings(&orders), orders.files.clone());
        before.restore(&mut evaluator);
        let settled_at = boot_now + settling + longest_for(&orders);
        let mut evaluation = OwnEvaluation {
            orders,
            evaluator,
            history: History::default(),
            ages: SampleAge::new(sampling, boot_now),
            sample_interval: sampling.interval,
            newest: None,
            settled_at,
            said: None,
        };
        evaluation.history = History::new(evaluation.read_set());
        evaluation
    }

    /// The metrics that rules and conditions read.
    pub fn read_set(&self) -> ReadSet {
        let mut read_set = self.evaluator.read_set();
        let conditions = self.orders.conditions.values();
        conditions.for_each(|query| query.add_to_read_set(&mut read_set));
        read_set
    }

    /// Whether there are rules or conditions to evaluate. Otherwise no samples are needed.
    pub fn has_rules(&self) -> bool {
        self.orders.are_any()
    }

    /// Evaluates a regular sample.
    pub fn take_sample(&mut self, sample: &Snapshot) -> Messages {
        let Some(now) = self.follow_clock(sample) else {
            return Messages::default();
        };
        self.append(sample, now);
        self.ages.note_beat(sample);
        let round = self.evaluator.evaluate(&mut self.history, now.wall_ms);
        Messages {
            alerts: news(round),
            firing: self.firing_if_due(now.boot),
        }
    }

    /// Evaluates an early sample of a part of the host. It may start alerts but resolves none, and it does not count as
    /// a newer sample for `while`.
    pub fn take_early_sample(&mut self, sample: &Snapshot) -> Messages {
        let Some(now) = self.follow_clock(sample) else {
            return Messages::default();
        };
        self.history.set_early(true);
        self.append(sample, now);
        let seen: HashSet<&str> = sample.families().map(|family| family.name.as_ref()).collect();
        let round = self.evaluator.evaluate_early(&mut self.history, now.wall_ms, &seen);
        Messages {
            alerts: news(round),
            firing: None,
        }
    }

    /// Replaces the rules.
    pub fn replace(&mut self, orders: EvaluationConfig, boot_now: Duration) -> Messages {
        let newest_ms = self.newest_ms();
        let ended = self
            .evaluator
            .replace(settings(&orders), orders.files.clone(), &mut self.history, newest_ms);
        self.orders = orders;
        self.history.set_read_set(self.read_set());
        self.ages.replace(boot_now);
        Messages {
            alerts: ended.into_iter().map(|transition| transition.alert).collect(),
            firing: Some(self.firing(boot_now)),
        }
    }

    /// When to call [`OwnEvaluation::settle`], because no sample will arrive.
    pub fn next_due(&self) -> Option<Duration> {
        let has_said_all = self.said.is_some_and(|(_, was_complete)| was_complete);
        (!self.has_rules() && !has_said_all).then_some(self.settled_at)
    }

    /// Reports an empty firing set if there are no rules.
    pub fn settle(&mut self, boot_now: Duration) -> Messages {
        Messages {
            alerts: Vec::new(),
            firing: self.firing_if_due(boot_now),
        }
    }

    /// The result of a `while` of the rules; `None` without a sample.
    pub fn answer(&self, condition: &str, boot_now: Duration) -> Option<Answer> {
        let query = self.orders.conditions.get(condition)?;
        let newest = self.newest?;
        let query_inputs = self.evaluator.query_inputs(query, &self.history);
        let since_newest = |at_ms: i64| Duration::from_millis((newest.wall_ms - at_ms).max(0) as u64);
        let evaluations = query_inputs.evaluations.iter().map(|(at_ms, interval_ms)| {
            let at = at_ms.map_or(Duration::ZERO, |at_ms| newest.boot.saturating_sub(since_newest(at_ms)));
            (at, Duration::from_millis((*interval_ms).max(0) as u64))
        });
        let (sample_at, is_recent) = self.ages.judge(&self.history, &query_inputs, evaluations, boot_now);
        let holds = || evaluator::holds(query, &self.history, newest.wall_ms, Semantics::default());
        Some(Answer {
            holds: is_recent && holds(),
            sample_at,
        })
    }

    /// The state that must survive a restart.
    pub fn active_alerts(&self) -> ActiveAlerts {
        ActiveAlerts::of(&self.evaluator, self.newest_ms())
    }

    fn newest_ms(&self) -> i64 {
        self.newest.map_or(0, |newest| newest.wall_ms)
    }

    /// Moves all times by a step of the wall clock. `None` for a sample that is not newer than the last.
    fn follow_clock(&mut self, sample: &Snapshot) -> Option<Moment> {
        let now = Moment {
            wall_ms: sample.taken.wall.as_millisecond(),
            boot: sample.taken.boot,
        };
        if let Some(newest) = &mut self.newest {
            let passed_ms = now.boot.as_millis() as i64 - newest.boot.as_millis() as i64;
            let step_ms = now.wall_ms - newest.wall_ms - passed_ms;
            // A small step back is followed as well if time would not advance otherwise.
            if step_ms.abs() > MAX_SLEW_MS || (step_ms < 0 && now.wall_ms <= newest.wall_ms) {
                tracing::info!(step_ms, "wall clock stepped, own samples and alerts shifted");
                self.history.shift(step_ms);
                self.evaluator.shift(step_ms);
                newest.wall_ms += step_ms;
            }
            if now.wall_ms <= newest.wall_ms {
                return None;
            }
            if passed_ms > (self.sample_interval * MAX_MISSED_SAMPLES).as_millis() as i64 {
                tracing::info!(passed_ms, "no samples for a while, pending alerts wait longer");
                self.evaluator.skip(passed_ms);
            }
        }
        self.newest = Some(now);
        Some(now)
    }

    fn append(&mut self, sample: &Snapshot, now: Moment) {
        let target = self.orders.target.pairs();
        for reading in &sample.readings {
            if let Some(source) = self.ages.note_reading(reading) {
                self.history.append(source, now.wall_ms, &reading.families, target);
            }
        }
        self.history.append(READY_MADE, now.wall_ms, &sample.derived, target);
    }

    fn firing_if_due(&mut self, boot_now: Duration) -> Option<FiringSet> {
        let is_complete = self.is_complete(boot_now);
        let is_due = self.said.is_none_or(|(at, was_complete)| {
            boot_now.saturating_sub(at) >= FIRING_SET_INTERVAL || (is_complete && !was_complete)
        });
        is_due.then(|| self.firing(boot_now))
    }

    fn firing(&mut self, boot_now: Duration) -> FiringSet {
        let is_complete = self.is_complete(boot_now);
        self.said = Some((boot_now, is_complete));
        let sample_ms = self.sample_interval.as_millis() as i64;
        let now_ms = self.newest.map_or(0, |newest| {
            newest.wall_ms + boot_now.saturating_sub(newest.boot).as_millis() as i64
        });
        let unevaluated = self.evaluator.unevaluated(now_ms, sample_ms);
        FiringSet {
            firing: self.evaluator.firing(now_ms, sample_ms).collect(),
            is_complete,
            unevaluated: unevaluated.map(SmolStr::from).collect(),
        }
    }

    fn is_complete(&self, boot_now: Duration) -> bool {
        boot_now >= self.settled_at && !self.evaluator.has_undecided()
    }
}

fn news(round: EvaluationRound) -> Vec<Alert> {
    for failure in &round.failures {
        tracing::debug!(%failure, "alerting rule evaluation failed");
    }
    let transitions = round.transitions.into_iter();
    let news = transitions.filter(|transition| transition.change != Change::Continues);
    news.map(|transition| transition.alert).collect()
}

fn settings(orders: &EvaluationConfig) -> EvaluatorSettings {
    EvaluatorSettings {
        interval_ms: orders.interval.as_millis() as i64,
        ..EvaluatorSettings::default()
    }
}

fn longest_for(orders: &EvaluationConfig) -> Duration {
    let files = orders.files.iter();
    let longest = files.map(crate::watch::RuleFile::longest_for_ms).max().unwrap_or(0);
    Duration::from_millis(longest.max(0) as u64)
}

#[cfg(test)]
pub mod tests;
