//! Rules, which map alerts to steps on processes. Only this layer parses rule files, and every `RuleSet` is valid.

mod target_selector;
mod candidate;
mod compile;
mod context;
pub mod job;
pub mod file;
mod ladder;
mod limit;
mod lint;
mod narrow;
pub mod ruleset;
mod select;
pub mod step;
#[cfg(test)]
mod tests;

pub use candidate::Setting;
pub use compile::{Compiled, compile};
pub use context::{Context, OwnAlert, PromqlCheck, Warning};
pub use ruleset::{OrderBy, OrderKey, Rule, RuleIndex, RuleSet, TargetSelector};
pub use select::{Scope, compile_select};
pub use step::Step;
#[cfg(test)]
pub use tests::example;
