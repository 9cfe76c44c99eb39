//! The environment for trying a page of documentation: a folder, and a wrapper of `evenkeel` in front of the search
//! path.
//!
//! The folder has copies of the project's files that a page may name, and an installed configuration with a token under
//! `etc/evenkeel`. The wrapper adds free ports and such paths in place of the machine's defaults. Its `evenkeel run`
//! returns when the daemon is ready, which then runs until the page starts another one or ends.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::shipped::root;
use super::tools::{succeed, tool};
use super::{eventually, free_address};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a command in a document.
const COMMAND_SECONDS: &str = "60";

/// The folder of a page, and the daemon that its commands started.
pub struct Desk {
    dir: TempDir,
    metrics: SocketAddr,
    webhook: SocketAddr,
    /// The process groups of the commands, which may have background jobs.
    groups: RefCell<Vec<Pid>>,
}

const STAND_IN: &str = r#"#!/usr/bin/env bash
# evenkeel as a document's commands meet it.
set -eu
home=HOME_FOLDER
stop() {
    if [ -e "$home/pid" ]; then
        kill "$(cat "$home/pid")" 2>/dev/null || true
        while kill -0 "$(cat "$home/pid")" 2>/dev/null; do sleep 0.05; done
        rm "$home/pid"
    fi
}
has() { local word; for word in "${@:2}"; do [[ $word == $1* ]] && return 0; done; return 1; }
more=()
case ${1:-} in run | leases | history | release | pause | resume | reload)
    has --storage.path "$@" || more+=(--storage.path="$home/var/lib/evenkeel") ;;
esac
case ${1:-} in run | check | explain)
    has --config.file "$@" || more+=(--config.file="$home/etc/evenkeel/evenkeel.yml") ;;
esac
storage=$home/var/lib/evenkeel
for word in "$@"; do [[ $word == --storage.path=* ]] && storage=${word#*=}; done
[ "${1:-}" = run ] || exec REAL "$@" ${more[@]+"${more[@]}"}
stop
has --web.listen-address "$@" || more+=(--web.listen-address=METRICS)
has --webhook.listen-address "$@" || more+=(--webhook.listen-address=WEBHOOK)
# Not for ever, even if the test cannot end it.
timeout 300 REAL "$@" "${more[@]}" >"$home/log" 2>&1 &
echo $! >"$home/pid"
for attempt in $(seq 300); do
    if grep -q 'listener=webhook' "$home/log" && [ -S "$storage/control.sock" ]; then exit 0; fi
    kill -0 "$(cat "$home/pid")" 2>/dev/null || break
    sleep 0.05
done
cat "$home/log"
exit 1
"#;

impl Desk {
    /// A folder with copies of what ships, and free ports.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let desk = Desk {
            dir,
            metrics: free_address(),
            webhook: free_address(),
            groups: RefCell::default(),
        };
        let path = desk.dir.path();
        for folder in ["bin", "etc/evenkeel", "var/lib", "target/release"] {
            std::fs::create_dir_all(path.join(folder)).expect("a writable folder");
        }
        for to in [path.to_owned(), path.join("etc/evenkeel")] {
            let mut copy = Command::new("cp");
            let from = ["rules", "alerting", "evenkeel.yml"].map(|name| root().join(name));
            succeed(copy.arg("-r").args(from).arg(&to));
            for name in ["webhook.token", "alertmanager.token"] {
                std::fs::write(to.join(name), "the-token-of-the-documents\n").expect("a writable folder");
            }
        }
        let installed = path.join("etc/evenkeel/evenkeel.yml");
        let text = std::fs::read_to_string(&installed).expect("a copy") + "webhook: {token_file: webhook.token}\n";
        std::fs::write(installed, text).expect("a writable folder");
        let stand_in = STAND_IN
            .replace("HOME_FOLDER", &format!("{:?}", path.display().to_string()))
            .replace("REAL", &format!("{:?}", env!("CARGO_BIN_EXE_evenkeel")))
            .replace("METRICS", &desk.metrics.to_string())
            .replace("WEBHOOK", &desk.webhook.to_string());
        std::fs::write(path.join("bin/evenkeel"), stand_in).expect("a writable folder");
        succeed(Command::new("chmod").arg("+x").arg(path.join("bin/evenkeel")));
        std::os::unix::fs::symlink(path.join("bin/evenkeel"), path.join("target/release/evenkeel")).expect("a link");
        for name in ["promtool", "amtool"] {
            std::os::unix::fs::symlink(tool(name).get_program(), path.join("bin").join(name)).expect("a link");
        }
        desk
    }

    /// Runs a script as a reader would, and returns its output of both streams.
    #[track_caller]
    pub fn run(&self, about: &str, script: &str) -> String {
        let path = self.dir.path();
        let script = script
            .replace("/etc/evenkeel", &path.join("etc/evenkeel").display().to_string())
            .replace(
                "/var/lib/evenkeel",
                &path.join("var/lib/evenkeel").display().to_string(),
            )
            .replace("127.0.0.1:19797", &self.metrics.to_string())
            .replace("localhost:19797", &self.metrics.to_string())
            .replace("127.0.0.1:19798", &self.webhook.to_string())
            // A test must not listen on all interfaces.
            .replace("=:19798", &format!("={}", self.webhook));
        let search = std::env::var("PATH").unwrap_or_default();
        let output = path.join("output");
        let write = || std::fs::File::create(&output).expect("a writable folder");
        // A file, because a background job would keep a pipe open.
        let file = write();
        // Starts from nice 0, as a login does, even if the tests run at another nice value.
        let own = rustix::process::getpriority_process(None).expect("an own priority");
        let mut command = Command::new("nice");
        command
            .args(["-n", &(-own).to_string(), "timeout", COMMAND_SECONDS])
            .args(["bash", "-euo", "pipefail", "-c", &script])
            .current_dir(path)
            .env("PATH", format!("{}:{search}", path.join("bin").display()))
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{about}: {error}"));
        // `timeout` leads a group of its own.
        self.groups.borrow_mut().push(Pid::from_raw(child.id().cast_signed()));
        let status = child.wait().expect("the command is our child");
        let said = String::from_utf8_lossy(&std::fs::read(&output).expect("the output")).into_owned();
        assert!(status.success(), "{about}: {status}\n{script}\n{said}");
        said
    }

    /// Makes a file in the folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        std::fs::write(path, text).expect("a writable folder");
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for group in self.groups.take() {
            let _ = killpg(group, Signal::SIGTERM);
        }
        // The daemon is a grandchild, and `timeout` forwards the signal.
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).ok();
        if let Some(pid) = pid.and_then(|text| text.trim().parse().ok()) {
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGTERM);
            eventually("the daemon of a document to end", TIMEOUT, || {
                kill(pid, None).is_err().then_some(())
            });
        }
    }
}
