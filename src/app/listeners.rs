//! Both listeners of a daemon, which this process serves, or the frontend where there is one.

use super::frontend::session::{ServedAccess, Services};
use super::frontend::starter::Starter;
use super::frontend::supervisor;
use crate::alert::receiver::{CountingInbox, WebhookReceiver};
use crate::engine::run::EngineHandle;
use crate::http::{Access, ServerLimits};
use crate::publish::{MetricsHandler, MetricsServer};
use crate::telemetry::Telemetry;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::TcpListener;
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
    pub metrics_connections: usize,
    pub webhook_connections: usize,
}

/// The sockets of both listeners.
pub enum ListeningSockets {
    Here {
        metrics: Vec<TcpListener>,
        webhook: TcpListener,
    },
    /// The frontend has them.
    PassedOn(Starter),
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

impl ListeningSockets {
    /// Passes the sockets on to the frontend, if there is one, and closes them in this process: where both have them, the
    /// kernel accepts connections during a shutdown that nothing will serve.
    ///
    /// # Errors
    /// When the sockets cannot be passed on.
    pub fn of(
        starter: Option<Starter>,
        metrics: Vec<TcpListener>,
        webhook: TcpListener,
    ) -> io::Result<ListeningSockets> {
        let Some(starter) = starter else {
            return Ok(ListeningSockets::Here { metrics, webhook });
        };
        let sockets: Vec<_> = metrics.iter().map(AsFd::as_fd).collect();
        starter.pass_on(&sockets, webhook.as_fd())?;
        Ok(ListeningSockets::PassedOn(starter))
    }
}

impl Listeners {
    /// Serves until `stopped` becomes true.
    pub fn serve(settings: ListenerSettings, sockets: ListeningSockets, stopped: watch::Receiver<bool>) -> Listeners {
        match sockets {
            ListeningSockets::Here { metrics, webhook } => Listeners::here(settings, metrics, webhook, &stopped),
            ListeningSockets::PassedOn(starter) => Listeners::in_frontend(settings, starter, stopped),
        }
    }

    fn here(
        settings: ListenerSettings,
        metrics: Vec<TcpListener>,
        webhook: TcpListener,
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
            max_connections: settings.metrics_connections,
        };
        let telemetry = settings.telemetry;
        let count_response = Box::new(move |code| telemetry.webhook_request(code));
        let receiver = WebhookReceiver::new(settings.inbox, settings.webhook, count_response);
        let limits = ServerLimits {
            max_connections: settings.webhook_connections,
            ..ServerLimits::default()
        };
        let metrics = metrics.into_iter().map(|listener| {
            let serving = server.clone().run(listener, stop());
            tokio::spawn(watched(serving, stopped.clone(), fail.clone()))
        });
        let metrics = metrics.collect();
        let serving = receiver.run(webhook, limits, stop());
        Listeners::Here {
            metrics,
            webhook: tokio::spawn(watched(serving, stopped.clone(), fail)),
            failed,
        }
    }

    fn in_frontend(settings: ListenerSettings, starter: Starter, stopped: watch::Receiver<bool>) -> Listeners {
        let webhook_drained = Arc::new(Notify::new());
        settings.telemetry.expect_frontend_restarts(supervisor::REASONS);
        let services = Services {
            metrics: settings.handler,
            inbox: settings.inbox,
            telemetry: settings.telemetry,
            telemetry_path: settings.telemetry_path,
            metrics_access: ServedAccess::new("metrics", settings.scrapers),
            webhook_access: ServedAccess::new("webhook", settings.webhook),
            metrics_connections: settings.metrics_connections,
            webhook_connections: settings.webhook_connections,
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
