//! The calendar jumps; deadlines, waits and what is stale do not.

use super::*;

const HOURS: [i64; 2] = [1, -1];

impl World {
    fn jump(&mut self, hours: i64) {
        self.engine.host().now.wall += jiff::SignedDuration::from_hours(hours);
    }
}

#[test]
fn a_jump_of_the_calendar_moves_no_deadline() {
    for hours in HOURS {
        let mut rule = example("calm", "nice 15");
        rule.hold = Duration::from_secs(40);
        let mut world = world(policy(vec![rule]));
        world.add(100, 1);
        world.fire("calm");
        world.jump(hours);
        world.pass(39);
        assert_eq!(world.nice(100), [15], "{hours} h");
        world.restart();
        world.jump(hours);
        world.fire("calm");
        assert_eq!(world.nice(100), [15], "{hours} h");
        world.pass(41);
        assert_eq!(world.nice(100), [0], "{hours} h");
    }
}

#[test]
fn a_jump_of_the_calendar_moves_no_wait_and_no_cooldown() {
    for hours in HOURS {
        let mut rule = example("end", TERM_THEN_KILL);
        (rule.limit, rule.cooldown) = (5, Duration::from_secs(60));
        let mut world = world(policy(vec![rule]));
        let first = world.add(100, 1);
        world.ignores_sigterm(100);
        world.engine.host().advance(Duration::from_secs(1));
        world.add(200, 1);
        world.send("end", Status::Firing, 0, Source::Local);
        world.jump(hours);
        world.crash_and_restart();
        world.hand_over_own();
        world.pass(9);
        assert_eq!(world.signals().len(), 1, "{hours} h");
        world.pass(2);
        assert_eq!(
            world.signals(),
            [(100, Signal::SIGTERM), (100, Signal::SIGKILL)],
            "{hours} h"
        );
        world.reap(first);
        world.jump(hours);
        world.pass(40);
        assert_eq!(world.signals().len(), 2, "cooldown, {hours} h");
        world.pass(30);
        assert_eq!(world.signals().len(), 3, "{hours} h");
    }
}

#[test]
fn episodes_follow_alert_times_not_the_calendar() {
    for hours in HOURS {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 1);
        for start in [0, 1000, 2000] {
            world.send("calm", Status::Firing, start, Source::Alertmanager);
            assert_eq!(world.nice(100), [15], "{hours} h");
            world.jump(hours);
            world.send("calm", Status::Resolved, start, Source::Alertmanager);
            assert_eq!(world.nice(100), [0], "{hours} h");
            world.send("calm", Status::Firing, start, Source::Alertmanager);
            assert_eq!(world.nice(100), [0], "delivered late, {hours} h");
        }
    }
}
