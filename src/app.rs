//! The daemon: loads the configuration, binds listeners, starts threads and shuts down in order. Only this module
//! uses both the sensing and the acting layers.

mod day_file;
pub mod frontend;
mod kept_alerts;
mod listeners;
mod log;
mod log_queue;
pub mod own_evaluation;
pub mod policy;
mod reconciler;
mod warm_up;
mod reload;
mod runtime;
mod sample_age;
mod sandbox;
mod service_manager;
mod sockets;
mod watcher;

use crate::alert::receiver::CountingInbox;
use crate::cli;
use crate::config::{self, Config, Loaded};
use crate::control::{self, ClaimedStorage, ControlError};
use crate::diagnostic::{Diagnostic, render_all};
use crate::engine::run::{EngineHandle, Input, LeasesAtExit, Queued};
use crate::engine::status::recall;
use crate::engine::{Engine, Policy};
use crate::host::file_limit::{self, FileLimit};
use crate::host::runner::{self, StartedRunner};
use crate::host::self_priority::{self, SelfProtection};
use crate::host::{Host, LinuxHost, RunnerClient, program_pages, umask};
use crate::http::{Access, ServerLimits, listen::may_listen};
use crate::ledger::store::read_records;
use crate::ledger::{Entry, Journal, LedgerState, OperatorRequest, Requester, stored_leases};
use crate::process::table::Procfs;
use crate::publish::{self, MetricsHandler};
use crate::sandbox::OwnUser;
use crate::sense::groups::group::ExporterOptions;
use crate::sense::{self, Roots, Sampler};
use crate::storage::Refused;
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use day_file::DayFile;
use frontend::starter::Starter;
use kept_alerts::KeptAlerts;
use listeners::{ListenerSettings, Listeners, ListeningSockets};
use log::ProcessLog;
use own_evaluation::SETTLING;
use reload::Reloader;
use sandbox::AppliedSandbox;
use service_manager::{Notification, ServiceManager};
use sockets::Inherited;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use warm_up::WarmUp;
use watcher::Watcher;

/// Pause before the engine restarts after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Maximum wait for the ledger at the start.
const FIRST_LEDGER: Duration = Duration::from_secs(2);
/// Maximum wait of the engine for the first sample, because reverting leases does not depend on samples.
const FIRST_SAMPLE: Duration = Duration::from_secs(2);
/// Maximum wait for the warm-up, because a process that is blocked in the kernel may block the warm-up as well.
const MAX_WARM_UP: Duration = Duration::from_secs(5);
/// Maximum wait for requests and connections at the shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Number of records of earlier runs that the page shows after a start.
const RECALLED_RECORDS: usize = 100;
/// Maximum wait at the end for the reader of the log.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The exit code after a panic, as that of every Rust program.
const PANICKED: u8 = 101;

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
        log.flush(LAST_LINES);
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
    log.flush(LAST_LINES);
    status
}

/// The reason why the daemon did not start, or ended by itself.
enum Stop {
    Findings(Vec<Diagnostic>),
    Because(String),
    /// After the start, and logged already.
    Failed,
}

impl Stop {
    fn because(error: impl std::error::Error) -> Stop {
        Stop::Because(error.to_string())
    }
}

fn because<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Stop {
    let what = what.to_owned();
    move |error| Stop::Because(format!("{what}: {error}"))
}

fn start(mut run: cli::Run, telemetry: Telemetry, log: &mut ProcessLog) -> Result<(), Stop> {
    let file_limit = file_limit::raise().map_err(Stop::because)?;
    // Before anything secret is in memory.
    let starter = start_frontend_starter(&run, log, &telemetry);
    let inherited = sockets::inherited(run.web_systemd_socket, run.webhook_systemd_socket).map_err(Stop::because)?;
    if let Some(listener) = &inherited.webhook {
        // The check below depends on the address.
        run.webhook_listen = listener
            .local_addr()
            .map_err(because("no address of the webhook's socket"))?;
    }
    // Every error must be reported before any port is bound.
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
    let webhook = webhook_access(&run, &loaded.config)?;
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
    let procfs = acting_procfs(&run.roots.procfs, &telemetry)?;
    if let Some(reason) = procfs.as_ref().and_then(Procfs::hides_processes) {
        tracing::warn!(reason, "processes hidden from evenkeel");
    }
    let storage = claim_storage(&run.storage.path, policy.enforce)?;
    let runtime = runtime::new(self_priority::reset_priority).map_err(because("no runtime"))?;
    let (starter, without_frontend) = match starter {
        Ok(starter) => (Some(starter), None),
        Err(reason) => (None, Some(reason)),
    };
    let sockets = runtime.block_on(Sockets::open(&run, inherited, starter))?;
    let directory = storage.as_ref().ok().map(|claimed| claimed.path.as_path());
    let leases = match (directory, &procfs) {
        (Some(directory), Some(procfs)) => stored_leases(directory, procfs.boot),
        _ => Some(Vec::new()),
    };
    let needs = sandbox::needs(&run, &loaded.config, &loaded.rules, directory, leases.as_deref());
    // Before evenkeel raises its own priority, which commands must not inherit, and gives up the right to start programs.
    let runner = needs.runs_jobs.then(runner::start).transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "could not start the process for commands and requests, each command and request of a rule will be refused");
        None
    });
    let protection = SelfProtection::of(run.no_self_protection);
    self_priority::raise_priority(protection);
    if protection == SelfProtection::On
        && let Err(error) = self_priority::lower_oom_score_adj()
    {
        tracing::warn!(%error, "could not lower oom_score_adj");
    }
    let sandbox = sandbox::apply(&run, &needs, runner.is_some(), &telemetry);
    // No thread may start before the sandbox.
    log.write().map_err(because("no thread for the log"))?;
    if let Some(reason) = &without_frontend {
        sandbox::report_without_frontend(reason, &telemetry);
    }
    let access = ListenerAccess {
        scrapers,
        webhook,
        sockets,
        file_limit,
        sandbox,
        runner,
    };
    runtime.block_on(serve(run, loaded, policy, access, procfs, &storage, telemetry))?;
    runtime.shutdown_timeout(DRAIN);
    drop(storage);
    Ok(())
}

/// Starts the process that starts the frontend. The error says why there is no frontend.
fn start_frontend_starter(run: &cli::Run, log: &mut ProcessLog, telemetry: &Telemetry) -> Result<Starter, String> {
    if run.no_sandbox {
        return Err("--no-sandbox".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("evenkeel was not started as root".to_owned());
    }
    // The starter and each frontend have a copy of the heap.
    self_priority::release_free_heap();
    let frontend = |sockets, log: &mut ProcessLog| frontend::process::run(sockets, OwnUser::find(), log, telemetry);
    frontend::starter::start(log, frontend).map_err(|error| {
        tracing::error!(%error, "could not start the process for HTTP, the main process serves it");
        error.to_string()
    })
}

/// Fails in `enforce` where another user can change a file that decides what evenkeel does, and warns in dry-run.
fn reject_untrusted(findings: Vec<Diagnostic>, enforce: bool) -> Result<(), Vec<Diagnostic>> {
    if enforce && !findings.is_empty() {
        return Err(findings);
    }
    for finding in findings {
        tracing::warn!(at = finding.place(), help = finding.help, "{}", finding.message);
    }
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
        Ok(procfs) => return Ok(Some(procfs)),
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

/// The sender is dropped once the engine has its ledger.
type Began = tokio::sync::oneshot::Sender<()>;

/// The sockets of the two listeners, and the signals.
struct Sockets {
    listening: ListeningSockets,
    metrics_listeners: usize,
    /// Where clients on this host reach the first metrics listener and the webhook listener.
    addresses: [Option<String>; 2],
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// SIGUSR1: exit, and keep the leases.
    hand_over: Signal,
}

impl Sockets {
    /// Binds the sockets that systemd has not passed on, and gives them to the frontend, if there is one.
    async fn open(
        run: &cli::Run,
        inherited: Inherited<std::net::TcpListener>,
        starter: Option<Starter>,
    ) -> Result<Sockets, Stop> {
        let handler = |kind| signal(kind).map_err(because("no signal handler"));
        // Handlers come first, because a signal may arrive as soon as a listener is logged.
        let [terminate, interrupt, hangup, hand_over] = [
            handler(SignalKind::terminate())?,
            handler(SignalKind::interrupt())?,
            handler(SignalKind::hangup())?,
            handler(SignalKind::user_defined1())?,
        ];
        let mut metrics = Vec::new();
        if run.web_systemd_socket {
            for listener in inherited.metrics {
                metrics.push(announce("metrics", TcpListener::from_std(listener))?);
            }
        } else {
            for addr in &run.web_listen {
                metrics.push(bind("metrics", *addr).await?);
            }
        }
        let webhook = match inherited.webhook {
            Some(listener) => announce("webhook", TcpListener::from_std(listener))?,
            None => bind("webhook", run.webhook_listen).await?,
        };
        Ok(Sockets {
            addresses: [metrics.first(), Some(&webhook)].map(|listener| listener?.local_addr().ok().map(reachable)),
            metrics_listeners: metrics.len(),
            listening: ListeningSockets::of(starter, metrics, webhook).map_err(because("no process for HTTP"))?,
            terminate,
            interrupt,
            hangup,
            hand_over,
        })
    }
}

/// The access rules of the two listeners, their sockets, and what the process may still do.
struct ListenerAccess {
    scrapers: Access,
    webhook: Access,
    sockets: Sockets,
    file_limit: FileLimit,
    sandbox: AppliedSandbox,
    runner: Option<StartedRunner>,
}

async fn serve(
    run: cli::Run,
    loaded: Loaded,
    policy: Policy,
    access: ListenerAccess,
    procfs: Option<Procfs>,
    storage: &Result<ClaimedStorage, Refused>,
    telemetry: Telemetry,
) -> Result<(), Stop> {
    let directory = storage.as_ref().ok().map(|claimed| claimed.path.clone());
    let Sockets {
        listening,
        metrics_listeners,
        addresses,
        mut terminate,
        mut interrupt,
        mut hangup,
        mut hand_over,
    } = access.sockets;
    let service_manager = Arc::new(ServiceManager::from_environment());

    let wanted = ServerLimits::default().max_connections;
    let all = wanted + metrics_listeners * publish::MAX_CONNECTIONS;
    let [webhook_connections, metrics_connections] =
        [wanted, publish::MAX_CONNECTIONS].map(|wanted| access.file_limit.connections(wanted, all));

    telemetry.reloaded(Some(now_seconds()));
    // A new ledger has no records, and the journal logs an unreadable one.
    let records = directory.as_deref().map(|path| read_records(path, RECALLED_RECORDS));
    let records = records.and_then(Result::ok).unwrap_or_default();
    let day_file = directory.as_deref().map(DayFile::new);
    let mut day = day_file.as_ref().map(DayFile::read).unwrap_or_default();
    day.restore_activity(&telemetry, &records);
    recall(&telemetry, &records);
    let (door, inputs) = EngineHandle::new();
    let kept = directory.as_deref().map(KeptAlerts::new).unwrap_or_default();
    let sampling = loaded.config.sampling;
    let protection = SelfProtection::of(run.no_self_protection);
    let orders = policy::orders(&loaded);
    let watcher = Watcher::start(
        orders,
        sampling,
        protection,
        door.clone(),
        telemetry.clone(),
        kept,
        SETTLING,
    );
    let watcher = Arc::new(watcher.map_err(because("no thread"))?);
    let newest_policy = Arc::new(ArcSwap::from_pointee(policy.clone()));
    // The engine starts early, so that slow reads of samples do not delay reverting the leases of a former daemon.
    let (sampled, first_sample) = std::sync::mpsc::channel();
    let (began, engine_began) = tokio::sync::oneshot::channel();
    let (died, mut engine_died) = tokio::sync::oneshot::channel();
    let jobs = {
        let answers = door.clone();
        let on_report = Arc::new(move |ticket, report| {
            answers.send(Input::Reported { ticket, report });
        });
        RunnerClient::new(access.runner, tokio::runtime::Handle::current(), on_report)
    };
    jobs.start_listening().map_err(because("no thread"))?;
    let engine = if let Some(procfs) = procfs.clone() {
        let make = engine_maker(
            directory.clone(),
            procfs,
            Arc::clone(&newest_policy),
            door.clone(),
            Arc::clone(&watcher),
            jobs,
            telemetry.clone(),
        );
        let telemetry = telemetry.clone();
        let supervise = move || {
            self_priority::raise_priority(protection);
            // `while:` needs samples. The wait ends when the sender is dropped.
            let make = || {
                let engine = make();
                let _: Result<(), _> = first_sample.recv_timeout(FIRST_SAMPLE);
                engine
            };
            keep_running(&make, began, &inputs, &telemetry);
            // There is no receiver when the daemon stops by itself.
            let _ = died.send(());
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(supervise);
        Some(thread.map_err(because("no thread"))?)
    } else {
        // Senders notice that nothing receives, and the webhook answers 503.
        drop(inputs);
        None
    };
    let groups = Arc::new(ArcSwap::from_pointee(policy::groups(&loaded.config)));
    let sensing = sense::SamplerConfig {
        roots: Roots::new(&run.roots.procfs, &run.roots.sysfs, &run.roots.rootfs),
        options: sense::CollectorOptions {
            process_groups: Arc::clone(&groups),
            udev_data: run.udev_data.clone(),
            ..run.collectors.options.clone()
        },
        sampling,
        collectors: run.collectors.chosen(),
        self_protection: protection,
    };
    let subscriber = watcher.subscriber();
    // The start waits for the first sample. Meanwhile the runtime must serve the engine's requests. The thread has the
    // raised priority of this one, which the sampler inherits, because the sandbox lets no thread raise its own.
    let (done, sampler_started) = tokio::sync::oneshot::channel();
    let first_sampling = std::thread::Builder::new().name("first-sample".into()).spawn(move || {
        // There is no receiver when the runtime ends.
        let _ = done.send(Sampler::start(sensing, subscriber));
    });
    self_priority::reset_priority();
    let started = match first_sampling {
        Ok(_) => sampler_started
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error))),
        Err(error) => Err(error),
    };
    drop(sampled);
    let sampler = match started {
        Ok(sampler) => Arc::new(sampler),
        Err(error) => {
            // The engine may have applied steps by now, and must revert them.
            end(engine, &door, LeasesAtExit::AsConfigured).await;
            return Err(because("no sampler")(error));
        }
    };
    sampler.restore(day.history());
    drop(day);
    let authenticates = access.webhook.authenticates();
    let (reconciler, orders) = reconciler::Handle::new(&loaded.config);
    let targets = reload::ReloadTargets {
        door: door.clone(),
        is_acting: engine.is_some(),
        watcher: Arc::clone(&watcher),
        reconciler: reconciler.clone(),
        groups,
        policy: Arc::clone(&newest_policy),
        telemetry: telemetry.clone(),
        sandbox: access.sandbox,
    };
    let refused = storage.as_ref().err().cloned();
    let reloader = Arc::new(Reloader::new(&run, &loaded, authenticates, refused, targets));
    let options = publish::HandlerOptions {
        telemetry_path: run.telemetry_path.clone(),
        max_requests: run.max_requests,
        reload: run.enable_lifecycle.then(|| {
            let reloader = Arc::clone(&reloader);
            Arc::new(move |by| {
                let request = OperatorRequest::new(Requester::by_way_of(by), "");
                Ok(reloader.reload(request)?)
            }) as publish::ReloadFn
        }),
        storage_option: match run.storage.path == Path::new(cli::DEFAULT_STORAGE) {
            true => String::new(),
            false => format!(
                " --storage.path={}",
                publish::shell_word(&run.storage.path.to_string_lossy())
            ),
        },
        authenticates: {
            let scrapers = access.scrapers.clone();
            Box::new(move || scrapers.authenticates())
        },
        ..publish::HandlerOptions::default()
    };
    let handler = Arc::new(MetricsHandler::new(Arc::clone(&sampler), telemetry.clone(), options));
    let (stop, _) = tokio::sync::watch::channel(false);
    let stopped = || {
        let mut stop = stop.subscribe();
        async move { drop(stop.wait_for(|stopped| *stopped).await) }
    };
    if let Some(file) = day_file.clone() {
        drop(tokio::spawn(file.keep(
            Arc::clone(&sampler),
            telemetry.clone(),
            stopped(),
        )));
    }
    let settings = ListenerSettings {
        handler: Arc::clone(&handler),
        inbox: CountingInbox::new(door.clone(), telemetry.clone()),
        telemetry: telemetry.clone(),
        telemetry_path: run.telemetry_path.clone(),
        scrapers: access.scrapers,
        webhook: access.webhook,
        metrics_connections,
        webhook_connections,
    };
    let mut listeners = Listeners::serve(settings, listening, stop.subscribe());
    let reconciling = tokio::spawn(reconciler::run(orders, door.clone(), telemetry.clone(), stopped()));
    let reload: control::ReloadFn = {
        let reloader = Arc::clone(&reloader);
        Arc::new(move |request| reloader.reload(request).map_err(|error| error.to_string()))
    };
    let status: control::StatusFn = {
        let handler = Arc::clone(&handler);
        Arc::new(move || {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler.status_value().await })
        })
    };
    let responders = control::Responders { reload, status };
    let control = directory.map(|path| tokio::spawn(control::serve(path, door.clone(), responders, stopped())));
    // It starts with the readiness, from which on the watchdog of the service manager counts.
    let mut report = {
        let engine = engine.is_some().then(|| door.clone());
        Some(Arc::clone(&service_manager).report(engine, telemetry.clone(), stopped()))
    };
    let warmed_up = {
        let policy = policy.clone();
        async move {
            // The ledger must be open before the daemon logs that it is ready, and the memory that opening it took must
            // be freed.
            let _ = tokio::time::timeout(FIRST_LEDGER, engine_began).await;
            let (done, warmed_up) = tokio::sync::oneshot::channel::<()>();
            // On its own thread, because it blocks, and drops runtimes, which panics inside another runtime.
            let warm_up = std::thread::Builder::new().name("warm-up".into()).spawn(move || {
                let warm_up = procfs.map(|procfs| WarmUp::prepare(&procfs, &policy));
                program_pages::release();
                if let Some(warm_up) = warm_up {
                    warm_up.process_alerts();
                }
                drop(done);
            });
            if warm_up.is_ok() {
                let _ = tokio::time::timeout(MAX_WARM_UP, warmed_up).await;
            }
        }
    };
    let mut warmed_up = std::pin::pin!(warmed_up);
    let mut is_settled = false;

    let mut has_failed = false;
    let leases_at_exit = loop {
        tokio::select! {
            error = listeners.failed() => {
                tracing::error!(%error, "daemon failed");
                has_failed = true;
                break LeasesAtExit::AsConfigured;
            }
            () = &mut warmed_up, if !is_settled => {
                is_settled = true;
                introduce(&policy, &loaded, &run, &addresses, control.is_some());
                service_manager.notify(&Notification::Ready);
                report.take().map(tokio::spawn);
                let lock_memory = loaded.config.lock_memory;
                // The kernel may take its time to lock memory.
                tokio::task::spawn_blocking(move || apply_self_protection(protection, lock_memory));
            }
            _ = terminate.recv() => break LeasesAtExit::AsConfigured,
            _ = interrupt.recv() => break LeasesAtExit::AsConfigured,
            _ = hand_over.recv() => break LeasesAtExit::Kept,
            _ = &mut engine_died, if engine.is_some() => break LeasesAtExit::AsConfigured,
            _ = hangup.recv() => {
                let reloader = Arc::clone(&reloader);
                // Off this thread, because it reads files. It logs its own errors.
                let request = OperatorRequest::new(Requester::by_way_of("SIGHUP"), "");
                drop(tokio::task::spawn_blocking(move || reloader.reload(request)).await);
            }
        }
    };
    service_manager.notify(&Notification::Stopping);
    // The number of `evenkeel_leases`.
    let leases: usize = telemetry.state().leases.values().sum();
    tracing::info!(leases, "shutting down");
    handler.set_ready(false);
    let _ = stop.send(true);
    let _ = tokio::time::timeout(DRAIN, listeners.drain_webhook()).await;
    drop(reconciling.await);
    end(engine, &door, leases_at_exit).await;
    for listener in listeners.into_tasks() {
        drop(tokio::time::timeout(DRAIN, listener).await);
    }
    if let Some(control) = control {
        drop(control.await);
    }
    if let Some(file) = day_file {
        file.write(&sampler, &telemetry);
    }
    tracing::info!("stopped");
    match has_failed {
        true => Err(Stop::Failed),
        false => Ok(()),
    }
}

/// Waits until the engine has reverted its leases, for which it may need this runtime.
async fn end(engine: Option<std::thread::JoinHandle<()>>, door: &EngineHandle, leases: LeasesAtExit) {
    let Some(engine) = engine else { return };
    let door = door.clone();
    let ended = tokio::task::spawn_blocking(move || {
        door.send(Input::ShutDown(leases));
        engine.join().is_ok()
    });
    drop(ended.await);
}

/// Keeps evenkeel in memory, once the start is over. Continues without what is not permitted.
fn apply_self_protection(protection: SelfProtection, lock_memory: bool) {
    self_priority::release_free_heap();
    if protection == SelfProtection::Off {
        return;
    }
    if lock_memory && let Err(error) = self_priority::lock_memory_pages() {
        tracing::warn!(%error, "could not lock memory, evenkeel may be swapped out");
    }
}

async fn bind(name: &'static str, addr: SocketAddr) -> Result<TcpListener, Stop> {
    let failed = |error| Stop::Because(format!("cannot listen on {addr} for {name}: {error}"));
    announce(name, Ok(TcpListener::bind(addr).await.map_err(failed)?))
}

/// Logs the address of a listener.
fn announce(name: &'static str, listener: std::io::Result<TcpListener>) -> Result<TcpListener, Stop> {
    let failed = |error| Stop::Because(format!("cannot listen for {name}: {error}"));
    let listener = listener.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    tracing::info!(listener = name, addr = %addr, "listening");
    Ok(listener)
}

/// Runs the engine, and starts it again from the ledger a second after a panic. Sensing and publishing go on meanwhile.
/// A caller that waits for the start waits for the first attempt only.
fn keep_running(make: &dyn Fn() -> Engine<LinuxHost>, began: Began, inputs: &Receiver<Queued>, telemetry: &Telemetry) {
    let mut began = Some(began);
    loop {
        let began = began.take();
        let once = AssertUnwindSafe(|| {
            let engine = make();
            drop(began);
            crate::engine::run::run(engine, inputs, telemetry);
        });
        match catch_unwind(once) {
            Ok(()) => return,
            Err(_) => {
                tracing::error!("engine panicked, restarting it from the ledger");
                telemetry.engine_restarted();
                std::thread::sleep(RESTART_PAUSE);
            }
        }
    }
}

fn engine_maker(
    directory: Option<PathBuf>,
    procfs: Procfs,
    policy: Arc<ArcSwap<Policy>>,
    door: EngineHandle,
    watcher: Arc<Watcher>,
    jobs: RunnerClient,
    telemetry: Telemetry,
) -> impl Fn() -> Engine<LinuxHost> + use<> {
    let door = Mutex::new(door);
    move || {
        let exits = door.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let on_exit = Arc::new(move |target| {
            exits.send(Input::Exited(target));
        });
        let (mut journal, ledger) = match &directory {
            Some(directory) => Journal::open(directory, procfs.boot),
            None => (Journal::without_file(procfs.boot), LedgerState::default()),
        };
        // The first commit of a ledger is slower than the others, so this one, which changes nothing, comes before the
        // first alert.
        let _ = journal.begin(&[Entry::Paused(ledger.paused)]);
        let policy = policy.load();
        let mut host = LinuxHost::new(procfs.clone(), on_exit).with_jobs(jobs.clone());
        // Caches the kernel threads, so that the first reaction need not identify them.
        let _ = host.processes();
        Engine::new(
            host,
            journal,
            ledger,
            Policy::clone(&policy),
            watcher.conditions(),
            telemetry.clone(),
        )
    }
}

/// Logs mode and rules of this daemon, and how to try it.
fn introduce(
    policy: &Policy,
    loaded: &Loaded,
    run: &cli::Run,
    [metrics, webhook]: &[Option<String>; 2],
    has_ledger: bool,
) {
    if run.config.path.is_none() && !has_default_config() {
        tracing::info!(
            missing = cli::DEFAULT_CONFIG,
            "no config file, using the built-in config"
        );
    }
    for rule in &policy.rules.rules {
        let steps: Vec<String> = rule.actions.iter().map(ToString::to_string).collect();
        let acts = policy.enforce && !rule.dry_run;
        tracing::info!(
            rule = rule.name.as_str(),
            steps = steps.join(", "),
            limit = rule.limit,
            acts,
            "rule"
        );
    }
    let alerts: usize = loaded.config.alerting_rules.iter().map(|file| file.groups.len()).sum();
    let mode = match (policy.enforce, has_ledger) {
        (true, _) => "enforce: rules with acts=true are applied, and reverted when their alert resolves",
        (false, true) => "dry-run: actions are only logged, and recorded in ledger and metrics",
        (false, false) => "dry-run: actions are only logged and counted in metrics, because there is no ledger",
    };
    tracing::info!(alerting_rule_groups = alerts, "{mode}");
    if let Some(metrics) = metrics {
        tracing::info!("to try it: curl http://{metrics}/metrics, or open http://{metrics}/ in a browser");
    }
    let webhook = webhook.as_deref().unwrap_or_default();
    tracing::info!(
        "to send an alert: evenkeel explain --alert FILE shows what it would do; POST it to http://{webhook}/webhook"
    );
}

/// An address that clients on this host can use.
fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        format!("localhost:{}", addr.port())
    } else {
        addr.to_string()
    }
}

pub(crate) fn now_seconds() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}
