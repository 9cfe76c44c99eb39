//! evenkeel with real Alertmanagers and faults between them: silences, inhibition, restarts, a cluster that loses a
//! member. A table has the expected number of actions and reverts.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::alertmanager::Alertmanager;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home, TOKEN};
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(60);
const RULE_NICE: i32 = 15;
const PATIENCE: Duration = Duration::from_secs(6);
/// Longer than the patience and a round, after which every absent alert must have closed.
const LONG: Duration = Duration::from_secs(9);
/// Flags with a detailed log, which a failing test shows.
const FLAGS: [&str; 2] = ["--enforce", "--log.level=debug"];
const INHIBITION: &str = "inhibit_rules:\n\
                          \x20 - {source_matchers: [alertname=Inhibitor], target_matchers: [alertname=Test]}\n";

struct Scenario {
    name: &'static str,
    play: fn(&mut Scene),
    applied: usize,
    restored: usize,
}

/// The expected result of each scenario, with or without a kill and restart of evenkeel in its middle.
const TABLE: [Scenario; 9] = [
    Scenario {
        name: "fired and repeated",
        play: fired_and_repeated,
        applied: 1,
        restored: 1,
    },
    Scenario {
        name: "resolved in part",
        play: resolved_in_part,
        applied: 2,
        restored: 2,
    },
    Scenario {
        name: "silenced while firing",
        play: silenced_while_firing,
        applied: 2,
        restored: 2,
    },
    Scenario {
        name: "inhibited while firing",
        play: inhibited_while_firing,
        applied: 2,
        restored: 2,
    },
    Scenario {
        name: "Alertmanager restarted",
        play: alertmanager_restarted,
        applied: 1,
        restored: 1,
    },
    Scenario {
        name: "one of two Alertmanagers killed",
        play: one_of_two_killed,
        applied: 2,
        restored: 2,
    },
    Scenario {
        name: "resolved unheard",
        play: resolved_unheard,
        applied: 1,
        restored: 1,
    },
    Scenario {
        name: "no webhook",
        play: no_webhook,
        applied: 1,
        restored: 1,
    },
    Scenario {
        name: "silent for a while",
        play: silent_for_a_while,
        applied: 1,
        restored: 1,
    },
];

/// evenkeel and two target processes.
struct Scene {
    burners: [Burner; 2],
    names: [String; 2],
    before: [Vec<(u32, i32)>; 2],
    home: Home,
    evenkeel: Daemon,
    /// Whether evenkeel is killed and restarted during the scenario.
    disturbs: bool,
    disturbed: Cell<bool>,
    started: String,
}

impl Scene {
    fn new(number: usize, disturbs: bool) -> Scene {
        let names = ["a", "b"].map(|letter| format!("am{number}{letter}-{}", std::process::id() % 100_000));
        let home = Home::new(&format!(
            "rules:\n\
             \x20 - name: test\n\
             \x20   matchers: ['alertname=\"Test\"']\n\
             \x20   select: {{name: '{{{{ $labels.process }}}}'}}\n\
             \x20   actions: [{{nice: {RULE_NICE}}}]\n"
        ));
        home.write(
            "evenkeel.yml",
            &format!(
                "rule_files: [rules/*.yml]\n\
                 webhook: {{token_file: webhook.token}}\n\
                 alertmanagers: [{{file_sd_configs: [{{files: ['*.targets.json']}}]}}]\n\
                 reconcile: {{interval: 1s, patience: {}s}}\n",
                PATIENCE.as_secs()
            ),
        );
        let evenkeel = home.start(&FLAGS);
        let burners = names.each_ref().map(|name| Burner::start(name));
        Scene {
            before: burners.each_ref().map(Burner::nice_values),
            burners,
            names,
            home,
            evenkeel,
            disturbs,
            disturbed: Cell::new(false),
            started: jiff::Timestamp::now().to_string(),
        }
    }

    /// Makes evenkeel poll these Alertmanagers.
    fn ask(&self, alertmanagers: &[&Alertmanager]) {
        let targets: Vec<String> = alertmanagers.iter().map(|one| one.address.to_string()).collect();
        self.home
            .write("all.targets.json", &json!([{"targets": targets}]).to_string());
    }

    fn alertmanager(&self, more: &str) -> Alertmanager {
        let alertmanager = Alertmanager::start_with(Some((self.evenkeel.webhook, TOKEN)), more, None);
        self.ask(&[&alertmanager]);
        alertmanager
    }

    /// The alert about one of the processes, as Prometheus posts it.
    fn alert(&self, process: usize) -> Value {
        json!({
            "labels": {"alertname": "Test", "instance": node_name(), "process": self.names[process]},
            "startsAt": self.started,
        })
    }

    fn fire(&self, alertmanager: &Alertmanager, process: usize) {
        alertmanager.post("/api/v2/alerts", &json!([self.alert(process)]));
    }

    fn resolve(&self, alertmanager: &Alertmanager, process: usize) {
        let mut alert = self.alert(process);
        alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
        alertmanager.post("/api/v2/alerts", &json!([alert]));
    }

    fn wait_for_nice(&self, process: usize) {
        eventually("every thread to get the rule's nice value", TIMEOUT, || {
            self.burners[process].is_at(RULE_NICE).then_some(())
        });
    }

    fn wait_for_restore(&self, process: usize) {
        eventually("every thread to have its former nice value", TIMEOUT, || {
            (self.burners[process].nice_values() == self.before[process]).then_some(())
        });
    }

    /// Checks that a process keeps the rule's value for longer than the patience.
    fn stays_nice(&self, process: usize) {
        let started = Instant::now();
        while started.elapsed() < LONG {
            assert!(self.burners[process].is_at(RULE_NICE), "restored too early");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn disturb(&mut self) {
        self.disturb_while(|_| ());
    }

    /// Runs `meanwhile`, while evenkeel is down if the scenario is disturbed.
    fn disturb_while(&mut self, meanwhile: impl FnOnce(&Scene)) {
        self.disturbed.set(true);
        if !self.disturbs {
            return meanwhile(self);
        }
        // A daemon that is killed before it records the outcome reverts the value until the alert is confirmed.
        eventually("the outcomes to be recorded", TIMEOUT, || {
            let niced = self.burners.iter().filter(|burner| burner.is_at(RULE_NICE)).count();
            (self.evenkeel.leases() == niced).then_some(())
        });
        self.evenkeel.kill();
        meanwhile(self);
        self.evenkeel = self.home.start_again(&self.evenkeel, &FLAGS);
    }

    fn wait_for_repeats(&self, count: f64) {
        let received = || {
            self.evenkeel
                .metric("evenkeel_alerts_received_total", &[("status", "firing")])
        };
        let before = received();
        eventually("the alert to be repeated", TIMEOUT, || {
            (received() >= before + count).then_some(())
        });
    }
}

fn fired_and_repeated(scene: &mut Scene) {
    let alertmanager = scene.alertmanager("");
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    scene.wait_for_repeats(1.0);
    scene.disturb();
    scene.wait_for_repeats(2.0);
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
}

fn resolved_in_part(scene: &mut Scene) {
    let alertmanager = scene.alertmanager("");
    scene.fire(&alertmanager, 0);
    scene.fire(&alertmanager, 1);
    scene.wait_for_nice(0);
    scene.wait_for_nice(1);
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
    scene.disturb();
    scene.stays_nice(1);
    scene.resolve(&alertmanager, 1);
    scene.wait_for_restore(1);
}

fn silenced_while_firing(scene: &mut Scene) {
    let alertmanager = scene.alertmanager("");
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    let silence = json!({
        "matchers": [{"name": "alertname", "value": "Test", "isRegex": false, "isEqual": true}],
        "startsAt": jiff::Timestamp::now().to_string(),
        "endsAt": (jiff::Timestamp::now() + Duration::from_secs(600)).to_string(),
        "createdBy": "a test",
        "comment": "quiet",
    });
    let silenced = alertmanager.post("/api/v2/silences", &silence);
    let id = silenced["silenceID"].as_str().expect("the silence has an id");
    scene.disturb();
    scene.wait_for_restore(0);
    alertmanager.delete(&format!("/api/v2/silence/{id}"));
    scene.wait_for_nice(0);
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
}

fn inhibited_while_firing(scene: &mut Scene) {
    let alertmanager = scene.alertmanager(INHIBITION);
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    let mut inhibitor = json!({"labels": {"alertname": "Inhibitor"}, "startsAt": scene.started});
    alertmanager.post("/api/v2/alerts", &json!([inhibitor]));
    scene.wait_for_restore(0);
    scene.disturb();
    inhibitor["endsAt"] = json!(jiff::Timestamp::now().to_string());
    alertmanager.post("/api/v2/alerts", &json!([inhibitor]));
    scene.wait_for_nice(0);
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
}

fn alertmanager_restarted(scene: &mut Scene) {
    let mut alertmanager = scene.alertmanager("");
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    alertmanager.restart();
    scene.fire(&alertmanager, 0);
    scene.stays_nice(0);
    // No episode closes while the Alertmanager is down.
    alertmanager.stop();
    scene.disturb();
    scene.stays_nice(0);
    // The restarted Alertmanager has no alerts, and none arrive.
    alertmanager.start_again();
    scene.wait_for_restore(0);
}

fn one_of_two_killed(scene: &mut Scene) {
    let webhook = Some((scene.evenkeel.webhook, TOKEN));
    let mut first = Alertmanager::start_with(webhook, "", Some(&[]));
    let peer = first.cluster.expect("a member of a cluster");
    let second = Alertmanager::start_with(webhook, "", Some(&[peer]));
    scene.ask(&[&first, &second]);
    scene.fire(&first, 0);
    scene.fire(&second, 0);
    scene.wait_for_nice(0);
    scene.disturb();
    first.kill();
    scene.stays_nice(0);
    scene.resolve(&second, 0);
    scene.wait_for_restore(0);
    scene.fire(&second, 1);
    scene.wait_for_nice(1);
    scene.resolve(&second, 1);
    scene.wait_for_restore(1);
}

fn resolved_unheard(scene: &mut Scene) {
    let mut alertmanager = scene.alertmanager("");
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    scene.disturb_while(|scene| {
        scene.resolve(&alertmanager, 0);
        // Kills it before it can notify its peers.
        alertmanager.kill();
        alertmanager.start_again();
    });
    scene.wait_for_restore(0);
}

fn no_webhook(scene: &mut Scene) {
    let alertmanager = Alertmanager::start_with(None, "", None);
    scene.ask(&[&alertmanager]);
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    scene.disturb();
    scene.stays_nice(0);
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
}

/// An Alertmanager that accepts connections and does not respond closes no episode.
fn silent_for_a_while(scene: &mut Scene) {
    let alertmanager = Alertmanager::start_with(None, "", None);
    scene.ask(&[&alertmanager]);
    scene.fire(&alertmanager, 0);
    scene.wait_for_nice(0);
    alertmanager.freeze();
    scene.disturb();
    eventually("Alertmanager to be called silent", TIMEOUT, || {
        let silent = scene.evenkeel.metric("evenkeel_alertmanagers", &[("state", "silent")]);
        (silent == 1.0).then_some(())
    });
    scene.stays_nice(0);
    alertmanager.thaw();
    scene.resolve(&alertmanager, 0);
    scene.wait_for_restore(0);
}

/// Runs all scenarios concurrently, because they mostly wait.
#[test]
fn actions_and_restores_are_those_of_the_table() {
    let runs = TABLE.iter().flat_map(|scenario| [(scenario, false), (scenario, true)]);
    let faults: Vec<String> = std::thread::scope(|threads| {
        let played: Vec<_> = runs
            .enumerate()
            .map(|(number, (scenario, disturbs))| {
                threads.spawn(move || {
                    let run = || play(scenario, number, disturbs);
                    let name = format!(
                        "{}{}",
                        scenario.name,
                        if disturbs { ", evenkeel restarted" } else { "" }
                    );
                    match catch_unwind(AssertUnwindSafe(run)) {
                        Ok(found) if found == (scenario.applied, scenario.restored) => None,
                        Ok((applied, restored)) => Some(format!("{name}: {applied} applied, {restored} restored")),
                        Err(_) => Some(format!("{name}: see above")),
                    }
                })
            })
            .collect();
        played
            .into_iter()
            .filter_map(|thread| thread.join().expect("panics are caught"))
            .collect()
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

fn play(scenario: &Scenario, number: usize, disturbs: bool) -> (usize, usize) {
    let mut scene = Scene::new(number, disturbs);
    (scenario.play)(&mut scene);
    assert!(scene.disturbed.get(), "the scenario has no place for a restart");
    // Unsettled leases would make the count wrong.
    eventually("the leases to be settled", TIMEOUT, || {
        (scene.evenkeel.leases() == 0).then_some(())
    });
    (scene.home.outcomes("applied"), scene.home.outcomes("restored"))
}
