//! The start of the sampler, which waits for the first sample.

use crate::cli;
use crate::host::self_priority::{self, SelfProtection};
use crate::sense::{CollectorOptions, Groups, Roots, Sampler, SamplerConfig, Sampling, Subscriber};
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::sync::oneshot;

/// Starts the sampler and waits for its first sample. Meanwhile the runtime serves the engine's requests.
///
/// The calling thread loses its raised priority: only the sampler inherits it, because the sandbox lets no thread raise
/// its own.
///
/// # Errors
/// When a thread cannot be started, or the first files cannot be read.
pub async fn start_sampler(
    run: &cli::Run,
    sampling: Sampling,
    groups: &Groups,
    subscriber: Box<dyn Subscriber>,
) -> io::Result<Sampler> {
    let config = SamplerConfig {
        roots: Roots::new(&run.roots.procfs, &run.roots.sysfs, &run.roots.rootfs),
        options: CollectorOptions {
            process_groups: Arc::clone(groups),
            slow_interval: sampling.slow_interval,
            udev_data: run.udev_data.clone(),
            ..run.collectors.options.clone()
        },
        sampling,
        collectors: run.collectors.chosen(),
        self_protection: SelfProtection::of(run.no_self_protection),
    };
    let (done, started) = oneshot::channel();
    let thread = thread::Builder::new().name("first-sample".into()).spawn(move || {
        // There is no receiver when the runtime ends.
        let _ = done.send(Sampler::start(config, subscriber));
    });
    self_priority::reset_priority();
    thread?;
    started.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
