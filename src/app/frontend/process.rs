//! The frontend: the process that serves HTTP. It has the sockets, its channel and the log, and nothing else.

use super::client::{ActuatorClient, Outgoing};
use super::frame::read_frame;
use super::message::{Listener, Settings, TO_FRONTEND, ToActuator, ToFrontend};
use super::starter::FrontendSockets;
use crate::alert::receiver::WebhookReceiver;
use crate::app::log::ProcessLog;
use crate::app::runtime;
use crate::host::program_pages;
use crate::http::remote_access::{AccessVersion, RemoteAccess};
use crate::http::{Access, ServerLimits, WebFileError};
use crate::publish::MetricsServer;
use crate::sandbox::{self, OwnUser, OwnUserError, Report};
use crate::telemetry::Telemetry;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// Maximum wait at the end for the reader of the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs a frontend to its end. No thread may have started.
pub fn run(
    sockets: FrontendSockets,
    user: Result<OwnUser, OwnUserError>,
    log: &mut ProcessLog,
    telemetry: &Telemetry,
) -> ExitCode {
    match start(sockets, user, log, telemetry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "frontend ended");
            log.flush(LAST_LINES);
            ExitCode::FAILURE
        }
    }
}

fn start(
    sockets: FrontendSockets,
    user: Result<OwnUser, OwnUserError>,
    log: &mut ProcessLog,
    telemetry: &Telemetry,
) -> io::Result<()> {
    // The sandbox denies opening descriptors and changing their flags.
    let runtime = runtime::new(|| ())?;
    for socket in sockets.metrics.iter().chain([&sockets.webhook, &sockets.channel]) {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    let Some(report) = sandbox::isolate(user, sockets.starter) else {
        return Ok(());
    };
    // The log has a thread, which must not start before the sandbox.
    log.write()?;
    // The thread for blocking calls stays, so that one exists where later none could be had.
    drop(runtime.spawn_blocking(|| ()));
    runtime.block_on(serve(sockets, report, telemetry.clone()))?;
    log.flush(LAST_LINES);
    Ok(())
}

async fn serve(sockets: FrontendSockets, report: Report, telemetry: Telemetry) -> io::Result<()> {
    let (input, output) = UnixStream::from_std(sockets.channel.into())?.into_split();
    let (client, outgoing) = ActuatorClient::new();
    let writer = tokio::spawn(async move { Outgoing::write(outgoing, output, &telemetry).await });
    client.send(&ToActuator::Started(report)).await;
    let mut input = BufReader::new(input);
    let settings = match read_frame(&mut input, TO_FRONTEND).await.map_err(io::Error::other)? {
        // The actuator has ended.
        None => return Ok(()),
        Some(frame) => match frame.decode().map_err(io::Error::other)? {
            ToFrontend::Configure(settings) => settings,
            ToFrontend::Answer { .. } | ToFrontend::Ping | ToFrontend::Stop => return Ok(()),
        },
    };
    let (stop, stopped) = watch::channel(false);
    let listeners = Listeners::new(&client, &settings, stopped).map_err(io::Error::other)?;
    // What only the start used.
    program_pages::release();
    let mut serving = tokio::spawn(listeners.serve(sockets.metrics, sockets.webhook));
    let must_drain = tokio::select! {
        must_drain = client.receive(&mut input) => must_drain?,
        served = &mut serving => return served.map_err(io::Error::other)?,
    };
    if !must_drain {
        return Ok(());
    }
    let _ = stop.send(true);
    // Requests that end still need their answers.
    tokio::select! {
        received = client.receive(&mut input) => received.map(drop),
        served = serving => served.map_err(io::Error::other)?,
    }?;
    drop(client);
    // The last messages.
    let _ = tokio::time::timeout(LAST_LINES, writer).await;
    Ok(())
}

/// The servers of both listeners.
struct Listeners {
    metrics: MetricsServer<ActuatorClient>,
    webhook: WebhookReceiver<ActuatorClient>,
    webhook_limits: ServerLimits,
    client: ActuatorClient,
    stopped: watch::Receiver<bool>,
}

impl Listeners {
    fn new(
        client: &ActuatorClient,
        settings: &Settings,
        stopped: watch::Receiver<bool>,
    ) -> Result<Listeners, WebFileError> {
        let metrics = MetricsServer {
            service: Arc::new(client.clone()),
            access: access(client, Listener::Metrics, &settings.metrics_access)?,
            telemetry_path: settings.telemetry_path.as_str().into(),
            max_connections: settings.metrics_connections,
        };
        let webhook_access = access(client, Listener::Webhook, &settings.webhook_access)?;
        let counting = client.clone();
        let count_response = Box::new(move |code| counting.count_response(code));
        Ok(Listeners {
            metrics,
            webhook: WebhookReceiver::new(client.clone(), webhook_access, count_response),
            webhook_limits: ServerLimits {
                max_connections: settings.webhook_connections,
                ..ServerLimits::default()
            },
            client: client.clone(),
            stopped,
        })
    }

    /// Serves until the stop, and drains.
    async fn serve(self, metrics: Vec<OwnedFd>, webhook: OwnedFd) -> io::Result<()> {
        let stop = || {
            let mut stopped = self.stopped.clone();
            async move { drop(stopped.wait_for(|is_stopped| *is_stopped).await) }
        };
        let mut serving = Vec::new();
        for listener in metrics {
            let listener = TcpListener::from_std(listener.into())?;
            serving.push(tokio::spawn(self.metrics.clone().run(listener, stop())));
        }
        let webhook = TcpListener::from_std(webhook.into())?;
        self.webhook.run(webhook, self.webhook_limits, stop()).await;
        self.client.send(&ToActuator::WebhookDrained).await;
        for listener in serving {
            let _ = listener.await;
        }
        Ok(())
    }
}

/// The access rules of a listener, whose changes the actuator has.
fn access(client: &ActuatorClient, listener: Listener, first: &AccessVersion) -> Result<Access, WebFileError> {
    let client = client.clone();
    let fetch = Box::new(move |known| {
        let client = client.clone();
        Box::pin(async move { client.access(listener, known).await }) as _
    });
    Ok(Access::remote(RemoteAccess::new(first, fetch)?))
}
