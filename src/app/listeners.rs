//! Both listeners of a daemon, which this process serves, or the frontend where there is one.

use super::frontend::session::{ServedAccess, Services};
use super::frontend::starter_channel::Starter;
use super::frontend::supervisor;
use super::sockets::{BoundSockets, Inherited};
use super::stop::{Stop, because};
use crate::alert::receiver::{CountingInbox, WebhookReceiver};
use crate::cli;
use crate::engine::run::EngineHandle;
use crate::host::file_limit::FileLimit;
use crate::http::{Access, ServerLimits};
use crate::publish::{MAX_CONNECTIONS, MetricsHandler, MetricsServer};
use crate::telemetry::Telemetry;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// What serving takes.
pub struct ListenerSettings {
    pub handler: Arc<MetricsHandler>,
    pub inbox: CountingInbox<EngineHandle>,
    pub telemetry: Telemetry,
    pub telemetry_path: String,
    pub scrapers: Access,
    pub webhook: Access,
}

/// The listeners before they are served.
pub struct OpenListeners {
    sockets: ListeningSockets,
    /// Where clients on this host reach the first metrics listener and the webhook listener.
    pub addresses: [Option<String>; 2],
    connections: MaxConnections,
}

/// The sockets of both listeners.
enum ListeningSockets {
    Here(BoundSockets),
    /// The frontend has them.
    PassedOn(Starter),
}

/// Maximum number of connections: of each metrics listener, and of the webhook listener.
struct MaxConnections {
    metrics: usize,
    webhook: usize,
}

/// The listeners while they are served.
pub enum Listeners {
    /// This process serves them.
    Here {
        webhook: JoinHandle<()>,
        metrics: Vec<JoinHandle<()>>,
        failed: mpsc::Receiver<io::Error>,
    },
    Frontend {
        /// `None` once it has ended.
        supervisor: Option<JoinHandle<()>>,
        failed: mpsc::Receiver<io::Error>,
        webhook_drained: Arc<Notify>,
    },
}

impl OpenListeners {
    /// Binds the sockets that systemd has not passed on, and gives them to the frontend, if there is one. This process
    /// then closes them: where both have them, the kernel accepts connections during a shutdown that nothing will serve.
    pub async fn open(
        run: &cli::Run,
        inherited: Inherited<std::net::TcpListener>,
        starter: Option<Starter>,
        file_limit: FileLimit,
    ) -> Result<OpenListeners, Stop> {
        let bound = BoundSockets::open(run, inherited).await?;
        let wanted = ServerLimits::default().max_connections;
        let all = wanted + bound.metrics.len() * MAX_CONNECTIONS;
        let connections = MaxConnections {
            metrics: file_limit.connections(MAX_CONNECTIONS, all),
            webhook: file_limit.connections(wanted, all),
        };
        let addresses = bound.addresses();
        let sockets = match starter {
            None => ListeningSockets::Here(bound),
            Some(starter) => {
                let metrics: Vec<_> = bound.metrics.iter().map(AsFd::as_fd).collect();
                let passed_on = starter.pass_on(&metrics, bound.webhook.as_fd());
                passed_on.map_err(because("no process for HTTP"))?;
                ListeningSockets::PassedOn(starter)
            }
        };
        Ok(OpenListeners {
            sockets,
            addresses,
            connections,
        })
    }
}

impl Listeners {
    /// Serves until `stopped` becomes true.
    pub fn serve(settings: ListenerSettings, open: OpenListeners, stopped: watch::Receiver<bool>) -> Listeners {
        match open.sockets {
            ListeningSockets::Here(bound) => Listeners::here(settings, bound, &open.connections, &stopped),
            ListeningSockets::PassedOn(starter) => {
                Listeners::in_frontend(settings, starter, &open.connections, stopped)
            }
        }
    }

    fn here(
        settings: ListenerSettings,
        bound: BoundSockets,
        connections: &MaxConnections,
        stopped: &watch::Receiver<bool>,
    ) -> Listeners {
        let (fail, failed) = mpsc::channel(1);
        let stop = || {
            let mut stopped = stopped.clone();
            async move { drop(stopped.wait_for(|is_stopped| *is_stopped).await) }
        };
        let server = MetricsServer {
            service: settings.handler,
            access: settings.scrapers,
            telemetry_path: settings.telemetry_path.into(),
            max_connections: connections.metrics,
        };
        let telemetry = settings.telemetry;
        let count_response = Box::new(move |code| telemetry.webhook_request(code));
        let receiver = WebhookReceiver::new(settings.inbox, settings.webhook, count_response);
        let limits = ServerLimits {
            max_connections: connections.webhook,
            ..ServerLimits::default()
        };
        let metrics = bound.metrics.into_iter().map(|listener| {
            let serving = server.clone().run(listener, stop());
            tokio::spawn(watched(serving, stopped.clone(), fail.clone()))
        });
        let metrics = metrics.collect();
        let serving = receiver.run(bound.webhook, limits, stop());
        Listeners::Here {
            metrics,
            webhook: tokio::spawn(watched(serving, stopped.clone(), fail)),
            failed,
        }
    }

    fn in_frontend(
        settings: ListenerSettings,
        starter: Starter,
        connections: &MaxConnections,
        stopped: watch::Receiver<bool>,
    ) -> Listeners {
        let webhook_drained = Arc::new(Notify::new());
        settings.telemetry.expect_frontend_restarts(supervisor::REASONS);
        let services = Services {
            metrics: settings.handler,
            inbox: settings.inbox,
            telemetry: settings.telemetry,
            telemetry_path: settings.telemetry_path,
            metrics_access: ServedAccess::new("metrics", settings.scrapers),
            webhook_access: ServedAccess::new("webhook", settings.webhook),
            metrics_connections: connections.metrics,
            webhook_connections: connections.webhook,
            webhook_drained: Arc::clone(&webhook_drained),
        };
        let (fail, failed) = mpsc::channel(1);
        let supervisor = tokio::spawn(async move {
            if let Err(error) = supervisor::run(starter, Arc::new(services), stopped).await {
                // Nothing receives during the shutdown.
                let _ = fail.send(error).await;
            }
        });
        Listeners::Frontend {
            supervisor: Some(supervisor),
            failed,
            webhook_drained,
        }
    }

    /// Returns once a listener is not served any more, although nothing has stopped it.
    pub async fn failed(&mut self) -> io::Error {
        let (Listeners::Here { failed, .. } | Listeners::Frontend { failed, .. }) = self;
        // A task that panicked says nothing.
        let panicked = || io::Error::other("the task that serves a listener ended");
        failed.recv().await.unwrap_or_else(panicked)
    }

    /// Waits until no webhook request is pending, after the stop.
    pub async fn drain_webhook(&mut self) {
        match self {
            Listeners::Here { webhook, .. } => drop(webhook.await),
            Listeners::Frontend {
                supervisor,
                webhook_drained,
                ..
            } => {
                let Some(running) = supervisor else { return };
                tokio::select! {
                    () = webhook_drained.notified() => {}
                    _ = running => *supervisor = None,
                }
            }
        }
    }

    /// The tasks that end once all connections have.
    pub fn into_tasks(self) -> Vec<JoinHandle<()>> {
        match self {
            Listeners::Here { metrics, .. } => metrics,
            Listeners::Frontend { supervisor, .. } => supervisor.into_iter().collect(),
        }
    }
}

/// Serves a listener, and reports an end that nothing asked for.
async fn watched(serving: impl Future<Output = ()>, stopped: watch::Receiver<bool>, fail: mpsc::Sender<io::Error>) {
    serving.await;
    if !*stopped.borrow() {
        let _ = fail.try_send(io::Error::other("a listening socket was shut down"));
    }
}
