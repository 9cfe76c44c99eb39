//! A reload: everything that can fail first, then one swap. A bad file keeps the last good configuration.

use super::policy;
use super::reconciler;
use super::watcher::Watcher;
use crate::cli;
use crate::config::{Loaded, Sampling, Webhook};
use crate::engine::Policy;
use crate::engine::run::{EngineHandle, Input};
use crate::http::listen::may_listen;
use crate::sense::Groups;
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Whom a reload tells of what was loaded.
pub struct Told {
    pub door: EngineHandle,
    pub watcher: Arc<Watcher>,
    pub reconciler: reconciler::Handle,
    pub groups: Groups,
    /// What the engine starts anew with after a fault.
    pub policy: Arc<ArcSwap<Policy>>,
    pub telemetry: Telemetry,
}

pub struct Reloader {
    config: cli::ConfigFile,
    enforce: bool,
    webhook_listen: SocketAddr,
    procfs: PathBuf,
    /// Whether the webhook listener authenticates, which no reload changes.
    authenticates: bool,
    /// What only a restart changes, as it was at the start.
    at_start: (Webhook, Sampling),
    told: Told,
    /// One reload at a time.
    transaction: Mutex<()>,
}

impl Reloader {
    pub fn new(run: &cli::Run, loaded: &Loaded, authenticates: bool, told: Told) -> Reloader {
        Reloader {
            config: cli::ConfigFile {
                path: run.config.path.clone(),
            },
            enforce: run.enforce,
            webhook_listen: run.webhook_listen,
            procfs: run.roots.procfs.clone(),
            authenticates,
            at_start: (loaded.config.webhook.clone(), loaded.config.sampling),
            told,
            transaction: Mutex::new(()),
        }
    }

    /// Loads the configuration anew and takes it in force.
    ///
    /// # Errors
    /// Says what is wrong; then nothing has changed.
    pub fn reload(&self) -> Result<(), String> {
        let _turn = self.transaction.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.try_reload();
        match &result {
            Ok(()) => {
                self.told.telemetry.reloaded(Some(super::now_seconds()));
                tracing::info!("the configuration was loaded anew");
            }
            Err(reason) => {
                self.told.telemetry.reloaded(None);
                tracing::error!(
                    reason,
                    "the configuration was not loaded; the last good one stays in force"
                );
            }
        }
        result
    }

    fn try_reload(&self) -> Result<(), String> {
        let loaded = super::load(&self.config).map_err(|findings| crate::diagnostic::render_all(&findings, false))?;
        for warning in &loaded.warnings {
            tracing::warn!(at = warning.place(), "{}", warning.message);
        }
        let policy = policy::policy(&loaded.config, loaded.rules.clone(), self.enforce);
        // The listeners stay as they are, so what was at the start decides who may cause actions.
        let allow = self.at_start.0.allow_unauthenticated;
        may_listen(self.webhook_listen, self.authenticates, policy.enforce, allow)?;
        if policy.enforce {
            policy::may_enforce_with(&self.procfs)?;
        }
        let (webhook, sampling) = &self.at_start;
        let changed = [
            ("webhook", *webhook != loaded.config.webhook),
            ("sampling", *sampling != loaded.config.sampling),
        ];
        for (key, _) in changed.into_iter().filter(|(_, has_changed)| *has_changed) {
            tracing::warn!(
                key,
                "this key of the configuration has changed; it takes effect at the next start"
            );
        }
        self.told.groups.store(Arc::new(policy::groups(&loaded.config)));
        self.told.reconciler.replace(&loaded.config);
        self.told.policy.store(Arc::new(policy.clone()));
        if !self.told.door.send(Input::Reload(Box::new(policy))) {
            return Err("the engine has ended".to_owned());
        }
        // After the engine, so that the firing set that follows a reload confirms episodes under the new rules.
        self.told.watcher.replace(policy::orders(&loaded));
        Ok(())
    }
}
