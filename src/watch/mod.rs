//! Prometheus alerting rules, evaluated here on our own samples: with no server at hand, or when the network is the
//! trouble, the same rule files raise the same alerts. The only room that reads samples and makes alerts.

pub mod alerting;
pub mod duration;
pub mod evaluator;
pub mod history;
mod interest;
pub mod labels;
mod lineage;
pub mod number;
mod place;
pub mod promql;
pub mod rule_file;
pub mod restart;
mod samples;
pub mod series_notation;
pub mod template;
mod template_function;
mod test_file;
pub mod unit_test;

pub use labels::LabelSet;
pub use rule_file::RuleFile;
