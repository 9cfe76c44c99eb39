//! Episodes and what Alertmanagers list.

use super::*;
use crate::alert::FiringSet;
use crate::alert::alertmanager::{PollResult, View};

const PATIENCE: Duration = Duration::from_secs(300);
const ROUND: u64 = 30;

/// An alert as the list of an Alertmanager has it.
fn listed(name: &str, instance: &str) -> Alert {
    let labels: crate::alert::Labels = [
        ("alertname".to_owned(), name.to_owned()),
        ("instance".to_owned(), instance.to_owned()),
    ]
    .into();
    Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: Default::default(),
        generator_url: None,
        status: Status::Firing,
        starts_at: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        ends_at: None,
        source: Source::Alertmanager,
    }
}

#[test]
fn alerts_that_no_rule_answers_are_shown_while_they_fire() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    let names = |world: &World| {
        let unanswered = world.telemetry.activity().unanswered_alerts;
        let named = unanswered
            .iter()
            .map(|alert| format!("{} {}", alert.source, alert.alertname));
        named.collect::<Vec<_>>()
    };
    let there = [
        listed("calm", "web1"),
        listed("DiskFull", "web1"),
        listed("DiskFull", "other"),
    ];
    world.reconcile(&there);
    assert_eq!(
        names(&world),
        ["alertmanager DiskFull"],
        "neither the answered one nor that of another host"
    );
    let own = Alert {
        source: Source::Local,
        ..listed("Slow", "web1")
    };
    world.engine.take_firing_set(&FiringSet {
        firing: vec![own],
        is_complete: true,
        ..FiringSet::default()
    });
    assert_eq!(names(&world).len(), 2);
    world.reconcile(&[]);
    assert_eq!(names(&world), ["local Slow"]);
    assert_eq!(world.engine.ledger().episodes.len(), 1, "they open no episode");
    world.reconcile(&there);
    let asked_at = world.engine.host().now.boot;
    world.engine.reconcile(&PollResult {
        asked_at,
        fresh_for: PATIENCE,
        views: Vec::new(),
        patience: PATIENCE,
    });
    assert_eq!(names(&world).len(), 2, "no Alertmanager said that it is over");
    world.engine.reload(policy(vec![example("DiskFull", "nice 15")]));
    assert_eq!(
        names(&world),
        [""; 0],
        "another configuration may have neither the rules nor the sources"
    );
}

impl World {
    fn reconcile(&mut self, firing: &[Alert]) {
        let asked_at = self.engine.host().now.boot;
        self.reconcile_as_of(asked_at, firing);
    }

    fn reconcile_as_of(&mut self, asked_at: Duration, firing: &[Alert]) {
        self.engine.reconcile(&PollResult {
            asked_at,
            fresh_for: PATIENCE,
            views: vec![View {
                alertmanager: "http://am:9093/".into(),
                started_at: jiff::Timestamp::UNIX_EPOCH,
                firing: firing.to_vec(),
            }],
            patience: PATIENCE,
        });
    }

    /// Five minutes and a half of rounds with the same answer.
    fn reconcile_for_long(&mut self, firing: &[Alert]) {
        for _ in 0..=PATIENCE.as_secs() / ROUND {
            self.reconcile(firing);
            self.pass(ROUND);
        }
    }

    fn actions(&self, outcome: &str) -> f64 {
        self.count("evenkeel_actions_total", &["calm", "nice", outcome])
    }
}

#[test]
fn listed_unknown_alert_is_acted_on_once() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.reconcile(&[listed("calm", "web1:9100")]);
    assert_eq!(world.nice(100), [15]);
    world.reconcile(&[listed("calm", "web1:9100")]);
    world.fire("calm");
    assert_eq!(world.actions("applied"), 1.0);
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
    // It is what fires now, whatever was said before.
    world.pass(1);
    world.reconcile(&[listed("calm", "web1:9100")]);
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn a_late_firing_is_stale_though_a_list_opened_the_alert_again() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.resolve("calm");
    world.pass(1);
    world.reconcile(&[listed("calm", "web1:9100")]);
    assert_eq!(world.nice(100), [15]);
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::Stale), 1.0);
}

#[test]
fn a_list_from_before_the_resolve_opens_nothing() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    let asked_at = world.engine.host().now.boot;
    world.pass(1);
    world.resolve("calm");
    world.reconcile_as_of(asked_at, &[listed("calm", "web1:9100")]);
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn lists_renew_leases() {
    let mut rule = example("calm", "nice 15");
    rule.hold = Duration::from_secs(40);
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    world.reconcile_for_long(&[listed("calm", "web1:9100")]);
    assert_eq!((world.nice(100), world.actions("expired")), (vec![15], 0.0));
}

#[test]
fn long_absence_undoes_and_the_end_of_a_silence_acts_again() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.reconcile(&[]);
    world.pass(PATIENCE.as_secs() - 1);
    world.reconcile(&[]);
    assert_eq!(world.nice(100), [15]);
    world.pass(1);
    world.reconcile(&[]);
    assert_eq!((world.nice(100), world.actions("restored")), (vec![0], 1.0));
    world.crash_and_restart();
    // Its start is the old one.
    world.reconcile(&[listed("calm", "web1:9100")]);
    assert_eq!((world.nice(100), world.actions("applied")), (vec![15], 2.0));
}

#[test]
fn a_repeat_by_webhook_keeps_open_what_is_not_listed() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    for _ in 0..4 {
        world.reconcile(&[]);
        world.pass(PATIENCE.as_secs() - ROUND);
        world.reconcile(&[]);
        world.fire("calm");
    }
    assert_eq!((world.nice(100), world.actions("restored")), (vec![15], 0.0));
}

#[test]
fn own_alerts_are_none_of_their_business() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.send("calm", Status::Firing, 0, Source::Local);
    world.reconcile_for_long(&[]);
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn alerts_about_other_hosts_are_passed_over_in_silence() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.reconcile(&[listed("calm", "db1:9100"), listed("unheard-of", "web1:9100")]);
    assert_eq!(world.nice(100), [0]);
    assert_eq!(world.decided("calm", Decision::OtherHost), 0.0);
}

#[test]
fn a_pause_lets_nothing_new_in_and_still_undoes() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("other", "nice 5")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.pause(true, &OperatorRequest::example());
    let lines = world.engine.records().len();
    world.reconcile_for_long(&[listed("other", "web1:9100")]);
    assert_eq!(world.nice(100), [0]);
    assert_eq!(
        world.engine.records().len(),
        lines + 1,
        "the restoring, and no line for each refusal"
    );
    world.engine.pause(false, &OperatorRequest::example());
    world.reconcile(&[listed("other", "web1:9100")]);
    assert_eq!(world.nice(100), [5]);
}

#[test]
fn a_complete_firing_set_closes_own_episodes_that_it_lacks() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("rest", "nice 10")]));
    world.add(100, 1);
    let own = |name: &str| Alert {
        source: Source::Local,
        ..listed(name, "here")
    };
    let tell = |world: &mut World, firing: &[Alert], is_complete: bool| {
        let firing = firing.to_vec();
        world.engine.take_firing_set(&FiringSet {
            firing,
            is_complete,
            ..FiringSet::default()
        });
    };
    tell(&mut world, &[own("calm")], false);
    assert_eq!(world.nice(100), [15], "it may be the first word of an alert");
    tell(&mut world, &[], false);
    assert_eq!(world.nice(100), [15], "absence proves nothing yet");
    tell(&mut world, &[own("calm"), own("rest")], true);
    tell(&mut world, &[own("rest")], true);
    assert_eq!(world.nice(100), [10]);
    world.send("calm", Status::Firing, 2000, Source::Alertmanager);
    tell(&mut world, &[], true);
    assert_eq!(world.nice(100), [15], "what Alertmanager says is not in it");
}

/// Alerts of Prometheus and of own evaluation may have the same labels, and nothing orders their times.
#[test]
fn webhook_after_the_end_of_an_own_alert_is_not_stale() {
    for starts in [-30, 0, 30] {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 1);
        world.send("calm", Status::Firing, 0, Source::Local);
        world.send("calm", Status::Resolved, 0, Source::Local);
        assert_eq!(world.nice(100), [0]);
        world.send("calm", Status::Firing, starts, Source::Alertmanager);
        assert_eq!(world.nice(100), [15], "starts {starts} s later");
    }
}

#[test]
fn duplicate_of_a_webhook_is_stale_after_own_evaluation_ended_last() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.send("calm", Status::Firing, -10, Source::Local);
    world.fire("calm");
    world.pass(1);
    world.resolve("calm");
    assert_eq!(world.nice(100), [15], "own evaluation reports it as firing");
    world.pass(1);
    world.send("calm", Status::Resolved, -10, Source::Local);
    world.fire("calm");
    assert_eq!(world.nice(100), [0]);
    assert_eq!(world.decided("calm", Decision::Stale), 1.0);
}

#[test]
fn absence_of_an_alert_whose_rule_fails_proves_nothing() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.send("calm", Status::Firing, 0, Source::Local);
    let without = |unevaluated: &[&str]| FiringSet {
        is_complete: true,
        unevaluated: unevaluated.iter().map(|name| (*name).into()).collect(),
        ..FiringSet::default()
    };
    world.engine.take_firing_set(&without(&["calm"]));
    assert_eq!(world.nice(100), [15]);
    world.engine.take_firing_set(&without(&["rest"]));
    assert_eq!(world.nice(100), [0]);
}

/// A crash lost the end that Alertmanager had reported before own evaluation opened the episode.
#[test]
fn duplicate_from_before_the_end_is_late_after_a_crash() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.resolve("calm");
    world.send("calm", Status::Firing, 0, Source::Local);
    assert_eq!(world.nice(100), [15]);
    world.crash_and_restart();
    world.fire("calm");
    world.send("calm", Status::Resolved, 0, Source::Local);
    assert_eq!(
        (world.nice(100), world.decided("calm", Decision::Stale)),
        (vec![0], 1.0)
    );
}
