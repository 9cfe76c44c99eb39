//! The thread `engine`: starts the engine from its ledger, and again after a panic. Sensing and publishing go on
//! meanwhile.

use super::watcher::Watcher;
use crate::engine::run::{self, EngineHandle, Input, LeasesAtExit, Queued};
use crate::engine::{Engine, Policy};
use crate::host::self_priority::{self, SelfProtection};
use crate::host::{Host, LinuxHost, RunnerClient};
use crate::ledger::{Entry, Journal, LedgerState};
use crate::process::table::Procfs;
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use std::future::pending;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::oneshot;

/// Pause before the engine restarts after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Maximum wait of the engine for the first sample, because reverting leases does not depend on samples.
const FIRST_SAMPLE: Duration = Duration::from_secs(2);

/// What the engine is made of, and made of again after a panic.
pub struct EngineParts {
    pub directory: Option<PathBuf>,
    pub procfs: Procfs,
    /// The newest policy.
    pub policy: Arc<ArcSwap<Policy>>,
    pub engine_handle: EngineHandle,
    pub watcher: Arc<Watcher>,
    pub jobs: RunnerClient,
    pub protection: SelfProtection,
    pub telemetry: Telemetry,
}

impl EngineParts {
    fn make(&self) -> Engine<LinuxHost> {
        let exits = self.engine_handle.clone();
        let on_exit = Arc::new(move |target| {
            exits.send(Input::Exited(target));
        });
        let boot = self.procfs.boot;
        let (mut journal, ledger) = match &self.directory {
            Some(directory) => Journal::open(directory, boot),
            None => (Journal::without_file(boot), LedgerState::default()),
        };
        // The first commit of a ledger is slower than the others, so this one, which changes nothing, comes before the
        // first alert.
        let _ = journal.begin(&[Entry::Paused(ledger.paused)]);
        let policy = Policy::clone(&self.policy.load());
        let mut host = LinuxHost::new(self.procfs.clone(), on_exit).with_jobs(self.jobs.clone());
        // Caches the kernel threads, so that the first reaction need not identify them.
        let _ = host.processes();
        let conditions = self.watcher.conditions();
        Engine::new(host, journal, ledger, policy, conditions, self.telemetry.clone())
    }
}

/// The running thread.
pub struct EngineThread {
    thread: JoinHandle<()>,
    engine_handle: EngineHandle,
    died: oneshot::Receiver<()>,
}

impl EngineThread {
    /// Starts the thread. The first engine waits for `first_sample`, because `while:` needs samples; the wait ends when
    /// its sender is dropped. `began` is dropped once that engine has its ledger, or has panicked.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        parts: EngineParts,
        inputs: Receiver<Queued>,
        first_sample: Receiver<()>,
        began: oneshot::Sender<()>,
    ) -> io::Result<EngineThread> {
        let engine_handle = parts.engine_handle.clone();
        let (alive, died) = oneshot::channel();
        let thread = thread::Builder::new().name("engine".into()).spawn(move || {
            self_priority::raise_priority(parts.protection);
            keep_running(&parts, &inputs, &first_sample, began);
            drop::<oneshot::Sender<()>>(alive);
        })?;
        Ok(EngineThread {
            thread,
            engine_handle,
            died,
        })
    }

    /// Returns once the thread has ended by itself, and never without a thread.
    pub async fn died(engine: Option<&mut EngineThread>) {
        match engine {
            Some(engine) => drop((&mut engine.died).await),
            None => pending().await,
        }
    }

    /// Waits until the engine has reverted its leases, for which it may need this runtime.
    pub async fn end(engine: Option<EngineThread>, leases: LeasesAtExit) {
        let Some(EngineThread {
            thread, engine_handle, ..
        }) = engine
        else {
            return;
        };
        let ended = tokio::task::spawn_blocking(move || {
            engine_handle.send(Input::ShutDown(leases));
            thread.join().is_ok()
        });
        drop(ended.await);
    }
}

/// Runs the engine, and starts it again from the ledger after a panic.
fn keep_running(
    parts: &EngineParts,
    inputs: &Receiver<Queued>,
    first_sample: &Receiver<()>,
    began: oneshot::Sender<()>,
) {
    let mut began = Some(began);
    loop {
        let began = began.take();
        let once = AssertUnwindSafe(|| {
            let engine = parts.make();
            let _: Result<(), _> = first_sample.recv_timeout(FIRST_SAMPLE);
            drop(began);
            run::run(engine, inputs, &parts.telemetry);
        });
        match catch_unwind(once) {
            Ok(()) => return,
            Err(_) => {
                tracing::error!("engine panicked, restarting it from the ledger");
                parts.telemetry.engine_restarted();
                thread::sleep(RESTART_PAUSE);
            }
        }
    }
}
