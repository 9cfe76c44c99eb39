//! Reloads while an alert fires: the changed rule applies to open episodes, and only what was held stays.

use super::*;
use crate::engine::Answer;

fn with_limit(limit: usize, steps: &str) -> Policy {
    policy(vec![Rule {
        limit,
        ..example("calm", steps)
    }])
}

#[test]
fn reload_changes_the_limit_of_an_open_episode() {
    for (before, after, expected) in [(2, 1, 0), (1, 2, 15)] {
        let mut world = world(with_limit(before, "nice 15"));
        world.add(100, 1);
        world.fire("calm");
        world.engine.reload(with_limit(after, "nice 15"));
        world.add(200, 1);
        world.fire("calm");
        world.pass(20);
        assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![expected]));
    }
}

#[test]
fn reload_changes_the_selector_of_an_open_episode() {
    let mut world = world(with_limit(9, "nice 15; wait 10; signal TERM"));
    world.add(100, 1);
    world.fire("calm");
    let mut other = example("calm", "nice 15; wait 10; signal TERM");
    let pattern = crate::process::selector::Pattern::fixed("other").unwrap();
    other.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![crate::process::selector::Condition::Name(pattern)],
    });
    world.engine.reload(policy(vec![other]));
    world.add(200, 1);
    world.fire("calm");
    world.pass(60);
    assert_eq!((world.signals(), world.nice(200)), (vec![], vec![0]));
    world.resolve("calm");
    assert_eq!(world.nice(100), [0], "what was held is reverted");
}

#[test]
fn reload_changes_while_of_an_open_episode() {
    let with_condition = |text: &str| {
        let mut rule = example("end", "signal TERM");
        rule.condition = Some(text.to_owned());
        policy(vec![rule])
    };
    let mut world = world(with_condition("old"));
    world.engine.conditions = Box::new(|text| {
        (text == "new").then_some(Answer {
            holds: true,
            sample_at: Duration::MAX,
        })
    });
    world.add(100, 1);
    world.fire("end");
    assert_eq!(world.signals(), []);
    world.engine.reload(with_condition("new"));
    world.fire("end");
    world.pass(20);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
}

#[test]
fn targets_get_no_further_steps_after_a_change_of_the_steps() {
    let mut world = world(with_limit(2, "nice 15; wait 10; nice 19"));
    world.add(100, 1);
    world.fire("calm");
    world.engine.reload(with_limit(2, "nice 5; wait 10; nice 7"));
    world.add(200, 1);
    world.fire("calm");
    world.pass(30);
    assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![7]));
    world.resolve("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
}

/// The closing without a resolve recorded an end just before the start, so the start of another Prometheus was late.
#[test]
fn earlier_start_is_no_late_delivery_after_a_rule_returned() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.send("calm", Status::Firing, 30, Source::Alertmanager);
    world.engine.reload(policy(vec![]));
    assert_eq!(world.nice(100), [0]);
    world.engine.reload(policy(vec![example("calm", "nice 15")]));
    world.send("calm", Status::Firing, 0, Source::Alertmanager);
    assert_eq!(world.nice(100), [15]);
}
