//! The connection to the service manager that started evenkeel (sd_notify(3)): readiness, the status line and the
//! watchdog. Without `NOTIFY_SOCKET` it does nothing.

use crate::engine::run::{EngineHandle, Input};
use crate::telemetry::Telemetry;
use std::future::Future;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// Interval of the status line. A host with steady alerts sends nothing, because only changes are sent.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// Messages of the watchdog within its timeout, so that one may be late.
const BEATS_PER_TIMEOUT: u32 = 3;
/// Maximum wait for a service manager whose queue is full.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// A message that the service manager may understand.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// The daemon serves.
    Ready,
    Stopping,
    /// The daemon works.
    Watchdog,
    /// The line that `systemctl status` shows.
    Status(String),
}

impl Notification {
    fn encode(&self) -> String {
        match self {
            Notification::Ready => "READY=1".to_owned(),
            Notification::Stopping => "STOPPING=1\nSTATUS=shutting down, reverting leases".to_owned(),
            Notification::Watchdog => "WATCHDOG=1".to_owned(),
            Notification::Status(line) => format!("STATUS={}", line.replace('\n', " ")),
        }
    }
}

/// The service manager of this process.
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The service manager that the environment names.
    pub fn from_environment() -> ServiceManager {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|path| match connect(path.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, socket = %path.display(), "service manager unreachable");
                None
            }
        });
        let [timeout, pid] = ["WATCHDOG_USEC", "WATCHDOG_PID"].map(|name| std::env::var(name).ok());
        ServiceManager {
            socket,
            watchdog: watchdog_timeout(timeout.as_deref(), pid.as_deref(), std::process::id()),
        }
    }

    pub fn notify(&self, notification: &Notification) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(notification.encode().as_bytes()) {
            tracing::warn!(%error, "service manager not notified");
        }
    }

    /// Sends the status line where it changed, and the watchdog's message after each answer of the engine, until
    /// `stopped`. An engine that does not answer ends the messages, so that the service manager restarts evenkeel. It
    /// runs on the main thread's runtime, as HTTP or the channel to the frontend does, so that a main thread that hangs
    /// ends them as well.
    pub async fn report(
        self: Arc<Self>,
        engine: Option<EngineHandle>,
        telemetry: Telemetry,
        stopped: impl Future<Output = ()>,
    ) {
        if self.socket.is_none() {
            return;
        }
        let beat = self.watchdog.map(|timeout| timeout / BEATS_PER_TIMEOUT);
        let mut ticks = tokio::time::interval(beat.map_or(STATUS_INTERVAL, |beat| beat.min(STATUS_INTERVAL)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let work = async {
            let mut last = String::new();
            loop {
                ticks.tick().await;
                let line = status_line(&telemetry);
                if line != last {
                    self.notify(&Notification::Status(line.clone()));
                    last = line;
                }
                if self.watchdog.is_some() && answers(engine.as_ref()).await {
                    self.notify(&Notification::Watchdog);
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = stopped => {}
        }
    }
}

fn connect(path: &[u8]) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// The timeout of `WatchdogSec=`, if it is meant for this process.
fn watchdog_timeout(microseconds: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let timeout = Duration::from_micros(microseconds?.parse().ok()?);
    (!timeout.is_zero()).then_some(timeout)
}

/// Waits for the engine to answer; false if it restarts after a panic. A host without an engine only publishes.
async fn answers(engine: Option<&EngineHandle>) -> bool {
    let Some(engine) = engine else { return true };
    let (reply, answer) = tokio::sync::oneshot::channel();
    engine.try_send(Input::Ping(reply)) && answer.await.is_ok()
}

/// Mode, rules, alerts and leases, and what an operator must know.
fn status_line(telemetry: &Telemetry) -> String {
    if let Some(reason) = telemetry.actuator_off() {
        return format!("only metrics: {reason}");
    }
    let state = telemetry.state();
    let mode = if state.enforce { "enforce" } else { "dry-run" };
    let alerts: usize = state.alerts_firing.values().sum();
    let leases: usize = state.leases.values().sum();
    let mut line = format!("{mode}: {} rules, {alerts} alerts firing, {leases} leases", state.rules);
    let remarks = [
        (state.paused, "paused"),
        (state.is_ledger_lost, "ledger not writable"),
        (telemetry.reload().failed, "last reload refused"),
    ];
    for (_, remark) in remarks.iter().filter(|(applies, _)| *applies) {
        line.push_str("; ");
        line.push_str(remark);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_of_another_process_is_ignored() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_timeout(Some("1000000"), None, 7), second);
        assert_eq!(watchdog_timeout(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog_timeout(Some("1000000"), Some("8"), 7), None);
        assert_eq!(watchdog_timeout(Some("1000000"), Some("x"), 7), None);
        assert_eq!(watchdog_timeout(Some("0"), None, 7), None);
        assert_eq!(watchdog_timeout(Some("soon"), None, 7), None);
        assert_eq!(watchdog_timeout(None, None, 7), None);
    }

    #[test]
    fn socket_may_be_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("evenkeel-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let receivers = [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().as_bytes().to_vec()),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                format!("@{name}").into_bytes(),
            ),
        ];
        for (receiver, address) in receivers {
            let manager = ServiceManager {
                socket: Some(connect(&address).unwrap()),
                watchdog: None,
            };
            manager.notify(&Notification::Status("a\nREADY=1".into()));
            let mut bytes = [0; 64];
            let length = receiver.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"STATUS=a READY=1");
        }
    }

    #[test]
    fn watchdog_waits_for_the_answer_of_the_engine() {
        let patience = Duration::from_secs(60);
        let (socket, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_read_timeout(Some(patience)).unwrap();
        let manager = Arc::new(ServiceManager {
            socket: Some(socket),
            watchdog: Some(Duration::from_millis(30)),
        });
        let message = || {
            let mut bytes = [0; 128];
            let length = receiver.recv(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        let (engine_handle, inputs) = EngineHandle::new();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(manager.report(Some(engine_handle), Telemetry::default(), async { drop(stopped.await) }));
        });
        let Input::Ping(reply) = inputs.recv_timeout(patience).unwrap().input else {
            panic!("not asked");
        };
        assert!(message().unwrap().starts_with("STATUS="));
        // Three times the interval of the messages.
        receiver.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        assert!(message().is_err(), "the engine has not answered");
        receiver.set_read_timeout(Some(patience)).unwrap();
        reply.send(()).unwrap();
        assert_eq!(message().unwrap(), "WATCHDOG=1");
        drop(stop);
        drop(inputs);
        thread.join().unwrap();
    }

    #[test]
    fn status_line_names_what_an_operator_must_know() {
        let telemetry = Telemetry::default();
        assert_eq!(status_line(&telemetry), "dry-run: 0 rules, 0 alerts firing, 0 leases");
        telemetry.reloaded(None);
        assert_eq!(
            status_line(&telemetry),
            "dry-run: 0 rules, 0 alerts firing, 0 leases; last reload refused"
        );
        telemetry.set_actuator_off("no boot id".into());
        assert_eq!(status_line(&telemetry), "only metrics: no boot id");
    }
}
