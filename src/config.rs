//! The loader of configuration and rules: finds and reads all files, and reports all errors at once. Nothing reads
//! these files later.
//!
//! A user who can change one of these files can do what root can, so [`Loaded::untrusted_files`] finds such files.

mod alertmanagers;
mod alertmanager_config;
mod expressions;
mod file;
mod file_source;
mod groups;
mod process_exporter;

pub use alertmanagers::LastGood;
use expressions::OwnSamples;
pub use file::CONFIG;

use crate::act::budget::Budget;
use crate::diagnostic::{Diagnostic, Findings, HostReference, Severity, SourceText, Span};
use crate::host::Knob;
use crate::http::client;
use crate::ledger::Retention;
use crate::permissions::{self, Fault, Purpose};
use crate::process::Selector;
use crate::rule::{self, Compiled, Context, OwnAlert, RuleSet, Step};
use crate::sense::groups::group::{ExporterGroups, ExporterOptions, Grouping};
pub use crate::sense::{Group as ProcessGroup, Sampling};
use crate::step::exec::Exec;
use crate::watch::rule_file::{self, Rule as AlertingOrRecording, RuleError, RuleFile};
use crate::yaml::{self, Text};
use file_source::FileSource;
pub use file_source::{FileError, read as read_file};
pub use process_exporter::read as parse_process_exporter;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The content of the configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// `mode: enforce`; `--enforce` overrides.
    pub enforce: bool,
    pub sampling: Sampling,
    /// Prometheus alerting rules to evaluate here, one entry per file.
    pub alerting_rules: Vec<RuleFile>,
    pub evaluation_interval: Duration,
    pub webhook: Webhook,
    /// Alertmanagers to poll; all of them are one source.
    pub alertmanagers: Vec<Alertmanagers>,
    pub reconcile: Reconcile,
    pub host_names: HostNames,
    /// Selectors that add to the built-in protection.
    pub protect: Vec<Selector>,
    pub budget: Budget,
    /// Whether rules may run commands.
    pub allow_exec: bool,
    /// Whether evenkeel reverts its leases at exit.
    pub restore_on_exit: bool,
    /// `storage: {retention: …}`.
    pub retention: Retention,
    /// Whether evenkeel locks its memory.
    pub lock_memory: bool,
    /// The process groups in the order of the file.
    pub process_groups: Vec<ProcessGroup>,
    /// `grouping`.
    pub grouping: Grouping,
    /// process-exporter's file, which a flag names.
    pub exporter: Option<ExporterGroups>,
    /// Labels of own alerts. The node name is added as `instance` unless that is given.
    pub local: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhook {
    /// Absolute or relative to the working directory. The file had a token when the configuration was loaded.
    pub token_file: Option<PathBuf>,
    pub allow_unauthenticated: bool,
}

/// Alertmanagers with the same settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alertmanagers {
    /// `http` or `https`.
    scheme: &'static str,
    /// Empty, or with a slash before and none after.
    pub path_prefix: String,
    /// Name of the receiver whose alerts count.
    pub receiver: String,
    targets: Vec<String>,
    /// Patterns of files with further targets.
    target_files: Vec<String>,
    pub client: client::ClientSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconcile {
    pub interval: Duration,
    /// How long an alert must be absent from every reachable Alertmanager before its episode closes.
    pub patience: Duration,
}

/// How this host recognises alerts about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNames {
    pub labels: Vec<String>,
    /// Names beside the node name and the full name.
    pub names: Vec<String>,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub rules: RuleSet,
    pub warnings: Vec<Diagnostic>,
    /// The knobs that the rules set, for checks against the host.
    pub settings: Vec<HostReference<Knob>>,
    /// The users and programs that configuration and rules name, for the same.
    pub references: Vec<HostReference>,
    /// The files that were read.
    files: Vec<PathBuf>,
}

impl Loaded {
    /// Findings about the files that decide what evenkeel does, and that another user can change. They are errors in
    /// `enforce`, and warnings in dry-run.
    pub fn untrusted_files(&self, enforce: bool) -> Vec<Diagnostic> {
        let polled = self.config.alertmanagers.iter().flat_map(Alertmanagers::files);
        let programs = self.commands().flat_map(|exec| exec.programs()).map(PathBuf::from);
        let named = self.config.webhook.token_file.iter().cloned();
        let files = self.files.iter().cloned().chain(named).chain(polled).chain(programs);
        untrusted(files, enforce)
    }

    /// Warnings about the scripts behind interpreters that another user can change.
    pub fn untrusted_scripts(&self) -> Vec<Diagnostic> {
        let scripts = self.commands().flat_map(|exec| exec.scripts()).map(PathBuf::from);
        faults_of(
            scripts,
            Severity::Warning,
            "a rule runs it with the privileges of evenkeel",
        )
    }

    /// The commands that run as evenkeel's own user.
    fn commands(&self) -> impl Iterator<Item = &Exec> {
        let steps = self.rules.rules.iter().flat_map(|rule| &rule.actions);
        steps.filter_map(|step| match step {
            Step::Exec(exec) if exec.user.is_none() => Some(&**exec),
            _ => None,
        })
    }
}

/// Findings about those of these files that another user can change. A missing file is none of them.
pub fn untrusted(files: impl Iterator<Item = PathBuf>, enforce: bool) -> Vec<Diagnostic> {
    let severity = if enforce { Severity::Error } else { Severity::Warning };
    faults_of(files, severity, "evenkeel refuses to start with it in `enforce`")
}

fn faults_of(files: impl Iterator<Item = PathBuf>, severity: Severity, consequence: &str) -> Vec<Diagnostic> {
    let mut known = BTreeSet::new();
    let faults = files.filter_map(|file| permissions::check(&file, Purpose::Configuration).err());
    let faults =
        faults.filter(|found| !matches!(found.fault, Fault::Unreadable(_)) && known.insert(found.path.clone()));
    let findings = faults.map(|found| {
        let message = format!("{}; {consequence}", found.fault);
        Diagnostic::of_file(severity, &found.path.display().to_string(), message, found.correction())
    });
    findings.collect()
}

/// The kind of a file, by its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Also a file that cannot be read.
    Config,
    Rules,
    AlertingRules,
    Tests,
}

/// The kind of the file at a path.
pub fn kind_of(path: &Path) -> FileKind {
    let Ok(source) = file_source::read(path) else {
        return FileKind::Config;
    };
    let documents = yaml::parse_all(&mut Findings::new(&source));
    let documents = documents.ok().or_else(|| yaml::documents(&source).ok());
    let documents = documents.unwrap_or_default();
    let first = documents.iter().find(|document| !document.is_null());
    first.map_or(FileKind::Config, file::kind_of)
}

impl Config {
    /// Loads a configuration file and every file that it names.
    ///
    /// # Errors
    /// All findings in any of them, warnings included.
    pub fn load(path: &Path) -> Result<Loaded, Vec<Diagnostic>> {
        let name = path.display().to_string();
        let source = file_source::read(path).map_err(|problem| {
            let message = format!("cannot read the configuration: {problem}");
            vec![Diagnostic::of_file(
                Severity::Error,
                &name,
                message,
                "set another one with --config.file",
            )]
        })?;
        assemble(&source, &FileSource::Directory(path.parent().unwrap_or(Path::new(""))))
    }

    /// Loads rule files and alerting rule files by themselves. `around` has the process groups that they may refer to;
    /// without it, commands are allowed.
    ///
    /// # Errors
    /// All findings in any of them, warnings included.
    pub fn load_files(paths: &[&PathBuf], around: Option<Config>) -> Result<Loaded, Vec<Diagnostic>> {
        let mut files = Files::default();
        let mut diagnostics = Vec::new();
        for path in paths {
            let name = path.display().to_string();
            let mut refuse = |message: String, help: &str| {
                diagnostics.push(Diagnostic::of_file(Severity::Error, &name, message, help));
            };
            match (kind_of(path), file_source::read(path)) {
                (FileKind::Rules, Ok(source)) => files.rules.push(source),
                (FileKind::AlertingRules, Ok(source)) => files.alerting.push(source),
                (FileKind::Tests, Ok(_)) => refuse("this is a file of tests".to_owned(), "run it with `evenkeel test`"),
                (FileKind::Config, Ok(_)) => refuse("this is no rule file".to_owned(), "a rule file has `rules`"),
                (_, Err(problem)) => refuse(format!("cannot read the file: {problem}"), ""),
            }
        }
        let config = around.unwrap_or(Config {
            allow_exec: true,
            ..Config::default()
        });
        combine(config, &files, diagnostics, Vec::new())
    }

    /// The configuration, rules and alerting rules that ship with evenkeel, as they were built in.
    ///
    /// # Errors
    /// Never for a build whose tests pass.
    pub fn embedded() -> Result<Loaded, Vec<Diagnostic>> {
        Self::from_texts(include_str!("../evenkeel.yml"), file_source::SHIPPED)
    }

    /// A configuration and the rule files and alerting rule files that it may name, all as text.
    ///
    /// # Errors
    /// All findings in any of them, warnings included.
    pub fn from_texts(text: &str, files: &[(&str, &str)]) -> Result<Loaded, Vec<Diagnostic>> {
        assemble(&SourceText::new("evenkeel.yml", text), &FileSource::Texts(files))
    }

    /// The selectors to which rules can refer.
    pub fn groups(&self) -> BTreeMap<String, Arc<Selector>> {
        selectors(&self.process_groups)
    }
}

/// The selectors of the groups that have one name.
fn selectors(groups: &[ProcessGroup]) -> BTreeMap<String, Arc<Selector>> {
    let named = groups.iter().filter(|group| group.template.is_none());
    named
        .map(|group| (group.name.clone(), Arc::clone(&group.selector)))
        .collect()
}

/// Reads process-exporter's file at a path.
///
/// # Errors
/// All findings in it, warnings included.
pub fn read_process_exporter(
    path: &Path,
    options: ExporterOptions,
) -> Result<(ExporterGroups, Vec<Diagnostic>), Vec<Diagnostic>> {
    match file_source::read(path) {
        Ok(source) => process_exporter::read(&source, options),
        Err(problem) => {
            let message = format!("cannot read the configuration of process-exporter: {problem}");
            let help = "set another one with --process-exporter.config";
            let name = path.display().to_string();
            Err(vec![Diagnostic::of_file(Severity::Error, &name, message, help)])
        }
    }
}

/// Compiles the rule files that these patterns name, relative to a directory. Errors in the patterns are added to
/// `findings`, errors in the files are returned.
pub fn compile_rules(
    directory: &Path,
    patterns: &[Text],
    groups: &BTreeMap<String, Arc<Selector>>,
    findings: &mut Findings,
) -> Compiled {
    let sources = FileSource::Directory(directory).find("rule_files", patterns, findings);
    rule::compile(
        sources.iter().map(rule::file::read).collect(),
        &Context {
            groups,
            known_alerts: None,
            own_alerts: &[],
            repeat_interval: None,
            // Tests accept commands, because only the configuration of a host allows or forbids them.
            allow_exec: true,
            // The recorded series come from files that this configuration does not name.
            check_promql: &|text| expressions::check(text, None),
        },
    )
}

/// Converts an error in a file of Prometheus to a finding.
pub fn diagnose_unread(error: &RuleError) -> Diagnostic {
    match file_source::read(Path::new(&error.file)) {
        Ok(source) => diagnose(&source, error),
        Err(_) => {
            let help = error.hint.clone().unwrap_or_default();
            Diagnostic::of_file(Severity::Error, &error.file, &error.message, help)
        }
    }
}

fn assemble(source: &SourceText, file_source: &FileSource) -> Result<Loaded, Vec<Diagnostic>> {
    let mut findings = Findings::new(source);
    let written = file::read(file_source, &mut findings);
    let alertmanager = file_source.alertmanager();
    let files = Files {
        rules: file_source.find("rule_files", &written.rule_files, &mut findings),
        alerting: file_source.find("alerting_rule_files", &written.alerting_rule_files, &mut findings),
        repeat_interval: alertmanager.and_then(|source| alertmanager_config::repeat_interval(&source)),
    };
    let references = findings.take_references();
    let mut loaded = combine(written.config, &files, findings.into_diagnostics(), references)?;
    if let FileSource::Directory(_) = file_source {
        let sources = std::iter::once(source).chain(&files.rules).chain(&files.alerting);
        loaded.files = sources.map(|source| PathBuf::from(source.name())).collect();
    }
    Ok(loaded)
}

/// The files beside a configuration.
#[derive(Default)]
struct Files {
    rules: Vec<SourceText>,
    alerting: Vec<SourceText>,
    /// Of an Alertmanager on this host.
    repeat_interval: Option<Duration>,
}

/// Compiles rules and alerting rules under a configuration. `diagnostics` and `references` are those of the configuration.
fn combine(
    mut config: Config,
    files: &Files,
    mut diagnostics: Vec<Diagnostic>,
    mut references: Vec<HostReference>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let mut alerting_rules = Vec::new();
    for source in &files.alerting {
        match rule_file::parse(source.name(), source.text()) {
            Ok(file) => alerting_rules.push(file),
            Err(errors) => diagnostics.extend(errors.iter().map(|error| diagnose(source, error))),
        }
    }
    // With an unreadable file, the alerts of rules cannot be checked.
    let is_complete = !alerting_rules.is_empty() && alerting_rules.len() == files.alerting.len();
    let known_alerts = is_complete.then(|| alert_names(&alerting_rules));

    let (recorded, local) = (expressions::recorded(&alerting_rules), config.local.clone());
    let own = OwnSamples {
        recorded: &recorded,
        local: &local,
    };
    if is_complete {
        for (file, source) in alerting_rules.iter().zip(&files.alerting) {
            diagnostics.extend(expressions::doubts(file, source, own));
        }
    }

    let check_promql = |text: &str| expressions::check(text, Some(own));
    let compiled = rule::compile(
        files.rules.iter().map(rule::file::read).collect(),
        &Context {
            groups: &config.groups(),
            known_alerts: known_alerts.as_ref(),
            own_alerts: &own_alerts(&alerting_rules, config.evaluation_interval),
            allow_exec: config.allow_exec,
            repeat_interval: files.repeat_interval,
            check_promql: &check_promql,
        },
    );
    diagnostics.extend(compiled.diagnostics);
    references.extend(compiled.references);
    match compiled.rules {
        Some(rules) if diagnostics.iter().all(|found| found.severity == Severity::Warning) => {
            config.alerting_rules = alerting_rules;
            Ok(Loaded {
                config,
                rules,
                warnings: diagnostics,
                settings: compiled.settings,
                references,
                files: Vec::new(),
            })
        }
        _ => Err(diagnostics),
    }
}

/// The alerts of the alerting rules, with the labels that are the same for every series.
fn own_alerts(files: &[RuleFile], evaluation_interval: Duration) -> Vec<OwnAlert> {
    let groups = files.iter().flat_map(|file| &file.groups);
    let alerts = groups.flat_map(|group| {
        let interval_ms = group
            .interval_ms
            .and_then(|interval_ms| u64::try_from(interval_ms).ok());
        let interval = interval_ms.map_or(evaluation_interval, Duration::from_millis);
        group.rules.iter().filter_map(move |rule| match rule {
            AlertingOrRecording::Alerting(rule) => Some(OwnAlert {
                labels: rule.fixed_labels(),
                group: group.name.clone(),
                interval,
            }),
            AlertingOrRecording::Recording(_) => None,
        })
    });
    alerts.collect()
}

fn alert_names(files: &[RuleFile]) -> BTreeSet<String> {
    let rules = files.iter().flat_map(RuleFile::rules);
    rules
        .filter(|rule| matches!(rule, AlertingOrRecording::Alerting(_)))
        .map(|rule| rule.name().to_owned())
        .collect()
}

/// The span of an error without a column: from the first letter of its line to the end.
fn diagnose(source: &SourceText, error: &RuleError) -> Diagnostic {
    let help = error.hint.clone().unwrap_or_default();
    let Some(line) = error.line else {
        return Diagnostic::of_file(Severity::Error, source.name(), &error.message, help);
    };
    let text = source.line(line);
    let indent = text.chars().take_while(|character| character.is_whitespace()).count();
    let width = text.trim().chars().count().max(1);
    source.diagnose(
        Severity::Error,
        Span {
            line,
            column: indent + 1,
            width,
        },
        &error.message,
        help,
    )
}

#[cfg(test)]
mod tests;
