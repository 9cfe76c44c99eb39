//! A recording of a host's processes and cgroups in a file, on which `explain` can run elsewhere and later.

use crate::host::fake::FakeHost;
use crate::host::{Host, Knob, Moment, Value};
use crate::knob::limit::{CgroupFile, Setting};
use crate::process::cpu_baseline::{CpuBaseline, MIN_CPU_WINDOW};
use crate::process::{Process, ProcessFields};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Version of the format. Files of other versions are rejected.
const VERSION: u32 = 1;
/// All fields that a rule may need.
const EVERYTHING: ProcessFields = ProcessFields::CMDLINE
    .union(ProcessFields::EXE)
    .union(ProcessFields::HOST_PROGRAM)
    .union(ProcessFields::LOGIN)
    .union(ProcessFields::USER)
    .union(ProcessFields::REAL_UID)
    .union(ProcessFields::CGROUP)
    .union(ProcessFields::SIGNALS)
    .union(ProcessFields::OOM_SCORE);

/// The state of a host. It contains command lines, which may contain secrets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    #[serde(rename = "evenkeel_recording")]
    version: u32,
    recorded_at: Timestamp,
    /// CLOCK_BOOTTIME.
    boot_now: Duration,
    /// The names by which the host recognises alerts about itself.
    pub names: Vec<String>,
    cpus: u32,
    /// Pids of the daemon and its ancestors, or of the recorder if no daemon ran.
    #[serde(default)]
    own_ancestors: BTreeSet<i32>,
    processes: Vec<Recorded>,
    /// The cgroups of cgroup v2. Their members are the processes with their paths. An older recording without this
    /// field
    #[serde(default)]
    cgroups: Option<Vec<RecordedCgroup>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    process: Process,
    /// The values of the main thread.
    values: Vec<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedCgroup {
    path: String,
    /// `None` where the memory controller is not enabled.
    memory_bytes: Option<u64>,
    is_frozen: bool,
    settings: Vec<Setting>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("it is no recording of a host: {0}; `evenkeel explain --record FILE` makes one")]
    NotOne(#[from] serde_json::Error),
    #[error("it is a recording of version {0}, and this evenkeel reads version {VERSION}")]
    Version(u32),
}

/// Records all readable fields of every process. Calls `wait` between two readings, to measure processor use.
///
/// # Errors
/// When the process table cannot be listed.
pub fn record(host: &mut impl Host, names: Vec<String>, wait: impl FnOnce(Duration)) -> std::io::Result<Recording> {
    let baseline = CpuBaseline::take(&host.processes()?, host.now().boot);
    wait(MIN_CPU_WINDOW);
    let mut table = host.processes()?;
    let Moment { boot, wall } = host.now();
    baseline.measure(&mut table, boot);
    let mut processes = Vec::new();
    for mut process in table {
        if !host.read_details(&mut process, EVERYTHING) {
            continue;
        }
        let id = process.identity;
        // Unreadable values have the kernel's default in the replay.
        let values = Knob::ALL
            .into_iter()
            .filter_map(|knob| host.get(id, id.main_thread(), knob).ok());
        let values = values.collect();
        processes.push(Recorded { process, values });
    }
    Ok(Recording {
        version: VERSION,
        recorded_at: wall,
        boot_now: boot,
        names,
        cpus: host.online_cpus().last().map_or(1, |last| last + 1),
        own_ancestors: host.own_ancestors(),
        processes,
        cgroups: Some(record_cgroups(host)),
    })
}

/// Records the cgroups; empty on a host without cgroup v2. Values of disabled controllers have the kernel's default in
/// the replay.
fn record_cgroups(host: &mut impl Host) -> Vec<RecordedCgroup> {
    let mut recorded = Vec::new();
    for cgroup in host.cgroups().unwrap_or_default() {
        let mut read = |knob| Some(host.read_cgroup(&cgroup, knob).ok()?.value);
        let settings = CgroupFile::ALL
            .into_iter()
            .filter_map(|file| match read(Knob::Cgroup(file)) {
                Some(Value::Cgroup(setting)) => Some(setting),
                _ => None,
            });
        let settings = settings.collect();
        recorded.push(RecordedCgroup {
            is_frozen: read(Knob::Freeze) == Some(Value::Freeze(true)),
            memory_bytes: cgroup.memory_bytes,
            settings,
            path: cgroup.path,
        });
    }
    recorded
}

/// Reads a recording.
///
/// # Errors
/// When the bytes are no recording, or one of another version.
pub fn read(bytes: &[u8]) -> Result<Recording, RecordingError> {
    let recording: Recording = serde_json::from_slice(bytes)?;
    if recording.version == VERSION {
        Ok(recording)
    } else {
        Err(RecordingError::Version(recording.version))
    }
}

impl Recording {
    /// A fake host with the recorded state. Its clock does not advance.
    pub fn host(self) -> FakeHost {
        let mut host = FakeHost::new(self.cpus, self.recorded_at);
        host.now.boot = self.boot_now;
        host.own_ancestors = self.own_ancestors;
        for Recorded { mut process, values } in self.processes {
            // The start is exact, but the age refers to the time at which the process was read.
            process.age = self.boot_now.saturating_sub(process.born_at);
            if let (None, Some(path)) = (&self.cgroups, &process.details.cgroup) {
                host.add_cgroup(path);
            }
            let id = host.add(process);
            for thread in host.threads(id).unwrap_or_default() {
                for value in &values {
                    // This cannot fail, because the process was just added.
                    let _ = host.set(id, thread, value);
                }
            }
        }
        for recorded in self.cgroups.unwrap_or_default() {
            let cgroup = host.add_cgroup(&recorded.path);
            cgroup.memory_bytes = recorded.memory_bytes.unwrap_or(0);
            cgroup.is_frozen = recorded.is_frozen;
            let settings = recorded.settings.into_iter();
            cgroup
                .settings
                .extend(settings.map(|setting| (setting.file(), setting)));
        }
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::LinuxHost;
    use crate::process::table::Procfs;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_host_plays_back_as_it_was_recorded() {
        let mut live = LinuxHost::new(Procfs::open(Path::new("/proc")).unwrap(), Arc::new(|_| ()));
        let recording = record(&mut live, vec!["web1".into()], |_| ()).unwrap();
        let bytes = serde_json::to_vec(&recording).unwrap();
        let played = read(&bytes).unwrap();
        assert_eq!(played.names, ["web1"]);
        let mut host = played.host();
        let pid = std::process::id() as i32;
        let mut process = host.process(pid).unwrap();
        assert!(host.read_details(&mut process, EVERYTHING));
        assert_eq!(
            process.details.exe.as_deref(),
            std::env::current_exe().unwrap().to_str()
        );
        assert_eq!(process.identity, live.process(pid).unwrap().identity);
        assert!(host.own_ancestors().contains(&pid));
    }

    #[test]
    fn cgroups_play_back_with_memory_limits_and_members() {
        let mut live = FakeHost::new(1, Timestamp::UNIX_EPOCH);
        let path = "/batch.slice/encode.service";
        let cgroup = live.add_cgroup(path);
        cgroup.memory_bytes = 3 << 30;
        cgroup.is_frozen = true;
        let high = Setting::parse(CgroupFile::MemoryHigh, "1073741824").unwrap();
        cgroup.settings.insert(CgroupFile::MemoryHigh, high.clone());
        let mut process = Process::example(100, "encode");
        process.details.cgroup = Some(path.to_owned());
        live.add(process);

        let recording = record(&mut live, vec![], |_| ()).unwrap();
        let bytes = serde_json::to_vec(&recording).unwrap();
        let mut played = read(&bytes).unwrap().host();
        let found = played.cgroup(path).unwrap();
        assert_eq!(found.memory_bytes, Some(3 << 30));
        assert_eq!(played.members(&found).unwrap(), [100]);
        let mut value = |knob| played.read_cgroup(&found, knob).unwrap().value;
        assert_eq!(value(Knob::Cgroup(CgroupFile::MemoryHigh)), Value::Cgroup(high));
        assert_eq!(value(Knob::Freeze), Value::Freeze(true));

        let mut older: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        older.as_object_mut().unwrap().remove("cgroups");
        let mut played = read(older.to_string().as_bytes()).unwrap().host();
        let found = played.cgroup(path).unwrap();
        assert_eq!(
            (found.memory_bytes, played.members(&found).unwrap()),
            (Some(0), vec![100])
        );
    }

    #[test]
    fn invalid_recording_is_rejected() {
        assert!(read(b"{}").is_err());
        let mut host = FakeHost::new(1, Timestamp::UNIX_EPOCH);
        let mut recording = record(&mut host, vec![], |_| ()).unwrap();
        recording.version = 7;
        let error = read(&serde_json::to_vec(&recording).unwrap()).unwrap_err();
        assert!(error.to_string().contains("version 7"), "{error}");
    }
}
