//! How long victims are remembered: as long as `limit` and `cooldown` may ask for them.

use super::*;

const DAY: u64 = 24 * 3600;
const HOUR: u64 = 3600;

/// A host with a rule that may end one process per week, and hourly repeats of its alert over so many days. A process
/// that fits is always there.
fn victims_over(days: u64, rule: Rule, repeat: impl Fn(&mut World)) -> World {
    let mut world = world(policy(vec![rule]));
    for hour in 0..days * 24 {
        let pid = 100 + hour as i32;
        let target = world.add(pid, 1);
        repeat(&mut world);
        world.pass(16);
        world.engine.host().processes.remove(&pid);
        world.engine.exited(target);
        world.engine.host().advance(Duration::from_secs(HOUR - 16));
    }
    world
}

fn weekly(limit: usize) -> Rule {
    Rule {
        limit,
        cooldown: Duration::from_secs(7 * DAY),
        ..example("end", "signal TERM")
    }
}

#[test]
fn an_open_episode_keeps_its_victims_beyond_a_day() {
    let rule = Rule {
        cooldown: Duration::from_secs(1),
        ..weekly(1)
    };
    let mut world = victims_over(3, rule, |world| world.send("end", Status::Firing, 0, Source::Local));
    assert_eq!(world.signals().len(), 1, "limit is 1: {:?}", world.signals());
}

#[test]
fn a_cooldown_of_a_week_is_kept_across_episodes_and_restarts() {
    let starts = std::cell::Cell::new(0);
    let mut world = victims_over(3, weekly(9), |world| {
        world.send("end", Status::Resolved, starts.get(), Source::Local);
        starts.set(starts.get() + HOUR as i64);
        world.send("end", Status::Firing, starts.get(), Source::Local);
    });
    assert_eq!(world.signals().len(), 1, "{:?}", world.signals());
    world.crash_and_restart();
    world.add(9999, 1);
    world.send("end", Status::Resolved, starts.get(), Source::Local);
    world.send("end", Status::Firing, starts.get() + HOUR as i64, Source::Local);
    assert_eq!(world.signals().len(), 1, "after a restart too");
}
