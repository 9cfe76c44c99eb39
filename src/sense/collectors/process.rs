//! `process`: CPU time, memory and files of evenkeel itself (`process_*`), under the names of the Prometheus client
//! libraries. It reads `/proc`, which is right even where `--path.procfs` names another host's.

use super::info::{CollectorInfo, Pace};
use super::stat::parse_boot_time;
use crate::family::Family;
use crate::process::proc_dir::OpenProcess;
use crate::process::table::{Procfs, TICKS_PER_SECOND};
use crate::sense::runtime::kernel_file::{ReadError, read_record};
use crate::sense::runtime::snapshot::SampleTime;
use rustix::process::{Resource, getrlimit};
use std::path::Path;
use std::time::Duration;

/// The published metrics.
const METRICS: &str = "\
    process_cpu_seconds_total process_max_fds process_open_fds process_resident_memory_bytes \
    process_start_time_seconds process_virtual_memory_bytes process_virtual_memory_max_bytes";

pub const INFO: CollectorInfo = CollectorInfo::on("process", Pace::Fast, "evenkeel itself: process_*", METRICS, |_| {
    let mut own = None;
    Box::new(move |_| {
        let own = match &mut own {
            Some(own) => own,
            None => own.insert(OwnProcess::open()?),
        };
        own.follow_clock(SampleTime::now())?;
        own.read()
    })
});

/// A difference of the clocks from which the clock was set. A clock that is only corrected differs by less within hours.
const SET_SECONDS: f64 = 1.0;

/// The directory of evenkeel's process in `/proc`, open, and the time of the boot.
struct OwnProcess {
    procfs: Procfs,
    directory: OpenProcess,
    /// Unix time of the boot, in seconds. `/proc/stat` is expensive to read, so it is read again only where the clock
    /// was set meanwhile.
    booted_at: f64,
    /// The wall clock less the time since the boot, in seconds, when `booted_at` was read.
    clock_offset: f64,
}

fn clock_offset(now: SampleTime) -> f64 {
    now.wall.as_duration().as_secs_f64() - now.boot.as_secs_f64()
}

impl OwnProcess {
    fn open() -> Result<OwnProcess, ReadError> {
        let root = Path::new("/proc");
        let procfs = Procfs::for_metrics(root);
        let opened = OpenProcess::open(&procfs, std::process::id() as i32);
        Ok(OwnProcess {
            directory: opened.map_err(|source| ReadError::io(root, source))?,
            procfs,
            booted_at: 0.0,
            clock_offset: f64::INFINITY,
        })
    }

    /// Reads the time of the boot again where the clock was set.
    fn follow_clock(&mut self, now: SampleTime) -> Result<(), ReadError> {
        let clock_offset = clock_offset(now);
        if (clock_offset - self.clock_offset).abs() > SET_SECONDS {
            self.booted_at = read_record(Path::new("/proc/stat"), parse_boot_time)?;
            self.clock_offset = clock_offset;
        }
        Ok(())
    }

    fn read(&self) -> Result<Vec<Family>, ReadError> {
        let process = self.directory.read_stat(&self.procfs, Duration::ZERO);
        let process = process.ok_or(ReadError::Absent("no entry for this process in /proc"))?;
        let mut families = vec![
            Family::counter(
                "process_cpu_seconds_total",
                "Processor time that evenkeel used, in seconds.",
            )
            .value(process.cpu_ticks as f64 / TICKS_PER_SECOND as f64),
            Family::gauge(
                "process_resident_memory_bytes",
                "Memory of evenkeel that is resident, in bytes.",
            )
            .value(process.resident_bytes as f64),
            Family::gauge("process_virtual_memory_bytes", "Address space of evenkeel, in bytes.")
                .value(process.virtual_bytes as f64),
            Family::gauge(
                "process_virtual_memory_max_bytes",
                "Address space that evenkeel may use, in bytes; the largest 64-bit number without a limit.",
            )
            .value(getrlimit(Resource::As).current.unwrap_or(u64::MAX) as f64),
            Family::gauge("process_start_time_seconds", "Unix time at which evenkeel started.")
                .value(self.booted_at + (process.identity.start_ticks / TICKS_PER_SECOND) as f64),
        ];
        let mut count = |name, help, value: Option<u64>| {
            families.extend(value.map(|value| Family::gauge(name, help).value(value as f64)));
        };
        count(
            "process_open_fds",
            "File descriptors that evenkeel has open.",
            self.directory.count_fds(),
        );
        count(
            "process_max_fds",
            "File descriptors that evenkeel may open.",
            getrlimit(Resource::Nofile).current,
        );
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::SampleValue;

    #[test]
    fn own_process_has_memory_files_and_start_time() {
        let mut own = OwnProcess::open().unwrap();
        own.follow_clock(SampleTime::now()).unwrap();
        let families = own.read().unwrap();
        assert_eq!(families.len(), 7);
        for family in families
            .iter()
            .filter(|family| family.name != "process_cpu_seconds_total")
        {
            assert!(
                matches!(family.point(0).value, SampleValue::Number(value) if *value >= 1.0),
                "{family:?}"
            );
        }
    }

    #[test]
    fn time_of_the_boot_is_read_again_where_the_clock_was_set() {
        let mut own = OwnProcess::open().unwrap();
        let now = SampleTime::now();
        let later = |milliseconds| SampleTime {
            wall: now.wall + Duration::from_millis(milliseconds),
            ..now
        };
        for (at, is_read) in [
            (later(0), true),
            (later(1), false),
            (later(3600), true),
            (later(3601), false),
        ] {
            own.follow_clock(at).unwrap();
            assert_eq!(own.booted_at != 0.0, is_read);
            own.booted_at = 0.0;
        }
    }
}
