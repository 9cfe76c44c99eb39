//! Both listeners of a daemon, which this process serves, or the frontend where there is one.

use super::frontend::session::Services;
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
use tokio::sync::{Notify, oneshot, watch};
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

/// The listeners while they are served.
pub enum Listeners {
    /// This process serves them.
    Here {
        webhook: JoinHandle<()>,
        metrics: Vec<JoinHandle<()>>,
    },
    Frontend {
        /// `None` once it has ended.
        supervisor: Option<JoinHandle<()>>,
        failed: oneshot::Receiver<io::Error>,
        webhook_drained: Arc<Notify>,
    },
}

impl Listeners {
    /// Serves in this process until `stopped` becomes true.
    pub fn here(
        settings: ListenerSettings,
        metrics: Vec<TcpListener>,
        webhook: TcpListener,
        stopped: &watch::Receiver<bool>,
    ) -> Listeners {
        let stopped = || {
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
        let metrics = metrics.into_iter();
        Listeners::Here {
            metrics: metrics
                .map(|listener| tokio::spawn(server.clone().run(listener, stopped())))
                .collect(),
            webhook: tokio::spawn(receiver.run(webhook, limits, stopped())),
        }
    }

    /// Passes the sockets on to the frontend, and serves its questions until `stopped` becomes true.
    ///
    /// # Errors
    /// When the sockets cannot be passed on.
    pub fn in_frontend(
        settings: ListenerSettings,
        starter: Starter,
        metrics: &[TcpListener],
        webhook: &TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> io::Result<Listeners> {
        let sockets: Vec<_> = metrics.iter().map(AsFd::as_fd).collect();
        starter.pass_on(&sockets, webhook.as_fd())?;
        let webhook_drained = Arc::new(Notify::new());
        settings.telemetry.expect_frontend_restarts(supervisor::REASONS);
        let services = Services {
            metrics: settings.handler,
            inbox: settings.inbox,
            telemetry: settings.telemetry,
            telemetry_path: settings.telemetry_path,
            metrics_access: settings.scrapers.into(),
            webhook_access: settings.webhook.into(),
            metrics_connections: settings.metrics_connections,
            webhook_connections: settings.webhook_connections,
            webhook_drained: Arc::clone(&webhook_drained),
        };
        let (fail, failed) = oneshot::channel();
        let supervisor = tokio::spawn(async move {
            if let Err(error) = supervisor::run(starter, Arc::new(services), stopped).await {
                // Nothing receives during the shutdown.
                let _ = fail.send(error);
            }
        });
        Ok(Listeners::Frontend {
            supervisor: Some(supervisor),
            failed,
            webhook_drained,
        })
    }

    /// Returns once nothing serves the listeners any more, although nothing has stopped them.
    pub async fn failed(&mut self) -> io::Error {
        match self {
            Listeners::Here { .. } => std::future::pending().await,
            Listeners::Frontend { failed, .. } => {
                // A supervisor that panicked says nothing.
                let panicked = |_| io::Error::other("the task that serves the frontend ended");
                failed.await.unwrap_or_else(panicked)
            }
        }
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
