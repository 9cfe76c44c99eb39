//! The conversion of a loaded configuration into the engine's policy and the watcher's rules. It also decides whether
//! evenkeel may apply actions on this host at all.

use crate::config::{Config, Loaded};
use crate::engine::Policy;
use crate::engine::host_identity::HostIdentity;
use crate::rule::RuleSet;
use crate::sense::groups::group::GroupConfig;
use crate::watch::promql::{self, Query};
use crate::watch::{LabelSet, RuleFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `job` of own alerts, as in the shipped `prometheus.yml`.
const DEFAULT_JOB: &str = "evenkeel";

/// The name of this host, as uname(2) says.
pub fn node_name() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.nodename().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The engine's policy. `enforce` is the flag, which overrides the configuration.
pub fn policy(config: &Config, rules: RuleSet, enforce: bool) -> Policy {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    Policy {
        rules,
        enforce: enforce || config.enforce,
        host_identity: HostIdentity::new(
            config.host_names.labels.clone(),
            &node_name(),
            &hosts,
            &config.host_names.names,
        ),
        protect: config.protect.clone(),
        budget: config.budget,
        restore_on_exit: config.restore_on_exit,
        retention: config.retention,
    }
}

/// The process groups of the sampler.
pub fn groups(config: &Config) -> GroupConfig {
    GroupConfig {
        groups: config.process_groups.clone(),
        grouping: config.grouping,
        exporter: config.exporter.clone(),
    }
}

/// The rules and conditions for the watcher.
pub struct EvaluationConfig {
    pub files: Vec<RuleFile>,
    /// The `while` expressions of the rules, by their source.
    pub conditions: BTreeMap<String, Query>,
    pub interval: Duration,
    /// The labels of every own sample: `job`, `instance`.
    pub target: LabelSet,
}

impl EvaluationConfig {
    /// Whether there is anything to evaluate.
    pub fn are_any(&self) -> bool {
        let mut groups = self.files.iter().flat_map(|file| &file.groups);
        !self.conditions.is_empty() || groups.any(|group| !group.rules.is_empty())
    }
}

pub fn evaluation_config(loaded: &Loaded) -> EvaluationConfig {
    let config = &loaded.config;
    let mut target = BTreeMap::from([
        ("job".to_owned(), DEFAULT_JOB.to_owned()),
        ("instance".to_owned(), node_name()),
    ]);
    target.extend(config.local.clone());
    let texts = loaded.rules.rules.iter().filter_map(|rule| rule.condition.clone());
    EvaluationConfig {
        files: config.alerting_rules.clone(),
        // Parsing cannot fail, because loading has checked the expressions.
        conditions: texts
            .filter_map(|text| promql::parse(&text).ok().map(|query| (text, query)))
            .collect(),
        interval: config.evaluation_interval,
        target: LabelSet::new(
            target
                .into_iter()
                .map(|(name, value)| (Arc::from(name), Arc::from(value)))
                .collect(),
        ),
    }
}

/// The procfs of another pid namespace. System calls need pids of the own one.
#[derive(Debug, thiserror::Error)]
#[error(
    "mode enforce needs the procfs of its own pid namespace, and {} is not: its `self` is {target}. Run evenkeel in the \
     host's pid namespace (hostPID), or in dry-run",
    procfs.display()
)]
pub struct ForeignProcfs {
    procfs: PathBuf,
    target: String,
}

/// Whether evenkeel may apply steps with this procfs.
///
/// # Errors
/// When the procfs belongs to another pid namespace, so that its pids are not valid for system calls.
pub fn may_enforce_with(procfs: &Path) -> Result<(), ForeignProcfs> {
    let target = std::fs::read_link(procfs.join("self")).ok();
    let is_ours = target.as_deref().and_then(Path::to_str) == Some(&std::process::id().to_string());
    if is_ours {
        return Ok(());
    }
    Err(ForeignProcfs {
        procfs: procfs.to_owned(),
        target: target.map_or("missing".to_owned(), |target| target.display().to_string()),
    })
}
