//! What the daemon needs from the kernel after its start, by the loaded configuration and the leases of a former run,
//! and the sandbox that follows from it.

use crate::cli;
use crate::config::Config;
use crate::host::self_priority::{self, SelfProtection};
use crate::ledger::{Effect, Lease};
use crate::process::Target;
use crate::process::table::Procfs;
use crate::rule::{RuleSet, TargetSelector};
use crate::sandbox::{self, CapabilitySet, Measure, Needs, Report, capabilities};
use crate::telemetry::Telemetry;
use std::path::{Path, PathBuf};

/// The label value of `evenkeel_sandbox{part}` of this process.
const PART: &str = "actuator";
/// That of the process for commands and requests.
const RUNNER: &str = "runner";
/// That of the process that serves HTTP.
const FRONTEND: &str = super::frontend::session::PART;
/// Configuration, secrets, text files and ledgers may belong to any user.
const READING: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
/// The executables of processes (proc_pid_exe(5)), and their open files.
const INSPECTING: CapabilitySet = CapabilitySet::SYS_PTRACE;
const CGROUPS: CapabilitySet = crate::knob::limit::CAPABILITIES;
/// What any step needs, where the steps of a former run are unknown.
const ALL_STEPS: CapabilitySet = CGROUPS
    .union(INSPECTING)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RESOURCE);
/// Where systemd keeps runtime properties of units, which evenkeel reverts.
const SYSTEMD: &str = "/run/systemd";
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// The sandbox of this daemon.
#[derive(Debug)]
pub struct AppliedSandbox {
    report: Report,
    /// The capabilities that were dropped.
    dropped: CapabilitySet,
    /// Whether a process runs commands and sends requests.
    has_runner: bool,
}

/// What the daemon must still be able to do.
pub struct DaemonNeeds {
    sandbox: Needs,
    /// Whether it runs commands or sends requests to allocators, in a process of their own.
    pub runs_jobs: bool,
}

impl AppliedSandbox {
    /// What a new configuration needs and the sandbox denies until the next start.
    pub fn denied(&self, config: &Config, rules: &RuleSet) -> Option<String> {
        let needs = of_config(config, rules);
        let mut denied = Vec::new();
        let dropped = needs.sandbox.capabilities & self.dropped;
        if !dropped.is_empty() {
            denied.push(capabilities::names(dropped));
        }
        if needs.runs_jobs && !self.has_runner {
            denied.push("running commands and sending requests".to_owned());
        }
        if needs.sandbox.inspects_processes && self.report.is_in_force(Measure::Landlock) {
            denied.push("reading the executables of processes".to_owned());
        }
        (!denied.is_empty()).then(|| denied.join(", "))
    }
}

/// Drops what the daemon does not need, logs what is in force, and why the rest is not. Call it before any thread starts.
pub fn apply(run: &cli::Run, needs: &DaemonNeeds, has_runner: bool, telemetry: &Telemetry) -> AppliedSandbox {
    let before = capabilities::effective();
    let report = if run.no_sandbox {
        Report::without_any("--no-sandbox")
    } else {
        sandbox::apply(&needs.sandbox)
    };
    tracing::info!(
        part = PART,
        in_force = report.in_force(),
        missing = report.missing(),
        capabilities = capabilities::names(report.capabilities),
        "sandbox"
    );
    for (measure, result) in &report.measures {
        telemetry.set_sandbox(PART, measure.as_str(), result.is_ok());
        if has_runner {
            telemetry.set_sandbox(RUNNER, measure.as_str(), false);
        }
    }
    if has_runner {
        tracing::info!(
            part = RUNNER,
            in_force = "",
            reason = "commands would inherit each measure",
            "sandbox"
        );
    }
    AppliedSandbox {
        has_runner,
        dropped: before - report.capabilities,
        report,
    }
}

/// Reports that the listeners have no process of their own.
pub fn report_without_frontend(reason: &str, telemetry: &Telemetry) {
    for measure in Measure::OF_SERVER {
        telemetry.set_sandbox(FRONTEND, measure.as_str(), false);
    }
    tracing::info!(
        part = FRONTEND,
        in_force = "",
        missing = format!("all: {reason}"),
        "sandbox"
    );
}

/// All needs of this run. `leases` are those of a former run, and `None` where the ledger does not say.
pub fn needs(
    run: &cli::Run,
    config: &Config,
    rules: &RuleSet,
    storage: Option<&Path>,
    leases: Option<&[Lease]>,
) -> DaemonNeeds {
    let mut needs = of_config(config, rules);
    match leases {
        Some(leases) => leases.iter().for_each(|lease| add_lease(&mut needs, lease)),
        None => add_all_steps(&mut needs),
    }
    // Without rules metrics count all processes, too.
    if Procfs::for_metrics(&run.roots.procfs).hides_from_others() {
        add_inspection(&mut needs);
    }
    let protection = SelfProtection::of(run.no_self_protection);
    if protection == SelfProtection::On && config.lock_memory && self_priority::locking_takes_capability() {
        needs.sandbox.capabilities |= CapabilitySet::IPC_LOCK;
    }
    let more = [
        run.roots.procfs.as_path(),
        Path::new("/proc"),
        Path::new(CGROUP_MOUNT),
        Path::new(SYSTEMD),
    ];
    needs.sandbox.write_paths = storage.into_iter().chain(more).map(PathBuf::from).collect();
    needs.sandbox.storage = storage.map(PathBuf::from);
    needs
}

/// What rules and process groups need.
fn of_config(config: &Config, rules: &RuleSet) -> DaemonNeeds {
    let mut needs = DaemonNeeds {
        sandbox: Needs {
            capabilities: READING,
            inspects_processes: false,
            write_paths: Vec::new(),
            storage: None,
        },
        runs_jobs: false,
    };
    if !config.process_groups.is_empty() || config.exporter.is_some() {
        add_inspection(&mut needs);
    }
    for rule in &rules.rules {
        if !matches!(rule.target_selector, TargetSelector::Host) {
            add_inspection(&mut needs);
        }
        if matches!(rule.target_selector, TargetSelector::Cgroups(_)) {
            needs.sandbox.capabilities |= CGROUPS;
        }
        for step in &rule.actions {
            needs.sandbox.capabilities |= step.capabilities();
            needs.runs_jobs |= step.is_job();
        }
    }
    needs
}

/// What reverting a lease needs.
fn add_lease(needs: &mut DaemonNeeds, lease: &Lease) {
    match lease.target {
        Target::Host => {}
        Target::Process(_) => add_inspection(needs),
        Target::Cgroup(_) => {
            add_inspection(needs);
            needs.sandbox.capabilities |= CGROUPS;
        }
    }
    match &lease.effect {
        Effect::Value { value, .. } => needs.sandbox.capabilities |= value.knob().capabilities(),
        Effect::Signal { .. } => needs.sandbox.capabilities |= CapabilitySet::KILL,
        Effect::Allocation(_) | Effect::Command(_) => needs.runs_jobs = true,
    }
}

fn add_inspection(needs: &mut DaemonNeeds) {
    needs.sandbox.inspects_processes = true;
    needs.sandbox.capabilities |= INSPECTING;
}

fn add_all_steps(needs: &mut DaemonNeeds) {
    add_inspection(needs);
    needs.sandbox.capabilities |= ALL_STEPS;
    needs.runs_jobs = true;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Value;
    use crate::ledger::SavedValue;
    use crate::process::{BootId, Identity};
    use std::fs;

    /// The needs of a configuration with these rules.
    fn of_rules(rules: &str) -> DaemonNeeds {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("evenkeel.yml");
        fs::write(&config, "allow_exec: true\nrule_files: [rules.yml]\n").unwrap();
        fs::write(folder.path().join("rules.yml"), rules).unwrap();
        let loaded = Config::load(&config).unwrap();
        of_config(&loaded.config, &loaded.rules)
    }

    /// The capabilities beside those of every daemon, and whether processes are inspected and jobs run.
    fn of_rule(rest: &str) -> (CapabilitySet, bool, bool) {
        let needs = of_rules(&format!("rules: [{{name: r, matchers: [alertname=Test], {rest}}}]\n"));
        let more = needs.sandbox.capabilities - READING;
        (more, needs.sandbox.inspects_processes, needs.runs_jobs)
    }

    #[test]
    fn rules_need_what_their_steps_and_targets_take() {
        let processes = |step: &str| of_rule(&format!("select: {{name: x}}, actions: [{step}]"));
        for (step, takes) in [
            ("nice: 5", CapabilitySet::SYS_NICE),
            (
                "oom_score_adj: 5",
                CapabilitySet::SYS_RESOURCE | CapabilitySet::DAC_OVERRIDE,
            ),
            ("signal: SIGTERM", CapabilitySet::KILL),
            ("reclaim: 1MiB", CapabilitySet::SYS_NICE),
            ("freeze: true", CapabilitySet::KILL),
        ] {
            assert_eq!(processes(step), (takes | INSPECTING, true, false), "{step}");
        }
        let cgroup = of_rule("select: {cgroup: /x}, actions: [cgroup: {cpu.weight: 50}]");
        assert_eq!(cgroup, (CGROUPS | INSPECTING, true, false));
        assert_eq!(
            of_rule("actions: [exec: [/bin/true]]"),
            (CapabilitySet::empty(), false, true)
        );
        let none = of_rules("rules: []\n");
        assert_eq!(none.sandbox.capabilities, READING);
    }

    #[test]
    fn leases_need_what_their_reverts_take() {
        let target = Target::Process(Identity {
            boot: BootId(1),
            pid: 7,
            start_ticks: 70,
        });
        let lease = |target, effect| Lease {
            id: 1,
            rule: "r".into(),
            fingerprint: "f".into(),
            target,
            name: "x".to_owned(),
            effect,
            taken_at: std::time::Duration::ZERO,
            deadline: std::time::Duration::ZERO,
            settled: true,
            is_undoing: false,
            released: None,
        };
        let mut needs = of_rules("rules: []\n");
        let effect = Effect::Value {
            value: Value::OomScoreAdj(5),
            saved: Vec::<SavedValue>::new(),
        };
        add_lease(&mut needs, &lease(target, effect));
        let takes = CapabilitySet::SYS_RESOURCE | CapabilitySet::DAC_OVERRIDE | INSPECTING | READING;
        assert_eq!(needs.sandbox.capabilities, takes);
        assert!(needs.sandbox.inspects_processes && !needs.runs_jobs);
        add_lease(&mut needs, &lease(target, Effect::Signal { sent: None, undo: 18 }));
        assert!(needs.sandbox.capabilities.contains(CapabilitySet::KILL));
        add_all_steps(&mut needs);
        assert!(needs.runs_jobs && needs.sandbox.capabilities.contains(ALL_STEPS));
    }

    #[test]
    fn denied_needs_are_named() {
        let dropped = CapabilitySet::KILL | CapabilitySet::SYS_NICE;
        let sandbox = AppliedSandbox {
            report: Report::without_any("a test"),
            dropped,
            has_runner: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("evenkeel.yml");
        fs::write(&config, "allow_exec: true\nrule_files: [rules.yml]\n").unwrap();
        let rule = "matchers: [alertname=Test], actions: [exec: [/bin/true], nice: 5], select: {name: x}";
        fs::write(
            folder.path().join("rules.yml"),
            format!("rules: [{{name: r, {rule}}}]\n"),
        )
        .unwrap();
        let loaded = Config::load(&config).unwrap();
        let denied = sandbox.denied(&loaded.config, &loaded.rules);
        assert_eq!(
            denied.as_deref(),
            Some("CAP_SYS_NICE, running commands and sending requests")
        );
        assert_eq!(sandbox.denied(&loaded.config, &RuleSet::default()), None);
    }
}
