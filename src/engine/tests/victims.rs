//! For which episodes victims count, and how long they are remembered: as long as `limit` and `cooldown` may ask for
//! them.

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

/// A rule that may kill one process, and its first victim, which has exited.
fn first_victim(starts: i64, source: Source) -> World {
    let rule = Rule {
        cooldown: Duration::from_secs(1),
        ..example("end", "signal TERM")
    };
    let mut world = world(policy(vec![rule]));
    let target = world.add(100, 1);
    world.send("end", Status::Firing, starts, source);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.reap(target);
    world
}

impl World {
    /// How many processes got a signal, where another one matches and the alert fires again.
    fn victims_with_another(&mut self, starts: i64, source: Source) -> usize {
        self.add(200, 1);
        self.send("end", Status::Firing, starts, source);
        self.pass(20);
        self.signals().len()
    }
}

#[test]
fn alert_that_goes_on_after_a_cut_link_gets_no_second_victim() {
    for is_restarted in [false, true] {
        let mut world = first_victim(0, Source::Alertmanager);
        world.resolve("end");
        world.pass(late_delivery::LATE.as_secs());
        if is_restarted {
            world.crash_and_restart();
            world.pass(late_delivery::LATE.as_secs());
        }
        assert_eq!(world.victims_with_another(0, Source::Alertmanager), 1);
        world.resolve("end");
        world.pass(late_delivery::LATE.as_secs());
        let again = world.victims_with_another(1000, Source::Alertmanager);
        assert_eq!(again, 2, "another alert, restarted: {is_restarted}");
    }
}

#[test]
fn alert_with_a_merged_earlier_start_gets_no_second_victim() {
    let mut world = first_victim(100, Source::Alertmanager);
    world.fire("end");
    world.resolve("end");
    world.pass(late_delivery::LATE.as_secs());
    assert_eq!(world.victims_with_another(0, Source::Alertmanager), 1);
}

#[test]
fn alert_that_was_silenced_for_days_gets_no_second_victim() {
    for (days, is_restarted) in [(2, false), (6, false), (6, true)] {
        let mut world = first_victim(0, Source::Alertmanager);
        for _ in 0..days * 24 {
            world.engine.host().advance(Duration::from_secs(HOUR));
            world.engine.tick();
        }
        assert!(world.engine.ledger().episodes.is_empty());
        if is_restarted {
            world.crash_and_restart();
        }
        assert_eq!(world.victims_with_another(0, Source::Alertmanager), 1, "{days} days");
    }
}

#[test]
fn own_alert_gets_its_victim_after_the_clock_was_set_back() {
    let mut world = first_victim(1000, Source::Local);
    world.send("end", Status::Resolved, 1000, Source::Local);
    world.pass(5);
    assert_eq!(world.victims_with_another(0, Source::Local), 2);
}
