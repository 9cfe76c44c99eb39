//! The frontend: the process that serves HTTP. It has the sockets, its channel and the log, and nothing else.

use super::client::{ActuatorClient, Outgoing};
use super::frame::read_frame;
use super::message::{Listener, Settings, TO_FRONTEND, ToActuator, ToFrontend};
use super::starter::FrontendSockets;
use crate::alert::receiver::WebhookReceiver;
use crate::app::log::ProcessLog;
use crate::app::runtime;
use crate::host::{program_pages, self_priority};
use crate::http::remote_access::{AccessVersion, RemoteAccess};
use crate::http::{Access, ServerLimits, WebFileError};
use crate::publish::MetricsServer;
use crate::sandbox::{self, OwnUser, OwnUserError, Report};
use crate::telemetry::Telemetry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Maximum wait for the last messages to the actuator.
const LAST_MESSAGES: Duration = Duration::from_secs(1);
/// Memory of the process (RLIMIT_DATA), so that a frontend that was taken over cannot use up the host's. It leaves space
/// for the bodies of webhooks at ten times their size (320 MiB) and for the stacks of all threads (128 MiB).
const MAX_MEMORY: u64 = 1024 * 1024 * 1024;

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
            tracing::error!(%error, "frontend failed");
            ExitCode::FAILURE
        }
    }
}

/// Makes the process the first that the kernel kills when memory is short, unlike the actuator, and bounds its memory.
fn bound_memory() {
    if let Err(error) = self_priority::give_up_oom_protection() {
        tracing::warn!(%error, "could not raise oom_score_adj of the frontend");
    }
    let former = getrlimit(Resource::Data);
    let most = Some(former.maximum.map_or(MAX_MEMORY, |maximum| maximum.min(MAX_MEMORY)));
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::warn!(%error, "memory of the frontend not limited");
    }
}

fn start(
    sockets: FrontendSockets,
    user: Result<OwnUser, OwnUserError>,
    log: &mut ProcessLog,
    telemetry: &Telemetry,
) -> io::Result<()> {
    bound_memory();
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
    runtime.block_on(serve(sockets, report, telemetry.clone()))
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
    let _ = tokio::time::timeout(LAST_MESSAGES, writer).await;
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
        let check_stopped = || match *self.stopped.borrow() {
            true => Ok(()),
            false => Err(io::Error::other("a listener ended")),
        };
        let mut serving = JoinSet::new();
        for listener in metrics {
            let listener = TcpListener::from_std(listener.into())?;
            serving.spawn(self.metrics.clone().run(listener, stop()));
        }
        let serve_metrics = async {
            while let Some(ended) = serving.join_next().await {
                ended?;
                check_stopped()?;
            }
            Ok(())
        };
        let webhook = TcpListener::from_std(webhook.into())?;
        let serve_webhook = async {
            self.webhook.run(webhook, self.webhook_limits, stop()).await;
            check_stopped()?;
            self.client.send(&ToActuator::WebhookDrained).await;
            Ok(())
        };
        tokio::try_join!(serve_metrics, serve_webhook).map(drop)
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
