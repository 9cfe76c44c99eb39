//! Tests of the real host with real processes and with made-up files of `/proc`.

use super::*;
use crate::knob::{IoPriority, Policy};
use crate::process::Unread;
use std::process::{Child, Command};
use std::sync::mpsc;

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper() -> (Sleeper, LinuxHost, Identity, mpsc::Receiver<Identity>) {
    let child = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
    let (sender, receiver) = mpsc::channel();
    let on_exit: OnExit = Arc::new(move |id| sender.send(id).unwrap());
    let mut host = LinuxHost::new(Procfs::open(Path::new("/proc")).unwrap(), on_exit);
    let id = host.process(child.0.id() as i32).unwrap().identity;
    (child, host, id, receiver)
}

#[test]
fn knobs_read_back_what_was_set() {
    let (_child, mut host, id, _exits) = sleeper();
    let main = host.threads(id).unwrap()[0];
    let wanted = [
        Value::Nice(7),
        Value::Ionice(IoPriority::Idle),
        Value::Sched(Policy::Batch),
        Value::Affinity("0".parse().unwrap()),
        Value::OomScoreAdj(500),
        Value::Freeze(true),
    ];
    for value in wanted {
        host.set(id, main, &value).unwrap();
        assert_eq!(host.get(id, main, value.knob()).unwrap(), value);
    }
}

#[test]
fn reset_on_fork_changes_nothing_else() {
    let (_child, mut host, id, _exits) = sleeper();
    let main = host.threads(id).unwrap()[0];
    let values = [Value::Sched(Policy::Batch), Value::Nice(7)];
    for value in &values {
        host.set(id, main, value).unwrap();
    }
    for resets in [true, false] {
        host.set_reset_on_fork(id, main, resets).unwrap();
        assert_eq!(host.resets_on_fork(id, main).unwrap(), resets);
        for value in &values {
            assert_eq!(host.get(id, main, value.knob()).unwrap(), *value);
        }
    }
}

/// A procfs in a temporary directory.
struct ProcTree(tempfile::TempDir);

impl ProcTree {
    fn new() -> ProcTree {
        let tree = ProcTree(tempfile::tempdir().unwrap());
        tree.write("sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000001");
        tree
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A link that leads to itself fails for another reason than a process that is gone, as a file does that evenkeel may
    /// not read.
    fn make_unreadable(&self, name: &str) {
        fs::remove_file(self.root().join(name)).unwrap();
        std::os::unix::fs::symlink(self.root().join(name), self.root().join(name)).unwrap();
    }

    fn host(&self) -> LinuxHost {
        LinuxHost::new(Procfs::open(self.root()).unwrap(), Arc::new(|_| ()))
    }
}

/// What the kernel says of the scheduling of the only process of a procfs.
fn reach_of_nice(autogroup: &str, cgroup: &str) -> Option<String> {
    let tree = ProcTree::new();
    let (root, write) = (tree.root(), |name: &str, text: &str| tree.write(name, text));
    write("sys/kernel/sched_autogroup_enabled", autogroup);
    let mount = root.join("cgroups");
    let mountinfo = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", mount.display());
    write("self/mountinfo", &mountinfo);
    write("cgroups/batch.slice/cpu.weight", "100");
    write("cgroups/plain.slice/cgroup.procs", "");
    write("7/cgroup", &format!("0::{cgroup}\n"));
    write("7/autogroup", "/autogroup-42 nice 0\n");
    write("7/stat", "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
    let mut host = tree.host();
    let id = host.process(7).unwrap().identity;
    match host.reach(id, Knob::Nice) {
        Reach::Limited(why) => Some(why),
        _ => None,
    }
}

#[test]
fn it_is_said_among_whom_nice_counts() {
    let within = |cgroup| reach_of_nice("0\n", cgroup);
    let said = within("/batch.slice").unwrap();
    assert!(said.contains("/batch.slice") && said.contains("cpu.weight"), "{said}");
    assert_eq!((within("/plain.slice"), within("/")), (None, None));
    let said = reach_of_nice("1\n", "/plain.slice").unwrap();
    assert!(
        said.contains("sched_autogroup_enabled") && said.contains("session 42"),
        "{said}"
    );
    // A share of the cgroup counts before that of the session.
    assert!(reach_of_nice("1\n", "/batch.slice").unwrap().contains("cpu.weight"));
}

#[test]
fn process_that_cannot_be_read_is_not_taken_for_gone() {
    let tree = ProcTree::new();
    for stat in ["7/stat", "7/task/7/stat"] {
        tree.write(stat, "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
    }
    tree.write("7/oom_score_adj", "0\n");
    let mut host = tree.host();
    let id = host.process(7).unwrap().identity;
    let main = id.main_thread();
    assert_eq!(host.get(id, main, Knob::OomScoreAdj).unwrap(), Value::OomScoreAdj(0));

    tree.make_unreadable("7/task/7/stat");
    let error = host.get(id, main, Knob::OomScoreAdj).unwrap_err();
    assert!(matches!(error, HostError::Failed { .. }), "{error}");
    let error = host.threads(id).unwrap_err();
    assert!(matches!(error, HostError::Failed { .. }), "{error}");
    tree.make_unreadable("7/stat");
    assert!(host.find_process(7).is_err() && host.process(7).is_none());
    assert!(host.is_alive(id) && !host.is_ending(id));

    fs::remove_dir_all(tree.root().join("7")).unwrap();
    assert!(matches!(host.threads(id), Err(HostError::Gone { .. })));
    assert!(!host.is_alive(id) && host.is_ending(id));
}

#[test]
fn ancestor_that_may_not_be_read_ends_the_own_line_only() {
    let tree = ProcTree::new();
    for (pid, parent, name) in [
        (3, 1, "sshd"),
        (5, 3, "bash"),
        (7, 5, "evenkeel"),
        (8, 7, "evenkeel-start"),
        (9, 8, "evenkeel-runner"),
        (10, 9, "command"),
    ] {
        let text = format!("{pid} ({name}) S {parent} 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
        tree.write(&format!("{pid}/stat"), &text);
    }
    for (pid, children) in [(7, "8 "), (8, "9 "), (9, "10 ")] {
        tree.write(&format!("{pid}/task/{pid}/children"), children);
    }
    // As with hidepid, which hides the processes of other users.
    tree.make_unreadable("3/stat");
    let line = own_processes::line_of(tree.host().procfs(), 7).unwrap();
    assert_eq!(line, [3, 5, 7, 8, 9].into());
}

#[test]
fn another_start_time_is_another_process() {
    let (_child, mut host, id, _exits) = sleeper();
    let other = Identity {
        start_ticks: id.start_ticks + 1,
        ..id
    };
    assert!(matches!(
        host.signal(other, Signal::SIGKILL),
        Err(HostError::ChangedIdentity { .. })
    ));
    assert!(matches!(host.threads(other), Err(HostError::ChangedIdentity { .. })));
    let thread = Thread {
        tid: id.pid,
        start_ticks: id.start_ticks + 1,
    };
    assert!(matches!(
        host.set(id, thread, &Value::Nice(3)),
        Err(HostError::ChangedIdentity { .. })
    ));
    assert!(host.is_alive(id));
}

#[test]
fn a_stopped_process_is_seen_to_be_and_sigkill_reaches_it() {
    let (_child, mut host, id, exits) = sleeper();
    assert_eq!(host.suspensions(id), []);
    let main = host.threads(id).unwrap()[0];
    host.set(id, main, &Value::Freeze(true)).unwrap();
    assert_eq!(host.suspensions(id), [Suspension::Stopped]);
    host.watch_exit(id);
    host.signal(id, Signal::SIGTERM).unwrap();
    assert!(
        exits.recv_timeout(Duration::from_millis(200)).is_err(),
        "it stays pending"
    );
    host.signal(id, Signal::SIGKILL).unwrap();
    assert_eq!(exits.recv_timeout(Duration::from_secs(10)).unwrap(), id);
}

/// A procfs of one process, whose command line makes every reader wait: a pipe that has no writer.
fn host_with_a_blocking_cmdline(root: &Path) -> LinuxHost {
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000001");
    write("7/stat", "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
    std::os::unix::fs::symlink("/usr/bin/x", root.join("7/exe")).unwrap();
    nix::unistd::mkfifo(&root.join("7/cmdline"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    LinuxHost::new(Procfs::open(root).unwrap(), Arc::new(|_| ()))
}

#[test]
fn unreadable_command_line_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host_with_a_blocking_cmdline(folder.path());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut process = host.process(7).unwrap();
        let is_it = host.read_details(&mut process, ProcessFields::CMDLINE | ProcessFields::EXE);
        let _ = sender.send((is_it, process.details));
    });
    let (is_it, details) = receiver
        .recv_timeout(Duration::from_secs(10))
        .expect("an answer in time");
    assert!(is_it);
    assert_eq!((details.cmdline, details.exe.as_deref()), (None, Some("/usr/bin/x")));
    assert_eq!(details.unread, Some(Unread::Blocked));
}

#[test]
fn a_command_line_that_can_be_read_again_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host_with_a_blocking_cmdline(folder.path());
    let read = |host: &mut LinuxHost| {
        let mut process = host.process(7).unwrap();
        assert!(host.read_details(&mut process, ProcessFields::CMDLINE));
        process.details
    };
    assert_eq!(read(&mut host).unread, Some(Unread::Blocked));
    let begun = std::time::Instant::now();
    assert_eq!(read(&mut host).unread, Some(Unread::Blocked));
    assert!(begun.elapsed() < timed_calls::PATIENCE, "it is waited for once");
    let pipe = folder.path().join("7/cmdline");
    let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    fs::remove_file(&pipe).unwrap();
    fs::write(&pipe, "x\0--all\0").unwrap();
    drop(writer);
    while host.procfs().calls.as_ref().unwrap().blocked() > 0 {
        std::thread::yield_now();
    }
    let details = read(&mut host);
    assert_eq!((details.cmdline.as_deref(), details.unread), (Some("x --all"), None));
}

#[test]
fn process_that_blocks_readers_is_reported_not_selected() {
    use crate::act::guard::Protection;
    use crate::engine::select::select;
    use crate::process::selector::{Condition, Pattern};
    let folder = tempfile::tempdir().unwrap();
    let mut host = host_with_a_blocking_cmdline(folder.path());
    let mut rule = crate::rule::example("end", "signal TERM");
    let selector = Selector {
        conditions: vec![Condition::Cmdline(Pattern::fixed(".*").unwrap())],
    };
    rule.target_selector = crate::rule::TargetSelector::Processes(selector.clone());
    let ward = Protection {
        own_ancestors: &BTreeSet::new(),
        protect: &[],
    };
    let table = [host.process(7).unwrap()];
    let selection = select(&mut host, &table, &rule, &selector, &ward);
    assert!(selection.matches.is_empty());
    let told = ward.screen(&rule, &selection.unreadable[0]).unwrap_err();
    assert!(told.reason.contains("timed out"), "{told:?}");
}

#[test]
fn exit_of_a_watched_process_is_reported() {
    let (_child, mut host, id, exits) = sleeper();
    host.watch_exit(id);
    host.signal(id, Signal::SIGKILL).unwrap();
    assert_eq!(exits.recv_timeout(Duration::from_secs(10)).unwrap(), id);
}
