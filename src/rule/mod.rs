//! Rules: which alerts lead to which steps on which processes. Files are parsed here and nowhere else; a `RuleSet`
//! that exists is a valid one.

pub mod ruleset;
pub mod step;

#[cfg(test)]
pub use ruleset::example;
pub use ruleset::{OrderBy, OrderKey, Rule, RuleSet};
pub use step::Step;
