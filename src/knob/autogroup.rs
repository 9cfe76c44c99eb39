//! `autogroup`: the nice value of the autogroup of a process (`/proc/PID/autogroup`, sched(7), "The autogroup
//! feature").
//!
//! With `kernel.sched_autogroup_enabled` the kernel shares the processors among sessions (setsid(2)), and plain nice
//! values count only within one. The value belongs to the session: a step on one process changes the share of all
//! processes of its session. So does each lease on another process of the same session, which saves the value that it
//! finds and restores that one. Rules with this step should select one process for each session.

use super::privileges::{CAP_SYS_NICE, Privileges};
use super::process_knob::{Invalid, ProcessKnob, Reach};
use super::scheduling;
use super::thread_access::{Access, HostError};
use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Kind, optional};
use crate::yaml::Fields;
use std::io;
use std::time::Duration;

/// Without CAP_SYS_ADMIN the kernel allows one write in 100 ms, by all processes of the host together, and refuses
/// others with EAGAIN (`proc_sched_autogroup_set_nice` of kernel/sched/autogroup.c).
const WRITE_ATTEMPTS: usize = 10;
const WRITE_PAUSE: Duration = Duration::from_millis(50);

pub struct Autogroup;

impl ProcessKnob for Autogroup {
    /// -20 (most favoured) to 19.
    type Value = i32;

    const KEY: Key = optional(
        "autogroup",
        Kind::Integer(-20, 19),
        "Nice value of the session (autogroup) of the process, for all its processes. Reverted.",
    );
    const ABOUT_VALUE: &'static str = "Nice value of the session (autogroup) of the process.";
    const IS_PER_THREAD: bool = false;
    /// A child in the same session has no value of its own, and a new session begins with 0.
    const IS_INHERITED: bool = false;
    const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_NICE.union(CapabilitySet::DAC_OVERRIDE);

    fn read(fields: &Fields, findings: &mut Findings) -> Option<Result<Change, Invalid>> {
        let nice = fields.integer(Self::KEY.name, findings)?;
        Some(Ok(Change::To(Value::Autogroup(i32::try_from(nice.value).ok()?))))
    }

    fn get(thread: &mut dyn Access) -> Result<i32, HostError> {
        let text = match thread.read(Self::KEY.name) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                thread.process()?;
                return Err(failed(thread, "this kernel has no autogroups (CONFIG_SCHED_AUTOGROUP)"));
            }
            Err(error) => return Err(HostError::of_call(Self::KEY.name, "root", thread.pid(), error)),
        };
        nice_in(&text).ok_or_else(|| failed(thread, "the process is in no autogroup"))
    }

    fn set(thread: &mut dyn Access, nice: &i32) -> Result<(), HostError> {
        let mut attempts = 1;
        loop {
            match thread.write(Self::KEY.name, "CAP_SYS_NICE", &nice.to_string()) {
                Err(HostError::Failed { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock && attempts < WRITE_ATTEMPTS =>
                {
                    attempts += 1;
                    std::thread::sleep(WRITE_PAUSE);
                }
                result => return result,
            }
        }
    }

    fn favours(nice: &i32, other: &i32) -> bool {
        nice < other
    }

    /// The value to restore may be negative, which needs the capability.
    fn may_undo(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.need(CAP_SYS_NICE)
    }

    fn may_reach_others(privileges: &Privileges) -> Result<(), &'static str> {
        privileges.others_files
    }

    fn reach(thread: &mut dyn Access) -> Reach {
        if !scheduling::has_autogroups(thread.sysctl(scheduling::AUTOGROUPS)) {
            return Reach::None("kernel.sched_autogroup_enabled is 0: the kernel does not use autogroups".to_owned());
        }
        match scheduling::cgroup_with_share(thread) {
            Some(path) => Reach::None(format!(
                "its cgroup {path} has a share of the processors of its own (cpu.weight), which counts instead of \
                 its autogroup"
            )),
            None => Reach::Full,
        }
    }
}

/// The nice value in `/autogroup-123 nice 0`. A process outside of autogroups has an empty file.
fn nice_in(text: &str) -> Option<i32> {
    let (_, nice) = text.trim_end().rsplit_once(" nice ")?;
    nice.parse().ok()
}

fn failed(thread: &dyn Access, why: &str) -> HostError {
    HostError::Failed {
        what: Autogroup::KEY.name,
        pid: thread.pid(),
        source: io::Error::other(why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::apply;
    use crate::host::{Host, LinuxHost, Thread};
    use crate::knob::Knob;
    use crate::ledger::Outcome;
    use crate::process::table::Procfs;
    use crate::simulate::test;
    use std::fs;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::sync::Arc;

    const RULE: &str = "
rules:
  - name: calm
    matchers: ['alertname=\"Busy\"']
    select: {name: ffmpeg}
    actions: [{autogroup: 10}]
";

    struct Session(Child);

    impl Drop for Session {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that leads a session of its own.
    fn session() -> Session {
        let mut command = Command::new("sleep");
        command.arg("600");
        // SAFETY: setsid(2) is safe between fork and exec.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        Session(command.spawn().unwrap())
    }

    fn linux(procfs: &Path) -> LinuxHost {
        LinuxHost::new(Procfs::open(procfs).unwrap(), Arc::new(|_| ()))
    }

    /// The value of process 7 in a procfs with this setting, and why a step on it fails.
    fn in_procfs(setting: Option<&str>, autogroup: Option<&str>) -> (Result<Value, String>, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000001");
        let stat = "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n";
        write("7/stat", stat);
        write("7/task/7/stat", stat);
        write("7/cgroup", "0::/\n");
        setting.inspect(|text| write("sys/kernel/sched_autogroup_enabled", text));
        autogroup.inspect(|text| write("7/autogroup", text));
        let mut host = linux(root);
        let id = host.process(7).unwrap().identity;
        let main = host.threads(id).unwrap()[0];
        let value = host.get(id, main, Knob::Autogroup).map_err(|error| error.to_string());
        let change = Change::To(Value::Autogroup(5));
        let prepared = apply::read(&mut host, id, Knob::Autogroup)
            .and_then(|saved| apply::prepare(&mut host, id, &change, &Value::Autogroup(0), saved));
        let failure = prepared.err().filter(|failure| failure.outcome == Outcome::Failed);
        (value, failure.map(|failure| failure.reason))
    }

    #[test]
    fn a_step_of_a_rule_sets_it_and_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let test = "
rule_files: [rules.yml]
tests:
  - name: the session yields while the alert fires
    processes: [{pid: 100, name: ffmpeg, threads: 2}]
    timeline:
      - at: 0s
        fire: {alertname: Busy}
        expect: [{pid: 100, step: autogroup 10, outcome: applied, before: 0, after: 10}]
        values: [{pid: 100, autogroup: 10}]
      - at: 1m
        resolve: {alertname: Busy}
        expect: [{pid: 100, step: undo autogroup, outcome: restored, after: 0}]
        values: [{pid: 100, autogroup: 0}]
";
        fs::write(folder.path().join("rules.yml"), RULE).unwrap();
        fs::write(folder.path().join("test.yml"), test).unwrap();
        let report = test::run(&folder.path().join("test.yml"));
        assert!(report.is_ok(), "{}", report.text(false));
    }

    #[test]
    fn a_value_out_of_range_is_a_finding() {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yml");
        fs::write(&rules, RULE.replace("10", "20")).unwrap();
        let test = "{rule_files: [rules.yml], tests: [{name: a, timeline: [{at: 0s}]}]}";
        fs::write(folder.path().join("test.yml"), test).unwrap();
        let found = test::run(&folder.path().join("test.yml")).text(false);
        assert!(
            found.contains("`autogroup` must be a whole number from -20 to 19"),
            "{found}"
        );
    }

    #[test]
    fn a_real_session_gets_the_value_and_its_own_back() {
        let child = session();
        let mut host = linux(Path::new("/proc"));
        let id = host.process(child.0.id() as i32).unwrap().identity;
        let main = Thread {
            tid: id.pid,
            start_ticks: id.start_ticks,
        };
        if !fs::exists("/proc/self/autogroup").unwrap() {
            let error = host.get(id, main, Knob::Autogroup).unwrap_err().to_string();
            assert!(error.contains("CONFIG_SCHED_AUTOGROUP"), "{error}");
            return;
        }
        // Twice in a row, which the kernel refuses for a moment without CAP_SYS_ADMIN.
        for nice in [0, 7, -3, 0] {
            host.set(id, main, &Value::Autogroup(nice)).unwrap();
            assert_eq!(host.get(id, main, Knob::Autogroup).unwrap(), Value::Autogroup(nice));
        }
    }

    #[test]
    fn a_host_without_autogroups_is_a_reason_to_fail() {
        let found = in_procfs(Some("1\n"), Some("/autogroup-42 nice -5\n"));
        assert_eq!(found, (Ok(Value::Autogroup(-5)), None));
        let (value, failure) = in_procfs(Some("0\n"), Some("/autogroup-42 nice 0\n"));
        assert_eq!(value, Ok(Value::Autogroup(0)), "what was set can still be restored");
        let why = failure.unwrap();
        assert!(why.contains("kernel.sched_autogroup_enabled is 0"), "{why}");
        for (autogroup, expected) in [(None, "CONFIG_SCHED_AUTOGROUP"), (Some(""), "in no autogroup")] {
            let (value, failure) = in_procfs(Some("1\n"), autogroup);
            let (error, why) = (value.unwrap_err(), failure.unwrap());
            assert!(error.contains(expected) && why.contains(expected), "{error} {why}");
        }
    }
}
