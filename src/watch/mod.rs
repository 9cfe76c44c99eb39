//! Own evaluation of Prometheus alerting rules on evenkeel's samples. The same rule files raise the same alerts
//! without a server, or when the network fails. Only this layer reads samples and makes alerts.

pub mod alerting;
pub mod duration;
pub mod evaluator;
pub mod history;
mod read_set;
pub mod labels;
mod dependencies;
pub mod number;
mod yaml_place;
mod yaml_reader;
pub mod promql;
mod rule_documents;
pub mod rule_file;
pub mod remembered;
pub mod restart;
mod rule_state;
mod samples;
pub mod series_notation;
pub mod template;
mod template_function;
mod test_file;
pub mod unit_test;

pub use labels::LabelSet;
pub use rule_file::RuleFile;
