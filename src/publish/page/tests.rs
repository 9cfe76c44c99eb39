use super::*;
use crate::publish::status::{CollectorStatus, HostFigures, HostInfo};
use crate::sense::{DayHistory, RecentHistory};
use crate::telemetry::{
    Activity, BudgetLimits, Event, EventKind, FrontendStatus, LeaseStatus, OpenAlert, OpenLists, RuleStatus, Telemetry,
    UnansweredAlert, episode_id,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const OPTIONS: PageOptions<'static> = PageOptions {
    telemetry_path: "/metrics",
    storage_option: "",
    is_authenticated: false,
};

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn alert(rule: &str) -> OpenAlert {
    let since = now() - SignedDuration::from_mins(4);
    OpenAlert {
        episode: episode_id(rule, "f", false, since),
        fingerprint: "f".into(),
        opened_at: since,
        alertname: "HostCpuSaturated".to_owned(),
        labels: [("severity", "<b>warning")].into(),
        rule: rule.to_owned(),
        source: "alertmanager".into(),
        since,
        state: "firing".into(),
        dry_run: false,
        targets: 1,
        runbook_url: Some("https://example.org/runbook?a=\"".to_owned()),
        generator_url: Some("http://prometheus.example.org/graph?g0.expr=a%3E1&b='".into()),
        rule_text: Arc::default(),
    }
}

fn lease(id: u64) -> LeaseStatus {
    LeaseStatus {
        id,
        rule: "calm-batch-jobs".to_owned(),
        fingerprint: "f".into(),
        since: now() - SignedDuration::from_mins(4),
        pid: Some(4_000_000 + id as i32),
        process: format!("a-long-name-{id:03}"),
        what: "oom_score_adj 0 -> 1000".to_owned(),
        released: None,
        until: Some(now() + SignedDuration::from_secs(61)),
    }
}

fn event(seconds_ago: i64, kind: EventKind, reason: &str) -> Event {
    Event {
        at: now() - SignedDuration::from_secs(seconds_ago),
        rule: "calm-batch-jobs".to_owned(),
        alertname: "HostCpuSaturated".to_owned(),
        fingerprint: "f".into(),
        kind,
        pid: Some(4711),
        process: Some("ffmpeg".to_owned()),
        step: Some("nice 10".to_owned()),
        before: Some("0".to_owned()),
        after: Some("10".to_owned()),
        reason: reason.to_owned(),
    }
}

/// A host on which two rules answer one alert, with this number of leases and a day of history.
fn busy(leases: u64) -> Status {
    let telemetry = Telemetry::default();
    let rule = |rule: &str| RuleStatus {
        rule: rule.to_owned(),
        steps: vec!["nice 10".to_owned()],
        text: format!("name: {rule}").into(),
        actions: ["nice"].into(),
        acts: true,
        last_decision: None,
    };
    telemetry.set_rules(vec![rule("quiet"), rule("calm-batch-jobs"), rule("other")]);
    let open = OpenLists {
        alerts: vec![alert("calm-batch-jobs"), alert("other")],
        leases: (1..=leases).map(lease).collect(),
        is_complete: true,
    };
    telemetry.set_open(open, now());
    for seconds in (1..=240).rev() {
        telemetry.record_event(event(seconds, EventKind::decision("planned"), ""));
        telemetry.record_event(event(seconds, EventKind::outcome("applied"), ""));
    }
    telemetry.record_event(event(
        7,
        EventKind::decision("protected"),
        "it is an ancestor of evenkeel",
    ));
    telemetry.record_event(event(7, EventKind::outcome("applied"), ""));
    let mut day_history = DayHistory::default();
    for step in 0..86_400 / 5 {
        let at = now().as_second() - 86_400 + step * 5;
        let value = (step * 7919 % 1009) as f32 / 1009.0;
        let sample = std::array::from_fn(|place| if place < 5 { value } else { value * 1e9 });
        day_history.observe(Duration::from_secs(at as u64), &sample);
    }
    Status {
        version: "1.2.3",
        mode: "enforce",
        paused: false,
        actuator_off: None,
        engine_restarts: 0,
        frontend: Some(FrontendStatus {
            since: Some(now() - SignedDuration::from_mins(7)),
            restarts: 0,
        }),
        host: HostInfo::default(),
        alerts_firing: BTreeMap::from([("alertmanager", 1)]),
        leases_held: leases as usize,
        activity: telemetry.activity(),
        budget_remaining: 2,
        commands_remaining: 9,
        budget: BudgetLimits {
            final_steps: 3,
            commands: 10,
            per_seconds: 300,
        },
        breakers_open: Vec::new(),
        paused_rules: BTreeSet::new(),
        ledger_writable: true,
        config_last_reload_successful: true,
        config_last_reload_success_at: now(),
        sampled_at: now(),
        sampling_interval_seconds: 1.0,
        figures: HostFigures {
            cpu_busy_ratio: None,
            memory_used_ratio: None,
            memory_total_bytes: None,
            load1: None,
            filesystem_used_ratio: BTreeMap::new(),
            network_receive_bytes_per_second: BTreeMap::new(),
            network_transmit_bytes_per_second: BTreeMap::new(),
        },
        recent_history: RecentHistory::default(),
        day_history,
        collectors: (0..60)
            .map(|_| CollectorStatus {
                name: "cpu",
                success: true,
                error: None,
                age_seconds: 1.0,
                duration_seconds: 0.001,
            })
            .collect(),
    }
}

/// The part of a page after a heading, up to the next one of the same level.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page
        .find(&format!("<h2 id=\"{id}\">"))
        .unwrap_or_else(|| panic!("no {id} in {page}"));
    let rest = &page[start + 4..];
    &rest[..rest.find("<h2").unwrap_or(rest.len())]
}

/// `benches/page.rs` measures the time.
#[test]
fn page_with_a_thousand_leases_and_a_day_is_small() {
    let page = page(&busy(1000), OPTIONS, Some(Range::Day));
    assert!(page.len() < 300_000, "{} bytes", page.len());
    for id in ["a-long-name-001", "a-long-name-1000"] {
        assert!(page.contains(id), "{id}");
    }
}

#[test]
fn page_with_long_paths_and_hostile_names_is_small_too() {
    let mut status = busy(1000);
    let path = format!("/system.slice/{}<img src=x>'\"&.service", "x".repeat(164));
    assert_eq!(path.len(), 200);
    for lease in &mut status.activity.leases {
        lease.process = path.clone();
        lease.rule = format!("calm <'\"&> {}", "y".repeat(90));
    }
    let telemetry = Telemetry::default();
    telemetry.set_open(
        OpenLists {
            alerts: vec![alert("calm-batch-jobs"), alert("other")],
            leases: Vec::new(),
            is_complete: true,
        },
        now(),
    );
    for number in (0..256).rev() {
        for kind in [EventKind::decision("protected"), EventKind::outcome("applied")] {
            telemetry.record_event(Event {
                process: Some(path.clone()),
                ..event(number * 300, kind, "it is protected: its unit is <'\"&>")
            });
        }
    }
    let activity = telemetry.activity();
    status.activity.actions = activity.actions;
    status.activity.decisions = activity.decisions;
    let page = page(&status, OPTIONS, Some(Range::Day));
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(
        page.contains("<td>1000<th scope=\"row\">4001000 /system.…"),
        "the last lease"
    );
}

#[test]
fn sections_come_in_the_order_of_the_questions() {
    let page = page(&busy(3), OPTIONS, None);
    let headings: Vec<&str> = page
        .split("<h2 id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert_eq!(
        headings,
        [
            "status",
            "alerts",
            "timeline",
            "leases",
            "actions",
            "rules",
            "host",
            "collectors"
        ]
    );
}

#[test]
fn alert_is_shown_once_with_each_rule_that_answers_it() {
    let page = page(&busy(3), OPTIONS, None);
    let alerts = section(&page, "alerts");
    assert_eq!(alerts.matches("<article").count(), 1);
    for text in [
        "</span> HostCpuSaturated</h3>",
        "<h4>Rule calm-batch-jobs ",
        "<h4>Rule other ",
        "applied nice 10 on 4711 ffmpeg (0 → 10)",
        "protected nice 10 on 4711 ffmpeg (0 → 10): it is an ancestor of evenkeel",
        "leases 1, 2, 3</a>, until the alert is over, at the latest <time",
        "nothing yet; its step is nice 10",
        "<dt>Did it help?</dt><dd>CPU busy ",
        "severity=&quot;&lt;b&gt;warning&quot;",
    ] {
        assert!(alerts.contains(text), "{text:?} in {alerts}");
    }
}

#[test]
fn banner_says_who_paused_and_what_is_wrong() {
    let mut status = busy(0);
    let healthy = page(&status, OPTIONS, None);
    let banner = section(&healthy, "status");
    for text in [
        "Healthy: ledger, configuration, actuator, frontend and breakers; ",
        "2 of 3 per 5 min",
        "9 of 10 per 5 min",
        "Last action <time",
    ] {
        assert!(banner.contains(text), "{text:?} in {banner}");
    }
    status.paused = true;
    status.ledger_writable = false;
    status.breakers_open = vec!["it's".to_owned()];
    status.activity.paused_by = Some(Event {
        reason: "by root (uid 0, login alice): <restore>".to_owned(),
        ..event(60, EventKind::operation("pause"), "")
    });
    let options = PageOptions {
        storage_option: " --storage.path=/x",
        ..OPTIONS
    };
    let page = page(&status, options, None);
    let banner = section(&page, "status");
    for text in [
        "by root (uid 0, login alice): &lt;restore&gt;, until <code tabindex=\"0\">evenkeel resume <span>--storage.path=/</span><span>x</span></code>",
        "Not healthy: the ledger cannot be written",
        "<code tabindex=\"0\">evenkeel release <span>--breaker</span> &#39;it&#39;\\&#39;&#39;s&#39; <span>--storage.path=/</span><span>x</span></code>",
        "not writable",
    ] {
        assert!(banner.contains(text), "{text:?} in {banner}");
    }
}

#[test]
fn commands_to_stop_and_to_revert_follow_the_alerts() {
    let page = page(&busy(2), OPTIONS, None);
    let alerts = section(&page, "alerts");
    for hint in [
        "To stop new steps: <code tabindex=\"0\">evenkeel pause</code></p>",
        "To revert all leases now: <code tabindex=\"0\">evenkeel release <span>--all</span></code></p>",
    ] {
        assert!(alerts.contains(hint), "{alerts}");
    }
    let stopped = Status {
        paused: true,
        ..busy(0)
    };
    assert!(!super::page(&stopped, OPTIONS, None).contains("class=\"hint\""));
}

#[test]
fn rules_and_alerts_have_the_command_that_pauses_or_resumes() {
    let mut status = busy(0);
    let has = |status: &Status, id: &str, text: &str| {
        let page = page(status, OPTIONS, None);
        let section = section(&page, id);
        assert!(section.contains(text), "{text:?} in {section}");
    };
    let pause = "<code tabindex=\"0\">evenkeel pause <span>--rule</span> <span>calm-batch-jobs</span></code>";
    has(&status, "alerts", &format!("To stop the rule: {pause}</dd>"));
    has(&status, "rules", pause);
    status.paused_rules.insert("calm-batch-jobs".to_owned());
    let resume = "<code tabindex=\"0\">evenkeel resume <span>--rule</span> <span>calm-batch-jobs</span></code>";
    has(&status, "alerts", &format!("To go on: {resume}</dd>"));
    has(&status, "alerts", "</span> <strong>❚❚ paused</strong></h4>");
    has(&status, "rules", resume);
    has(&status, "status", &format!("calm-batch-jobs: until {resume}"));
    let by = Event {
        reason: "by root (uid 0): <it>".to_owned(),
        ..event(60, EventKind::operation("pause"), "")
    };
    status.activity.actions.push_front(Arc::new(by));
    has(
        &status,
        "status",
        &format!("by root (uid 0): &lt;it&gt;, until {resume}"),
    );
}

#[test]
fn alerts_that_no_rule_answers_are_listed_and_counted() {
    let mut status = busy(0);
    let page_of = |status: &Status| page(status, OPTIONS, None);
    assert!(!page_of(&status).contains("No rule answers"));
    let alert = |number: i64| UnansweredAlert {
        alertname: format!("Disk{number}<b>").into(),
        labels: [("device", "<sda>".to_owned())].into(),
        source: "local".into(),
        since: now() - SignedDuration::from_secs(60 * number),
    };
    status.activity.unanswered_alerts = (1..=10).map(alert).collect();
    let page = page_of(&status);
    let alerts = section(&page, "alerts");
    for text in [
        "<li>Disk1&lt;b&gt;, for <time ",
        ">1 min</time>, from local. <span class=\"labels\">device=&quot;&lt;sda&gt;&quot;</span></li>",
    ] {
        assert!(alerts.contains(text), "{text:?} in {alerts}");
    }
    assert_eq!(alerts.matches("<li>Disk").count(), 8);
    assert!(alerts.contains("<li>and 2 more</li>"), "{alerts}");
}

#[test]
fn episode_of_a_paused_rule_promises_no_steps() {
    let mut status = busy(0);
    status.paused_rules.insert("calm-batch-jobs".to_owned());
    let page = episode(&status, &alert("calm-batch-jobs").episode, OPTIONS).unwrap();
    let summary = section(&page, "summary");
    let expected = "Enforce. The rule is paused: no new steps; its leases are still reverted.";
    assert!(summary.contains(expected), "{summary}");
}

#[test]
fn step_of_dry_run_is_listed_once() {
    let telemetry = Telemetry::default();
    let open = OpenLists {
        alerts: vec![OpenAlert {
            dry_run: true,
            ..alert("calm-batch-jobs")
        }],
        leases: Vec::new(),
        is_complete: true,
    };
    telemetry.set_open(open, now());
    telemetry.record_event(event(7, EventKind::decision("dry_run"), ""));
    telemetry.record_event(event(7, EventKind::outcome("dry_run"), ""));
    let mut status = busy(0);
    status.activity = telemetry.activity();
    let page = page(&status, OPTIONS, None);
    assert_eq!(section(&page, "alerts").matches("dry run nice 10").count(), 1);
}

#[test]
fn banner_tells_whether_frontend_and_actuator_run() {
    let mut status = busy(0);
    let expect = |status: &Status, texts: [&str; 2]| {
        let page = page(status, OPTIONS, None);
        let banner = section(&page, "status");
        for text in texts {
            assert!(banner.contains(text), "{text:?} in {banner}");
        }
    };
    expect(
        &status,
        ["</span> running, no restarts</dd>", ">7 min</time>, no restarts</dd>"],
    );
    status.engine_restarts = 1;
    status.frontend = Some(FrontendStatus {
        since: None,
        restarts: 2,
    });
    expect(
        &status,
        [
            "<dt>Actuator</dt><dd class=\"notice\">",
            "</span> not running, 2 restarts</dd>",
        ],
    );
    status.frontend = None;
    expect(
        &status,
        ["running, 1 restart</dd>", "none: the main process serves HTTP</dd>"],
    );
}

#[test]
fn timeline_shows_bands_marks_and_bars_of_every_range() {
    for (leases, range, texts) in [
        (
            3,
            Range::Day,
            [
                "class=\"band\"",
                "class=\"mark applied end\"",
                "lease 2 on 4000002 a-long-name-002",
            ],
        ),
        (
            20,
            Range::Hour,
            [
                "class=\"guide applied\"",
                "data-name=\"Waiting for I/O\"",
                "20 leases held: calm-batch-jobs",
            ],
        ),
    ] {
        let page = page(&busy(leases), OPTIONS, Some(range));
        let timeline = section(&page, "timeline");
        for text in texts {
            assert!(timeline.contains(text), "{text:?} in {timeline}");
        }
        assert!(timeline.contains(&format!("<a href=\"?range={}\" aria-current=\"true\">", range.key())));
    }
    let without = page(&busy(0), OPTIONS, None);
    assert!(
        section(&without, "timeline").contains("range=5m\" aria-current"),
        "{without}"
    );
}

#[test]
fn page_of_an_episode_tells_its_story() {
    let status = busy(2);
    let id = alert("calm-batch-jobs").episode;
    let page = episode(&status, &id, OPTIONS).unwrap();
    for (part, text) in [
        ("summary", "Firing for "),
        ("alert", "<dt>severity</dt><dd>&lt;b&gt;warning</dd>"),
        ("steps", "</span> applied</td>"),
        ("considered", "it is an ancestor of evenkeel"),
        ("undo", "<code tabindex=\"0\">evenkeel release 2</code>"),
        ("rule", "name: calm-batch-jobs"),
        ("explain", "evenkeel explain --alert - &lt;&lt;&#39;END&#39;"),
    ] {
        let found = section(&page, part);
        assert!(found.contains(text), "{text:?} in {found}");
    }
    assert!(page.contains("href=\"../style.css\"") && page.contains("<a href=\"../\">Status of this host</a>"));
    assert!(
        !page.contains("example.org"),
        "annotations are for authenticated clients"
    );
    let authenticated = PageOptions {
        is_authenticated: true,
        ..OPTIONS
    };
    let page = episode(&status, &id, authenticated).unwrap();
    assert!(
        page.contains("<a href=\"https://example.org/runbook?a=&quot;\" rel=\"noopener noreferrer\">"),
        "{page}"
    );
    let generator =
        "<a href=\"http://prometheus.example.org/graph?g0.expr=a%3E1&amp;b=&#39;\" rel=\"noopener noreferrer\">";
    assert!(page.contains(generator), "{page}");
    assert_eq!(episode(&status, "0123", OPTIONS), None);
}

/// The values of an attribute, in their order.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let parts = page.split(&start).skip(1);
    parts.map(|rest| rest.split('"').next().unwrap()).collect()
}

/// All events of a transaction have the same time.
#[test]
fn link_of_a_mark_leads_to_its_entry() {
    let telemetry = Telemetry::default();
    let open = OpenLists {
        alerts: vec![alert("calm-batch-jobs")],
        leases: Vec::new(),
        is_complete: true,
    };
    telemetry.set_open(open, now());
    let of_pid = |pid: i32, kind| Event {
        pid: Some(pid),
        ..event(60, kind, "")
    };
    for pid in [1, 2, 3] {
        telemetry.record_event(of_pid(pid, EventKind::decision("planned")));
        telemetry.record_event(of_pid(10 + pid, EventKind::decision("protected")));
        telemetry.record_event(of_pid(pid, EventKind::outcome("applied")));
    }
    telemetry.record_event(of_pid(2, EventKind::outcome("failed")));
    let mut status = busy(0);
    status.activity = telemetry.activity();
    let id = alert("calm-batch-jobs").episode;
    let text = episode(&status, &id, OPTIONS).unwrap();
    let ids = values(&text, "id");
    let unique: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");

    let page = page(&status, OPTIONS, Some(Range::FiveMinutes));
    let links = values(section(&page, "timeline"), "href");
    let start = format!("episodes/{id}#");
    let anchor = links.iter().find_map(|link| link.strip_prefix(&start)).unwrap();
    let row = text.split(&format!("<tr id=\"{anchor}\">")).nth(1).unwrap();
    assert!(
        row.split("</tr>").next().unwrap().contains("</span> failed</td>"),
        "{row}"
    );
    // Later events leave an anchor as it is.
    telemetry.record_event(of_pid(4, EventKind::outcome("applied")));
    status.activity = telemetry.activity();
    let later = episode(&status, &id, OPTIONS).unwrap();
    assert!(ids.iter().all(|id| later.contains(&format!("id=\"{id}\""))), "{later}");
}

#[test]
fn address_of_a_script_is_no_link() {
    let mut status = busy(0);
    status.activity.alerts[0].runbook_url = Some("javascript:alert(1)".to_owned());
    status.activity.alerts[0].generator_url = Some("javascript:alert(2)".into());
    let options = PageOptions {
        is_authenticated: true,
        ..OPTIONS
    };
    let page = episode(&status, &status.activity.alerts[0].episode.clone(), options).unwrap();
    assert!(!page.contains("javascript:"), "{page}");
}

#[test]
fn empty_host_has_all_sections() {
    let mut status = busy(0);
    (status.activity, status.day_history) = (Activity::default(), DayHistory::default());
    status.alerts_firing.clear();
    let page = page(&status, OPTIONS, None);
    for text in [
        "No alert of a rule is open.",
        "There are no leases.",
        "There were no actions yet.",
        "There are no rules.",
        "Last action: none is known.",
    ] {
        assert!(page.contains(text), "{text:?} in {page}");
    }
}

#[test]
fn episode_promises_only_steps_that_are_applied() {
    let id = alert("calm-batch-jobs").episode;
    let headline = |status: &Status| {
        let page = episode(status, &id, OPTIONS).unwrap();
        section(&page, "summary").split("</p>").next().unwrap().to_owned()
    };
    assert!(headline(&busy(0)).contains("Enforce: steps are applied"));
    let mut paused = busy(0);
    paused.paused = true;
    let mut lost = busy(0);
    lost.ledger_writable = false;
    let mut off = busy(0);
    off.actuator_off = Some("no boot id".to_owned());
    let mut stopped = busy(0);
    stopped.breakers_open = vec!["calm-batch-jobs".to_owned()];
    let mut unconfirmed = busy(0);
    unconfirmed.activity.alerts[0].state = "unconfirmed".into();
    for (status, expected) in [
        (paused, "Paused: no new steps"),
        (lost, "only rules with without_ledger apply steps"),
        (off, "The actuator is off"),
        (stopped, "The breaker of the rule is open"),
        (unconfirmed, "Unconfirmed: no new steps"),
    ] {
        let headline = headline(&status);
        assert!(headline.contains(expected), "{expected:?} in {headline}");
        assert!(!headline.contains("steps are applied"), "{headline}");
    }
}

#[test]
fn card_names_the_leases_and_their_last_deadline() {
    let held = |status: &Status| {
        let page = page(status, OPTIONS, None);
        let start = page.find("<dt>Held</dt>").unwrap();
        page[start..].split("</div>").next().unwrap().to_owned()
    };
    let mut status = busy(3);
    status.activity.leases.remove(1);
    status.leases_held = 2;
    status.activity.leases[1].until = Some(now() + SignedDuration::from_mins(30));
    let text = held(&status);
    assert!(text.contains("leases 1, 3</a>, until the alert is over"), "{text}");
    assert!(text.contains(">in 30 min</time>"), "{text}");
    status.activity.leases[1].until = None;
    let text = held(&status);
    assert!(text.contains("lease 1</a>, until the alert is over"), "{text}");
    assert!(text.contains("lease 3</a>, being reverted"), "{text}");
    let text = held(&busy(9));
    assert!(text.contains(">9 leases</a>, until"), "{text}");
}

#[test]
fn lists_that_are_cut_do_not_say_nothing() {
    let telemetry = Telemetry::default();
    let unlucky = OpenAlert {
        episode: episode_id("calm-batch-jobs", "g", false, now()),
        fingerprint: "g".into(),
        ..alert("calm-batch-jobs")
    };
    let id = unlucky.episode.clone();
    let open = OpenLists {
        alerts: vec![unlucky],
        leases: vec![lease(1)],
        is_complete: false,
    };
    telemetry.set_open(open, now());
    for _ in 0..300 {
        telemetry.record_event(event(1, EventKind::decision("protected"), ""));
        telemetry.record_event(event(1, EventKind::outcome("applied"), ""));
    }
    let mut status = busy(0);
    status.activity = telemetry.activity();
    status.leases_held = 1001;
    let text = episode(&status, &id, OPTIONS).unwrap();
    for (part, wrong) in [
        ("steps", "No step was applied"),
        ("considered", "chose all processes"),
        ("undo", "Nothing of this episode is held"),
    ] {
        let found = section(&text, part);
        assert!(!found.contains(wrong), "{found}");
    }
    assert!(section(&text, "steps").contains("more than is kept here"));
    assert!(section(&text, "considered").contains("more than is kept here"));
    assert!(section(&text, "undo").contains("<code tabindex=\"0\">evenkeel leases</code>"));
    let page = page(&status, OPTIONS, None);
    assert!(
        page.contains("<dt>Held</dt><dd>there are more leases than are kept here</dd>"),
        "{page}"
    );
}

#[test]
fn lease_that_restored_nothing_is_not_counted_as_reverted() {
    let mut status = busy(0);
    let telemetry = Telemetry::default();
    let open = OpenLists {
        alerts: vec![alert("calm-batch-jobs")],
        leases: Vec::new(),
        is_complete: true,
    };
    telemetry.set_open(open, now());
    telemetry.record_event(Event {
        step: Some("undo nice".to_owned()),
        ..event(7, EventKind::outcome("superseded"), "another program changed the value")
    });
    status.activity = telemetry.activity();
    let text = page(&status, OPTIONS, Some(Range::FiveMinutes));
    assert!(section(&text, "timeline").contains("class=\"mark untouched"), "{text}");
    assert!(
        section(&text, "alerts").contains("▽</span> superseded undo nice"),
        "{text}"
    );
    let text = episode(&status, &alert("calm-batch-jobs").episode, OPTIONS).unwrap();
    let summary = section(&text, "summary");
    assert!(summary.contains("<dt>Reverted</dt><dd>0</dd>"), "{summary}");
    assert!(summary.contains("<dt>Nothing to revert</dt><dd>1</dd>"), "{summary}");
}
