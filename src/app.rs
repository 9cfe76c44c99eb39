//! The start of the daemon: loads the configuration, binds listeners, forks the other processes and enters the sandbox.
//! Then `daemon.rs` starts the parts. Only this module uses both the sensing and the acting layers.

mod daemon;
mod day_file;
mod engine_thread;
mod first_sample;
pub mod frontend;
mod kept_alerts;
mod listeners;
mod log;
mod log_queue;
pub mod own_evaluation;
pub mod policy;
mod reconciler;
mod reload;
mod runtime;
mod sample_age;
mod sandbox;
mod service_manager;
pub mod settings;
mod signals;
mod sockets;
mod startup_log;
mod stop;
mod warm_up;
mod watcher;

use crate::cli;
use crate::control::{self, ClaimedStorage, ControlError};
use crate::diagnostic::render_all;
use crate::host::self_priority::{self, SelfProtection};
use crate::host::{file_limit, runner, umask};
use crate::ledger::stored_leases;
use crate::process::table::Procfs;
use crate::sense::{PerfCounters, Roots};
use crate::storage::Refused;
use crate::telemetry::Telemetry;
use daemon::{DRAIN, Prepared, serve};
use listeners::OpenListeners;
use log::ProcessLog;
use settings::Settings;
use signals::Signals;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use stop::{Stop, because};

/// The exit code after a panic, as that of every Rust program.
const PANICKED: u8 = 101;

/// Runs the daemon until a signal stops it.
pub fn run(run: cli::Run) -> ExitCode {
    self_priority::limit_heaps_to_one();
    umask::restrict_new_files();
    let telemetry = Telemetry::default();
    let mut log = log::start(&run.log, &telemetry);
    // A panic is logged by its hook, and its line must be written before the exit.
    let started = catch_unwind(AssertUnwindSafe(|| start(run, telemetry, &mut log)));
    // A start that failed early has not written its lines.
    if let Err(error) = log.write() {
        log.flush();
        eprintln!("error: no thread for the log: {error}");
        return ExitCode::FAILURE;
    }
    let status = match started {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Stop::Findings(findings))) => {
            eprint!("{}", render_all(&findings, std::io::stderr().is_terminal()));
            ExitCode::FAILURE
        }
        Ok(Err(Stop::Because(reason))) => {
            tracing::error!(reason, "startup failed");
            ExitCode::FAILURE
        }
        Ok(Err(Stop::Failed)) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(PANICKED),
    };
    log.flush();
    status
}

/// Prepares the daemon up to its sandbox, and runs it.
fn start(mut run: cli::Run, telemetry: Telemetry, log: &mut ProcessLog) -> Result<(), Stop> {
    let file_limit = file_limit::raise().map_err(Stop::because)?;
    // Before anything secret is in memory.
    let starter = frontend::start(&run, log, &telemetry);
    let inherited = sockets::inherited(run.web_systemd_socket, run.webhook_systemd_socket).map_err(Stop::because)?;
    if let Some(listener) = &inherited.webhook {
        // The settings are checked against the address.
        run.webhook_listen = listener
            .local_addr()
            .map_err(because("no address of the webhook's socket"))?;
    }
    let settings = Settings::load(&run)?;
    let procfs = acting_procfs(&run.roots.procfs, &telemetry)?;
    let storage = claim_storage(&run.storage.path, settings.policy.enforce)?;
    let runtime = runtime::new(self_priority::reset_priority).map_err(because("no runtime"))?;
    let (starter, without_frontend) = match starter {
        Ok(starter) => (Some(starter), None),
        Err(reason) => (None, Some(reason)),
    };
    let (signals, listeners) = runtime.block_on(async {
        // Handlers come first, because a signal may arrive as soon as a listener is logged.
        let signals = Signals::handle().map_err(because("no signal handler"))?;
        let listeners = OpenListeners::open(&run, inherited, starter, file_limit).await?;
        Ok((signals, listeners))
    })?;
    let directory = storage.as_ref().ok().map(|claimed| claimed.path.as_path());
    let leases = match (directory, &procfs) {
        (Some(directory), Some(procfs)) => stored_leases(directory, procfs.boot),
        _ => Some(Vec::new()),
    };
    let loaded = &settings.loaded;
    let needs = sandbox::needs(&run, &loaded.config, &loaded.rules, directory, leases.as_deref());
    // Before evenkeel raises its own priority, which commands must not inherit, and gives up the right to start programs.
    let runner = needs.runs_jobs.then(runner::start).transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "could not start the process for commands and requests, each command and request of a rule will be refused");
        None
    });
    open_perf_counters(&mut run);
    raise_self(SelfProtection::of(run.no_self_protection));
    let sandbox = sandbox::apply(&run, &needs, runner.is_some(), &telemetry);
    // No thread may start before the sandbox.
    log.write().map_err(because("no thread for the log"))?;
    if let Some(reason) = &without_frontend {
        sandbox::report_without_frontend(reason, &telemetry);
    }
    let prepared = Prepared {
        run,
        settings,
        procfs,
        listeners,
        signals,
        runner,
        sandbox,
        telemetry,
    };
    runtime.block_on(serve(prepared, &storage))?;
    runtime.shutdown_timeout(DRAIN);
    drop(storage);
    Ok(())
}

/// The storage directory. In dry-run evenkeel does without one that another user can change, because the exporter must
/// not depend on it.
fn claim_storage(path: &Path, enforce: bool) -> Result<Result<ClaimedStorage, Refused>, Stop> {
    match control::claim(path) {
        Err(ControlError::Untrusted(refused)) if !enforce => {
            let reason = refused.to_string();
            tracing::error!(
                reason,
                "storage directory refused, no ledger and no control socket until a restart"
            );
            Ok(Err(refused))
        }
        claimed => claimed.map(Ok).map_err(Stop::because),
    }
}

/// The procfs for the actuator. Without a boot id (some containers and sandboxes) no process has an identity that
/// outlasts a reboot, so the actuator stays off, and metrics are published all the same.
fn acting_procfs(root: &Path, telemetry: &Telemetry) -> Result<Option<Procfs>, Stop> {
    let error = match Procfs::open(root) {
        Ok(procfs) => {
            if let Some(reason) = procfs.hides_processes() {
                tracing::warn!(reason, "processes hidden from evenkeel");
            }
            return Ok(Some(procfs));
        }
        Err(error) => error,
    };
    if !root.join("stat").exists() {
        return Err(because("no procfs")(error));
    }
    let reason = format!("no boot id: {error}");
    tracing::error!(reason, "actuator off, only metrics are published");
    telemetry.set_actuator_off(reason);
    Ok(None)
}

/// Opens the counters of the collector `perf`, because the sandbox denies perf_event_open(2).
fn open_perf_counters(run: &mut cli::Run) {
    if run.collectors.chosen().contains("perf") {
        let roots = Roots::new(&run.roots.procfs, &run.roots.sysfs, &run.roots.rootfs);
        let options = &mut run.collectors.options;
        options.perf_counters = PerfCounters::open(&options.perf, &roots).into();
    }
}

/// Raises the priority of this thread, and lowers the chance that the kernel kills evenkeel when memory is short.
fn raise_self(protection: SelfProtection) {
    self_priority::raise_priority(protection);
    if protection == SelfProtection::On
        && let Err(error) = self_priority::lower_oom_score_adj()
    {
        tracing::warn!(%error, "could not lower oom_score_adj");
    }
}
