//! Files -> `Config` and `RuleSet`: finds and reads them, and says what is wrong with all of them at once.
//! The only place that loads them; what it returns needs no further look at a file.

mod beside;
mod file;
mod shelf;

pub use file::CONFIG;

use crate::act::guard::Budget;
use crate::diagnostic::{Diagnostic, Findings, Severity, Source};
use crate::process::Selector;
use crate::rule::{self, Context, PromqlCheck, RuleSet};
use shelf::Shelf;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What evenkeel is told by its configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// `mode: enforce`; `--enforce` overrides.
    pub enforce: bool,
    pub sampling: Sampling,
    /// Prometheus alerting rules to evaluate here, as text: files that could be read, and hold rules.
    pub alerting_rules: Vec<Source>,
    pub evaluation_interval: Duration,
    pub webhook: Webhook,
    pub identity: HostNames,
    /// Added to the built-in protection.
    pub protect: Vec<Selector>,
    pub budget: Budget,
    /// Whether leases are undone when evenkeel ends.
    pub restore_on_exit: bool,
    /// In the order of the file.
    pub process_groups: Vec<ProcessGroup>,
    /// Labels of alerts that are raised here; the node name is added as `instance` where that is not given.
    pub local: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    pub interval: Duration,
    pub slow_interval: Duration,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhook {
    /// Absolute or relative to the working directory; it held a token when the configuration was loaded.
    pub token_file: Option<PathBuf>,
    pub allow_unauthenticated: bool,
}

/// How this host recognises alerts about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNames {
    pub labels: Vec<String>,
    /// Names beside the node name and the full name.
    pub names: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct ProcessGroup {
    pub name: String,
    pub selector: Arc<Selector>,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub rules: RuleSet,
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// Loads a configuration file and every file that it names.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, warnings included.
    pub fn load(path: &Path) -> Result<Loaded, Vec<Diagnostic>> {
        let name = path.display().to_string();
        let source = shelf::read(path).map_err(|problem| {
            let message = format!("cannot read the configuration: {problem}");
            vec![Diagnostic::of_file(
                Severity::Error,
                &name,
                message,
                "name another with --config.file",
            )]
        })?;
        assemble(&source, &Shelf::Directory(path.parent().unwrap_or(Path::new(""))))
    }

    /// The configuration, rules and alerting rules that ship with evenkeel, as they were built in.
    ///
    /// # Errors
    /// Never for a build whose tests pass.
    pub fn embedded() -> Result<Loaded, Vec<Diagnostic>> {
        assemble(&shelf::shipped(), &Shelf::Shipped)
    }

    pub fn groups(&self) -> BTreeMap<String, Arc<Selector>> {
        self.process_groups
            .iter()
            .map(|group| (group.name.clone(), Arc::clone(&group.selector)))
            .collect()
    }
}

fn assemble(source: &Source, shelf: &Shelf) -> Result<Loaded, Vec<Diagnostic>> {
    let mut findings = Findings::new(source);
    let written = file::read(shelf, &mut findings);
    let rule_sources = shelf.find("rule_files", &written.rule_files, &mut findings);
    let alerting_sources = shelf.find("alerting_rule_files", &written.alerting_rule_files, &mut findings);
    let mut diagnostics = findings.into_diagnostics();

    // With a file that cannot be read, no rule can be told that its alert is unknown.
    let mut known_alerts = (!alerting_sources.is_empty()).then(BTreeSet::new);
    for source in &alerting_sources {
        match beside::alert_names(source) {
            Ok(names) => known_alerts
                .iter_mut()
                .for_each(|known| known.extend(names.iter().cloned())),
            Err(diagnostic) => {
                diagnostics.push(*diagnostic);
                known_alerts = None;
            }
        }
    }

    let mut config = written.config;
    let compiled = rule::compile(
        rule_sources.iter().map(rule::file::read).collect(),
        &Context {
            groups: &config.groups(),
            known_alerts: known_alerts.as_ref(),
            repeat_interval: shelf.alertmanager().and_then(|source| beside::repeat_interval(&source)),
            check_promql: PROMQL,
        },
    );
    diagnostics.extend(compiled.diagnostics);
    match compiled.rules {
        Some(rules) if diagnostics.iter().all(|found| found.severity == Severity::Warning) => {
            config.alerting_rules = alerting_sources;
            Ok(Loaded {
                config,
                rules,
                warnings: diagnostics,
            })
        }
        _ => Err(diagnostics),
    }
}

const PROMQL: &PromqlCheck = &|text| match promql_parser::parser::parse(text) {
    Ok(_) => Ok(()),
    // The parser keeps no place, so the whole text is marked from its start.
    Err(problem) => Err((0, problem)),
};

#[cfg(test)]
mod tests;
