//! Rules, which map alerts to steps on processes. Only this layer parses rule files, and every `RuleSet` is valid.

mod target_selector;
mod unchecked_rule;
mod compile;
mod context;
mod favours;
pub mod file;
mod lint;
mod narrow;
mod rule_text;
pub mod ruleset;
mod select;
mod steps;
#[cfg(test)]
mod tests;

pub use crate::step::Step;
pub use compile::{Compiled, compile};
pub use context::{Context, OwnAlert, PromqlCheck, Warning};
pub use ruleset::{OrderBy, OrderKey, Rule, RuleIndex, RuleSet, TargetSelector};
pub use select::{Scope, compile_select};
#[cfg(test)]
pub use tests::example;
