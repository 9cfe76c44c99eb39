//! The alerts of the model, and the configurations between which it reloads.

use super::*;
use crate::alert::Labels;
use crate::alert::matcher::Matcher;
use crate::engine::host_identity::HostIdentity;
use crate::engine::tests::policy;
use crate::host::Value;
use crate::knob::limit::{CgroupFile, Setting};
use crate::knob::{IoPriority, Knob};
use crate::process::Selector;
use crate::process::selector::{Condition, Part, Pattern};
use crate::rule::{Rule, Step, TargetSelector, example};
use crate::step::wait::Wait;
use crate::step::{Change, Send};
use crate::watch::RuleFile;
use crate::watch::rule_file::parse;
use nix::sys::signal::Signal;
use std::sync::{Arc, LazyLock};

/// From Alertmanager alone.
pub const BY_WEBHOOK: usize = 0;
/// From own evaluation alone.
pub const OWN: usize = 1;
/// From both, with the same labels.
pub const BOTH: usize = 2;
/// From Alertmanager alone, about the process whose pid is in its labels.
pub const OF_A_PID: usize = 3;
/// From own evaluation alone, in the configuration that names the own alert so.
pub const OWN2: usize = 4;
pub const ALERT_NAMES: [&str; ALERTS] = ["webhook", "own", "both", "pid", "own2"];
/// The label of the alert about a pid: that of slot 2.
pub const PID: i32 = 120;

/// The alerts with a condition of their own come first.
pub const CONDITIONS: usize = 4;

pub const UNIT: &str = "/work.slice/one.service";
pub const CALM_NICE: i32 = 10;
const OTHER_CALM_NICE: i32 = 12;
pub const COOLDOWN: Duration = Duration::from_secs(60);

pub const BASE: usize = 0;
pub const OTHER_MATCHERS: usize = 1;
pub const OTHER_NAMES: usize = 2;
pub const OTHER_IDENTITY: usize = 3;
pub const ANY_HOST: usize = 4;
pub const DRY_RUN: usize = 5;
pub const OTHER_STEPS: usize = 6;
pub const FEWER_RULES: usize = 7;
pub const OTHER_OWN_ALERTS: usize = 8;
pub const OTHER_CHOICES: usize = 9;
pub const COUNT: usize = 10;

/// One configuration.
pub struct Configuration {
    pub policy: super::super::Policy,
    pub own_rules: RuleFile,
    /// Names of the own alerts in it.
    pub own_names: [&'static str; 2],
    /// The alerts that each rule answers, in the order of the rules.
    meant: Vec<Vec<usize>>,
    /// Whether an alert from Alertmanager is about this host.
    pub is_recognised: [bool; ALERTS],
}

pub static CONFIGURATIONS: LazyLock<Vec<Configuration>> = LazyLock::new(|| (0..COUNT).map(configuration).collect());

pub fn is_from_alertmanager(alert: usize) -> bool {
    !matches!(alert, OWN | OWN2)
}

/// The index of a name.
pub fn alert(name: &str) -> usize {
    ALERT_NAMES
        .iter()
        .position(|known| *known == name)
        .expect("an alert of the model")
}

fn rule(name: &str, alerts: &str, process: &str, limit: usize, actions: Vec<Step>) -> Rule {
    let mut rule = example(name, "nice 1");
    rule.matchers = vec![Matcher::parse(&format!("alertname=~\"{alerts}\"")).unwrap()];
    rule.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Name(Pattern::fixed(process).unwrap())],
    });
    (rule.limit, rule.actions, rule.hold, rule.cooldown) = (limit, actions, HOLD, COOLDOWN);
    rule
}

fn set(value: Value) -> Step {
    Step::Set(Change::To(value))
}

fn wait(seconds: u64) -> Step {
    Step::Wait(Wait(Duration::from_secs(seconds)))
}

fn signal(signal: Signal, undo: Option<Signal>) -> Step {
    Step::Signal(Send { signal, undo })
}

fn rules(variant: usize) -> Vec<Rule> {
    let is_other = |wanted: usize| variant == wanted;
    let nice = if is_other(OTHER_STEPS) {
        OTHER_CALM_NICE
    } else {
        CALM_NICE
    };
    let calm = vec![set(Value::Nice(nice)), set(Value::OomScoreAdj(500))];
    let mut end = vec![signal(Signal::SIGTERM, None), wait(120), signal(Signal::SIGKILL, None)];
    let mut late = vec![
        set(Value::Ionice(IoPriority::Idle)),
        wait(60),
        signal(Signal::SIGTERM, None),
    ];
    if is_other(OTHER_STEPS) {
        end.insert(1, signal(Signal::SIGINT, None));
        late.remove(1);
    }
    let ping = vec![signal(Signal::SIGUSR1, Some(Signal::SIGUSR2))];
    let weight = Setting::parse(CgroupFile::CpuWeight, "20").unwrap();
    let mut by_pid = rule(
        "by-pid",
        "pid",
        "any",
        1,
        vec![set(Value::Affinity("0-1".parse().unwrap()))],
    );
    by_pid.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Pid(Pattern::Template(vec![Part::Label("pid".into())]))],
    });
    let mut slow = rule("slow", "webhook|both", "any", 1, vec![set(Value::Cgroup(weight))]);
    slow.target_selector = TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Cgroup(Pattern::fixed(UNIT).unwrap())],
    });
    let own = own_names(variant)[0];
    let mut rules = vec![
        rule("calm", "webhook|both", "burner", 2, calm),
        rule("end", "webhook", "victim", 1, end),
        rule("late", &format!("{own}|both"), "worker", 1, late),
        rule("ping", &format!("webhook|{own}"), "daemon", 1, ping),
        by_pid,
        slow,
    ];
    match variant {
        OTHER_MATCHERS => {
            for rule in &mut rules {
                rule.matchers.push(Matcher::parse("severity=\"page\"").unwrap());
            }
        }
        OTHER_NAMES => {
            for rule in &mut rules {
                rule.name = format!("{}-renamed", rule.name).into();
            }
        }
        ANY_HOST => rules.iter_mut().for_each(|rule| rule.any_host = true),
        OTHER_CHOICES => {
            let other = Condition::Name(Pattern::fixed("other").unwrap());
            for rule in &mut rules {
                match rule.name.as_str() {
                    "calm" => rule.limit = 1,
                    "late" => {
                        rule.target_selector = TargetSelector::Processes(Selector {
                            conditions: vec![other.clone()],
                        });
                    }
                    _ => {}
                }
            }
        }
        FEWER_RULES => rules.retain(|rule| !matches!(rule.name.as_str(), "calm" | "end" | "late")),
        _ => {}
    }
    rules
}

fn own_names(variant: usize) -> [&'static str; 2] {
    let own = if variant == OTHER_OWN_ALERTS { "own2" } else { "own" };
    [own, "both"]
}

fn configuration(variant: usize) -> Configuration {
    let mut policy = policy(rules(variant));
    let node = if matches!(variant, OTHER_IDENTITY | ANY_HOST) {
        "web2"
    } else {
        "web1"
    };
    policy.host_identity = HostIdentity::new(vec!["instance".into()], node, "", &[]);
    policy.enforce = variant != DRY_RUN;
    policy.budget.final_steps = u32::MAX;
    let own_names = own_names(variant);
    let rule = |(name, metric): (&str, &str)| format!("{{alert: {name}, expr: {metric} > 0, for: {}s}}", FOR.as_secs());
    let text = own_names
        .into_iter()
        .zip(own_evaluation::METRICS)
        .map(rule)
        .collect::<Vec<_>>();
    let text = format!("groups: [{{name: g, rules: [{}]}}]", text.join(", "));
    let is_recognised = std::array::from_fn(|alert| policy.host_identity.recognises(&labels(alert)).is_ok());
    let meant = policy.rules.rules.iter().map(|rule| {
        let is_meant = |alert: &usize| {
            // Own evaluation speaks of this host.
            let is_here = is_recognised[*alert] || !matches!(*alert, BY_WEBHOOK | OF_A_PID);
            rule.matches(&labels(*alert)) && (rule.any_host || is_here)
        };
        (0..ALERTS).filter(is_meant).collect()
    });
    Configuration {
        meant: meant.collect(),
        is_recognised,
        policy,
        own_rules: parse("own.yml", &text).unwrap(),
        own_names,
    }
}

impl Configuration {
    /// The rules with the alerts that each answers.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<Rule>, &[usize])> {
        let meant = self.meant.iter().map(Vec::as_slice);
        self.policy.rules.rules.iter().zip(meant)
    }

    /// The same for those that are carried out.
    pub fn enforced(&self) -> impl Iterator<Item = (&Arc<Rule>, &[usize])> {
        self.rules().filter(|_| self.policy.enforce)
    }
}

/// The labels of an alert.
pub fn labels(alert: usize) -> Labels {
    let mut labels: Labels = [
        ("alertname", ALERT_NAMES[alert]),
        ("instance", own_evaluation::INSTANCE),
    ]
    .into();
    if alert == OF_A_PID {
        labels.insert("pid", PID.to_string());
    }
    labels
}

/// What a rule sets before its first wait.
pub fn first_values(rule: &Rule) -> impl Iterator<Item = &Value> {
    let first = rule.actions.iter().take_while(|step| !matches!(step, Step::Wait(_)));
    first.filter_map(|step| match step {
        Step::Set(Change::To(value)) => Some(value),
        _ => None,
    })
}

pub fn first_knobs(rule: &Rule) -> Vec<Knob> {
    first_values(rule).map(Value::knob).collect()
}

/// Whether a rule begins with a signal that can be undone.
pub fn has_undone_signal(rule: &Rule) -> bool {
    matches!(rule.actions.first(), Some(Step::Signal(Send { undo: Some(_), .. })))
}
