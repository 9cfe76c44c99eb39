//! The frontends of a daemon, one after the other: each new one is served, and each end is logged and counted.

use super::session::{self, Services, SessionEnd};
use super::starter::{FormerEnd, NoFrontend, Started, Starter};
use crate::alert::receiver::Inbox;
use crate::publish::request::MetricsService;
use jiff::Timestamp;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// The values of `evenkeel_frontend_restarts_total{reason}`.
pub const REASONS: [&str; 4] = ["ended", "sandbox", "protocol", "stalled"];

/// Serves frontends until `stopping` becomes true and the last one has drained.
///
/// # Errors
/// When the starter has ended, so that there will be no frontend any more.
pub async fn run<S: MetricsService, I: Inbox>(
    starter: Starter,
    services: Arc<Services<S, I>>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let readiness = starter.readiness()?;
    let mut last = None;
    loop {
        let is_stopped = stopping.wait_for(|is_stopping| *is_stopping);
        let started = tokio::select! {
            started = readiness.async_io(Interest::READABLE, || starter.next()) => started?,
            _ = is_stopped => {
                starter.start_no_more();
                return Ok(());
            }
        };
        let Started { channel, former } = match started {
            Ok(started) => started,
            Err(error @ NoFrontend::StarterEnded) => return Err(io::Error::other(error)),
            Err(error @ NoFrontend::NotStarted) => {
                tracing::error!(%error, "could not start the frontend, trying again");
                continue;
            }
        };
        if let Some(former) = former {
            report_restart(&services, former, last.take());
        }
        services.telemetry.set_frontend(Some(Timestamp::now()));
        let end = serve(&starter, channel, &services, &stopping).await;
        services.telemetry.set_frontend(None);
        let end = end?;
        if *stopping.borrow() {
            return Ok(());
        }
        if !matches!(end, SessionEnd::Closed) {
            starter.kill();
        }
        last = Some(end);
    }
}

async fn serve<S: MetricsService, I: Inbox>(
    starter: &Starter,
    channel: OwnedFd,
    services: &Arc<Services<S, I>>,
    stopping: &watch::Receiver<bool>,
) -> io::Result<SessionEnd> {
    let channel = std::os::unix::net::UnixStream::from(channel);
    channel.set_nonblocking(true)?;
    let (input, output) = UnixStream::from_std(channel)?.into_split();
    let session = session::serve(input, output, Arc::clone(services), stopping.clone());
    let mut session = std::pin::pin!(session);
    let mut is_stopping = stopping.clone();
    tokio::select! {
        end = &mut session => return Ok(end),
        _ = is_stopping.wait_for(|is_stopping| *is_stopping) => starter.start_no_more(),
    }
    Ok(session.await)
}

/// Reports why another frontend was started: what the actuator saw, or else how the process ended.
fn report_restart<S, I>(services: &Services<S, I>, former: FormerEnd, seen: Option<SessionEnd>) {
    let (reason, detail) = match (seen, former) {
        (Some(end @ SessionEnd::Protocol(_)), _) => ("protocol", end.to_string()),
        (Some(end @ (SessionEnd::Stalled | SessionEnd::Silent)), _) => ("stalled", end.to_string()),
        (_, FormerEnd::DeniedCall) => ("sandbox", "it made a system call that no part of it makes".to_owned()),
        (_, FormerEnd::Exited) => ("ended", "its process ended".to_owned()),
    };
    services.telemetry.frontend_restarted(reason);
    match reason {
        "ended" | "stalled" => tracing::warn!(reason = detail, "frontend restarted"),
        _ => tracing::error!(
            reason = detail,
            "frontend restarted, code from outside may have run in it"
        ),
    }
}
