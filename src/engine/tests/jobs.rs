//! Tests of allocations and commands on the fake host: their requests, the effect of each response, and their revert.

use super::*;
use crate::diagnostic::SourceText;
use crate::host::job::{End, Job, Report};
use crate::rule::{Context, compile, file};

const ALLOCATE: &str = "allocate: {url: 'http://broker/take', resource: /id, \
                        release: {url: 'http://broker/give/{{ $resource }}'}}";
const RENEWED: &str = "allocate: {url: 'http://broker/take', resource: /id, ttl: /ttl, release: {url: 'http://broker/give/{{ $resource }}'}}";

/// A rule that answers the alert `more` with these steps, and anything else that is said of it.
pub fn rule(steps: &[&str], more: &str) -> Rule {
    let steps: String = steps.iter().map(|step| format!("  - {step}\n")).collect();
    let text = format!("rules:\n- name: more\n  matchers: ['alertname=\"more\"']\n  {more}\n  actions:\n{steps}");
    let source = SourceText::new("test.yml", text);
    let context = Context {
        groups: &BTreeMap::new(),
        known_alerts: None,
        own_alerts: &[],
        repeat_interval: None,
        allow_exec: true,
        check_promql: &|_| Ok(Vec::new()),
    };
    let compiled = compile(vec![file::read(&source)], &context);
    let rules = compiled.rules.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics));
    Rule::clone(&rules.rules[0])
}

fn asked(job: &Job) -> String {
    match job {
        Job::Request(request, _) => format!("{} {}", request.method, request.url),
        Job::Command(run) => run.argv.join(" "),
    }
}

fn answer(status: u16, body: &str) -> Report {
    Report::Answered {
        status,
        body: body.as_bytes().to_vec(),
        retry_after: None,
    }
}

fn ended(status: i32) -> Report {
    Report::Ended {
        end: End::Status(status),
        output: "said so\n".into(),
    }
}

impl World {
    /// What was begun since this was asked last.
    fn begun(&mut self) -> Vec<(u64, Job)> {
        std::mem::take(&mut self.engine.host().jobs)
    }

    /// Answers the one started job, and returns it as a string.
    fn answer(&mut self, report: Report) -> String {
        let begun = self.begun();
        assert_eq!(begun.len(), 1, "{begun:?}");
        let (ticket, job) = &begun[0];
        self.engine.reported(*ticket, &report);
        if self.engine.time_until_due().is_some_and(|left| left.is_zero()) {
            self.engine.tick();
        }
        asked(job)
    }

    fn in_state(&self, state: &str) -> f64 {
        self.count("evenkeel_allocations", &["more", state])
    }

    fn came_to(&self, action: &str, outcome: Outcome) -> f64 {
        self.count("evenkeel_actions_total", &["more", action, outcome.as_str()])
    }

    pub(super) fn last_record(&self) -> crate::ledger::Record {
        self.engine.records().pop().unwrap()
    }

    fn key(&mut self) -> String {
        let lease = self.engine.ledger().leases.values().next().unwrap();
        match &lease.effect {
            crate::ledger::Effect::Allocation(allocation) => allocation.ask.key.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn grant_is_released_when_the_alert_resolves() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    assert_eq!(world.in_state("requested"), 1.0);
    assert_eq!(world.answer(answer(201, r#"{"id":"r/1"}"#)), "POST http://broker/take");
    assert_eq!((world.in_state("requested"), world.in_state("granted")), (0.0, 1.0));
    assert_eq!(world.last_record().after.as_deref(), Some("r/1"));
    world.fire("more");
    world.pass(60);
    assert_eq!(world.begun(), []);
    world.resolve("more");
    assert_eq!(world.in_state("releasing"), 1.0);
    assert_eq!(world.answer(answer(204, "")), "DELETE http://broker/give/r%2F1");
    assert!(world.engine.ledger().leases.is_empty());
    assert_eq!(world.came_to("allocate", Outcome::Released), 1.0);
    assert_eq!(world.in_state("releasing"), 0.0);
}

#[test]
fn unusable_answer_is_reported_and_retried_with_the_same_key() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    let key = world.key();
    let unanswered = |was_sent| Report::Unanswered {
        reason: "no answer within 10 s".into(),
        was_sent,
    };
    for (report, reason) in [
        (
            answer(302, ""),
            "status 302: a redirect, which evenkeel does not follow",
        ),
        (answer(403, "no\u{1b}[2J"), "status 403: refused"),
        (answer(500, "oops"), "status 500: the server failed"),
        (answer(200, "<html>"), "status 200: the response is not JSON"),
        (
            answer(200, r#"{"ID":1}"#),
            "status 200: the response has no value at \"/id\"",
        ),
        (
            answer(200, r#"{"id":{}}"#),
            "status 200: the value at \"/id\" is neither a string nor a number",
        ),
        (
            answer(200, r#"{"id":"a\nb"}"#),
            "status 200: the value at \"/id\" is not a name of a resource",
        ),
        (
            answer(200, r#"{"id":".."}"#),
            "status 200: the resource at \"/id\" cannot be released: \"http://broker/give/..\" points outside the path of the rule",
        ),
        (unanswered(true), "no answer within 10 s"),
    ] {
        world.answer(report);
        let record = world.last_record();
        assert_eq!(
            (record.outcome, record.reason.as_str()),
            (Some(Outcome::Failed), reason)
        );
        assert!(!record.output.unwrap_or_default().contains('\u{1b}'));
        world.pass(300);
        assert_eq!(world.key(), key);
    }
    world.answer(answer(200, r#"{"id":7}"#));
    assert_eq!(world.last_record().after.as_deref(), Some("7"));
}

#[test]
fn failures_are_further_and_further_apart() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    let mut tries = Vec::new();
    for second in 0..1200 {
        for (ticket, _) in world.begun() {
            tries.push(second);
            world.engine.reported(ticket, &answer(500, ""));
        }
        world.pass(1);
    }
    assert!((10..14).contains(&tries.len()), "{tries:?}");
    let pauses: Vec<i32> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses.is_sorted() || pauses.iter().all(|pause| *pause <= 301),
        "{pauses:?}"
    );
    assert!(pauses[0] <= 2 && *pauses.last().unwrap() >= 220, "{pauses:?}");
}

#[test]
fn a_server_that_asks_for_patience_gets_it_within_bounds() {
    for (asked, waits) in [(120, 120), (1_000_000, 3600)] {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
        world.fire("more");
        let mut busy = answer(503, "");
        if let Report::Answered { retry_after, .. } = &mut busy {
            *retry_after = Some(Duration::from_secs(asked));
        }
        world.answer(busy);
        world.pass(waits - 1);
        assert_eq!(world.begun(), []);
        world.pass(1);
        assert_eq!(world.begun().len(), 1, "{asked}");
    }
}

#[test]
fn release_that_always_fails_is_left_to_people() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    world.answer(answer(201, r#"{"id":"r/1"}"#));
    world.resolve("more");
    for _ in 1..300 {
        world.answer(answer(500, ""));
        world.pass(300);
    }
    world.answer(answer(500, ""));
    assert!(world.engine.ledger().leases.is_empty());
    let last = world.last_record();
    assert_eq!(last.outcome, Some(Outcome::Failed));
    assert!(last.reason.contains("release \"r/1\" by hand"), "{}", last.reason);
}

#[test]
fn a_grant_is_renewed_before_it_runs_out() {
    let mut world = world(policy(vec![rule(&[RENEWED], "")]));
    world.fire("more");
    let key = world.key();
    world.answer(answer(200, r#"{"id":"a","ttl":60}"#));
    world.pass(39);
    assert_eq!(world.begun(), []);
    world.pass(2);
    assert_eq!(
        world.answer(answer(200, r#"{"id":"a","ttl":60}"#)),
        "POST http://broker/take"
    );
    assert_eq!((world.key(), world.came_to("allocate", Outcome::Granted)), (key, 1.0));
    // It is not renewed in time, and the server has another one for us afterwards.
    world.pass(41);
    for _ in 0..10 {
        for (ticket, _) in world.begun() {
            world.engine.reported(ticket, &answer(503, ""));
        }
        world.pass(5);
    }
    assert_eq!(
        (world.in_state("expired"), world.came_to("allocate", Outcome::Expired)),
        (1.0, 1.0)
    );
    world.pass(300);
    let begun = world.begun();
    world
        .engine
        .reported(begun[0].0, &answer(200, r#"{"id":"b","ttl":60}"#));
    assert_eq!((world.in_state("granted"), world.in_state("releasing")), (1.0, 1.0));
    assert_eq!(world.answer(answer(404, "")), "DELETE http://broker/give/a");
    world.resolve("more");
    assert_eq!(world.answer(answer(200, "")), "DELETE http://broker/give/b");
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn request_interrupted_by_a_crash_is_repeated_and_released() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    let key = world.key();
    world.begun();
    world.crash_and_restart();
    assert_eq!(world.key(), key);
    world.resolve("more");
    world.begun();
    // It may have been granted, so it must be known before it can be given back.
    world.crash_and_restart();
    assert_eq!(world.answer(answer(200, r#"{"id":"a"}"#)), "POST http://broker/take");
    assert_eq!(world.answer(answer(500, "")), "DELETE http://broker/give/a");
    world.crash_and_restart();
    assert_eq!(world.answer(answer(410, "")), "DELETE http://broker/give/a");
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn unsent_request_needs_no_release() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    world.answer(Report::Unanswered {
        reason: "connection refused".into(),
        was_sent: false,
    });
    world.resolve("more");
    assert_eq!(world.begun(), []);
    assert!(world.engine.ledger().leases.is_empty());
    assert_eq!(world.came_to("allocate", Outcome::Cancelled), 1.0);
}

#[test]
fn deadline_hand_and_a_rule_that_is_gone_give_back() {
    for way in 0..3 {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "hold: 1m")]));
        world.fire("more");
        world.answer(answer(200, r#"{"id":"a"}"#));
        match way {
            0 => world.pass(61),
            1 => assert_eq!(world.engine.release(None, &OperatorRequest::example()), 1),
            _ => world.engine.reload(policy(vec![])),
        }
        assert_eq!(world.answer(answer(200, "")), "DELETE http://broker/give/a", "{way}");
        world.pass(30);
        assert_eq!(world.begun(), [], "{way}");
        world.fire("more");
        // What expired is requested again by a repeat, with another key; what was released by hand is not.
        assert_eq!(world.begun().len(), usize::from(way == 0), "{way}");
    }
}

#[test]
fn exit_releases_and_a_restart_requests_again() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    let key = world.key();
    world.answer(answer(200, r#"{"id":"a"}"#));
    world.engine.shut_down();
    assert!(world.engine.is_giving_back());
    assert_eq!(world.answer(answer(200, "")), "DELETE http://broker/give/a");
    assert!(!world.engine.is_giving_back());
    world.crash_and_restart();
    world.pass(20);
    assert_eq!(world.begun(), [], "no source has confirmed the alert since");
    world.fire("more");
    assert_eq!(world.begun().len(), 1);
    assert_ne!(world.key(), key);
}

#[test]
fn later_steps_wait_for_the_grant_and_may_use_it() {
    let exec = "exec: {argv: [/bin/use, 'it={{ $resource }}'], undo: [/bin/unuse, '{{ $resource }}']}";
    let mut world = world(policy(vec![rule(&[ALLOCATE, "wait: 10s", exec], "")]));
    world.fire("more");
    world.pass(60);
    world.answer(answer(200, r#"{"id":"a b"}"#));
    world.pass(9);
    assert_eq!(world.begun(), []);
    world.pass(1);
    assert_eq!(world.answer(ended(0)), "/bin/use it=a b");
    assert_eq!(world.last_record().output.as_deref(), Some("said so"));
    world.resolve("more");
    let begun: Vec<String> = world.begun().iter().map(|(_, job)| asked(job)).collect();
    assert_eq!(begun, ["/bin/unuse a b", "DELETE http://broker/give/a%20b"]);
}

#[test]
fn failed_command_is_undone_and_ends_the_steps() {
    let first = "exec: {argv: [/bin/half], undo: [/bin/unhalf]}";
    let mut world = world(policy(vec![rule(&[first, "exec: [/bin/rest]"], "")]));
    world.fire("more");
    assert_eq!(world.answer(ended(3)), "/bin/half");
    assert_eq!(world.answer(ended(1)), "/bin/unhalf");
    world.pass(2);
    assert_eq!(world.answer(ended(0)), "/bin/unhalf");
    assert_eq!(world.came_to("exec", Outcome::Cancelled), 1.0);
    world.pass(60);
    assert_eq!(world.begun(), []);
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn a_command_without_undo_is_final() {
    let mut world = world(policy(vec![rule(
        &["exec: [/bin/a]", "exec: [/bin/b]"],
        "any_host: true\n  cooldown: 1m",
    )]));
    world.fire("more");
    assert_eq!(world.answer(ended(0)), "/bin/a");
    assert_eq!(world.answer(ended(0)), "/bin/b");
    assert_eq!(
        world.count("evenkeel_budget_remaining", &[]),
        3.0,
        "it is for processes"
    );
    world.resolve("more");
    world.pass(1);
    // The next episode waits for the cooldown of the rule.
    world.send("more", Status::Firing, 100, Source::Alertmanager);
    assert_eq!(world.begun(), []);
    assert_eq!(world.decided("more", Decision::Cooldown), 1.0);
    world.pass(75);
    assert_eq!(world.answer(ended(0)), "/bin/a");
    world.crash_and_restart();
    world.pass(60);
    assert_eq!(world.answer(ended(0)), "/bin/b");
}

#[test]
fn a_command_that_a_crash_interrupted_is_not_run_again() {
    let mut world = world(policy(vec![rule(&["exec: {argv: [/bin/a], undo: [/bin/b]}"], "")]));
    world.fire("more");
    assert_eq!(world.begun().len(), 1);
    world.crash_and_restart();
    world.pass(60);
    assert_eq!(world.begun(), []);
    world.resolve("more");
    assert_eq!(world.answer(ended(0)), "/bin/b");
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn host_steps_run_beside_process_steps() {
    let mut world = world(policy(vec![rule(
        &["nice: 10", "wait: 5m", ALLOCATE, "signal: SIGTERM"],
        "select: {name: burner}\n  limit: 2",
    )]));
    world.add(100, 1);
    world.add(200, 1);
    world.fire("more");
    assert_eq!((world.nice(100), world.nice(200)), (vec![10], vec![10]));
    assert_eq!(world.begun(), []);
    world.pass(301);
    assert_eq!(world.begun().len(), 1);
    assert_eq!(world.signals().len(), 1);
}

#[test]
fn dry_run_sends_no_request() {
    let mut world = world(Policy {
        enforce: false,
        ..policy(vec![rule(&[ALLOCATE, "exec: [/bin/use, '{{ $resource }}']"], "")])
    });
    world.fire("more");
    world.pass(60);
    assert_eq!(world.begun(), []);
    assert!(world.engine.ledger().leases.is_empty());
    assert_eq!(world.came_to("allocate", Outcome::DryRun), 1.0);
    assert_eq!(world.came_to("exec", Outcome::DryRun), 1.0);
    assert_eq!(world.count("evenkeel_budget_remaining", &[]), 3.0);
}

#[test]
fn labels_reach_no_other_url_and_no_other_argument() {
    let evil = "a/b?c=d#e&f%2e\"'\n$(id) `id` ..\\;@h:80/";
    let steps = [
        "allocate: {url: 'http://broker/v1/{{ $labels.evil }}/take?host={{ $labels.evil }}', resource: /id, \
         body: {n: 2, deep: [{host: '{{ $labels.evil }}'}]}, release: {url: 'http://broker/{{ $labels.evil }}/{{ $resource }}'}}",
        "exec: [/bin/use, 'x={{ $labels.evil }}', --]",
    ];
    let mut world = world(policy(vec![rule(&steps, "")]));
    let mut fired = alert("more", Status::Firing);
    fired.labels.insert("evil", evil);
    fired.annotations.insert("a=b", "x");
    world.engine.take(&[fired], Instant::now()).unwrap();
    let begun = world.engine.host().jobs.clone();
    let Job::Request(request, _) = &begun[0].1 else {
        panic!()
    };
    let encoded = "a%2Fb%3Fc%3Dd%23e%26f%252e%22%27%0A%24%28id%29%20%60id%60%20..%5C%3B%40h%3A80%2F";
    assert_eq!(request.url, format!("http://broker/v1/{encoded}/take?host={encoded}"));
    let body: serde_json::Value = serde_json::from_str(request.body.as_ref().unwrap()).unwrap();
    assert_eq!(body, serde_json::json!({"n": 2, "deep": [{"host": evil}]}));
    assert!(request.key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    world.answer(answer(200, r#"{"id":"../../etc"}"#));
    let begun = world.engine.host().jobs.clone();
    let Job::Command(run) = &begun[0].1 else { panic!() };
    assert_eq!(run.argv, ["/bin/use", &format!("x={evil}"), "--"]);
    assert_eq!(run.env["AMX_LABEL_evil"], evil);
    assert!(run.env.keys().all(|name| !name.contains('=')));
}

#[test]
fn oversized_job_is_refused_before_any_request() {
    for (label, expected) in [
        ("..", "points outside the path"),
        (".", "points outside the path"),
        ("", "the alert has no label \"evil\""),
    ] {
        let step = "allocate: {url: 'http://broker/{{ $labels.evil }}', resource: /id, ttl: /ttl}";
        let mut world = world(policy(vec![rule(&[step], "")]));
        let mut fired = alert("more", Status::Firing);
        fired.labels.insert("evil", label);
        world.engine.take(&[fired], Instant::now()).unwrap();
        assert_eq!(world.begun(), []);
        assert!(
            world.last_record().reason.contains(expected),
            "{:?}",
            world.last_record()
        );
    }
    let mut world = world(policy(vec![rule(&["exec: [/bin/use, '{{ $labels.evil }}']"], "")]));
    let mut fired = alert("more", Status::Firing);
    fired.labels.insert("evil", "a\0b");
    world.engine.take(&[fired], Instant::now()).unwrap();
    assert_eq!(world.begun(), []);
    assert!(world.last_record().reason.contains("NUL"));
}

#[test]
fn renewal_refused_after_resolve_still_releases_the_grant() {
    for status in [400, 403, 404, 410, 500] {
        let mut world = world(policy(vec![rule(&[RENEWED], "")]));
        world.fire("more");
        world.answer(answer(200, r#"{"id":"a","ttl":60}"#));
        world.pass(41);
        world.resolve("more");
        // The renewal was under way when the alert resolved. Its answer says nothing about the grant that stands.
        assert_eq!(world.answer(answer(status, "")), "POST http://broker/take", "{status}");
        assert_eq!(world.answer(answer(503, "")), "DELETE http://broker/give/a", "{status}");
        world.pass(2);
        assert_eq!(world.answer(answer(204, "")), "DELETE http://broker/give/a", "{status}");
        assert!(world.engine.ledger().leases.is_empty());
        assert_eq!(world.came_to("allocate", Outcome::Released), 1.0);
    }
}

/// Advances to each next try and answers it, until nothing is asked any more. Returns how often something was.
fn answer_to_the_end(world: &mut World, report: &Report) -> u32 {
    let mut tries = 0;
    for _ in 0..1000 {
        for (ticket, _) in world.begun() {
            tries += 1;
            world.engine.reported(ticket, report);
        }
        let Some(left) = world.engine.time_until_due().filter(|_| world.engine.is_giving_back()) else {
            break;
        };
        world.engine.host().advance(left);
        world.engine.tick();
    }
    tries
}

#[test]
fn wrong_resource_pointer_asks_nothing_more_after_the_alert() {
    let unnamed = || answer(200, r#"{"ID":"r-1"}"#);
    for way in 0..3 {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
        world.fire("more");
        let key = world.key();
        for _ in 0..5 {
            world.answer(unnamed());
            world.pass(60);
        }
        world.begun();
        world.crash_and_restart();
        world.pass(20);
        assert_eq!(world.begun(), [], "no source has confirmed the alert since");
        world.fire("more");
        world.pass(1);
        world.answer(unnamed());
        match way {
            0 => world.resolve("more"),
            1 => assert_eq!(world.engine.release(None, &OperatorRequest::example()), 1),
            _ => world.engine.reload(policy(vec![])),
        }
        world.pass(600);
        assert_eq!(world.begun(), [], "{way}");
        assert!(world.engine.ledger().leases.is_empty(), "{way}");
        let last = world.last_record();
        assert_eq!(last.outcome, Some(Outcome::Failed));
        assert!(last.reason.contains("no value at \"/id\""), "{}", last.reason);
        assert!(last.reason.contains(&key), "{}", last.reason);
        assert_eq!(last.output.as_deref(), Some(r#"{"ID":"r-1"}"#));
    }
}

#[test]
fn asking_for_an_unnamed_grant_ends_after_the_alert() {
    let cut = Report::Unanswered {
        reason: "cut".into(),
        was_sent: true,
    };
    for (report, most) in [
        (answer(200, r#"{"ID":1}"#), 5),
        (answer(200, "<html>"), 300),
        (answer(302, ""), 300),
        (answer(403, ""), 300),
        (answer(503, ""), 300),
        (cut.clone(), 300),
    ] {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
        world.fire("more");
        let key = world.key();
        world.answer(cut.clone());
        world.resolve("more");
        let tries = answer_to_the_end(&mut world, &report);
        assert_eq!(tries, most, "{report:?}");
        assert!(world.engine.ledger().leases.is_empty());
        let last = world.last_record();
        assert_eq!(last.outcome, Some(Outcome::Failed));
        assert!(last.reason.contains(&key), "{}", last.reason);
    }
}

#[test]
fn second_release_by_hand_drops_a_failing_grant() {
    let cut = Report::Unanswered {
        reason: "cut".into(),
        was_sent: true,
    };
    for is_granted in [true, false] {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
        world.fire("more");
        let first = if is_granted {
            answer(200, r#"{"id":"a"}"#)
        } else {
            cut.clone()
        };
        world.answer(first);
        world.resolve("more");
        world.answer(answer(500, ""));
        // Once by hand is a try at once, and twice in a row is one too.
        assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
        assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
        assert_eq!(world.engine.ledger().leases.len(), 1);
        world.answer(answer(500, ""));
        assert_eq!(world.engine.release(None, &OperatorRequest::example()), 1);
        assert_eq!(world.engine.ledger().leases.len(), 1, "all is not meant to drop");
        world.answer(answer(500, ""));
        world.crash_and_restart();
        world.answer(answer(500, ""));
        assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
        assert!(world.engine.ledger().leases.is_empty());
        let last = world.last_record();
        assert_eq!(last.outcome, Some(Outcome::Failed));
        assert!(last.reason.contains("dropped by hand"), "{}", last.reason);
        world.pass(600);
        assert_eq!(world.begun(), []);
        assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 0);
    }
}

#[test]
fn second_release_by_hand_drops_a_command_that_cannot_be_undone() {
    let mut world = world(policy(vec![rule(&["exec: {argv: [/bin/a], undo: [/bin/b]}"], "")]));
    world.fire("more");
    // While it runs it is not dropped: it would not be taken back.
    assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
    assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
    assert_eq!(world.answer(ended(0)), "/bin/a");
    assert_eq!(world.answer(ended(1)), "/bin/b");
    assert_eq!(world.engine.release(Some(1), &OperatorRequest::example()), 1);
    assert!(world.engine.ledger().leases.is_empty());
    assert!(world.last_record().reason.contains("dropped by hand"));
    world.begun();
    world.pass(600);
    assert_eq!(world.begun(), []);
}

#[test]
fn grant_with_a_ttl_is_not_asked_for_after_the_alert() {
    let step = "allocate: {url: 'http://broker/take', resource: /id, ttl: /ttl}";
    for is_under_way in [true, false] {
        let mut world = world(policy(vec![rule(&[step], "")]));
        world.fire("more");
        if !is_under_way {
            world.answer(answer(500, ""));
        }
        world.resolve("more");
        if is_under_way {
            world.answer(answer(500, ""));
        }
        world.pass(600);
        assert_eq!(world.begun(), []);
        assert!(world.engine.ledger().leases.is_empty());
        assert!(world.last_record().reason.contains("the grant expires"));
    }
}

/// One of several alerts that differ in a label.
fn numbered(number: u32, status: Status) -> Alert {
    let mut alert = alert("more", status);
    alert.labels.insert("number", number.to_string());
    alert.fingerprint = fingerprint(&alert.labels);
    alert
}

#[test]
fn command_that_waits_for_its_turn_does_not_start_in_a_pause() {
    let step = "exec: {argv: [/bin/a], undo: [/bin/b]}";
    let mut world = world(policy(vec![rule(&[step], "")]));
    let alerts: Vec<Alert> = (0..5).map(|number| numbered(number, Status::Firing)).collect();
    world.engine.take(&alerts, Instant::now()).unwrap();
    let begun = world.begun();
    assert_eq!(begun.len(), 4);
    world.engine.pause(true, &OperatorRequest::example());
    world.engine.reported(begun[0].0, &ended(0));
    world.pass(60);
    assert_eq!(world.begun(), []);
    world
        .engine
        .take(&[numbered(0, Status::Resolved)], Instant::now())
        .unwrap();
    assert_eq!(world.begun().len(), 1, "the revert of the first");
    world.engine.pause(false, &OperatorRequest::example());
    for (ticket, _) in &begun[1..] {
        world.engine.reported(*ticket, &ended(0));
    }
    world.pass(20);
    assert_eq!(world.begun().len(), 1, "the fifth");
}

#[test]
fn request_that_waited_for_its_turn_is_not_sent_after_resolve() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    for number in 0..9 {
        world
            .engine
            .take(&[numbered(number, Status::Firing)], Instant::now())
            .unwrap();
    }
    let begun = world.begun();
    assert_eq!(begun.len(), 8);
    world.pass(3);
    world
        .engine
        .take(&[numbered(8, Status::Resolved)], Instant::now())
        .unwrap();
    for (ticket, _) in begun {
        world.engine.reported(ticket, &answer(200, r#"{"id":"a"}"#));
    }
    world.pass(60);
    assert_eq!(world.begun(), []);
    assert_eq!(world.engine.ledger().leases.len(), 8);
    assert_eq!(world.came_to("allocate", Outcome::Cancelled), 1.0);
}

#[test]
fn job_of_an_alert_that_ended_in_the_same_delivery_is_not_begun() {
    for step in [ALLOCATE, "exec: {argv: [/bin/a], undo: [/bin/b]}"] {
        let mut world = world(policy(vec![rule(&[step], "")]));
        let both = [alert("more", Status::Firing), alert("more", Status::Resolved)];
        world.engine.take(&both, Instant::now()).unwrap();
        world.pass(60);
        assert_eq!(world.begun(), []);
        assert!(world.engine.ledger().leases.is_empty());
    }
}

#[test]
fn retry_that_falls_due_with_the_end_is_not_sent() {
    let unsent = || Report::Unanswered {
        reason: "connection refused".into(),
        was_sent: false,
    };
    for way in 0..2 {
        let mut world = world(policy(vec![rule(&[ALLOCATE], "hold: 1m")]));
        world.fire("more");
        world.answer(unsent());
        match way {
            0 => {
                world.engine.host().advance(Duration::from_secs(61));
                world.engine.tick();
            }
            _ => {
                world.engine.host().advance(Duration::from_secs(20));
                world.policy = policy(vec![]);
                world.crash_and_restart();
            }
        }
        assert_eq!(world.begun(), [], "{way}");
        assert!(world.engine.ledger().leases.is_empty(), "{way}");
    }
}

#[test]
fn releases_of_two_resources_have_two_keys() {
    let mut world = world(policy(vec![rule(&[RENEWED], "")]));
    world.fire("more");
    world.answer(answer(200, r#"{"id":"a","ttl":60}"#));
    world.pass(41);
    world.answer(answer(200, r#"{"id":"b","ttl":60}"#));
    world.resolve("more");
    let begun = world.begun();
    let keys: BTreeSet<String> = begun
        .iter()
        .map(|(_, job)| match job {
            Job::Request(request, _) => request.key.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((begun.len(), keys.len()), (2, 2), "{keys:?}");
    assert!(keys.iter().all(|key| key.ends_with("-release")), "{keys:?}");
}

#[test]
fn release_that_fails_does_not_keep_the_next_episode_idle() {
    let steps = [ALLOCATE, "exec: {argv: [/bin/do, it]}"];
    let mut world = world(policy(vec![rule(&steps, "cooldown: 1s")]));
    world.fire("more");
    world.answer(answer(200, r#"{"id":"a"}"#));
    assert_eq!(world.answer(ended(0)), "/bin/do it");
    world.resolve("more");
    assert_eq!(world.answer(answer(500, "")), "DELETE http://broker/give/a");
    world.engine.host().advance(Duration::from_secs(2));
    world.send("more", Status::Firing, 1000, Source::Alertmanager);
    let mut all = Vec::new();
    for _ in 0..20 {
        for (ticket, job) in world.begun() {
            let report = match asked(&job).split_once(' ').unwrap().0 {
                "POST" => answer(200, r#"{"id":"b"}"#),
                "DELETE" => answer(500, ""),
                _ => ended(0),
            };
            all.push(asked(&job));
            world.engine.reported(ticket, &report);
        }
        world.pass(1);
    }
    all.retain(|job| !job.starts_with("DELETE"));
    assert_eq!(
        all,
        ["POST http://broker/take", "/bin/do it"],
        "while the release is tried"
    );
    world.send("more", Status::Resolved, 1000, Source::Alertmanager);
    assert!(answer_to_the_end(&mut world, &answer(204, "")) >= 2);
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn command_is_not_run_again_before_its_last_run_is_undone() {
    let mut world = world(policy(vec![rule(
        &["exec: {argv: [/bin/do, it], undo: [/bin/undo, it]}"],
        "",
    )]));
    world.fire("more");
    world.answer(ended(0));
    world.resolve("more");
    assert_eq!(world.answer(ended(1)), "/bin/undo it");
    world.engine.host().advance(Duration::from_millis(500));
    world.send("more", Status::Firing, 1000, Source::Alertmanager);
    assert_eq!(world.begun(), [], "its undo would revert the new run");
    world.pass(1);
    assert_eq!(world.answer(ended(0)), "/bin/undo it");
    world.pass(16);
    assert_eq!(world.answer(ended(0)), "/bin/do it");
}

/// A host on which at most two episodes may run commands in five minutes, and one process may be killed.
fn frugal(rules: Vec<Rule>) -> World {
    world(Policy {
        budget: Budget {
            final_steps: 1,
            commands: 2,
            per: Duration::from_secs(300),
        },
        ..policy(rules)
    })
}

fn notifier() -> Rule {
    rule(&["exec: [/bin/notify]"], "cooldown: 1s")
}

#[test]
fn notifications_and_kills_do_not_use_the_budget_of_each_other() {
    let mut world = frugal(vec![notifier(), example("end", "signal KILL")]);
    world.add(100, 1);
    for number in 1..=3 {
        world
            .engine
            .take(&[numbered(number, Status::Firing)], Instant::now())
            .unwrap();
        world.pass(2);
    }
    let begun = world.begun();
    assert_eq!(begun.len(), 2, "the budget of commands: {begun:?}");
    assert_eq!(world.decided("more", Decision::Budget), 1.0);
    let reasons = world.engine.records().into_iter().map(|record| record.reason);
    assert!(
        reasons
            .into_iter()
            .any(|reason| reason.contains("budget of 2 commands per 300 s"))
    );
    world.fire("end");
    assert_eq!(world.signals(), [(100, Signal::SIGKILL)]);
}

#[test]
fn failed_command_is_not_counted_across_a_restart() {
    let mut world = frugal(vec![notifier()]);
    for number in 1..=4 {
        world
            .engine
            .take(&[numbered(number, Status::Firing)], Instant::now())
            .unwrap();
        let report = match number {
            1 => Report::NotStarted {
                reason: "no such file".to_owned(),
            },
            2 => ended(3),
            _ => ended(0),
        };
        assert_eq!(world.answer(report), "/bin/notify", "{number}");
        world.crash_and_restart();
        world.pass(2);
    }
    world
        .engine
        .take(&[numbered(5, Status::Firing)], Instant::now())
        .unwrap();
    assert_eq!(world.begun(), [], "two did not fail");
    assert_eq!(world.decided("more", Decision::Budget), 1.0);
}

#[test]
fn grant_that_was_returned_without_a_record_is_requested_again() {
    let mut world = world(policy(vec![rule(&[ALLOCATE], "")]));
    world.fire("more");
    world.answer(answer(201, r#"{"id":"r/1"}"#));
    let lock = world.lock_ledger();
    let resolved = alert("more", Status::Resolved);
    let _ = world.engine.take(std::slice::from_ref(&resolved), Instant::now());
    assert_eq!(world.answer(answer(204, "")), "DELETE http://broker/give/r%2F1");
    drop(lock);
    world.crash_and_restart();
    assert_eq!(world.answer(answer(404, "")), "DELETE http://broker/give/r%2F1");
    assert!(world.engine.ledger().leases.is_empty());
    world.send("more", Status::Firing, 500, Source::Alertmanager);
    assert_eq!(world.answer(answer(201, r#"{"id":"r/2"}"#)), "POST http://broker/take");
}

/// The alert goes on over three episodes, because its sender was silent twice.
#[test]
fn command_that_succeeds_after_a_failure_counts() {
    let mut world = frugal(vec![rule(
        &["exec: [/bin/notify]", "exec: [/bin/more]"],
        "hold: 10m\n  cooldown: 1s",
    )]);
    world.fire("more");
    assert_eq!(world.answer(ended(3)), "/bin/notify");
    let silence = 700;
    world.pass(silence);
    assert!(world.engine.ledger().episodes.is_empty(), "closed for silence");
    world.fire("more");
    assert_eq!(world.answer(ended(0)), "/bin/notify");
    assert_eq!(world.answer(ended(0)), "/bin/more", "no cooldown within an episode");
    let counted = world
        .engine
        .ledger()
        .victims
        .iter()
        .filter(|victim| !victim.is_uncounted);
    assert_eq!(counted.count(), 1, "the budget knows it");
    world.pass(silence);
    world.fire("more");
    world.pass(60);
    assert_eq!(world.begun(), [], "already run for this alert");
    assert_eq!(world.decided("more", Decision::Budget), 1.0);
}
