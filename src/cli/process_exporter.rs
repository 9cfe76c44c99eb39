//! The flags of process-exporter, with its defaults, behind the prefix `--process-exporter.`.

use crate::sense::groups::group::ExporterOptions;
use crate::yaml::parse_duration;
use clap::{ArgAction, Args};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Default, Args)]
pub struct ProcessExporterFile {
    /// Configuration file of process-exporter, whose groups are published as namedprocess_namegroup_*
    #[arg(
        id = "process-exporter.config",
        long = "process-exporter.config",
        value_name = "FILE"
    )]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct ProcessExporter {
    #[command(flatten)]
    pub file: ProcessExporterFile,
    /// Add processes without a group of their own to the group of their parent
    #[arg(
        long = "process-exporter.children",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub children: bool,
    /// Publish families of threads by their names
    #[arg(
        long = "process-exporter.threads",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub threads: bool,
    /// Publish proportional memory, for which the kernel walks over all pages of a process
    #[arg(
        long = "process-exporter.gather-smaps",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub gather_smaps: bool,
    /// Match processes without a group again at each read
    #[arg(
        long = "process-exporter.recheck",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub recheck: bool,
    /// Match processes without a group again until they have this age
    #[arg(long = "process-exporter.recheck-with-time-limit", value_name = "DURATION", value_parser = duration)]
    pub recheck_limit: Option<Duration>,
    /// Forget groups without processes
    #[arg(
        long = "process-exporter.remove-empty-groups",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub remove_empty_groups: bool,
}

impl ProcessExporter {
    pub fn options(&self) -> ExporterOptions {
        // 0 means no limit, as in process-exporter.
        let limit = self.recheck_limit.filter(|limit| !limit.is_zero());
        ExporterOptions {
            children: self.children,
            threads: self.threads,
            gather_smaps: self.gather_smaps,
            recheck: limit.or(self.recheck.then_some(Duration::MAX)),
            remove_empty_groups: self.remove_empty_groups,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
