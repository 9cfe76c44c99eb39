//! The text of a rule for people, in the form of a rule file. It has no arguments of commands, no queries of addresses
//! and no patterns of command lines, because the status page may be open to all.

use super::ruleset::{OrderKey, Rule, TargetSelector};
use crate::process::Selector;
use crate::process::selector::Condition;
use std::fmt;
use std::time::Duration;

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name: {}\nmatchers:", self.name)?;
        for matcher in &self.matchers {
            write!(f, "\n  - {matcher}")?;
        }
        match &self.target_selector {
            TargetSelector::Processes(selector) | TargetSelector::Cgroups(selector) => {
                write!(f, "\nselect: {}", SelectorText(selector))?;
                let key = match self.order_by.key {
                    OrderKey::Cpu => "cpu",
                    OrderKey::Memory => "memory",
                    OrderKey::Age => "age",
                    OrderKey::OomScore => "oom_score",
                };
                let reverse = if self.order_by.reverse { ", smallest first" } else { "" };
                write!(f, "\norder_by: {key}{reverse}\nlimit: {}", self.limit)?;
            }
            TargetSelector::Host => f.write_str("\n# no select: the steps apply to the host")?,
        }
        if let Some(condition) = &self.condition {
            write!(f, "\nwhile: {condition}")?;
        }
        f.write_str("\nactions:")?;
        for step in &self.actions {
            write!(f, "\n  - {step}")?;
        }
        write!(
            f,
            "\nhold: {}\ncooldown: {}",
            Seconds(self.hold),
            Seconds(self.cooldown)
        )?;
        let flags = [
            (self.any_host, "any_host: true"),
            (self.dry_run, "mode: dry-run"),
            (self.without_ledger, "without_ledger: allow"),
        ];
        for (_, flag) in flags.iter().filter(|(is_set, _)| *is_set) {
            write!(f, "\n{flag}")?;
        }
        if !self.overrides.is_empty() {
            let names: Vec<&str> = self.overrides.iter().map(String::as_str).collect();
            write!(f, "\noverride_protection: [{}]", names.join(", "))?;
        }
        Ok(())
    }
}

struct SelectorText<'a>(&'a Selector);

impl fmt::Display for SelectorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        // The rule file has one key for both conditions on the pid.
        let shown = self.0.conditions.iter();
        let shown = shown.filter(|condition| !matches!(condition, Condition::StartedBy(_)));
        for (place, condition) in shown.enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{}: ", condition.key())?;
            match condition {
                Condition::Cmdline(_) => f.write_str("(not shown)")?,
                Condition::MinAge(age) => write!(f, "{}", Seconds(*age))?,
                Condition::MinMemory(bytes) => write!(f, "{}MiB", bytes >> 20)?,
                Condition::MinCpu(cores) => write!(f, "{cores}")?,
                Condition::Group { name, .. } => f.write_str(name)?,
                Condition::Not(selector) => write!(f, "{}", SelectorText(selector))?,
                _ => {
                    if let Some(pattern) = condition.pattern() {
                        write!(f, "{pattern}")?;
                    }
                }
            }
        }
        f.write_str("}")
    }
}

/// A duration as a rule file has it, in the largest unit that is exact.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => f.write_str("0s"),
            seconds if seconds.is_multiple_of(3600) => write!(f, "{}h", seconds / 3600),
            seconds if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}
