//! The command line: commands, and flags as Prometheus and node_exporter spell them.

mod collectors;
mod duration;
mod listen;
pub mod manual;
mod node_exporter_flags;
mod process_exporter;

pub use collectors::CollectorFlags;
pub use process_exporter::{ProcessExporter, ProcessExporterFile};

use crate::terminal::shell_word;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Default of `--config.file`.
pub const DEFAULT_CONFIG: &str = "/etc/evenkeel/evenkeel.yml";
/// Default of `--storage.path`.
pub const DEFAULT_STORAGE: &str = "/var/lib/evenkeel";

#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: publish metrics, receive and evaluate alerts, apply rules
    #[command(after_help = collectors::help())]
    Run(Box<Run>),
    /// Check configuration, rule files and alerting rules; print every error
    Check(Check),
    /// Show what each rule would do for an alert, and why
    Explain(Explain),
    /// Run unit tests of rules: alerts over time on the process table in the test file
    Test(Test),
    /// Show what fires, what was done about it, and whether it is still held
    Status(Status),
    /// Show the leases: changes that evenkeel will revert
    Leases(Query),
    /// Show past decisions and actions, newest last
    History(History),
    /// Revert leases now, and exclude their targets until the alert resolves
    Release(Release),
    /// Stop applying new steps until `resume`; leases are still reverted
    Pause(Pause),
    /// End a pause: that of all rules, or that of one
    Resume(Pause),
    /// Load the configuration again; fails where the daemon refuses it
    Reload(Reach),
    /// Print the completion script for a shell
    Completions(Completions),
    /// Print the manual page of evenkeel or of one command
    Man(Manual),
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub process_exporter: ProcessExporter,
    #[command(flatten)]
    pub storage: Storage,
    /// Apply actions (default: dry-run)
    #[arg(long)]
    pub enforce: bool,
    /// Address of the metrics listener; repeatable
    #[arg(long = "web.listen-address", value_name = "ADDR", default_value = ":19797", value_parser = listen::parse)]
    pub web_listen: Vec<SocketAddr>,
    /// Use systemd's sockets for the metrics listener instead of --web.listen-address
    #[arg(long = "web.systemd-socket")]
    pub web_systemd_socket: bool,
    /// File with TLS, authentication and headers of the metrics listener (exporter-toolkit's format)
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config: Option<PathBuf>,
    /// Path under which metrics are served
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = telemetry_path)]
    pub telemetry_path: String,
    /// Maximum number of parallel scrapes; 0 means no limit
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    pub max_requests: usize,
    /// Allow POST /-/reload
    #[arg(long = "web.enable-lifecycle")]
    pub enable_lifecycle: bool,
    /// Address of the webhook listener
    #[arg(long = "webhook.listen-address", value_name = "ADDR", default_value = "127.0.0.1:19798", value_parser = listen::parse)]
    pub webhook_listen: SocketAddr,
    /// Use systemd's socket for the webhook listener instead of --webhook.listen-address
    #[arg(long = "webhook.systemd-socket")]
    pub webhook_systemd_socket: bool,
    /// File with TLS, authentication and headers of the webhook listener (the same format)
    #[arg(long = "webhook.config.file", value_name = "FILE")]
    pub webhook_config: Option<PathBuf>,
    #[command(flatten)]
    pub roots: RootPaths,
    /// Directory of udev's database
    #[arg(long = "path.udev.data", value_name = "DIR", default_value = "/run/udev/data")]
    pub udev_data: PathBuf,
    /// Leave evenkeel's own oom_score_adj and priority as they are, and do not lock its memory
    #[arg(long)]
    pub no_self_protection: bool,
    /// Keep all privileges in one process after the start, for debuggers and profilers
    #[arg(long)]
    pub no_sandbox: bool,
    #[command(flatten)]
    pub log: Log,
    /// `--collector.*` and `--no-collector.*`, which `collectors` parses because clap does not know them.
    #[arg(skip)]
    pub collectors: CollectorFlags,
}

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Configuration file; if the default path has none, the built-in one applies (dry-run, shipped rules)
    #[arg(id = "config.file", long = "config.file", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Storage {
    /// Directory of the ledger
    #[arg(id = "storage.path", long = "storage.path", value_name = "DIR", default_value = DEFAULT_STORAGE)]
    pub path: PathBuf,
}

impl Storage {
    /// The option with a blank before it that leads a command to this directory from any working directory; empty for
    /// the default one.
    pub fn option(&self) -> String {
        if self.path == Path::new(DEFAULT_STORAGE) {
            return String::new();
        }
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        format!(" --storage.path={}", shell_word(&path.to_string_lossy()))
    }
}

#[derive(Debug, Args)]
pub struct RootPaths {
    /// Mount point of procfs
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Mount point of sysfs
    #[arg(long = "path.sysfs", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,
    /// Mount point of the root file system
    #[arg(long = "path.rootfs", value_name = "DIR", default_value = "/")]
    pub rootfs: PathBuf,
}

#[derive(Debug, Args)]
pub struct Log {
    /// Only log messages of this severity or above
    #[arg(long = "log.level", value_enum, default_value_t = LogLevel::Info)]
    pub level: LogLevel,
    /// Format of the log lines on standard error
    #[arg(long = "log.format", value_enum, default_value_t = LogFormat::Logfmt)]
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Logfmt,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Files to check instead: rule files, alerting rule files, configurations. Rule files may use the process groups of
    /// --config.file, if that is given
    #[arg(value_name = "FILE", conflicts_with = "schema")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub process_exporter: ProcessExporterFile,
    /// Also check the web configuration file of the webhook listener
    #[arg(long = "webhook.config.file", value_name = "FILE")]
    pub webhook_config: Option<PathBuf>,
    /// Print the JSON Schema of a kind of file instead, for editors
    #[arg(long, value_enum, value_name = "KIND")]
    pub schema: Option<Schema>,
    /// Form of the findings
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Schema {
    /// Files that `rule_files` names
    Rules,
    /// evenkeel.yml
    Config,
    /// Unit tests of rules
    Tests,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Test files, in evenkeel's or in promtool's format
    #[arg(required = true, value_name = "FILE.test.yml")]
    pub files: Vec<PathBuf>,
    /// Form of the findings
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub config: ConfigFile,
    /// File with a payload of Alertmanager's or Grafana's webhook; `-` is standard input
    #[arg(long, value_name = "FILE|-", required_unless_present = "record")]
    pub alert: Option<PathBuf>,
    /// Write the processes of this host, command lines included, to a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "alert", "pid"])]
    pub record: Option<PathBuf>,
    /// Use the processes of a file that --record wrote, instead of this host's
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,
    /// Also explain why this process is selected or not
    #[arg(long, value_name = "PID")]
    pub pid: Option<i32>,
    #[command(flatten)]
    pub roots: RootPaths,
    #[command(flatten)]
    pub storage: Storage,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The options that lead to the running daemon.
#[derive(Debug, Args)]
pub struct Reach {
    #[command(flatten)]
    pub storage: Storage,
    #[command(flatten)]
    pub reason: Reason,
}

#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    pub reach: Reach,
    /// Only this rule
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
}

#[derive(Debug, Default, Args)]
pub struct Reason {
    /// Reason for the log and the history, which also record who asked
    #[arg(
        id = "reason",
        long = "reason",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub text: String,
}

#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    pub storage: Storage,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub query: Query,
    /// Show it again every two seconds
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    pub query: Query,
    /// Maximum number of entries
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// Only entries of this rule
    #[arg(long)]
    pub rule: Option<String>,
    /// Only entries about this process
    #[arg(long)]
    pub pid: Option<i32>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub struct Release {
    #[command(flatten)]
    pub storage: Storage,
    /// Number of the lease, from `leases`
    #[arg(group = "which")]
    pub id: Option<u64>,
    /// Every lease
    #[arg(long, group = "which")]
    pub all: bool,
    /// Close the breaker of this rule, so that it applies irreversible actions again
    #[arg(long, group = "which", value_name = "RULE")]
    pub breaker: Option<String>,
    #[command(flatten)]
    pub reason: Reason,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// Shell that the script is for
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Manual {
    /// Command that the page is about (default: evenkeel as a whole)
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub directory: Option<PathBuf>,
}

fn telemetry_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("a path starts with /, such as /metrics".into())
    }
}

/// What is wrong where flags stand without a command, as in a unit file of node_exporter.
fn missing_command(args: &[OsString], collectors: &CollectorFlags) -> Option<String> {
    let first = args.get(1).map(|arg| arg.to_string_lossy());
    let example = match &first {
        Some(flag) if flag.starts_with("--") && !["--help", "--version"].contains(&&**flag) => flag,
        None if !collectors.is_empty() => "--collector.NAME",
        _ => return None,
    };
    Some(format!(
        "flags need a command before them: `evenkeel run {example}` runs the daemon"
    ))
}

impl Cli {
    /// Reads the arguments of the process, the program's name first.
    ///
    /// # Errors
    /// An error of clap: help, version, or wrong usage, with its exit code.
    pub fn parse_from_args(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let (rest, collectors) = collectors::take_out(args)
            .map_err(|problem| Cli::command().error(clap::error::ErrorKind::InvalidValue, problem))?;
        if let Some(problem) = missing_command(&rest, &collectors) {
            return Err(Cli::command().error(clap::error::ErrorKind::MissingSubcommand, problem));
        }
        let mut cli = Cli::try_parse_from(rest)?;
        match &mut cli.command {
            Command::Run(run) => run.collectors = collectors,
            _ if !collectors.is_empty() => {
                let problem = "--collector.* flags belong to `evenkeel run`";
                return Err(Cli::command().error(clap::error::ErrorKind::UnknownArgument, problem));
            }
            _ => {}
        }
        Ok(cli)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Cli, clap::Error> {
        Cli::parse_from_args(
            std::iter::once("evenkeel")
                .chain(args.split_whitespace())
                .map(OsString::from),
        )
    }

    #[test]
    fn option_of_the_storage_works_in_every_directory() {
        let option = |path: &str| Storage { path: path.into() }.option();
        assert_eq!(option(DEFAULT_STORAGE), "");
        assert_eq!(option("/x y"), " --storage.path='/x y'");
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            option("target/run"),
            format!(" --storage.path={}/target/run", here.display())
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_spelled_as_prometheus_spells_them() {
        let line = "run --config.file=x.yml --storage.path=y --enforce --web.listen-address=:0 \
                    --web.listen-address=127.0.0.1:9 --webhook.listen-address=[::1]:0 --no-collector.cpu --no-self-protection --log.format=json";
        let Command::Run(run) = parse(line).unwrap().command else {
            panic!("not run")
        };
        assert_eq!(run.web_listen.len(), 2);
        assert!(run.enforce && run.no_self_protection && run.collectors.disabled.contains("cpu"));
        assert_eq!(run.log.format, LogFormat::Json);
    }

    #[test]
    fn the_shipped_unit_uses_flags_that_exist() {
        let unit = include_str!("../packaging/evenkeel.service");
        let command = |key: &str| {
            let start = format!("{key}=/usr/bin/evenkeel ");
            let line = unit.lines().find_map(|line| line.strip_prefix(&start));
            parse(line.unwrap()).unwrap().command
        };
        let (Command::Run(run), Command::Reload(reload)) = (command("ExecStart"), command("ExecReload")) else {
            panic!("not run and reload")
        };
        assert_eq!(run.storage.path, reload.storage.path);
    }

    #[test]
    fn flags_without_a_command_name_the_command() {
        for (line, expected) in [
            (
                "--web.listen-address=:9100",
                "`evenkeel run --web.listen-address=:9100` runs the daemon",
            ),
            ("--collector.cpu", "`evenkeel run --collector.NAME` runs the daemon"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn wrong_usage_has_exit_code_two() {
        for line in [
            "",
            "runn",
            "run --nope",
            "release",
            "run --web.listen-address=x",
            "run --web.telemetry-path=m",
            "check --collector.cpu",
            "check --schema x",
            "test",
            "explain",
            "explain --record a --host b",
            "completions",
            "completions csh",
            "man run --directory x",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
        assert_eq!(parse("--version").unwrap_err().exit_code(), 0);
    }
}
