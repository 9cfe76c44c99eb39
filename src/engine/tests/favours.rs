//! Favours: who may get a value that only root can give, and that it is taken from everyone who holds it.

use super::*;
use crate::host::{Knob, Value};
use crate::knob::limit::{CgroupFile, Setting};

const SESSION: &str = "/user.slice/user-1000.slice/session-3.scope";

fn rule(name: &str, select: &str, step: &str) -> Rule {
    let example = example(name, "nice 1");
    Rule {
        name: example.name,
        matchers: example.matchers,
        ..jobs::rule(&[step], select)
    }
}

fn world_of(rules: &[(&str, &str)]) -> World {
    let rules = rules
        .iter()
        .map(|(name, step)| rule(name, "select: {name: burner}", step));
    let mut world = world(policy(rules.collect()));
    world.add(100, 2);
    world.of_user(100, 1000, SESSION);
    world
}

impl World {
    fn of_user(&mut self, pid: i32, uid: u32, cgroup: &str) {
        let found = self.engine.host().processes.get_mut(&pid).unwrap();
        found.process.details.uid = Some(uid);
        found.process.details.cgroup = Some(cgroup.into());
    }

    fn run_foreign_program(&mut self, pid: i32) {
        let found = self.engine.host().processes.get_mut(&pid).unwrap();
        found.process.details.is_host_program = Some(false);
    }

    fn put_nice(&mut self, pid: i32, nice: i32) {
        let found = self.engine.host().processes.get_mut(&pid).unwrap();
        found
            .threads
            .values_mut()
            .for_each(|thread| thread.put(Value::Nice(nice)));
    }

    fn oom_score_adj(&mut self, pid: i32) -> i32 {
        match self.engine.host().processes[&pid].values[&Knob::OomScoreAdj] {
            Value::OomScoreAdj(score) => score,
            _ => unreachable!(),
        }
    }

    fn put_oom_score_adj(&mut self, pid: i32, score: i32) {
        let found = self.engine.host().processes.get_mut(&pid).unwrap();
        found.put(Value::OomScoreAdj(score));
    }

    fn resets_on_fork(&mut self, pid: i32) -> Vec<bool> {
        let threads = &self.engine.host().processes[&pid].threads;
        threads.values().map(|thread| thread.resets_on_fork).collect()
    }

    fn last_reason(&mut self) -> String {
        self.engine.records().into_iter().last().unwrap().reason
    }
}

/// A process that started below 100, and whose parent is gone.
fn orphan(host: &mut FakeHost, pid: i32) {
    fork(host, 100, pid, "worker");
    host.processes.get_mut(&pid).unwrap().process.parent = 1;
}

#[test]
fn favour_needs_a_program_of_the_host() {
    for step in ["nice: -5", "oom_score_adj: -500", "autogroup: -5"] {
        let mut world = world_of(&[("boost", step)]);
        world.run_foreign_program(100);
        world.fire("boost");
        let record = world.engine.records().into_iter().last().unwrap();
        assert_eq!(record.decision, Some(Decision::Protected), "{step}");
        assert!(
            record.reason.contains("is not a program of this host"),
            "{}",
            record.reason
        );
        assert!(world.engine.host().hooks.host_actions.is_empty(), "{step}");
    }
    let mut world = world_of(&[("boost", "nice: -5")]);
    world.fire("boost");
    assert_eq!(world.nice(100), [-5, -5]);
}

#[test]
fn program_is_identified_again_right_before_a_favour() {
    for reads in 0..8 {
        let mut world = world_of(&[("boost", "nice: -5")]);
        let host = world.engine.host();
        (0..reads).for_each(|_| host.hooks.before_details.push_back(|_| ()));
        host.hooks.before_details.push_back(|host| {
            let found = host.processes.get_mut(&100).unwrap();
            found.process.details.is_host_program = Some(false);
        });
        world.fire("boost");
        let is_over = !world.engine.host().hooks.before_details.is_empty();
        let expected = if is_over { [-5, -5] } else { [0, 0] };
        assert_eq!(world.nice(100), expected, "after {reads} reads");
        if is_over {
            assert!(reads > 2);
            return;
        }
    }
    panic!("the step reads the process at most seven times");
}

#[test]
fn value_that_is_no_favour_needs_no_program_of_the_host() {
    let mut world = world_of(&[("calm", "nice: 15"), ("ease", "nice: 5")]);
    world.run_foreign_program(100);
    world.fire("calm");
    assert_eq!(world.nice(100), [15, 15]);
    world.fire("ease");
    assert_eq!(world.nice(100), [5, 5], "its own value is 0");
}

#[test]
fn children_do_not_inherit_a_nice_value_and_later_do_again() {
    for (first, second) in [("boost", "more"), ("more", "boost")] {
        let mut world = world_of(&[("boost", "nice: -5"), ("more", "nice: -10"), ("calm", "nice: 5")]);
        for alert in ["calm", "boost", "more"] {
            world.fire(alert);
            assert_eq!(world.resets_on_fork(100), [alert != "calm"; 2], "{alert}");
        }
        world.resolve(first);
        assert_eq!(world.resets_on_fork(100), [true, true], "{second} still favours it");
        world.resolve(second);
        assert_eq!(
            (world.nice(100), world.resets_on_fork(100)),
            (vec![5, 5], vec![false, false])
        );
        world.resolve("calm");
        assert_eq!(
            (world.nice(100), world.resets_on_fork(100)),
            (vec![0, 0], vec![false, false])
        );
    }
}

#[test]
fn flag_that_a_thread_had_of_its_own_stays() {
    let mut world = world_of(&[("boost", "nice: -5")]);
    let found = world.engine.host().processes.get_mut(&100).unwrap();
    found.threads.get_mut(&100).unwrap().resets_on_fork = true;
    world.fire("boost");
    assert_eq!(world.resets_on_fork(100), [true, true]);
    world.restart();
    assert_eq!(
        (world.nice(100), world.resets_on_fork(100)),
        (vec![0, 0], vec![true, false])
    );
}

#[test]
fn process_keeps_no_part_of_a_favour() {
    for (own, expected) in [(-4, 0), (-5, 0), (3, 3), (-9, -9)] {
        let mut world = world_of(&[("boost", "nice: -5")]);
        world.fire("boost");
        world.put_nice(100, own);
        world.resolve("boost");
        assert_eq!(world.nice(100), [expected; 2], "it has {own} meanwhile");
    }
}

#[test]
fn newer_lease_keeps_its_value_when_a_favour_ends() {
    for (step, newer, value) in [("nice: -5", "nice: 5", 5), ("nice: -5", "nice: -3", -3)] {
        let mut world = world_of(&[("boost", step), ("newer", newer)]);
        world.fire("boost");
        world.fire("newer");
        world.resolve("boost");
        assert_eq!(world.nice(100), [value; 2]);
        world.resolve("newer");
        assert_eq!(
            (world.nice(100), world.resets_on_fork(100)),
            (vec![0, 0], vec![false, false])
        );
    }
    let mut world = world_of(&[("spare", "oom_score_adj: -500"), ("offer", "oom_score_adj: 500")]);
    world.fire("spare");
    world.fire("offer");
    world.resolve("spare");
    assert_eq!(world.oom_score_adj(100), 500);
    world.resolve("offer");
    assert_eq!(world.oom_score_adj(100), 0);
}

#[test]
fn oom_score_is_written_even_where_the_process_has_raised_it() {
    let mut world = world_of(&[("spare", "oom_score_adj: -500")]);
    world.fire("spare");
    assert_eq!(world.oom_score_adj(100), -500);
    world.put_oom_score_adj(100, 0);
    let before = world.engine.host().hooks.host_actions.len();
    world.resolve("spare");
    assert_eq!(world.engine.host().hooks.host_actions.len(), before + 1);
    assert_eq!(world.oom_score_adj(100), 0);
}

#[test]
fn favour_is_taken_from_processes_whose_parents_are_gone() {
    let other_unit = "/system.slice/postgresql.service";
    let mut world = world_of(&[("spare", "oom_score_adj: -500")]);
    world.add(90, 1);
    world.of_user(90, 1000, SESSION);
    world.run_foreign_program(90);
    world.engine.host().processes.get_mut(&90).unwrap().process.name = "other".into();
    world.fire("spare");
    world.pass(1);
    let of_manager = "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope";
    let orphans = [
        (200, 1000, SESSION, -500, 0),
        (201, 1000, of_manager, -499, 0),
        (202, 1001, SESSION, -500, -500),
        (203, 1000, other_unit, -500, -500),
        (204, 1000, SESSION, 100, 100),
        (205, 1000, SESSION, -900, -900),
    ];
    for (pid, uid, cgroup, score, _) in orphans {
        orphan(world.engine.host(), pid);
        world.of_user(pid, uid, cgroup);
        world.put_oom_score_adj(pid, score);
    }
    world.put_oom_score_adj(90, -500);
    world.resolve("spare");
    for (pid, _, _, _, expected) in orphans {
        assert_eq!(world.oom_score_adj(pid), expected, "{pid}");
    }
    assert_eq!(world.oom_score_adj(90), -500, "it is older than the lease");
}

#[test]
fn favour_is_taken_from_a_chain_of_short_lived_processes() {
    fn flee(host: &mut FakeHost) {
        let last = *host.processes.keys().next_back().unwrap();
        if last < 205 {
            let pid = last.max(199) + 1;
            orphan(host, pid);
            let details = host.processes[&100].process.details.clone();
            let found = host.processes.get_mut(&pid).unwrap();
            found.process.details = details;
            found.put(Value::OomScoreAdj(-500));
        }
    }
    let mut world = world_of(&[("spare", "oom_score_adj: -500")]);
    world.fire("spare");
    world.pass(1);
    (0..40).for_each(|_| world.engine.host().hooks.before_set.push_back(flee));
    world.resolve("spare");
    for pid in 200..=205 {
        assert_eq!(world.oom_score_adj(pid), 0, "{pid}");
    }
}

#[test]
fn child_of_another_holder_keeps_its_favour() {
    let mut world = world_of(&[("spare", "oom_score_adj: -500"), ("also", "oom_score_adj: -500")]);
    let found = world.engine.host().processes.get_mut(&100).unwrap();
    found.process.name = "first".into();
    let rules = [("spare", "first"), ("also", "second")];
    let rules = rules.map(|(name, of)| rule(name, &format!("select: {{name: {of}}}"), "oom_score_adj: -500"));
    world.engine.reload(policy(rules.into()));
    world.add(110, 1);
    world.of_user(110, 1000, SESSION);
    world.engine.host().processes.get_mut(&110).unwrap().process.name = "second".into();
    world.fire("spare");
    world.fire("also");
    world.pass(1);
    fork(world.engine.host(), 110, 200, "worker");
    world.of_user(200, 1000, SESSION);
    world.put_oom_score_adj(200, -500);
    world.resolve("spare");
    assert_eq!((world.oom_score_adj(100), world.oom_score_adj(200)), (0, -500));
    world.resolve("also");
    assert_eq!((world.oom_score_adj(110), world.oom_score_adj(200)), (0, 0));
}

#[test]
fn cgroup_that_a_user_names_gets_no_more_for_a_foreign_program() {
    let of_user = "/user.slice/user-1000.slice/user@1000.service/app.slice/render.service";
    for (path, is_foreign, expected) in [
        (of_user, true, "100"),
        (of_user, false, "300"),
        ("/system.slice/render.service", true, "300"),
    ] {
        let select = r"select: {cgroup: '.*/render\.service'}";
        let mut world = world(policy(vec![rule("boost", select, "cgroup: {cpu.weight: 300}")]));
        world.add(100, 1);
        world.of_user(100, 1000, path);
        if is_foreign {
            world.run_foreign_program(100);
        }
        world.engine.host().add_cgroup(path);
        world.fire("boost");
        let weight = world.engine.host().cgroups[path].settings[&CgroupFile::CpuWeight].clone();
        assert_eq!(
            weight,
            Setting::parse(CgroupFile::CpuWeight, expected).unwrap(),
            "{path}"
        );
        if expected == "100" {
            assert!(world.last_reason().contains("not a program of this host"));
        }
    }
}
