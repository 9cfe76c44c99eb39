//! The frontend: a process of its own for both listeners, without privileges and files, where evenkeel is started as root.
//! `starter` starts it, on orders through `starter_channel`; `process` is what runs in it; `client` and `session` are the
//! two ends of its channel, and `supervisor` serves one frontend after the other.

mod client;
pub mod frame;
pub mod message;
pub mod process;
pub mod session;
pub mod starter;
pub mod starter_channel;
pub mod supervisor;

use super::log::ProcessLog;
use crate::cli;
use crate::host::self_priority;
use crate::sandbox::OwnUser;
use crate::telemetry::Telemetry;
use starter_channel::Starter;

/// The names in the process table.
pub use crate::host::own_processes::{FRONTEND, FRONTEND_STARTER as STARTER};

/// Starts the process that starts the frontend. The error says why there is no frontend.
pub fn start(run: &cli::Run, log: &mut ProcessLog, telemetry: &Telemetry) -> Result<Starter, String> {
    if run.no_sandbox {
        return Err("--no-sandbox".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("evenkeel was not started as root".to_owned());
    }
    // The starter and each frontend have a copy of the heap.
    self_priority::release_free_heap();
    let frontend = |sockets, log: &mut ProcessLog| process::run(sockets, OwnUser::find(), log, telemetry);
    starter::start(log, frontend).map_err(|error| {
        tracing::error!(%error, "could not start the process for HTTP, the main process serves it");
        error.to_string()
    })
}
