//! The watch for pressure: a thread that sleeps until the kernel reports that tasks begin to stall for processors,
//! memory or I/O (Documentation/accounting/psi.rst, "Monitoring for pressure thresholds"). It only wakes the sampler.

use super::roots::Roots;
use super::snapshot::EarlyCause;
use crate::host::self_priority;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

/// The shorter window needs CAP_SYS_RESOURCE; without it the kernel accepts only multiples of 2 s.
const WINDOWS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Regular samples see pressure that goes on; only its onset cannot wait for them.
const ONSET: Duration = Duration::from_secs(10);

/// File, cause, and the share of a window in which tasks must have stalled. Tasks often wait for processors and disks,
/// but rarely for memory.
const WATCHED: [(&str, EarlyCause, f64); 3] = [
    ("pressure/cpu", EarlyCause::CpuPressure, 0.5),
    ("pressure/memory", EarlyCause::MemoryPressure, 0.1),
    ("pressure/io", EarlyCause::IoPressure, 0.5),
];

/// A handle that ends the watch when dropped.
pub struct PressureWatch {
    _end: PipeWriter,
}

/// Starts the watch for the pressures that this kernel supports, if any.
///
/// # Errors
/// When no thread can be started.
pub fn start(roots: &Roots, wake: impl Fn(EarlyCause) -> bool + Send + 'static) -> io::Result<Option<PressureWatch>> {
    let mut triggers = Vec::new();
    for (path, cause, share) in WATCHED {
        match arm(roots, path, share) {
            Ok(file) => triggers.push((file, Onset::new(cause))),
            Err(error) => tracing::debug!(file = path, %error, "pressure trigger not supported"),
        }
    }
    if triggers.is_empty() {
        tracing::info!("pressure triggers not supported, regular samples only");
        return Ok(None);
    }
    let (ended, end) = io::pipe()?;
    thread::Builder::new()
        .name("pressure-watch".to_owned())
        .spawn(move || {
            self_priority::reset_priority();
            watch(triggers, &ended, wake);
        })?;
    Ok(Some(PressureWatch { _end: end }))
}

/// Opens a pressure file with a trigger: `poll` returns POLLPRI when the threshold is reached.
fn arm(roots: &Roots, path: &str, share: f64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(roots.proc(path))?;
    // A copy of a procfs must not be written to.
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Errno::ENOTSUP.into());
    }
    let mut refused = Errno::EINVAL.into();
    for window in WINDOWS {
        let stall = window.mul_f64(share);
        match file.write_all(format!("some {} {}\0", stall.as_micros(), window.as_micros()).as_bytes()) {
            Ok(()) => return Ok(file),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn watch(mut triggers: Vec<(File, Onset)>, ended: &PipeReader, wake: impl Fn(EarlyCause) -> bool) {
    while !triggers.is_empty() {
        let end = PollFd::new(ended.as_fd(), PollFlags::POLLIN);
        let watched = triggers
            .iter()
            .map(|(file, _)| PollFd::new(file.as_fd(), PollFlags::POLLPRI));
        let mut polled: Vec<PollFd> = std::iter::once(end).chain(watched).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return tracing::warn!(%error, "pressure watch stopped"),
        }
        let events: Vec<PollFlags> = polled
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        if !events[0].is_empty() {
            return;
        }
        let now = Instant::now();
        for ((_, onset), events) in triggers.iter_mut().zip(&events[1..]) {
            if events.contains(PollFlags::POLLPRI) && onset.begins(now) && !wake(onset.cause) {
                return;
            }
        }
        // A trigger that the kernel removed reports POLLERR for ever.
        let mut events = events[1..].iter();
        triggers.retain(|_| events.next().is_none_or(|events| !events.contains(PollFlags::POLLERR)));
    }
}

/// Distinguishes the onset of a pressure from its continuation.
struct Onset {
    cause: EarlyCause,
    last: Option<Instant>,
}

impl Onset {
    fn new(cause: EarlyCause) -> Onset {
        Onset { cause, last: None }
    }

    fn begins(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= ONSET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::Tree;

    #[test]
    fn lasting_pressure_has_one_onset() {
        let start = Instant::now();
        let mut onset = Onset::new(EarlyCause::IoPressure);
        let begins = [0, 2, 9, 18, 29, 30].map(|second| onset.begins(start + Duration::from_secs(second)));
        assert_eq!(begins, [true, false, false, false, true, false]);
    }

    #[test]
    fn copy_of_procfs_is_not_written_to() {
        let tree = Tree::new();
        tree.proc("pressure/memory", "some avg10=0.00");
        assert!(start(&tree.roots, |_| true).unwrap().is_none());
        let text = std::fs::read_to_string(tree.roots.proc("pressure/memory")).unwrap();
        assert_eq!(text, "some avg10=0.00");
    }
}
