//! Two Prometheus servers and two Alertmanagers, as far as evenkeel can tell their behaviour: notifications come per
//! group, are repeated, are suppressed by gossip, and end by `endsAt` where Prometheus is cut off. Times are those of the
//! model's clock; wall-clock times are seconds by the server's own clock.

use super::*;

/// `evaluation_interval` of Prometheus.
const EVALUATION_INTERVAL: Duration = Duration::from_secs(30);
/// Prometheus sends a firing alert again after this (`--rules.alert.resend-delay`).
const RESEND_DELAY: Duration = Duration::from_secs(60);
/// An alert of which Prometheus says nothing more ends after this: four times the resend delay.
const ENDS_AFTER: Duration = Duration::from_secs(240);
/// For so long Prometheus sends that an alert is resolved.
const RESOLVED_RETENTION: Duration = Duration::from_secs(15 * 60);
const GROUP_WAIT: Duration = Duration::from_secs(10);
const GROUP_INTERVAL: Duration = Duration::from_secs(60);
/// The second Alertmanager of a pair waits for the first (`--cluster.peer-timeout`).
const PEER_TIMEOUT: Duration = Duration::from_secs(15);
/// By which the second Prometheus evaluates later.
const LATER: i64 = 7;

/// What a notification says.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    pub alert: usize,
    pub is_firing: bool,
    /// Wall-clock seconds since the beginning of the model.
    pub starts: i64,
    pub ends: i64,
    pub number: u64,
}

/// An alert in a Prometheus server.
#[derive(Debug, Clone, Copy)]
struct Active {
    starts: i64,
    resolved_at: Option<Duration>,
    sent_at: Option<Duration>,
}

/// An alert in an Alertmanager, by wall-clock times.
#[derive(Debug, Clone, Copy)]
struct Stored {
    starts: i64,
    ends: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    flush_at: Option<Duration>,
    /// What was sent last, and when.
    sent: Option<(bool, Duration)>,
}

#[derive(Debug, Clone, Default)]
struct Alertmanager {
    skew: i64,
    started: i64,
    stored: [Option<Stored>; ALERTS],
    groups: [Group; ALERTS],
}

#[derive(Debug, Clone)]
pub struct Senders {
    has_gossip: bool,
    active: [[Option<Active>; ALERTS]; PAIR],
    /// By Prometheus, then by Alertmanager.
    pub links: [[bool; PAIR]; PAIR],
    alertmanagers: [Alertmanager; PAIR],
    /// Whether evenkeel and the Alertmanager reach each other.
    pub is_reachable: [bool; PAIR],
    evaluation_at: Duration,
    number: u64,
}

fn seconds(at: Duration) -> i64 {
    at.as_secs() as i64
}

impl Senders {
    pub fn new(setup: Setup) -> Senders {
        let alertmanager = |skew| Alertmanager {
            skew,
            ..Alertmanager::default()
        };
        Senders {
            has_gossip: setup.has_gossip,
            active: [[None; ALERTS]; PAIR],
            links: [[true; PAIR]; PAIR],
            alertmanagers: setup.skews.map(alertmanager),
            is_reachable: [true; PAIR],
            evaluation_at: Duration::ZERO,
            number: 0,
        }
    }

    pub fn restart_alertmanager(&mut self, which: usize, now: Duration) {
        let former = &mut self.alertmanagers[which];
        *former = Alertmanager {
            skew: former.skew,
            started: seconds(now) + 1,
            ..Alertmanager::default()
        };
    }

    /// When something happens next.
    pub fn next(&self) -> Duration {
        let groups = self.alertmanagers.iter().flat_map(|one| &one.groups);
        let flushes = groups.filter_map(|group| group.flush_at);
        flushes.fold(self.evaluation_at, Duration::min)
    }

    /// Prometheus evaluates and sends where it is time.
    pub fn evaluate(&mut self, now: Duration, conditions: [bool; ALERTS]) {
        if now < self.evaluation_at {
            return;
        }
        self.evaluation_at = now + EVALUATION_INTERVAL;
        let alerts = (0..ALERTS).filter(|alert| policies::is_from_alertmanager(*alert));
        for alert in alerts {
            for server in 0..PAIR {
                self.evaluate_one(server, alert, now, conditions[alert]);
            }
        }
    }

    fn evaluate_one(&mut self, server: usize, alert: usize, now: Duration, is_true: bool) {
        let place = &mut self.active[server][alert];
        match place {
            Some(active) if is_true && active.resolved_at.is_none() => {}
            _ if is_true => {
                *place = Some(Active {
                    starts: seconds(now) + server as i64 * LATER,
                    resolved_at: None,
                    sent_at: None,
                });
            }
            Some(active) if active.resolved_at.is_none() => (active.resolved_at, active.sent_at) = (Some(now), None),
            Some(Active {
                resolved_at: Some(at), ..
            }) if now > *at + RESOLVED_RETENTION => *place = None,
            _ => {}
        }
        let Some(active) = place else { return };
        if active.sent_at.is_some_and(|at| now < at + RESEND_DELAY) {
            return;
        }
        active.sent_at = Some(now);
        let sent = Stored {
            starts: active.starts,
            ends: active.resolved_at.map_or(seconds(now + ENDS_AFTER), seconds),
        };
        let is_resolved = active.resolved_at.is_some();
        for which in 0..PAIR {
            if self.links[server][which] {
                self.alertmanagers[which].take(alert, sent, is_resolved, now + PEER_TIMEOUT * which as u32);
            }
        }
    }

    /// What an Alertmanager has to say now. It says it again at the next interval where it does not hear that it arrived.
    pub fn flush(&mut self, which: usize, now: Duration) -> Vec<Notification> {
        let mut notifications = Vec::new();
        for alert in 0..ALERTS {
            let peer_sent = self.alertmanagers[1 - which].groups[alert]
                .sent
                .filter(|_| self.has_gossip);
            let one = &mut self.alertmanagers[which];
            let group = &mut one.groups[alert];
            if group.flush_at.is_none_or(|at| at > now) {
                continue;
            }
            group.flush_at = Some(now + GROUP_INTERVAL);
            let Some(stored) = one.stored[alert] else { continue };
            let is_firing = stored.ends > seconds(now) + one.skew;
            let sent = group.sent.into_iter().chain(peer_sent).max_by_key(|(_, at)| *at);
            let is_news = match sent {
                None => is_firing,
                Some((was_firing, at)) => was_firing != is_firing || (is_firing && now >= at + REPEAT_INTERVAL),
            };
            if is_news {
                self.number += 1;
                let Stored { starts, ends } = stored;
                notifications.push(Notification {
                    alert,
                    is_firing,
                    starts,
                    ends,
                    number: self.number,
                });
            } else if !is_firing {
                group.flush_at = None;
            }
        }
        notifications
    }

    /// A notification arrived, as the Alertmanager believes.
    pub fn arrived(&mut self, which: usize, notification: Notification, now: Duration) {
        self.alertmanagers[which].groups[notification.alert].sent = Some((notification.is_firing, now));
    }

    /// What an Alertmanager lists as firing, by start, and since when it runs.
    pub fn listed(&self, which: usize, now: Duration) -> (i64, [Option<i64>; ALERTS]) {
        let one = &self.alertmanagers[which];
        let listed = one.stored.map(|stored| {
            let is_firing = |stored: &Stored| stored.ends > seconds(now) + one.skew;
            stored.filter(is_firing).map(|stored| stored.starts)
        });
        (one.started, listed)
    }
}

impl Alertmanager {
    /// Takes an alert, merged with the one that it has where they overlap (Alertmanager's `provider/mem` and
    /// `types.Alert.Merge`).
    fn take(&mut self, alert: usize, sent: Stored, is_resolved: bool, now: Duration) {
        let mut merged = sent;
        if let Some(old) = self.stored[alert] {
            let overlaps = (sent.ends > old.starts && sent.ends < old.ends)
                || (sent.starts > old.starts && sent.starts < old.ends);
            if overlaps {
                merged.starts = merged.starts.min(old.starts);
                let old_is_resolved = old.ends <= seconds(now) + self.skew;
                if old_is_resolved || !is_resolved {
                    merged.ends = merged.ends.max(old.ends);
                }
            }
        }
        self.stored[alert] = Some(merged);
        self.groups[alert].flush_at.get_or_insert(now + GROUP_WAIT);
    }
}
