//! What the sources have said of one alert, and when: the oracle for what the engine may and must do. Times are those of
//! the model's clock, which runs like CLOCK_BOOTTIME and goes on over a reboot.

use super::senders::Notification;
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
    /// When it was said to fire for the first time since then.
    pub began_at: Option<Duration>,
    /// When the alert was said to fire for the first time since `last_over`.
    pub first_said: Option<Duration>,
    /// When it was last said to fire.
    last_said: Duration,
    /// When nothing that was said counted any more, the last time.
    silent_at: Option<Duration>,
    /// The latest start, in wall-clock seconds, of what was said to fire since `last_over`.
    pub latest_start: Option<i64>,
    /// The earliest start, in wall-clock seconds, of what was said to fire since `ended_at`.
    pub earliest_start: Option<i64>,
    /// The last start, fault or reload: the ledger does not say when before that an episode was closed.
    disrupted_at: Duration,
    /// It was said to fire at the last start, fault or reload, and nothing has ended it since.
    is_unconfirmed: bool,
    /// The end of the suspension since which it is, where that was later.
    awake_at: Duration,
    /// Some source has said since then that it is over.
    is_contradicted: bool,
    /// Own evaluation said then that it fires: it is asked first, and lacks samples for a while.
    was_own: bool,
}

/// What one Alertmanager answers.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    listed_at: Option<Duration>,
    /// Since when each survey has listed the alert, without a resolve meanwhile.
    listed_since: Option<Duration>,
    /// Since when each survey has not listed it, and no webhook said that it fires.
    absent_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Own {
    firing_at: Option<Duration>,
    false_at: Option<Duration>,
    /// Since when each sample has held the condition, as far as this daemon knows.
    true_since: Option<Duration>,
}

impl Own {
    fn is_firing(&self) -> bool {
        self.firing_at.is_some_and(|at| self.false_at.is_none_or(|no| no < at))
    }
}

impl Evidence {
    fn said(&mut self, at: Duration) {
        self.first_said.get_or_insert(at);
        self.last_said = at;
        self.began_at.get_or_insert(at);
    }

    fn over(&mut self, at: Duration) {
        self.note_over(at);
        if !self.supports(at, Duration::ZERO) {
            self.ended_at = Some(at);
            (self.began_at, self.earliest_start) = (None, None);
        }
    }

    fn note_over(&mut self, at: Duration) {
        self.last_over = Some(at);
        (self.first_said, self.latest_start) = (None, None);
    }

    fn note_start(&mut self, starts: i64) {
        self.latest_start = self.latest_start.max(Some(starts));
        self.earliest_start = Some(self.earliest_start.map_or(starts, |known| known.min(starts)));
    }

    /// Evenkeel begins again, with what it knew until now.
    pub fn disrupted(&mut self, now: Duration) {
        self.count_absence_from_now();
        // Until it has enough samples again, own evaluation ends nothing.
        let lacks_samples = now < self.disrupted_at.max(self.awake_at) + OWN_SETTLING;
        let was_own = self.was_own && self.is_unconfirmed && lacks_samples;
        self.disrupted_at = now;
        // What a suspension left in doubt stays so.
        self.is_unconfirmed &= !self.is_contradicted || was_own;
        if self.supports(now, Duration::ZERO) {
            (self.is_unconfirmed, self.is_contradicted) = (true, false);
            self.was_own = self.own.is_firing() || was_own;
        }
    }

    /// The daemon or its engine starts. What was said before ended with the stop.
    pub fn started(&mut self, now: Duration) {
        self.disrupted_at = now;
    }

    /// The host was suspended until now: own evaluation was silent, and has not ended the alert.
    pub fn awake(&mut self, now: Duration) {
        if !self.own.is_firing() {
            // Time without samples does not count for `for`.
            self.own.true_since = None;
        }
        if self.own.is_firing() && self.first_said.is_some() {
            (self.is_unconfirmed, self.is_contradicted) = (true, false);
            (self.was_own, self.awake_at) = (true, now);
        }
    }

    /// All that was done ended with the host's boot.
    pub fn reboot(&mut self, now: Duration) {
        self.disrupted_at = now;
        self.is_unconfirmed = false;
    }

    /// Whether what was said before a disruption at `since` still counts for what is held.
    pub fn is_unconfirmed(&self, now: Duration, since: Duration) -> bool {
        self.is_unconfirmed && now < since.max(self.awake_at) + UNCONFIRMED_BOUND
    }

    pub fn webhook(&mut self, notification: &Notification, at: Duration) {
        let Notification {
            is_firing,
            number,
            starts,
            ends,
            ..
        } = *notification;
        let report = Report { at, number };
        let is_late = |resolved: &Report| resolved.number > number;
        if is_firing {
            if !self.resolved.as_ref().is_some_and(is_late) {
                self.firing.push(report);
                self.said(at);
                self.note_start(starts);
                self.count_absence_from_now();
            }
            return;
        }
        // An Alertmanager that missed how the alert began again resolves it as it was before.
        let is_recent = |firing: &Report| at.saturating_sub(firing.at) < DUPLICATE_SPREAD;
        let is_of_an_earlier_one = self.earliest_start.is_some_and(|began| ends < began);
        if is_of_an_earlier_one && self.firing.iter().any(is_recent) {
            return;
        }
        if !self.resolved.as_ref().is_some_and(is_late) {
            self.resolved = Some(report);
        }
        self.firing.retain(|firing| firing.number > number);
        self.views.iter_mut().for_each(|view| view.listed_since = None);
        self.over(at);
        self.is_contradicted = true;
    }

    /// What an Alertmanager lists: the start of the alert where it fires.
    pub fn view(&mut self, alertmanager: usize, listed: Option<i64>, at: Duration) {
        let view = &mut self.views[alertmanager];
        if let Some(starts) = listed {
            view.listed_at = Some(at);
            view.listed_since.get_or_insert(at);
            view.absent_since = None;
            self.said(at);
            self.note_start(starts);
        } else {
            view.absent_since.get_or_insert(at);
            // What it listed counts until the patience is over.
            view.listed_since = None;
            let is_known = |view: &View| view.listed_at.is_some_and(|listed| at < listed + PATIENCE);
            // To an alert that no Alertmanager spoke of, their silence says nothing.
            if !self.firing.is_empty() || self.views.iter().any(is_known) {
                self.note_over(at);
                self.is_contradicted = true;
            }
        }
    }

    /// This Alertmanager did not answer.
    pub fn no_view(&mut self, alertmanager: usize) {
        (
            self.views[alertmanager].listed_since,
            self.views[alertmanager].absent_since,
        ) = (None, None);
    }

    /// This Alertmanager knows no alerts at first, so its absences do not count yet.
    pub fn restarted(&mut self, alertmanager: usize) {
        self.views[alertmanager].absent_since = None;
    }

    fn count_absence_from_now(&mut self) {
        self.views.iter_mut().for_each(|view| view.absent_since = None);
    }

    /// Whether an Alertmanager listed the alert, and none has been without it for long enough since: what is held stays.
    pub fn awaits_absence(&self, now: Duration) -> bool {
        let listed = self.views.iter().filter_map(|view| view.listed_at).max();
        // At one moment deliveries arrive before the list.
        let is_listed = listed.is_some_and(|at| now < at + HOLD && self.resolved.is_none_or(|report| report.at <= at));
        let mut absent = self.views.iter().filter_map(|view| view.absent_since).peekable();
        let is_absent = absent.peek().is_some() && absent.all(|since| now >= since + PATIENCE + SURVEY_INTERVAL);
        is_listed && !is_absent
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
        let own = self.own.firing_at.filter(|_| self.own.is_firing());
        self.firing.iter().any(|report| counts(report.at, HOLD))
            || self
                .views
                .iter()
                .filter_map(|view| view.listed_at)
                .any(|at| counts(at, PATIENCE))
            || own.is_some_and(|at| counts(at, OWN_BOUND))
    }

    /// Whether what was said by `from` counts until `now`, or was said all the time.
    pub fn supports_throughout(&self, from: Duration, now: Duration) -> bool {
        // The host's clock is ahead by some 10 ms.
        let counts = |at: Duration, bound: Duration| now.saturating_sub(at) + Duration::from_secs(1) < bound;
        let is_listed = |view: &View| {
            view.listed_since.is_some_and(|since| since < from) && view.listed_at.is_some_and(|at| counts(at, PATIENCE))
        };
        let is_own = self.own.true_since.is_some_and(|since| since + FOR < from) && self.own.is_firing();
        // A repeat that came within a quarter of `hold` after another need not be in the ledger.
        let lost = |at: Duration| {
            if at <= self.disrupted_at {
                HOLD / 4
            } else {
                Duration::ZERO
            }
        };
        // Soon after a resolve it may be a late duplicate, which the engine drops.
        let may_be_stale = |at: Duration| {
            let resolved = self.resolved.filter(|resolved| at >= resolved.at);
            resolved.is_some_and(|resolved| at < resolved.at + DUPLICATE_SPREAD)
        };
        let mut reports = self.firing.iter().filter(|report| !may_be_stale(report.at));
        reports.any(|report| report.at <= from && counts(report.at, HOLD - lost(report.at)))
            || self.views.iter().any(is_listed)
            || (is_own && self.own.firing_at.is_some_and(|at| counts(at, OWN_BOUND)))
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
            let ended_at = self.last_over.map(|over| over.max(self.disrupted_at));
            report.at > since
                && ended_at.is_none_or(|ended_at| report.at >= ended_at + DUPLICATE_SPREAD)
                && now.saturating_sub(report.at) + STEADY < HOLD
        };
        is_recognised && self.firing.iter().any(|report| is_news(&report))
    }

    /// Whether the alert began again after `at`, and all that was said before has run out.
    pub fn began_again_after(&self, at: Duration) -> bool {
        let began_at = self
            .latest_start
            .map(|starts| Duration::from_secs(starts.unsigned_abs()));
        self.silent_at > Some(at) && began_at > Some(at)
    }

    /// Notes when all that was said has run out.
    pub fn note_silence(&mut self, now: Duration, disrupted_at: Duration) {
        self.firing.retain(|report| now < report.at + HOLD);
        if !self.supports(now, Duration::ZERO) {
            self.silent_at = Some(now);
        }
        let is_settled = !self.was_own || now >= disrupted_at.max(self.awake_at) + OWN_SETTLING;
        self.is_unconfirmed &= !(self.is_contradicted && is_settled) || self.supports(now, Duration::ZERO);
        let is_recent = now < self.last_said + HOLD;
        let is_backed = self.supports(now, Duration::ZERO) || (is_recent && self.is_unconfirmed(now, disrupted_at));
        if self.first_said.is_some() && !is_backed {
            self.note_over(now);
        }
    }
}
