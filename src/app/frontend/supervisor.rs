//! The frontends of a daemon, one after the other: each new one is served, and each end is logged and counted.

use super::session::{self, Services, SessionEnd};
use super::starter_channel::{FormerEnd, NoFrontend, Started, Starter};
use crate::alert::receiver::Inbox;
use crate::app::log::LAST_LINES;
use crate::publish::request::MetricsService;
use crate::telemetry::Telemetry;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// The values of `evenkeel_frontend_restarts_total{reason}`.
pub const REASONS: [&str; 5] = ["ended", "crashed", "sandbox", "protocol", "stalled"];
/// Signals of the kernel to a process whose code does what it must not, and that of abort(3).
const CRASHES: [Signal; 6] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTRAP,
    Signal::SIGABRT,
];
/// Time for a frontend that has closed its channel to log why, before it is killed.
const LAST_WORDS: Duration = LAST_LINES.saturating_mul(2);

/// Serves frontends until `stopping` becomes true and the last one has drained.
///
/// # Errors
/// When there will be no frontend any more.
pub async fn run<S: MetricsService, I: Inbox>(
    starter: Starter,
    services: Arc<Services<S, I>>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let readiness = starter.readiness()?;
    let mut last = None;
    let mut closed = None;
    loop {
        let is_stopped = stopping.wait_for(|is_stopping| *is_stopping);
        let started = tokio::select! {
            started = readiness.async_io(Interest::READABLE, || starter.next()) => started?,
            () = tokio::time::sleep(LAST_WORDS), if closed.is_some() => {
                closed.take().into_iter().for_each(|number| starter.kill(number));
                continue;
            }
            _ = is_stopped => {
                starter.start_no_more();
                return Ok(());
            }
        };
        let Started {
            number,
            channel,
            former,
        } = match started {
            Ok(started) => started,
            Err(error @ (NoFrontend::StarterEnded | NoFrontend::NotListening)) => return Err(io::Error::other(error)),
            Err(error @ (NoFrontend::NotStarted(_) | NoFrontend::NoChannel)) => {
                tracing::error!(%error, "could not start the frontend, trying again");
                continue;
            }
        };
        if let Some(former) = former {
            report_restart(&services.telemetry, former, last.take());
        }
        services.telemetry.set_frontend(Some(Timestamp::now()));
        let end = serve(&starter, channel, &services, &stopping).await;
        services.telemetry.set_frontend(None);
        let end = end?;
        if *stopping.borrow() {
            return Ok(());
        }
        closed = matches!(end, SessionEnd::Closed).then_some(number);
        if closed.is_none() {
            starter.kill(number);
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

/// Reports why another frontend was started.
fn report_restart(telemetry: &Telemetry, former: FormerEnd, seen: Option<SessionEnd>) {
    let (reason, detail) = restart_reason(former, seen);
    telemetry.frontend_restarted(reason);
    match reason {
        "ended" | "stalled" => tracing::warn!(reason = detail, "frontend restarted"),
        "crashed" => tracing::error!(reason = detail, "frontend restarted after a crash"),
        _ => tracing::error!(
            reason = detail,
            help = "replace the webhook's token, the passwords and the keys of certificates, which the frontend has in \
                    memory; see The frontend in docs/security-model.md",
            "frontend restarted, code from outside may have run in it"
        ),
    }
}

/// The label value and the text: what the actuator saw, or else how the process ended.
fn restart_reason(former: FormerEnd, seen: Option<SessionEnd>) -> (&'static str, String) {
    match (seen, former.signal()) {
        (Some(end @ SessionEnd::Protocol(_)), _) => ("protocol", end.to_string()),
        (Some(end @ (SessionEnd::Stalled | SessionEnd::Silent)), _) => ("stalled", end.to_string()),
        (_, Some(Signal::SIGSYS)) => ("sandbox", "it made a system call that no part of it makes".to_owned()),
        (_, Some(signal)) if CRASHES.contains(&signal) => ("crashed", former.to_string()),
        _ => ("ended", former.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_a_restart_is_what_was_seen_or_the_end_of_the_process() {
        let killed = |signal| FormerEnd::Killed(signal as i32);
        for (former, seen, reason, detail) in [
            (
                FormerEnd::Exited(1),
                Some(SessionEnd::Closed),
                "ended",
                "it exited with 1",
            ),
            (killed(Signal::SIGKILL), None, "ended", "it was killed by SIGKILL"),
            (FormerEnd::Killed(40), None, "ended", "it was killed by signal 40"),
            (
                killed(Signal::SIGSEGV),
                Some(SessionEnd::Closed),
                "crashed",
                "it was killed by SIGSEGV",
            ),
            (killed(Signal::SIGABRT), None, "crashed", "it was killed by SIGABRT"),
            (
                killed(Signal::SIGSYS),
                Some(SessionEnd::Closed),
                "sandbox",
                "system call",
            ),
            (
                killed(Signal::SIGKILL),
                Some(SessionEnd::Silent),
                "stalled",
                "did not reply",
            ),
        ] {
            let (found, text) = restart_reason(former, seen);
            assert_eq!(found, reason, "{text}");
            assert!(text.contains(detail), "{text}");
            assert!(REASONS.contains(&found));
        }
    }
}
