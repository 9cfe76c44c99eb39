//! The simulation behind `evenkeel explain`: runs the engine on the live host with a webhook payload, in dry-run and
//! with a ledger in memory, and returns what each rule would do, and why.

mod text;

use crate::act::guard::Protection;
use crate::alert::{Alert, Status};
use crate::diagnostic::printable;
use crate::engine::open_episode;
use crate::engine::select::{began_at, leave_out_crowds, needs_cpu, select};
use crate::engine::{Answer, CgroupMatch, Engine, Policy, screen_cgroups, select_cgroups};
use crate::host::Host;
use crate::ledger::{Decision, EpisodeKey, Journal, LedgerState, Record};
use crate::process::cpu_baseline::{CpuBaseline, MIN_CPU_WINDOW};
use crate::process::selector::SelectorMatch;
use crate::process::{BootId, Process, ProcessFields, Selector};
use crate::rule::{Rule, RuleSet, Step, TargetSelector};
use crate::telemetry::Telemetry;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The result for one payload.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub alerts: Vec<AlertExplanation>,
    /// Invalid entries of the payload, with the reason.
    pub invalid: Vec<String>,
    /// Notes about this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct AlertExplanation {
    pub alertname: String,
    pub status: &'static str,
    pub labels: crate::alert::Labels,
    pub rules: Vec<RuleExplanation>,
}

#[derive(Debug, Default, Serialize)]
pub struct RuleExplanation {
    pub rule: String,
    pub matches: bool,
    /// The reasons why the rule does not apply, and other notes.
    pub remarks: Vec<String>,
    /// The processes that the selector matches, in the order in which the rule acts on them.
    pub selected: Vec<Selected>,
    /// The cgroups that the selector matches, for rules that act on cgroups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub selected_cgroups: Vec<SelectedCgroup>,
    /// The planned and the refused steps.
    pub decisions: Vec<Explained>,
    /// Number of processes that are left out only because of `limit`.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_taken: usize,
    /// `limit` of the rule.
    pub limit: usize,
    /// The steps after the first wait, which run only if the alert still fires and the process still matches.
    pub later: Vec<String>,
    /// Whether the rule begins with a wait and has an allowed target, about which it decides only later.
    #[serde(skip)]
    pub waits: bool,
    /// Requests that would be sent and commands that would run, now or later, with the labels of the alert and without
    /// secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<String>,
    /// The answer to `--pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about_pid: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Selected {
    pub pid: i32,
    pub name: String,
    pub resident_bytes: u64,
    pub cpu_cores: Option<f64>,
    pub age_seconds: u64,
}

#[derive(Debug, Serialize)]
pub struct SelectedCgroup {
    pub cgroup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    pub memory_bytes: Option<u64>,
    pub cpu_cores: Option<f64>,
    /// Number of processes in the cgroup and below it; `None` if unknown.
    pub processes: Option<usize>,
}

#[derive(Debug, Serialize)]
pub struct Explained {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// `planned` if `enforce` would apply the step.
    pub decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Explanation {
    /// Adds a remark to each rule whose episode is among `unconfirmed`. `alerts` are the explained ones.
    pub fn note_unconfirmed(&mut self, alerts: &[Alert], unconfirmed: &[EpisodeKey]) {
        for (alert, explained) in alerts.iter().zip(&mut self.alerts) {
            for rule in &mut explained.rules {
                let is_its = |key: &&EpisodeKey| key.rule == rule.rule && key.fingerprint == alert.fingerprint;
                if unconfirmed.iter().any(|key| is_its(&key)) {
                    let remark = "unconfirmed: the running daemon has an episode of this alert, and applies no new steps \
                                  until a source confirms that the alert fires";
                    rule.remarks.push(remark.to_owned());
                }
            }
        }
    }
}

/// Runs each alert by itself through the pipeline, as if it had just started and no step were applied. Calls `wait` to
/// measure processor use first.
pub fn explain<H: Host + Clone>(
    host: &H,
    policy: &Policy,
    alerts: &[Alert],
    invalid: Vec<String>,
    pid: Option<i32>,
    wait: impl FnOnce(Duration),
) -> Explanation {
    let rules = &policy.rules.rules;
    let mut explainer = Explainer {
        host,
        policy,
        baseline: None,
        own_ancestors: host.own_ancestors(),
        pid,
    };
    let asks_for_cpu = |alert: &Alert| rules.iter().any(|rule| rule.matches(&alert.labels) && needs_cpu(rule));
    if alerts.iter().any(asks_for_cpu) {
        let taken_at = host.now().boot;
        let (_, table) = explainer.look();
        explainer.baseline = Some(CpuBaseline::take(&table, taken_at));
        wait(MIN_CPU_WINDOW);
    }
    let explained = alerts.iter().map(|alert| AlertExplanation {
        alertname: alert.name().to_owned(),
        status: alert.status.as_str(),
        labels: alert.labels.clone(),
        rules: rules.iter().map(|rule| explainer.rule(rule, alert)).collect(),
    });
    Explanation {
        alerts: explained.collect(),
        invalid,
        remarks: Vec::new(),
    }
}

/// What the explanations of all alerts and rules have in common.
struct Explainer<'a, H> {
    host: &'a H,
    policy: &'a Policy,
    /// To measure processor use, if a rule asks for it.
    baseline: Option<CpuBaseline>,
    own_ancestors: BTreeSet<i32>,
    /// `--pid`.
    pid: Option<i32>,
}

impl<H: Host + Clone> Explainer<'_, H> {
    /// A host to read from, and its processes now.
    fn look(&self) -> (H, Vec<Process>) {
        let mut host = self.host.clone();
        let mut table = host.processes().unwrap_or_default();
        if let Some(baseline) = &self.baseline {
            baseline.measure(&mut table, host.now().boot);
        }
        (host, table)
    }

    fn protection(&self) -> Protection<'_> {
        Protection {
            own_ancestors: &self.own_ancestors,
            protect: &self.policy.protect,
        }
    }

    fn rule(&self, rule: &Arc<Rule>, alert: &Alert) -> RuleExplanation {
        let mut explanation = RuleExplanation {
            rule: rule.name.to_string(),
            matches: rule.matches(&alert.labels),
            limit: rule.limit,
            ..RuleExplanation::default()
        };
        let remarks = &mut explanation.remarks;
        if !explanation.matches {
            for matcher in rule.matchers.iter().filter(|matcher| !matcher.matches(&alert.labels)) {
                let value = alert.labels.get(&matcher.name);
                let found = value.map_or("no such label".to_owned(), |value| format!("{value:?}"));
                remarks.push(format!("{matcher} does not match: the alert has {found}"));
            }
            return explanation;
        }
        if alert.status == Status::Resolved {
            remarks.push("the alert is resolved: the rule's leases for it would be reverted".into());
            return explanation;
        }
        let host_identity = &self.policy.host_identity;
        if !rule.any_host
            && let Err(mut reason) = host_identity.recognises(&alert.labels)
        {
            if !host_identity.is_named_in(&alert.labels) {
                reason.push_str("; `any_host: true` lets the rule act anyway");
            }
            explanation.decisions.push(Explained {
                pid: None,
                name: None,
                step: None,
                decision: Decision::OtherHost,
                before: None,
                after: None,
                reason,
            });
            return explanation;
        }
        if !self.policy.enforce || rule.dry_run {
            let who = if rule.dry_run { "the rule" } else { "the configuration" };
            remarks.push(format!("{who} says dry-run: actions are only logged"));
        }
        self.simulate(rule, alert, &mut explanation);
        explanation.later = later(rule);
        explanation.jobs = jobs(rule, alert);
        match &rule.target_selector {
            TargetSelector::Processes(selector) => {
                let selector = selector.resolve_at(&alert.labels, began_at(alert.starts_at, self.host.now()));
                self.processes(rule, &selector, &mut explanation);
            }
            TargetSelector::Cgroups(selector) => {
                self.cgroups(rule, &selector.resolve(&alert.labels), &mut explanation);
            }
            TargetSelector::Host => explanation.waits = begins_with_wait(rule),
        }
        explanation
    }

    /// Fills in the selected processes, the number left out, and the answer about `pid`.
    fn processes(&self, rule: &Rule, selector: &Selector, explanation: &mut RuleExplanation) {
        let protection = self.protection();
        let (mut looking, table) = self.look();
        let selected = select(&mut looking, &table, rule, selector, &protection).matches;
        explanation.selected = selected
            .iter()
            .map(|process| Selected {
                pid: process.identity.pid,
                name: process.name.clone(),
                resident_bytes: process.resident_bytes,
                cpu_cores: process.cpu_cores,
                age_seconds: process.age.as_secs(),
            })
            .collect();
        let mut within = selected.clone();
        let left_out = leave_out_crowds(&mut looking, rule, &mut within);
        let free = within.iter().filter(|process| protection.screen(rule, process).is_ok());
        let free: Vec<&Process> = free.collect();
        explanation.waits = begins_with_wait(rule) && !free.is_empty();
        let (taken, left): (Vec<&Process>, Vec<&Process>) = free.into_iter().partition(|process| {
            let pid = Some(process.identity.pid);
            explanation.decisions.iter().any(|decision| decision.pid == pid)
        });
        if taken.len() >= rule.limit {
            explanation.not_taken = left.len();
        }
        explanation.about_pid = self.pid.map(|pid| {
            let Some(process) = table.iter().find(|process| process.identity.pid == pid) else {
                return format!("no process has the pid {pid}");
            };
            let mut process = process.clone();
            let name = process.name.escape_debug().to_string();
            let needs = selector.needs() | protection.needs() | ProcessFields::USER;
            looking.read_details(&mut process, needs);
            match selector.judge(&process) {
                SelectorMatch::Fails(why) | SelectorMatch::Unknown(why) => {
                    format!("{pid} {name} is not selected: {why}")
                }
                SelectorMatch::Holds => match protection.screen(rule, &process) {
                    Err(denial) => format!("{pid} {name} is selected but excluded: {}", denial.reason),
                    Ok(()) => match selected.iter().position(|found| found.identity == process.identity) {
                        Some(place) => match &left_out {
                            Ok(Some(denial)) if !within.contains(&selected[place]) => {
                                format!("{pid} {name} is selected but left out: {}", denial.reason)
                            }
                            _ => format!("{pid} {name} is selected, in place {} of {}", place + 1, selected.len()),
                        },
                        None => format!("{pid} {name} has ended meanwhile"),
                    },
                },
            }
        });
    }

    /// Fills in the selected cgroups and the number left out.
    fn cgroups(&self, rule: &Rule, selector: &Selector, explanation: &mut RuleExplanation) {
        let protection = self.protection();
        let (mut looking, table) = self.look();
        let selected = match select_cgroups(&mut looking, &table, rule, selector) {
            Ok(selected) => selected,
            Err(reason) => return explanation.remarks.push(reason),
        };
        let screened = screen_cgroups(&mut looking, &table, rule, protection, &selected);
        let free = screened.iter().filter(|screened| screened.is_ok()).count();
        explanation.not_taken = free.saturating_sub(rule.limit);
        explanation.waits = begins_with_wait(rule) && free > 0;
        explanation.selected_cgroups = selected
            .into_iter()
            .map(|CgroupMatch { cgroup, pids }| SelectedCgroup {
                unit: cgroup.unit().map(str::to_owned),
                memory_bytes: cgroup.memory_bytes,
                cpu_cores: cgroup.cpu_cores,
                processes: pids.ok().map(|pids| pids.len()),
                cgroup: cgroup.path,
            })
            .collect();
    }

    /// Runs the engine with this one rule, in dry-run, and reads its decisions from its ledger.
    fn simulate(&self, rule: &Arc<Rule>, alert: &Alert, explanation: &mut RuleExplanation) {
        let policy = Policy {
            rules: RuleSet {
                rules: vec![rule.clone()],
            },
            enforce: false,
            ..self.policy.clone()
        };
        let (host, table) = self.look();
        let boot = table.first().map_or(BootId(0), |process| process.identity.boot);
        let Ok(journal) = Journal::in_memory(boot) else {
            return explanation.remarks.push("could not open a ledger in memory".into());
        };
        if rule.condition.is_some() {
            let remark = "`while` is assumed to be true, because only the daemon has samples";
            explanation.remarks.push(remark.to_owned());
        }
        let conditions = Box::new(|_: &str| {
            Some(Answer {
                holds: true,
                sample_at: Duration::MAX,
            })
        });
        let (ledger, telemetry) = (LedgerState::default(), Telemetry::default());
        let mut engine = Engine::new(host, journal, ledger, policy, conditions, telemetry);
        if let Some(baseline) = &self.baseline {
            engine.measure_from(baseline.clone());
        }
        if let Err(reason) = engine.take(std::slice::from_ref(alert), Instant::now()) {
            explanation.remarks.push(reason);
        }
        explanation.decisions = engine.records().into_iter().filter_map(explained).collect();
    }
}

fn explained(record: Record) -> Option<Explained> {
    let decision = match record.decision? {
        Decision::DryRun => Decision::Planned,
        other => other,
    };
    let pid = record.target.as_ref().and_then(|(target, _)| target.pid());
    let name = record.target.map(|(_, name)| name);
    Some(Explained {
        pid,
        name,
        step: record.step,
        decision,
        before: record.before,
        after: record.after,
        reason: record.reason,
    })
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The steps that apply to the host, with the alert's labels. The granted resource is unknown, hence the placeholder.
fn jobs(rule: &Rule, alert: &Alert) -> Vec<String> {
    let episode = open_episode(rule, alert, Duration::ZERO, false);
    let resource = Some("RESOURCE");
    let plan = |step: &Step| step.preview(&episode, resource);
    let plans = rule.actions.iter().filter_map(|step| Some((step, plan(step)?)));
    plans
        .map(|(step, plan)| plan.unwrap_or_else(|reason| format!("{step} would fail: {reason}")))
        .map(|line| printable(&line))
        .collect()
}

fn begins_with_wait(rule: &Rule) -> bool {
    rule.actions.first().is_some_and(Step::is_wait)
}

fn later(rule: &Rule) -> Vec<String> {
    let first_wait = rule.actions.iter().position(Step::is_wait);
    first_wait.map_or(Vec::new(), |at| {
        rule.actions[at..].iter().map(ToString::to_string).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::budget::Budget;
    use crate::alert::Source;
    use crate::engine::host_identity::HostIdentity;
    use crate::host::fake::FakeHost;
    use crate::process::Process;
    use crate::rule::example;
    use crate::terminal::Style;

    fn explain_burners(instance: &str, limit: usize) -> String {
        let rule = Rule {
            limit,
            ..example("calm", "nice 15; wait 10; signal TERM")
        };
        explain_rule(instance, rule)
    }

    fn explain_rule(instance: &str, rule: Rule) -> String {
        let mut host = FakeHost::new(2, "2026-01-01T00:00:00Z".parse().unwrap());
        for (pid, exe) in [
            (1, "/usr/lib/systemd/systemd"),
            (100, "/usr/bin/burner"),
            (101, "/usr/bin/burner"),
            (102, "/usr/bin/burner"),
            (200, "/usr/sbin/sshd"),
        ] {
            let mut process = Process::example(pid, "burner");
            process.details.exe = Some(exe.into());
            host.add(process);
        }
        let policy = Policy {
            rules: RuleSet {
                rules: vec![Arc::new(rule), Arc::new(example("other", "nice 3"))],
            },
            enforce: false,
            host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
            protect: vec![],
            budget: Budget::default(),
            restore_on_exit: true,
            retention: Default::default(),
        };
        let labels: crate::alert::Labels = [("alertname", "calm"), ("instance", instance)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let alert = Alert {
            fingerprint: crate::alert::alert::fingerprint(&labels),
            labels,
            annotations: Default::default(),
            generator_url: None,
            status: Status::Firing,
            starts_at: jiff::Timestamp::UNIX_EPOCH,
            ends_at: None,
            source: Source::Alertmanager,
        };
        explain(&host, &policy, &[alert], vec![], Some(200), |_| ()).text(Style::PLAIN)
    }

    #[test]
    fn each_rule_says_what_it_would_do_and_why_not() {
        let text = explain_burners("web1", 1);
        for part in [
            "rule calm: matches",
            "selects 5 processes",
            "not taken: 2 more, limit 1 is reached",
            "planned: nice 15 on 100 burner (0 -> 15)",
            "protected: on 1 burner - pid 1 is never touched",
            "protected: on 200 burner - built-in protection \"sshd\"",
            "then: wait 10s, signal SIGTERM",
            "200 burner is selected but excluded",
            "rule other: does not match",
            "alertname=\"other\" does not match: the alert has \"calm\"",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn rule_that_begins_with_a_wait_says_what_follows_beside_denials() {
        let text = explain_rule("web1", example("calm", "wait 10; nice 15"));
        assert!(text.contains("protected: on 1 burner"), "{text}");
        assert!(
            text.contains("at once: nothing\n    then: wait 10s, nice 15\n"),
            "{text}"
        );
    }

    #[test]
    fn an_alert_of_another_host_says_what_was_compared() {
        let text = explain_burners("db1", 1);
        assert!(
            text.contains("other_host: instance=\"db1\" is not one of this host's names [\"web1\"]\n"),
            "{text}"
        );
    }

    #[test]
    fn an_alert_that_names_no_host_says_what_lets_it_through() {
        let text = explain_burners("", 1);
        let expected = "names a host; `any_host: true` lets the rule act anyway";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn missing_place_is_shown_only_where_the_limit_is_the_reason() {
        assert!(explain_burners("web1", 2).contains("not taken: 1 more, limit 2 is reached"));
        for limit in [3, 4] {
            let text = explain_burners("web1", limit);
            assert!(!text.contains("not taken:"), "{text}");
        }
    }
}
