//! `process`: CPU time, memory and files of evenkeel itself (`process_*`), under the names of the Prometheus client
//! libraries. `sysinfo` reads its own `/proc`, which is right even where `--path.procfs` names another host's.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The published metrics.
const METRICS: &str = "\
    process_cpu_seconds_total process_max_fds process_open_fds process_resident_memory_bytes \
    process_start_time_seconds process_virtual_memory_bytes";

pub const INFO: CollectorInfo = CollectorInfo::on("process", Pace::Slow, "evenkeel itself: process_*", METRICS, |_| {
    let mut own = OwnProcess::default();
    Box::new(move |_| own.read())
});

#[derive(Default)]
pub struct OwnProcess {
    system: Option<System>,
}

impl OwnProcess {
    pub fn read(&mut self) -> Result<Vec<Family>, ReadError> {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        let pid = Pid::from_u32(std::process::id());
        let system = match &mut self.system {
            Some(system) => system,
            none => none.insert(System::new().map_err(|error| ReadError::System(error.to_string()))?),
        };
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        let process = system
            .process(pid)
            .ok_or(ReadError::Absent("no entry for this process in /proc"))?;
        let mut families = vec![
            Family::counter(
                "process_cpu_seconds_total",
                "Processor time that evenkeel used, in seconds.",
            )
            .value(process.accumulated_cpu_time() as f64 / 1e3),
            Family::gauge(
                "process_resident_memory_bytes",
                "Memory of evenkeel that is resident, in bytes.",
            )
            .value(process.memory() as f64),
            Family::gauge("process_virtual_memory_bytes", "Address space of evenkeel, in bytes.")
                .value(process.virtual_memory() as f64),
            Family::gauge("process_start_time_seconds", "Unix time at which evenkeel started.")
                .value(process.start_time() as f64),
        ];
        let mut count = |name, help, value: Option<usize>| {
            families.extend(value.map(|value| Family::gauge(name, help).value(value as f64)));
        };
        count(
            "process_open_fds",
            "File descriptors that evenkeel has open.",
            process.open_files(),
        );
        count(
            "process_max_fds",
            "File descriptors that evenkeel may open.",
            process.open_files_limit(),
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
        let families = OwnProcess::default().read().unwrap();
        assert_eq!(families.len(), 6);
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
}
