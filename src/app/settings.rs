//! The settings of a start: the configuration that the flags name, and the access rules of both listeners. All errors
//! are found before any port is bound.

use super::policy;
use super::stop::{Stop, because};
use crate::cli;
use crate::config::{self, Config, Loaded};
use crate::diagnostic::Diagnostic;
use crate::engine::Policy;
use crate::http::{Access, listen::may_listen};
use crate::sense::groups::group::ExporterOptions;
use std::path::Path;

/// The settings of this run.
pub struct Settings {
    pub loaded: Loaded,
    pub policy: Policy,
    pub scrapers: Access,
    pub webhook: Access,
}

impl Settings {
    /// Loads and checks the settings, and warns about what is allowed but unwise.
    pub fn load(run: &cli::Run) -> Result<Settings, Stop> {
        let (exporter, options) = (&run.process_exporter.file, run.process_exporter.options());
        let loaded = load_both(&run.config, exporter, options).map_err(Stop::Findings)?;
        for warning in &loaded.warnings {
            tracing::warn!(at = warning.place(), "{}", warning.message);
        }
        for warning in &run.collectors.warnings {
            tracing::warn!(warning, "flag of node_exporter");
        }
        for flag in run.process_exporter.flags_without_effect() {
            tracing::warn!(flag, "flag has no effect without --process-exporter.config");
        }
        let policy = policy::policy(&loaded.config, loaded.rules.clone(), run.enforce);
        let webhook = webhook_access(run, &loaded.config)?;
        let scrapers = with_web_config(Access::open(), run.web_config.as_deref())?;
        let mut untrusted = loaded.untrusted_files(policy.enforce);
        let web_files = [&webhook, &scrapers].into_iter().flat_map(Access::web_files);
        untrusted.extend(config::untrusted(web_files, policy.enforce));
        reject_untrusted(untrusted, policy.enforce).map_err(Stop::Findings)?;
        if webhook.limits_rate() {
            tracing::warn!("rate_limit of the webhook listener delays alerts, their senders are told to try again");
        }
        let allow = loaded.config.webhook.allow_unauthenticated;
        may_listen(run.webhook_listen, webhook.authenticates(), policy.enforce, allow).map_err(Stop::because)?;
        if policy.enforce {
            policy::may_enforce_with(&run.roots.procfs).map_err(Stop::because)?;
        }
        Ok(Settings {
            loaded,
            policy,
            scrapers,
            webhook,
        })
    }
}

/// Loads the configuration: the file of the flag, or the default file, or the built-in one if that does not exist.
///
/// # Errors
/// All errors in it.
pub fn load(file: &cli::ConfigFile) -> Result<Loaded, Vec<Diagnostic>> {
    match &file.path {
        Some(path) => Config::load(path),
        None if has_default_config() => Config::load(Path::new(cli::DEFAULT_CONFIG)),
        None => Config::embedded(),
    }
}

/// Loads the configuration and, where a flag names one, that of process-exporter.
///
/// # Errors
/// All findings in both, warnings included.
pub fn load_both(
    file: &cli::ConfigFile,
    exporter: &cli::ProcessExporterFile,
    options: ExporterOptions,
) -> Result<Loaded, Vec<Diagnostic>> {
    let loaded = load(file);
    let Some(path) = &exporter.path else {
        return loaded;
    };
    match (loaded, config::read_process_exporter(path, options)) {
        (Ok(mut loaded), Ok((groups, warnings))) => {
            loaded.config.exporter = Some(groups);
            loaded.warnings.extend(warnings);
            Ok(loaded)
        }
        (Ok(Loaded { warnings, .. }), Err(findings)) => Err([warnings, findings].concat()),
        (Err(findings), Ok((_, warnings))) => Err([findings, warnings].concat()),
        (Err(findings), Err(more)) => Err([findings, more].concat()),
    }
}

/// Whether the default file exists. One that this user may not see is reported as unreadable, not taken for missing.
pub fn has_default_config() -> bool {
    Path::new(cli::DEFAULT_CONFIG).try_exists().unwrap_or(true)
}

/// Fails in `enforce` where another user can change a file that decides what evenkeel does, and warns in dry-run.
pub fn reject_untrusted(findings: Vec<Diagnostic>, enforce: bool) -> Result<(), Vec<Diagnostic>> {
    if enforce && !findings.is_empty() {
        return Err(findings);
    }
    for finding in findings {
        tracing::warn!(at = finding.place(), help = finding.help, "{}", finding.message);
    }
    Ok(())
}

fn webhook_access(run: &cli::Run, config: &Config) -> Result<Access, Stop> {
    let access = match &config.webhook.token_file {
        None => Access::open(),
        Some(path) => {
            warn_if_shared(path);
            Access::open()
                .with_token_file(path)
                .map_err(because("webhook.token_file"))?
        }
    };
    with_web_config(access, run.webhook_config.as_deref())
}

/// Warns about a secret that other users can read. Its group may, because Alertmanager reads the same file.
fn warn_if_shared(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)
        .map(|found| found.permissions().mode())
        .unwrap_or(0);
    if mode & 0o004 != 0 {
        tracing::warn!(file = %path.display(), mode = format!("{:o}", mode & 0o777), "webhook token file readable by every user, run chmod o-r");
    }
}

fn with_web_config(access: Access, file: Option<&Path>) -> Result<Access, Stop> {
    match file {
        None => Ok(access),
        Some(path) => access.with_web_config(path).map_err(because("web configuration file")),
    }
}
