//! A child process that ends with its test, and whose output is shown when the test fails.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::eventually;

const EXIT_TIMEOUT: Duration = Duration::from_secs(15);

pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    collectors: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the command and collects the lines it prints on both streams.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let collectors = vec![
            collect(child.stdout.take().expect("stdout is piped"), Arc::clone(&log)),
            collect(child.stderr.take().expect("stderr is piped"), Arc::clone(&log)),
        ];
        Process {
            name: name.to_owned(),
            child,
            log,
            collectors,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> &mut impl std::io::Write {
        self.child.stdin.as_mut().expect("stdin is piped")
    }

    /// The output of the process so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("the collecting threads do not panic").clone()
    }

    /// The complete output of an exited process.
    pub fn whole_log(&mut self) -> Vec<String> {
        for collector in self.collectors.drain(..) {
            collector.join().expect("collecting does not panic");
        }
        self.log()
    }

    /// The exit status, if the process has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is our child")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid fits"));
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Sends a signal and waits for the exit.
    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        eventually(&format!("{} to end by {signal}", self.name), EXIT_TIMEOUT, || {
            self.ended()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {} said:\n{}", self.name, self.log().join("\n"));
        }
    }
}

/// The child process with this name.
pub fn child(parent: u32, name: &str) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?;
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|pids| pids.split(' ').flat_map(str::parse).collect::<Vec<_>>())
        .collect();
    let is_it =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    children.into_iter().find(is_it)
}

fn collect(stream: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().expect("no thread panics with the log locked").push(line);
        }
    })
}
