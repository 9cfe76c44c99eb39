//! What the sources have said of one alert, and when: the oracle for what the engine may and must do. Times are those of
//! the model's clock, which runs like CLOCK_BOOTTIME and goes on over a reboot.

use super::*;

/// A webhook that arrived.
#[derive(Debug, Clone, Copy)]
struct Report {
    at: Duration,
    /// Grows with each notification that is sent, so that a late one is known as such.
    number: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Firing webhooks that were sent after the last resolve that arrived.
    firing: Vec<Report>,
    resolved: Option<Report>,
    views: [View; PAIR],
    own: Own,
    /// When any source said last that the alert is over, or all that was said ran out.
    pub last_over: Option<Duration>,
    /// When a source said last that it is over, and no other one that it fires.
    pub ended_at: Option<Duration>,
    /// When the alert was said to fire for the first time since `last_over`.
    pub first_said: Option<Duration>,
    /// It was said to fire at the last start, fault or reload, and nothing has ended it since.
    is_unconfirmed: bool,
    /// Some source has said since then that it is over.
    is_contradicted: bool,
}

/// What one Alertmanager answers.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    listed_at: Option<Duration>,
    /// Since when each survey has listed the alert.
    listed_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Own {
    firing_at: Option<Duration>,
    false_at: Option<Duration>,
    /// Since when each sample has held the condition, as far as this daemon knows.
    true_since: Option<Duration>,
}

impl Evidence {
    fn said(&mut self, at: Duration) {
        self.first_said.get_or_insert(at);
    }

    fn over(&mut self, at: Duration) {
        self.last_over = Some(at);
        self.first_said = None;
        if !self.supports(at, Duration::ZERO) {
            self.ended_at = Some(at);
        }
    }

    /// Evenkeel begins again, with what it knew until now.
    pub fn disrupted(&mut self, now: Duration) {
        if self.supports(now, Duration::ZERO) {
            (self.is_unconfirmed, self.is_contradicted) = (true, false);
        }
    }

    /// All that was done ended with the host's boot.
    pub fn reboot(&mut self) {
        self.is_unconfirmed = false;
    }

    /// Whether what was said before a disruption at `since` still counts for what is held.
    pub fn is_unconfirmed(&self, now: Duration, since: Duration) -> bool {
        self.is_unconfirmed && now < since + UNCONFIRMED_BOUND
    }

    pub fn webhook(&mut self, is_firing: bool, number: u64, at: Duration) {
        let report = Report { at, number };
        let is_late = |resolved: &Report| resolved.number > number;
        if is_firing {
            if !self.resolved.as_ref().is_some_and(is_late) {
                self.firing.push(report);
                self.said(at);
            }
            return;
        }
        if !self.resolved.as_ref().is_some_and(is_late) {
            self.resolved = Some(report);
        }
        self.firing.retain(|firing| firing.number > number);
        self.over(at);
        self.is_contradicted = true;
    }

    pub fn view(&mut self, alertmanager: usize, is_listed: bool, at: Duration) {
        let view = &mut self.views[alertmanager];
        if is_listed {
            view.listed_at = Some(at);
            view.listed_since.get_or_insert(at);
            self.said(at);
        } else {
            // What it listed counts until the patience is over.
            view.listed_since = None;
            let is_known = |view: &View| view.listed_at.is_some_and(|listed| at < listed + PATIENCE);
            // To an alert that no Alertmanager spoke of, their silence says nothing.
            if !self.firing.is_empty() || self.views.iter().any(is_known) {
                self.last_over = Some(at);
                self.first_said = None;
                self.is_contradicted = true;
            }
        }
    }

    /// This Alertmanager did not answer.
    pub fn no_view(&mut self, alertmanager: usize) {
        self.views[alertmanager].listed_since = None;
    }

    /// A sample held the condition or not, and the evaluation of it said that the alert fires or not. What was before a
    /// start is over only where the evaluation is settled.
    pub fn own(&mut self, is_true: bool, is_firing: bool, is_settled: bool, at: Duration) {
        if is_true {
            self.own.true_since.get_or_insert(at);
        } else {
            self.own = Own {
                false_at: Some(at),
                ..Own::default()
            };
            self.over(at);
            self.is_contradicted |= is_settled;
        }
        if is_firing {
            self.own.firing_at = Some(at);
            self.said(at);
        }
    }

    /// Own evaluation names the alert in a full set, without another sample.
    pub fn own_set(&mut self, at: Duration) {
        self.own.firing_at = Some(at);
        self.said(at);
    }

    /// Another rule evaluates the alert, or none, or its evaluation began again.
    pub fn own_evaluation_begins(&mut self) {
        self.own.true_since = None;
    }

    /// Whether the condition may have held for as long as the own rule demands.
    pub fn may_fire(&self, now: Duration) -> bool {
        self.own.false_at.is_none_or(|at| now >= at + FOR)
    }

    /// Whether some source says at `now` that the alert fires, and has said so not before `since`.
    pub fn supports(&self, now: Duration, since: Duration) -> bool {
        let counts = |at: Duration, bound: Duration| at >= since && now.saturating_sub(at) < bound;
        let own = self
            .own
            .firing_at
            .filter(|at| self.own.false_at.is_none_or(|no| no < *at));
        self.firing.iter().any(|report| counts(report.at, HOLD))
            || self
                .views
                .iter()
                .filter_map(|view| view.listed_at)
                .any(|at| counts(at, PATIENCE))
            || own.is_some_and(|at| counts(at, OWN_BOUND))
    }

    /// Whether the engine must be answering at `now`, in a margin: some source has said so for long enough since `since`,
    /// and none has contradicted.
    pub fn demands(&self, now: Duration, since: Duration, has_own_rule: bool, is_recognised: bool) -> bool {
        let resolved_at = self.resolved.map(|report| report.at);
        let since = since.max(resolved_at.max(self.own.false_at).unwrap_or_default());
        let is_steady = |from: Duration, more: Duration| now >= from.max(since) + STEADY + more;
        let listed = self.views.iter().filter_map(|view| view.listed_since);
        if is_recognised && listed.into_iter().any(|from| is_steady(from, Duration::ZERO)) {
            return true;
        }
        if has_own_rule {
            return self.own.true_since.is_some_and(|from| is_steady(from, FOR));
        }
        let is_news = |report: &&Report| {
            report.at >= since
                && self.last_over.is_none_or(|over| report.at >= over + DUPLICATE_SPREAD)
                && now.saturating_sub(report.at) + STEADY < HOLD
        };
        is_recognised && self.firing.iter().any(|report| is_news(&report))
    }

    /// Notes when all that was said has run out.
    pub fn note_silence(&mut self, now: Duration, disrupted_at: Duration) {
        self.firing.retain(|report| now < report.at + HOLD);
        self.is_unconfirmed &= !self.is_contradicted || self.supports(now, Duration::ZERO);
        let is_backed = self.supports(now, Duration::ZERO) || self.is_unconfirmed(now, disrupted_at);
        if self.first_said.is_some() && !is_backed {
            self.last_over = Some(now);
            self.first_said = None;
        }
    }
}
