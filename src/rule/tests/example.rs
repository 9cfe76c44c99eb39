//! A valid rule for the tests of other modules.

use crate::alert::matcher::Matcher;
use crate::host::Value;
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::rule::ruleset::{DEFAULT_COOLDOWN, DEFAULT_HOLD, DEFAULT_LIMIT, DEFAULT_MAX_MATCHES};
use crate::rule::{OrderBy, Rule, Step, TargetSelector};
use crate::step::wait::Wait;
use crate::step::{Change, Send};
use std::collections::BTreeSet;
use std::time::Duration;

/// A rule that matches the alert of its name, selects processes named `burner`, and has steps
/// written as `nice 5; wait 10; signal TERM`.
pub fn example(name: &str, steps: &str) -> Rule {
    let actions = steps.split("; ").map(|step| {
        let (word, value) = step.split_once(' ').expect("a word and a value");
        match word {
            "nice" => Step::Set(Change::To(Value::Nice(value.parse().expect("a number")))),
            "freeze" => Step::Set(Change::To(Value::Freeze(true))),
            "wait" => Step::Wait(Wait(Duration::from_secs(value.parse().expect("seconds")))),
            "signal" => Step::Signal(Send {
                signal: format!("SIG{value}").parse().expect("a signal"),
                undo: None,
            }),
            other => panic!("no step {other:?} in test rules"),
        }
    });
    Rule {
        name: name.into(),
        matchers: vec![Matcher::parse(&format!("alertname={name:?}")).expect("a matcher")],
        target_selector: TargetSelector::Processes(Selector {
            conditions: vec![Condition::Name(Pattern::fixed("burner").expect("a pattern"))],
        }),
        order_by: OrderBy::default(),
        limit: DEFAULT_LIMIT,
        max_matches: DEFAULT_MAX_MATCHES,
        condition: None,
        actions: actions.collect(),
        hold: DEFAULT_HOLD,
        cooldown: DEFAULT_COOLDOWN,
        any_host: false,
        dry_run: false,
        overrides: BTreeSet::new(),
        without_ledger: false,
    }
}
