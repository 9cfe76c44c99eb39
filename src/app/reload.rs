//! The reload of the configuration: everything that can fail comes first, then one swap. After a bad file the last
//! good configuration stays in force.

use super::policy;
use super::reconciler;
use super::sandbox::AppliedSandbox;
use super::settings;
use super::watcher::Watcher;
use crate::cli;
use crate::config::{Config, Loaded, Sampling, Webhook};
use crate::diagnostic::{self, Diagnostic, Severity};
use crate::engine::Policy;
use crate::engine::run::{EngineHandle, Input};
use crate::http::listen::{ListenError, may_listen};
use crate::ledger::OperatorRequest;
use crate::sense::Groups;
use crate::storage::Refused;
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The components that a reload updates.
pub struct ReloadTargets {
    pub engine_handle: EngineHandle,
    pub watcher: Arc<Watcher>,
    pub reconciler: reconciler::Handle,
    pub groups: Groups,
    /// False where the actuator is off, so that a reload concerns the metrics only.
    pub is_acting: bool,
    /// The policy for a restart of the engine after a panic.
    pub policy: Arc<ArcSwap<Policy>>,
    pub telemetry: Telemetry,
    pub sandbox: AppliedSandbox,
}

/// Why a configuration was not activated.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{}", diagnostic::render_all(.0, false))]
    Config(Vec<Diagnostic>),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Procfs(#[from] policy::ForeignProcfs),
    #[error(
        "mode enforce needs authentication of alerts, which `webhook` sets now and did not set at the start: `webhook` \
         takes effect at the next start, so restart evenkeel"
    )]
    NeedsRestart,
    #[error("the storage directory was refused at the start, and `enforce` needs it: {0}; then restart evenkeel")]
    Storage(Refused),
    #[error("the engine has ended")]
    EngineEnded,
}

impl ReloadError {
    /// The first error of the configuration with its place, or the whole reason.
    fn in_one_line(&self) -> String {
        let ReloadError::Config(findings) = self else {
            return self.to_string();
        };
        let first = findings.iter().find(|finding| finding.severity == Severity::Error);
        first.map_or_else(String::new, |error| format!("{}: {}", error.place(), error.message))
    }
}

/// The settings that only a start applies.
struct StartSettings {
    webhook: Webhook,
    sampling: Sampling,
    lock_memory: bool,
}

impl StartSettings {
    fn of(config: &Config) -> StartSettings {
        StartSettings {
            webhook: config.webhook.clone(),
            sampling: config.sampling,
            lock_memory: config.lock_memory,
        }
    }

    /// The keys that another configuration changes.
    fn changed_keys(&self, config: &Config) -> impl Iterator<Item = &'static str> {
        let changed = [
            ("webhook", self.webhook != config.webhook),
            ("sampling", self.sampling != config.sampling),
            ("lock_memory", self.lock_memory != config.lock_memory),
        ];
        changed
            .into_iter()
            .filter_map(|(key, has_changed)| has_changed.then_some(key))
    }
}

pub struct Reloader {
    config: cli::ConfigFile,
    process_exporter: cli::ProcessExporter,
    enforce: bool,
    webhook_listen: SocketAddr,
    procfs: PathBuf,
    /// Whether the webhook listener authenticates, which no reload changes.
    authenticates: bool,
    /// The settings at the start that only a restart changes.
    at_start: StartSettings,
    /// Why there is no storage directory.
    refused_storage: Option<Refused>,
    targets: ReloadTargets,
    /// Admits one reload at a time.
    in_progress: Mutex<()>,
}

impl Reloader {
    pub fn new(
        run: &cli::Run,
        loaded: &Loaded,
        authenticates: bool,
        refused_storage: Option<Refused>,
        targets: ReloadTargets,
    ) -> Reloader {
        Reloader {
            config: cli::ConfigFile {
                path: run.config.path.clone(),
            },
            process_exporter: run.process_exporter.clone(),
            enforce: run.enforce,
            webhook_listen: run.webhook_listen,
            procfs: run.roots.procfs.clone(),
            authenticates,
            at_start: StartSettings::of(&loaded.config),
            refused_storage,
            targets,
            in_progress: Mutex::new(()),
        }
    }

    /// Loads the configuration again and activates it.
    ///
    /// # Errors
    /// When the configuration is invalid; then nothing changes.
    pub fn reload(&self, request: OperatorRequest) -> Result<(), ReloadError> {
        let _turn = self.in_progress.lock().unwrap_or_else(PoisonError::into_inner);
        let by = request.by.to_string();
        let result = self.try_reload(request.clone());
        match &result {
            Ok(()) => {
                self.targets.telemetry.reloaded(Some(now_seconds()));
                tracing::info!(by, "config reloaded");
            }
            Err(error) => {
                self.targets.telemetry.reloaded(None);
                let reason = error.to_string();
                tracing::error!(by, reason, "config reload failed, keeping the last good config");
                self.targets
                    .engine_handle
                    .send(Input::ReloadRefused(request, error.in_one_line()));
            }
        }
        result
    }

    fn try_reload(&self, request: OperatorRequest) -> Result<(), ReloadError> {
        let (exporter, options) = (&self.process_exporter.file, self.process_exporter.options());
        let loaded = settings::load_both(&self.config, exporter, options).map_err(ReloadError::Config)?;
        for warning in &loaded.warnings {
            tracing::warn!(at = warning.place(), "{}", warning.message);
        }
        let policy = policy::policy(&loaded.config, loaded.rules.clone(), self.enforce);
        // The listeners do not change, so the settings at the start decide who may trigger actions.
        let may = |authenticates, webhook: &Webhook| {
            let allow = webhook.allow_unauthenticated;
            may_listen(self.webhook_listen, authenticates, policy.enforce, allow)
        };
        if let Err(error) = may(self.authenticates, &self.at_start.webhook) {
            let webhook = &loaded.config.webhook;
            let could_start = may(self.authenticates || webhook.token_file.is_some(), webhook).is_ok();
            return Err(if could_start {
                ReloadError::NeedsRestart
            } else {
                error.into()
            });
        }
        if policy.enforce {
            policy::may_enforce_with(&self.procfs)?;
            if let Some(refused) = &self.refused_storage {
                return Err(ReloadError::Storage(refused.clone()));
            }
        }
        let untrusted = loaded.untrusted_files(policy.enforce);
        settings::reject_untrusted(untrusted, policy.enforce).map_err(ReloadError::Config)?;
        for key in self.at_start.changed_keys(&loaded.config) {
            tracing::warn!(key, "changed config key takes effect at the next start");
        }
        if let Some(denied) = self.targets.sandbox.denied(&loaded.config, &loaded.rules) {
            tracing::warn!(
                denied,
                "the sandbox of this run denies what the config needs, it takes effect at the next start"
            );
        }
        self.targets.groups.store(Arc::new(policy::groups(&loaded.config)));
        self.targets.reconciler.replace(&loaded.config);
        self.targets.policy.store(Arc::new(policy.clone()));
        if self.targets.is_acting
            && !self
                .targets
                .engine_handle
                .send(Input::Reload(Box::new(policy), request))
        {
            return Err(ReloadError::EngineEnded);
        }
        // After the engine, so that the firing set that follows a reload confirms episodes under the new rules.
        self.targets.watcher.replace(policy::evaluation_config(&loaded));
        Ok(())
    }
}

/// Unix time.
pub fn now_seconds() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}
