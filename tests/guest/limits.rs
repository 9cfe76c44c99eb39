//! Cgroups without a systemd unit: evenkeel writes their files, and never those of another cgroup of the same path.

use super::*;

/// A cgroup at the top of the tree with all controllers, and a process in it that uses all processors.
struct Group {
    path: String,
    burner: std::process::Child,
}

impl Group {
    fn make(name: &str) -> Self {
        std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +io +memory +pids").expect("controllers");
        let path = format!("/{name}");
        std::fs::create_dir(format!("/sys/fs/cgroup{path}")).expect("a cgroup");
        let burner = burn_in(&path);
        Group { path, burner }
    }

    fn end_burner(&mut self) {
        let _ = self.burner.kill();
        let _ = self.burner.wait();
        eventually("the cgroup to be empty", TIMEOUT, || {
            read(&self.path, "cgroup.events").contains("populated 0").then_some(())
        });
    }

    fn home(&self, actions: &str) -> Home {
        home(&format!("{{cgroup: '{}'}}", self.path), actions)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(format!("/sys/fs/cgroup{}/cgroup.kill", self.path), "1");
        let _ = self.burner.wait();
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup{}", self.path));
    }
}

fn burn_in(path: &str) -> std::process::Child {
    let script = format!("echo $$ >/sys/fs/cgroup{path}/cgroup.procs; while :; do :; done");
    let burner = std::process::Command::new("sh")
        .args(["-c", &script])
        .spawn()
        .expect("a shell");
    eventually("the burner to be in its cgroup", TIMEOUT, || {
        read(path, "cgroup.events").contains("populated 1").then_some(())
    });
    burner
}

const FILES: [&str; 9] = [
    "cpu.max",
    "cpu.weight",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "io.max",
    "io.weight",
    "pids.max",
    "cgroup.freeze",
];

#[test]
fn files_are_set_and_restored_even_after_a_kill() {
    let group = Group::make("plain");
    std::fs::write("/sys/fs/cgroup/plain/io.max", "254:0 rbps=7000000").expect("a limit");
    let state = || FILES.map(|file| read(&group.path, file));
    let before = state();
    let home = group.home(
        "[{cgroup: {cpu.max: -90%, cpu.weight: 20, memory.high: 64MiB, memory.max: 128MiB, memory.swap.max: 0, \
         io.max: 254:0 wbps=1MiB, io.weight: 30, pids.max: 40}}]",
    );
    let mut evenkeel = enforce(&home);
    assert!(processors(&group.path) > 0.5);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 8.0);
    assert_eq!(read(&group.path, "cpu.max"), "20000 100000");
    assert_eq!(read(&group.path, "memory.swap.max"), "0");
    assert!(read(&group.path, "io.max").contains("rbps=7000000 wbps=1048576"));
    let during = processors(&group.path);
    assert!(during < 0.3, "{during} processors of 0.2");
    evenkeel.kill();
    let evenkeel = home.start_again(&evenkeel, &FLAGS);
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 8.0);
    assert_eq!(state(), before);
}

#[test]
fn new_cgroup_at_the_same_path_is_left_alone() {
    let mut group = Group::make("again");
    let home = group.home("[{cgroup: {cpu.weight: 20}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    group.end_burner();
    std::fs::remove_dir("/sys/fs/cgroup/again").expect("it is empty");
    std::fs::create_dir("/sys/fs/cgroup/again").expect("a cgroup");
    std::fs::write("/sys/fs/cgroup/again/cpu.weight", "20").expect("a weight");
    resolve(&evenkeel);
    outcomes(&evenkeel, "changed_identity", 1.0);
    assert_eq!(
        read("/again", "cpu.weight"),
        "20",
        "another program's, though it looks like ours"
    );
}

#[test]
fn disabled_controller_is_reported() {
    let group = Group::make("outer");
    std::fs::create_dir("/sys/fs/cgroup/outer/inner").expect("a cgroup");
    let home = home("{cgroup: /outer/inner}", "[{cgroup: {memory.high: 1GiB}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "failed", 1.0);
    assert!(home.ledger_has_row_with(&["the controller memory is not enabled"]));
    std::fs::remove_dir("/sys/fs/cgroup/outer/inner").expect("it is empty");
    drop(group);
}
