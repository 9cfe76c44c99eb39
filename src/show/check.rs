//! `check`: the findings in configuration, rules and alerting rules, and what this host lacks for them.

use super::unrecognised::unrecognised;
use super::{exit_code, json, linux_host, use_color};
use crate::app;
use crate::cli::{Check, ConfigFile, DEFAULT_CONFIG, Output, ProcessExporterFile, Schema};
use crate::config::{self, Config, FileKind, Loaded};
use crate::diagnostic::{Diagnostic, HostName, HostReference, Severity, render_all};
use crate::host::{Host, Knob, LinuxHost};
use crate::http::Access;
use crate::rule::{self, RuleSet, Step};
use crate::schema;
use crate::sense::groups::group::ExporterOptions;
use crate::simulate::test_file;
use crate::terminal::count;
use nix::unistd::User;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What was found in one configuration, or in some files.
#[derive(Default)]
struct Report {
    findings: Vec<Diagnostic>,
    summary: String,
    notes: Vec<&'static str>,
}

/// Prints the findings in configuration, rules and alerting rules.
pub fn check(check: &Check) -> ExitCode {
    if let Some(kind) = check.schema {
        let root = match kind {
            Schema::Rules => &rule::file::RULE_FILE,
            Schema::Config => &config::CONFIG,
            Schema::Tests => &test_file::TEST_FILE,
        };
        println!("{:#}", schema::json_schema(root));
        return ExitCode::SUCCESS;
    }
    let reports = reports(check);
    let findings: Vec<&Diagnostic> = reports.iter().flat_map(|report| &report.findings).collect();
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    match check.output {
        Output::Json => println!("{}", json(&findings)),
        Output::Text => {
            for report in &reports {
                print!("{}", render_all(&report.findings, use_color()));
                if !report.summary.is_empty() {
                    println!("{}", report.summary);
                }
                report.notes.iter().copied().for_each(super::report);
            }
        }
    }
    exit_code(!has_errors)
}

fn reports(check: &Check) -> Vec<Report> {
    if check.files.is_empty() {
        return vec![check_config(
            &check.config,
            &check.process_exporter,
            check.webhook_config.as_deref(),
        )];
    }
    let is_config = |path: &&PathBuf| config::kind_of(path) == FileKind::Config;
    let (configs, others): (Vec<&PathBuf>, Vec<&PathBuf>) = check.files.iter().partition(is_config);
    let path = |path: &PathBuf| ConfigFile {
        path: Some(path.clone()),
    };
    let mut reports: Vec<Report> = configs
        .into_iter()
        .map(|file| check_config(&path(file), &check.process_exporter, check.webhook_config.as_deref()))
        .collect();
    if !others.is_empty() {
        reports.push(check_files(&others, &check.config));
    }
    reports
}

/// Checks a configuration with all files that it names, and the web configuration file of the webhook listener.
fn check_config(file: &ConfigFile, exporter: &ProcessExporterFile, web_config: Option<&Path>) -> Report {
    let checked = Checked::of(file);
    let loaded = app::settings::load_both(file, exporter, ExporterOptions::default());
    Report::of(loaded, &checked.name, checked.hint, |config| {
        let access = web_config.map(webhook_access);
        let access = access.as_ref().map(|access| access.as_ref());
        let authenticates = matches!(access, Some(Ok(access)) if access.authenticates());
        let limits_rate = matches!(access, Some(Ok(access)) if access.limits_rate());
        let missing = missing_authentication(config, &checked).filter(|_| !authenticates);
        let unreadable = access.and_then(Result::err).map(|finding| (**finding).clone());
        let limited = web_config.filter(|_| limits_rate).map(limited);
        [missing, unreadable, limited].into_iter().flatten().collect()
    })
}

/// Checks rule files and alerting rule files by themselves, with the process groups of the configuration if one is given.
fn check_files(files: &[&PathBuf], around: &ConfigFile) -> Report {
    let around = match &around.path {
        None => Ok(None),
        Some(path) => Config::load(path).map(|loaded| Some(loaded.config)),
    };
    let loaded = around.and_then(|around| Config::load_files(files, around));
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    Report::of(loaded, &names.join(", "), "", |_| Vec::new())
}

impl Report {
    fn of(
        loaded: Result<Loaded, Vec<Diagnostic>>,
        name: &str,
        hint: &str,
        more: impl FnOnce(&Config) -> Vec<Diagnostic>,
    ) -> Report {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(findings) => {
                return Report {
                    findings,
                    ..Report::default()
                };
            }
        };
        let untrusted = loaded.untrusted_files(loaded.config.enforce);
        let scripts = loaded.untrusted_scripts();
        let mut findings = loaded.warnings;
        findings.extend(untrusted);
        findings.extend(scripts);
        findings.extend(missing_privileges(&loaded.rules, &loaded.settings));
        if let Ok(mut host) = linux_host(Path::new("/proc")) {
            findings.extend(unrecognised(&mut host, &loaded.rules, &loaded.config.protect));
        }
        findings.extend(loaded.references.iter().filter_map(missing_on_host));
        findings.extend(more(&loaded.config));
        let rules = count(loaded.rules.rules.len(), "rule");
        let files = count(loaded.config.alerting_rules.len(), "file");
        Report {
            findings,
            summary: format!("{name}: {rules} and {files} of alerting rules are valid{hint}"),
            notes: [note_on_knobs(&loaded.rules), note_on_start(&loaded.config)]
                .into_iter()
                .flatten()
                .collect(),
        }
    }
}

/// A warning about a user or a program that this host does not have.
fn missing_on_host(reference: &HostReference) -> Option<Diagnostic> {
    match &reference.subject {
        HostName::User(name) => {
            // An error of the directory service says nothing about the user.
            let is_missing = matches!(User::from_name(name), Ok(None));
            is_missing.then(|| {
                let help = "correct the name; a rule for hosts that have the user is fine as it is";
                reference.warning(format!("this host has no user `{name}`"), help.to_owned())
            })
        }
        HostName::Program(path) => {
            let found = std::fs::metadata(path).ok();
            let problem = match found {
                None => format!("this host has no program `{path}`"),
                Some(found) if !found.is_file() => format!("`{path}` is not a program"),
                Some(found) if found.permissions().mode() & 0o111 == 0 => format!("`{path}` is not executable"),
                Some(_) => return None,
            };
            let help = "install it, or correct the path; without it the step fails";
            Some(reference.warning(problem, help.to_owned()))
        }
    }
}

/// The checked configuration, as a user would name it.
struct Checked {
    name: String,
    /// A note on a file that the user may have meant instead.
    hint: &'static str,
}

impl Checked {
    fn of(file: &ConfigFile) -> Checked {
        let hint = match file.path {
            None if Path::new("evenkeel.yml").exists() => {
                "\nnot checked: ./evenkeel.yml; check it with --config.file=evenkeel.yml"
            }
            _ => "",
        };
        let name = match &file.path {
            Some(path) => path.display().to_string(),
            None if app::settings::has_default_config() => DEFAULT_CONFIG.to_owned(),
            None => format!("built-in configuration (no file at {DEFAULT_CONFIG})"),
        };
        Checked { name, hint }
    }
}

/// A warning about a configuration with which `run` needs --webhook.config.file to start.
fn missing_authentication(config: &Config, checked: &Checked) -> Option<Diagnostic> {
    let config::Webhook {
        token_file,
        allow_unauthenticated,
    } = &config.webhook;
    if !config.enforce || token_file.is_some() || *allow_unauthenticated {
        return None;
    }
    let message = "`mode: enforce` without authentication of alerts: `run` refuses to start without \
                   --webhook.config.file";
    let help = "set webhook: {token_file: webhook.token} and make the file: (umask 077; openssl rand -hex 32 \
                >webhook.token); or accept every local user with webhook: {allow_unauthenticated: true}";
    Some(Diagnostic::of_file(Severity::Warning, &checked.name, message, help))
}

/// Warnings about steps that this user could apply but not revert.
fn missing_privileges(rules: &RuleSet, settings: &[HostReference<Knob>]) -> Vec<Diagnostic> {
    let Ok(host) = linux_host(Path::new("/proc")) else {
        return Vec::new();
    };
    let missing = settings.iter().filter_map(|setting| {
        let missing = host.may_undo(setting.subject).err()?;
        let message = format!(
            "{} cannot be reverted without {missing}, which this user lacks",
            setting.subject
        );
        let help = format!(
            "run evenkeel as root, or with AmbientCapabilities={missing}; without it evenkeel refuses the step"
        );
        Some(setting.warning(message, help))
    });
    let mut missing: Vec<Diagnostic> = missing.collect();
    let sends = |step: &Step| matches!(step, Step::Signal(_));
    if let Err(what) = host.may_signal()
        && rules.rules.iter().any(|rule| rule.actions.iter().any(sends))
    {
        let message = format!("signals cannot be sent to exactly one process without {what}");
        let help = "the kernel is too old, or a container forbids the call; evenkeel refuses such steps".to_owned();
        missing.push(Diagnostic::of_file(Severity::Warning, "privileges", message, help));
    }
    missing.extend(out_of_reach(&host, rules));
    missing
}

/// Warnings about steps that cannot reach processes of other users, one per missing capability.
fn out_of_reach(host: &LinuxHost, rules: &RuleSet) -> Vec<Diagnostic> {
    let confined = rules.rules.iter().flat_map(|rule| {
        let steps = crate::engine::confined_steps(host, rule);
        steps.into_iter().map(|(step, missing)| (missing, format!("`{step}`")))
    });
    let mut lost: std::collections::BTreeMap<&str, Vec<String>> = Default::default();
    for (missing, what) in confined {
        let steps = lost.entry(missing).or_default();
        if !steps.contains(&what) {
            steps.push(what);
        }
    }
    if let Err(missing) = host.may_identify_others()
        && !rules.rules.is_empty()
    {
        lost.entry(missing).or_default().push("identifying them".to_owned());
    }
    let warning = |(missing, what): (&str, Vec<String>)| {
        let message = format!(
            "processes of other users cannot be changed without {missing}: {}",
            what.join(", ")
        );
        let help = format!(
            "run evenkeel as root, or with AmbientCapabilities={missing}; without it evenkeel leaves them alone"
        );
        Diagnostic::of_file(Severity::Warning, "privileges", message, help)
    };
    lost.into_iter().map(warning).collect()
}

/// A note if a rule sets a knob that has little effect on this host.
fn note_on_knobs(rules: &RuleSet) -> Option<&'static str> {
    let steps = rules.rules.iter().flat_map(|rule| &rule.actions);
    let mut knobs = steps.filter_map(|step| match step {
        Step::Set(change) => Some(change.knob()),
        _ => None,
    });
    let sysctl = |name: &str| crate::host::linux::sysctl(Path::new("/proc"), name);
    knobs.find_map(|knob| knob.note(&sysctl))
}

/// A note if the configuration sets a key that a reload does not apply.
fn note_on_start(config: &Config) -> Option<&'static str> {
    (config.webhook != config::Webhook::default()).then_some(
        "note: a change of `webhook`, `sampling` or `lock_memory` takes effect at the next start, not at a reload",
    )
}

/// The access rules of the webhook listener's web configuration file.
fn webhook_access(file: &Path) -> Result<Access, Box<Diagnostic>> {
    Access::open().with_web_config(file).map_err(|error| {
        let help = "docs/security-model.md describes the file";
        let file = file.display().to_string();
        Box::new(Diagnostic::of_file(Severity::Error, &file, error.to_string(), help))
    })
}

/// The warning about `rate_limit` on the webhook listener.
fn limited(file: &Path) -> Diagnostic {
    let message = "`rate_limit` on the webhook listener delays alerts";
    let help = "evenkeel answers 503 beyond the limit, so that Alertmanager tries again; leave `rate_limit` out, \
                because the number of connections and the memory for bodies are bounded anyway";
    Diagnostic::of_file(Severity::Warning, &file.display().to_string(), message, help)
}
