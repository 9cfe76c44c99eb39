//! The parts of the daemon, which start one after the other once the sandbox is in force: past, own evaluation, engine,
//! sampler, listeners and the tasks of the runtime. They run until a signal or a failure, and then end in order.

use super::day_file::{DayFile, StoredDay};
use super::engine_thread::{EngineParts, EngineThread};
use super::kept_alerts::KeptAlerts;
use super::listeners::{ListenerSettings, Listeners, OpenListeners};
use super::own_evaluation::SETTLING;
use super::reload::{ReloadTargets, Reloader, now_seconds};
use super::sandbox::AppliedSandbox;
use super::service_manager::{Notification, ServiceManager};
use super::settings::Settings;
use super::signals::{SignalRequest, Signals};
use super::stop::{Stop, because};
use super::watcher::Watcher;
use super::{first_sample, policy, reconciler, startup_log, warm_up};
use crate::alert::receiver::CountingInbox;
use crate::cli;
use crate::control::{self, ClaimedStorage};
use crate::engine::run::{EngineHandle, Input, LeasesAtExit};
use crate::engine::status::recall;
use crate::host::RunnerClient;
use crate::host::runner::StartedRunner;
use crate::host::self_priority::{self, SelfProtection};
use crate::http::Access;
use crate::ledger::store::read_records;
use crate::ledger::{OperatorRequest, Requester};
use crate::process::table::Procfs;
use crate::publish::{self, HandlerOptions, MetricsHandler};
use crate::storage::Refused;
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Maximum wait for requests and connections at the shutdown.
pub const DRAIN: Duration = Duration::from_secs(5);
/// Number of records of earlier runs that the page shows after a start.
const RECALLED_RECORDS: usize = 100;

/// What the start has prepared for the parts.
pub struct Prepared {
    pub run: cli::Run,
    pub settings: Settings,
    /// `None` where the actuator is off.
    pub procfs: Option<Procfs>,
    pub listeners: OpenListeners,
    pub signals: Signals,
    pub runner: Option<StartedRunner>,
    pub sandbox: AppliedSandbox,
    pub telemetry: Telemetry,
}

/// Starts all parts, waits for a signal or a failure, and ends the parts.
pub async fn serve(prepared: Prepared, storage: &Result<ClaimedStorage, Refused>) -> Result<(), Stop> {
    let Prepared {
        run,
        settings,
        procfs,
        listeners: open_listeners,
        mut signals,
        runner,
        sandbox,
        telemetry,
    } = prepared;
    let Settings {
        loaded,
        policy,
        scrapers,
        webhook,
    } = settings;
    let directory = storage.as_ref().ok().map(|claimed| claimed.path.clone());
    let protection = SelfProtection::of(run.no_self_protection);
    let sampling = loaded.config.sampling;
    let service_manager = Arc::new(ServiceManager::from_environment());

    telemetry.reloaded(Some(now_seconds()));
    let day_file = directory.as_deref().map(DayFile::new);
    let day = recall_past(directory.as_deref(), day_file.as_ref(), &telemetry);

    let (engine_handle, inputs) = EngineHandle::new();
    let watcher = Watcher::start(
        policy::evaluation_config(&loaded),
        sampling,
        protection,
        engine_handle.clone(),
        telemetry.clone(),
        directory.as_deref().map(KeptAlerts::new).unwrap_or_default(),
        SETTLING,
    );
    let watcher = Arc::new(watcher.map_err(because("no thread"))?);
    let jobs = start_runner_client(runner, engine_handle.clone()).map_err(because("no thread"))?;

    // The engine starts early, so that slow reads of samples do not delay reverting the leases of a former daemon.
    let newest_policy = Arc::new(ArcSwap::from_pointee(policy.clone()));
    let (sampled, first_sample) = mpsc::channel();
    let (began, engine_began) = oneshot::channel();
    let mut engine = match procfs.clone() {
        Some(procfs) => {
            let parts = EngineParts {
                directory: directory.clone(),
                procfs,
                policy: Arc::clone(&newest_policy),
                engine_handle: engine_handle.clone(),
                watcher: Arc::clone(&watcher),
                jobs,
                protection,
                telemetry: telemetry.clone(),
            };
            Some(EngineThread::start(parts, inputs, first_sample, began).map_err(because("no thread"))?)
        }
        None => {
            // Senders notice that nothing receives, and the webhook answers 503.
            drop((inputs, began));
            None
        }
    };

    let groups = Arc::new(ArcSwap::from_pointee(policy::groups(&loaded.config)));
    let started = first_sample::start_sampler(&run, sampling, &groups, watcher.subscriber()).await;
    drop(sampled);
    let sampler = match started {
        Ok(sampler) => Arc::new(sampler),
        Err(error) => {
            // The engine may have applied steps by now, and must revert them.
            EngineThread::end(engine, LeasesAtExit::AsConfigured).await;
            return Err(because("no sampler")(error));
        }
    };
    sampler.restore(day.history());
    drop(day);

    let (reconciler, wanted) = reconciler::Handle::new(&loaded.config);
    let targets = ReloadTargets {
        engine_handle: engine_handle.clone(),
        is_acting: engine.is_some(),
        watcher: Arc::clone(&watcher),
        reconciler,
        groups,
        policy: newest_policy,
        telemetry: telemetry.clone(),
        sandbox,
    };
    let refused = storage.as_ref().err().cloned();
    let reloader = Arc::new(Reloader::new(&run, &loaded, webhook.authenticates(), refused, targets));

    let options = handler_options(&run, &scrapers, &reloader);
    let handler = Arc::new(MetricsHandler::new(Arc::clone(&sampler), telemetry.clone(), options));
    let addresses = open_listeners.addresses.clone();
    let (stop, _) = watch::channel(false);
    let stopped = || {
        let mut stop = stop.subscribe();
        async move { drop(stop.wait_for(|stopped| *stopped).await) }
    };
    let settings = ListenerSettings {
        handler: Arc::clone(&handler),
        inbox: CountingInbox::new(engine_handle.clone(), telemetry.clone()),
        telemetry: telemetry.clone(),
        telemetry_path: run.telemetry_path.clone(),
        scrapers,
        webhook,
    };
    let mut listeners = Listeners::serve(settings, open_listeners, stop.subscribe());

    if let Some(file) = day_file.clone() {
        drop(tokio::spawn(file.keep(
            Arc::clone(&sampler),
            telemetry.clone(),
            stopped(),
        )));
    }
    let reconciling = tokio::spawn(reconciler::run(
        wanted,
        engine_handle.clone(),
        telemetry.clone(),
        stopped(),
    ));
    let control = directory.map(|path| {
        let responders = responders(&reloader, &handler);
        tokio::spawn(control::serve(path, engine_handle.clone(), responders, stopped()))
    });

    let mut ready = std::pin::pin!(warm_up::settle(procfs, policy.clone(), engine_began));
    let mut is_ready = false;
    let (leases_at_exit, result) = loop {
        tokio::select! {
            error = listeners.failed() => {
                tracing::error!(%error, "daemon failed");
                break (LeasesAtExit::AsConfigured, Err(Stop::Failed));
            }
            () = &mut ready, if !is_ready => {
                is_ready = true;
                startup_log::introduce(&policy, &loaded, &run, &addresses, control.is_some());
                service_manager.notify(&Notification::Ready);
                // From the readiness on, the watchdog of the service manager counts.
                let engine = engine.is_some().then(|| engine_handle.clone());
                tokio::spawn(Arc::clone(&service_manager).report(engine, telemetry.clone(), stopped()));
                let lock_memory = loaded.config.lock_memory;
                // The kernel may take its time to lock memory.
                spawn_blocking(move || keep_in_memory(protection, lock_memory));
            }
            () = EngineThread::died(engine.as_mut()) => break (LeasesAtExit::AsConfigured, Ok(())),
            request = signals.next() => match request {
                SignalRequest::Stop(leases) => break (leases, Ok(())),
                SignalRequest::Reload => {
                    let reloader = Arc::clone(&reloader);
                    // Off this thread, because it reads files. It logs its own errors.
                    let request = OperatorRequest::new(Requester::by_way_of("SIGHUP"), "");
                    drop(spawn_blocking(move || reloader.reload(request)).await);
                }
            }
        }
    };

    service_manager.notify(&Notification::Stopping);
    // The number of `evenkeel_leases`.
    let leases: usize = telemetry.state().leases.values().sum();
    tracing::info!(leases, "shutting down");
    handler.set_ready(false);
    let _ = stop.send(true);
    let _ = timeout(DRAIN, listeners.drain_webhook()).await;
    drop(reconciling.await);
    EngineThread::end(engine, leases_at_exit).await;
    for listener in listeners.into_tasks() {
        drop(timeout(DRAIN, listener).await);
    }
    if let Some(control) = control {
        drop(control.await);
    }
    if let Some(file) = day_file {
        file.write(&sampler, &telemetry);
    }
    tracing::info!("stopped");
    result
}

/// Restores what the page showed before the restart, except the figures of the host, which it returns.
fn recall_past(directory: Option<&Path>, day_file: Option<&DayFile>, telemetry: &Telemetry) -> StoredDay {
    // A new ledger has no records, and the journal logs an unreadable one.
    let records = directory.and_then(|path| read_records(path, RECALLED_RECORDS).ok());
    let records = records.unwrap_or_default();
    let mut day = day_file.map(DayFile::read).unwrap_or_default();
    day.restore_activity(telemetry, &records);
    recall(telemetry, &records);
    day
}

/// The client of the runner, which reports to the engine.
fn start_runner_client(runner: Option<StartedRunner>, engine_handle: EngineHandle) -> std::io::Result<RunnerClient> {
    let on_report = Arc::new(move |ticket, report| {
        engine_handle.send(Input::Reported { ticket, report });
    });
    let jobs = RunnerClient::new(runner, tokio::runtime::Handle::current(), on_report);
    jobs.start_listening()?;
    Ok(jobs)
}

fn handler_options(run: &cli::Run, scrapers: &Access, reloader: &Arc<Reloader>) -> HandlerOptions {
    HandlerOptions {
        telemetry_path: run.telemetry_path.clone(),
        max_requests: run.max_requests,
        reload: run.enable_lifecycle.then(|| {
            let reloader = Arc::clone(reloader);
            Arc::new(move |by| {
                let request = OperatorRequest::new(Requester::by_way_of(by), "");
                Ok(reloader.reload(request)?)
            }) as publish::ReloadFn
        }),
        storage_option: run.storage.option(),
        authenticates: {
            let scrapers = scrapers.clone();
            Box::new(move || scrapers.authenticates())
        },
        ..HandlerOptions::default()
    }
}

/// What the control socket answers with.
fn responders(reloader: &Arc<Reloader>, handler: &Arc<MetricsHandler>) -> control::Responders {
    let (reloader, handler) = (Arc::clone(reloader), Arc::clone(handler));
    control::Responders {
        reload: Arc::new(move |request| reloader.reload(request).map_err(|error| error.to_string())),
        status: Arc::new(move || {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler.status_value().await })
        }),
    }
}

/// Keeps evenkeel in memory, once the start is over. Continues without what is not permitted.
fn keep_in_memory(protection: SelfProtection, lock_memory: bool) {
    self_priority::release_free_heap();
    if protection == SelfProtection::Off {
        return;
    }
    if lock_memory && let Err(error) = self_priority::lock_memory_pages() {
        tracing::warn!(%error, "could not lock memory, evenkeel may be swapped out");
    }
}
