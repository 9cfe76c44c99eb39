//! The signals that stop the daemon or reload its configuration.

use crate::engine::run::LeasesAtExit;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub enum SignalRequest {
    Stop(LeasesAtExit),
    Reload,
}

/// The handlers of all signals.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// SIGUSR1: exit, and keep the leases.
    hand_over: Signal,
}

impl Signals {
    /// Installs the handlers. Call it in a runtime.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn handle() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            hand_over: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop(LeasesAtExit::AsConfigured),
            _ = self.interrupt.recv() => SignalRequest::Stop(LeasesAtExit::AsConfigured),
            _ = self.hand_over.recv() => SignalRequest::Stop(LeasesAtExit::Kept),
            _ = self.hangup.recv() => SignalRequest::Reload,
        }
    }
}
