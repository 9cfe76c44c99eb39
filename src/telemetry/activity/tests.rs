use super::*;
use crate::labels::Labels;
use smol_str::SmolStr;
use std::collections::BTreeSet;

fn event(rule: &str, kind: EventKind) -> Event {
    Event {
        at: Timestamp::UNIX_EPOCH,
        rule: rule.to_owned(),
        alertname: "A".to_owned(),
        fingerprint: SmolStr::default(),
        kind,
        pid: None,
        process: None,
        step: None,
        before: None,
        after: None,
        reason: String::new(),
    }
}

fn rule_status(rule: &str) -> RuleStatus {
    RuleStatus {
        rule: rule.to_owned(),
        steps: Vec::new(),
        text: Arc::default(),
        actions: BTreeSet::new(),
        acts: false,
        last_decision: None,
    }
}

#[test]
fn rule_keeps_last_decision_across_reloads() {
    let mut activity = Activity::default();
    activity.record_event(event("b", EventKind::decision("paused")));
    activity.set_rules(vec![rule_status("a")]);
    activity.record_event(event("a", EventKind::decision("no_target")));
    activity.record_event(event("a", EventKind::outcome("restored")));
    activity.record_event(event("gone", EventKind::decision("planned")));
    activity.set_rules(vec![rule_status("b"), rule_status("a"), rule_status("c")]);
    let last = |at: usize| Some(activity.rules[at].last_decision.as_ref()?.kind.as_str());
    assert_eq!([last(0), last(1), last(2)], [Some("paused"), Some("no_target"), None]);
    assert_eq!((activity.actions.len(), activity.decisions.len()), (1, 3));
}

fn alert(fingerprint: &str, opened_at: i64) -> OpenAlert {
    let opened_at = Timestamp::from_second(opened_at).unwrap();
    OpenAlert {
        episode: episode_id("a", fingerprint, false, opened_at),
        fingerprint: fingerprint.into(),
        opened_at,
        alertname: "A".to_owned(),
        labels: Labels::new(),
        rule: "a".to_owned(),
        source: "local".into(),
        since: opened_at,
        state: "firing".into(),
        dry_run: false,
        targets: 1,
        runbook_url: Some("https://example.org".to_owned()),
        generator_url: Some("https://example.org/graph".into()),
        rule_text: Arc::default(),
    }
}

fn lease(id: u64, since: i64) -> LeaseStatus {
    LeaseStatus {
        id,
        rule: "a".to_owned(),
        fingerprint: "f".into(),
        since: Timestamp::from_second(since).unwrap(),
        pid: Some(7),
        process: "p".to_owned(),
        what: "nice 0 -> 10".to_owned(),
        released: None,
        until: None,
    }
}

fn open(alerts: &[OpenAlert], leases: &[LeaseStatus]) -> OpenLists {
    OpenLists {
        alerts: alerts.to_vec(),
        leases: leases.to_vec(),
        is_complete: true,
    }
}

fn rule_with_text(text: &str) -> RuleStatus {
    RuleStatus {
        text: text.into(),
        ..rule_status("a")
    }
}

#[test]
fn episode_keeps_its_rule_and_its_events_when_it_is_over() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut activity = Activity::default();
    activity.set_rules(vec![rule_with_text("old")]);
    activity.set_open(open(&[alert("f", 100)], &[lease(1, 100)]), at(100));
    activity.set_rules(vec![rule_with_text("new")]);
    let applied = Event {
        fingerprint: "f".into(),
        at: at(101),
        ..event("a", EventKind::outcome("applied"))
    };
    activity.record_event(applied.clone());
    activity.set_open(open(&[], &[]), at(200));
    // The alert fires again, and the rule applies another step.
    activity.set_open(open(&[alert("f", 300)], &[]), at(300));
    activity.record_event(Event { at: at(301), ..applied });
    let [first, second] = [alert("f", 100), alert("f", 300)].map(|alert| alert.episode);
    let episode = activity.episode(&first).unwrap();
    assert_eq!((&*episode.alert.rule_text, episode.ended_at), ("old", Some(at(200))));
    assert_eq!(
        activity
            .events_of(&first)
            .iter()
            .map(|event| event.at)
            .collect::<Vec<_>>(),
        [at(101)]
    );
    assert_eq!(&*activity.episode(&second).unwrap().alert.rule_text, "new");
    assert_eq!(activity.events_of(&second).len(), 1);
    assert_eq!(activity.ended_leases[0].ended_at, at(200));
}

#[test]
fn step_of_the_wall_clock_keeps_the_events_of_an_episode() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    for opened_at in [3700, 100 - 50] {
        let mut activity = Activity::default();
        let before = alert("f", 100);
        activity.set_open(open(std::slice::from_ref(&before), &[]), at(100));
        activity.record_event(Event {
            fingerprint: "f".into(),
            at: at(101),
            ..event("a", EventKind::outcome("applied"))
        });
        // Computed from the time since the boot with the clock of now.
        let after = OpenAlert {
            opened_at: at(opened_at),
            ..before
        };
        activity.set_open(open(std::slice::from_ref(&after), &[]), at(opened_at + 5));
        activity.record_event(Event {
            fingerprint: "f".into(),
            at: at(opened_at + 5),
            ..event("a", EventKind::outcome("applied"))
        });
        assert_eq!(activity.events_of(&after.episode).len(), 2, "{opened_at}");
    }
}

#[test]
fn incomplete_lists_end_nothing() {
    let at = Timestamp::UNIX_EPOCH;
    let mut activity = Activity::default();
    activity.set_open(open(&[alert("f", 0)], &[lease(1, 0)]), at);
    let incomplete = OpenLists {
        is_complete: false,
        ..open(&[], &[])
    };
    activity.set_open(incomplete, at);
    assert!(activity.ended_alerts.is_empty() && activity.ended_leases.is_empty());
}

#[test]
fn activity_survives_a_restart() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut before = Activity::default();
    before.set_rules(vec![rule_with_text("text")]);
    before.set_open(open(&[alert("f", 100), alert("g", 100)], &[lease(1, 100)]), at(100));
    before.record_event(Event {
        reason: "by root (uid 0)".to_owned(),
        ..event("", EventKind::operation("pause"))
    });
    before.record_event(event("a", EventKind::decision("planned")));
    let text = serde_json::to_string(&before.to_stored(at(150))).unwrap();
    let mut after = Activity::default();
    after.restore(serde_json::from_str(&text).unwrap());
    assert_eq!(after.paused_by.as_ref().unwrap().reason, "by root (uid 0)");
    assert_eq!((after.actions.len(), after.decisions.len()), (1, 1));
    // One of the alerts is still open after the restart.
    after.set_open(open(&[alert("f", 100)], &[]), at(160));
    let known = |fingerprint| {
        let id = alert(fingerprint, 100).episode;
        let episode = after.episode(&id).unwrap();
        (episode.ended_at, episode.alert.rule_text.to_string())
    };
    assert_eq!(known("f"), (None, "text".to_owned()));
    assert_eq!(known("g"), (Some(at(150)), "text".to_owned()));
    assert_eq!(after.ended_leases[0].ended_at, at(150));
    assert_eq!(
        after.ended_alerts[0].alert.runbook_url.as_deref(),
        Some("https://example.org")
    );
}

#[test]
fn pause_is_known_until_it_ends() {
    let mut activity = Activity::default();
    activity.record_event(event("", EventKind::operation("pause")));
    activity.record_event(event("", EventKind::operation("reload")));
    assert!(activity.paused_by.is_some());
    activity.record_event(event("", EventKind::operation("resume")));
    assert!(activity.paused_by.is_none());
}

#[test]
fn decisions_do_not_evict_actions() {
    let mut activity = Activity::default();
    activity.record_event(event("a", EventKind::outcome("applied")));
    for _ in 0..1000 {
        activity.record_event(event("a", EventKind::decision("planned")));
    }
    assert_eq!((activity.actions.len(), activity.decisions.len()), (1, MAX_KEPT));
}

#[test]
fn storm_of_one_rule_leaves_the_events_of_others() {
    let mut activity = Activity::default();
    activity.record_event(event("quiet", EventKind::outcome("applied")));
    for second in 0..1000 {
        activity.record_event(Event {
            at: Timestamp::from_second(second).unwrap(),
            ..event("noisy", EventKind::outcome("applied"))
        });
    }
    assert_eq!(activity.actions.len(), MAX_KEPT);
    assert_eq!(activity.actions.iter().filter(|event| event.rule == "quiet").count(), 1);
    let episode = |rule: &str, opened_at| OpenAlert {
        rule: rule.to_owned(),
        ..alert("f", opened_at)
    };
    assert!(activity.is_incomplete(&episode("noisy", 0)) && !activity.is_incomplete(&episode("quiet", 0)));
    assert!(!activity.is_incomplete(&episode("noisy", 900)), "an episode of later");
}

/// docs/operations.md names the size.
#[test]
fn full_activity_takes_350_kb_with_usual_names() {
    let string = |length: usize| "x".repeat(length);
    let mut activity = Activity::default();
    for kind in [EventKind::decision("protected"), EventKind::outcome("applied")] {
        for _ in 0..MAX_KEPT {
            activity.record_event(Event {
                alertname: string(18),
                fingerprint: string(16).into(),
                process: Some(string(15)),
                step: Some(string(20)),
                before: Some(string(3)),
                after: Some(string(3)),
                reason: string(60),
                ..event("calm-batch-jobs", kind.clone())
            });
        }
    }
    for number in 0..MAX_ENDED as i64 {
        let labels = [("instance", 12), ("job", 8), ("severity", 8), ("cluster", 12)];
        let alert = OpenAlert {
            alertname: string(18),
            labels: labels.map(|(name, length)| (name, string(length))).into(),
            rule: string(15),
            rule_text: string(300).into(),
            ..alert(&format!("{number:016}"), number)
        };
        let ended_at = alert.opened_at;
        activity.ended_alerts.push_back(EndedAlert { alert, ended_at });
        let lease = lease(number.unsigned_abs(), number);
        activity.ended_leases.push_back(EndedLease { lease, ended_at });
    }
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let of_event = |event: &Arc<Event>| {
        let names = event.rule.len() + event.alertname.len() + event.reason.len() + event.fingerprint.len();
        let values = text(&event.process) + text(&event.step) + text(&event.before) + text(&event.after);
        size_of::<Event>() + 3 * size_of::<usize>() + names + values
    };
    let events: usize = activity.actions.iter().chain(&activity.decisions).map(of_event).sum();
    let of_alert = |ended: &EndedAlert| {
        let alert = &ended.alert;
        let labels: usize = alert.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        let urls = text(&alert.runbook_url) + alert.generator_url.as_ref().map_or(0, |url| url.len());
        let names = alert.alertname.len() + alert.rule.len() + alert.episode.len() + alert.rule_text.len();
        size_of::<EndedAlert>() + labels + urls + names
    };
    let alerts: usize = activity.ended_alerts.iter().map(of_alert).sum();
    let of_lease = |ended: &EndedLease| {
        let lease = &ended.lease;
        size_of::<EndedLease>() + lease.rule.len() + lease.process.len() + lease.what.len()
    };
    let leases: usize = activity.ended_leases.iter().map(of_lease).sum();
    let all = events + alerts + leases;
    assert_eq!(all.div_ceil(50_000) * 50, 350, "{events} + {alerts} + {leases} bytes");
}
