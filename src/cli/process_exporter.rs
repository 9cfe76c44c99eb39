//! The flags of process-exporter, with its defaults, behind the prefix `--process-exporter.`.

use super::duration;
use crate::sense::groups::group::ExporterOptions;
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
    #[arg(long = "process-exporter.children", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub children: bool,
    /// Publish families of threads by their names
    #[arg(long = "process-exporter.threads", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub threads: bool,
    /// Publish proportional memory, for which the kernel walks over all pages of a process
    #[arg(long = "process-exporter.gather-smaps", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value_t = true, default_missing_value = "true")]
    pub gather_smaps: bool,
    /// Match processes without a group again at each read
    #[arg(long = "process-exporter.recheck", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub recheck: bool,
    /// Match processes without a group again until they have this age
    #[arg(long = "process-exporter.recheck-with-time-limit", value_name = "DURATION", value_parser = duration::parse)]
    pub recheck_limit: Option<Duration>,
    /// Forget groups without processes
    #[arg(long = "process-exporter.remove-empty-groups", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value_t = false, default_missing_value = "true")]
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

    /// The flags that change nothing, because no file is named.
    pub fn flags_without_effect(&self) -> impl Iterator<Item = &'static str> {
        let is_changed = [
            ("--process-exporter.children", !self.children),
            ("--process-exporter.threads", !self.threads),
            ("--process-exporter.gather-smaps", !self.gather_smaps),
            ("--process-exporter.recheck", self.recheck),
            (
                "--process-exporter.recheck-with-time-limit",
                self.recheck_limit.is_some(),
            ),
            ("--process-exporter.remove-empty-groups", self.remove_empty_groups),
        ];
        let has_file = self.file.path.is_some();
        let changed = is_changed.into_iter().filter(move |(_, changed)| *changed && !has_file);
        changed.map(|(flag, _)| flag)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use std::time::Duration;

    fn parse(flags: &str) -> super::ProcessExporter {
        let args = ["evenkeel", "run"].into_iter().chain(flags.split_whitespace());
        let Command::Run(run) = Cli::parse_from_args(args.map(Into::into)).unwrap().command else {
            panic!("not run")
        };
        run.process_exporter
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, seconds) in [("1.5h", 5400), ("2m", 120), ("1m30s", 90), ("1h0m0.5s", 3600)] {
            let options = parse(&format!("--process-exporter.recheck-with-time-limit={text}")).options();
            assert_eq!(options.recheck.map(|limit| limit.as_secs()), Some(seconds), "{text}");
        }
        let options = parse("--process-exporter.recheck --process-exporter.recheck-with-time-limit=0s").options();
        assert_eq!(options.recheck, Some(Duration::MAX));
    }

    #[test]
    fn flags_without_a_file_have_no_effect() {
        let all = "--process-exporter.children=false --process-exporter.threads=false \
                   --process-exporter.gather-smaps=false --process-exporter.recheck \
                   --process-exporter.recheck-with-time-limit=1h --process-exporter.remove-empty-groups";
        let expected: Vec<&str> = all
            .split_whitespace()
            .map(|flag| flag.split('=').next().unwrap())
            .collect();
        assert_eq!(parse(all).flags_without_effect().collect::<Vec<_>>(), expected);
        let with_file = format!("--process-exporter.config=x.yml {all}");
        assert_eq!(parse(&with_file).flags_without_effect().count(), 0);
        assert_eq!(parse("").flags_without_effect().count(), 0);
    }
}
