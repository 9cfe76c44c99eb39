//! A target process: threads that burn CPU or rest on command, under its own name.
//!
//! The process is this test binary, started again: the test at the end of this file sees the variable and becomes the
//! burner.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::eventually;
use super::process::Process;

const VARIABLE: &str = "EVENKEEL_TEST_BURNER";
const THREADS: usize = 4;
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Burner {
    process: Process,
}

impl Burner {
    /// Starts a resting burner. `name` is what the kernel shows as its comm: 15 bytes at most.
    pub fn start(name: &str) -> Self {
        assert!(name.len() <= 15, "the kernel would cut {name}");
        let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
        command
            .args([
                "--exact",
                "support::burner::burner_burns_and_rests_on_command",
                "--nocapture",
            ])
            .env(VARIABLE, name);
        let process = Process::start(name, &mut command);
        let burner = Burner { process };
        eventually("the burner's threads", START_TIMEOUT, || {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", burner.pid())).ok()?;
            // A thread gets its name before its nice value, which tests read only once it is final.
            let is_ready = |thread: &&Thread| {
                let index = thread
                    .comm
                    .strip_prefix("burn-")
                    .and_then(|index| index.parse::<usize>().ok());
                index.is_some_and(|index| thread.nice == own_nice(index))
            };
            let started = burner.threads().iter().filter(is_ready).count();
            (comm.trim_end() == name && started == THREADS).then_some(())
        });
        burner
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn burn(&mut self) {
        self.tell("burn");
    }

    pub fn rest(&mut self) {
        self.tell("rest");
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.process.stdin(), "{word}").expect("the burner listens");
    }

    /// The nice value of every thread, by thread id.
    pub fn nice_values(&self) -> Vec<(u32, i32)> {
        self.threads().iter().map(|thread| (thread.tid, thread.nice)).collect()
    }

    /// Whether every thread has this nice value.
    pub fn is_at(&self, nice: i32) -> bool {
        let values = self.nice_values();
        values.len() >= THREADS && values.iter().all(|(_, value)| *value == nice)
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    fn threads(&self) -> Vec<Thread> {
        threads(self.pid())
    }

    /// Serves `burner_runnable_threads` on loopback for a Prometheus to scrape.
    ///
    /// Runnable threads count, not running ones: on a busy machine a nice burner gets little time, and an alert about
    /// that time would resolve because of its own action.
    pub fn serve_metrics(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let pid = self.pid();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = std::io::BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                    line.clear();
                }
                let runnable = threads(pid).iter().filter(|thread| thread.state == 'R').count();
                let body = format!("burner_runnable_threads {runnable}\n");
                // The client may have disconnected.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        address
    }
}

struct Thread {
    tid: u32,
    comm: String,
    state: char,
    nice: i32,
}

fn threads(pid: u32) -> Vec<Thread> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.filter_map(|stat| parse_stat(&stat)).collect()
}

/// Parses `tid (comm) state … nice …` of proc(5): state is field 3 and nice field 19; comm may contain parentheses.
fn parse_stat(stat: &str) -> Option<Thread> {
    let (tid, rest) = stat.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Thread {
        tid: tid.parse().ok()?,
        comm: comm.to_owned(),
        state: fields.first()?.chars().next()?,
        nice: fields.get(16)?.parse().ok()?,
    })
}

/// Nice values differ by thread, so that restoring all of them to the same one fails a test.
fn own_nice(index: usize) -> i32 {
    i32::try_from(index % 3).expect("small")
}

/// The main function of the burner.
fn burn_until_stdin_ends(name: &str) {
    static BURNING: AtomicBool = AtomicBool::new(false);
    for index in 0..THREADS {
        let work = move || {
            rustix::process::setpriority_process(Some(rustix::thread::gettid()), own_nice(index))
                .expect("raising nice is free");
            loop {
                if BURNING.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                } else {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("burn-{index}"))
            .spawn(work)
            .expect("a thread");
    }
    // The leader's name is the name of the process, and this thread is not the leader.
    std::fs::write("/proc/self/comm", name).expect("a process may name itself");
    for word in std::io::stdin().lines().map_while(Result::ok) {
        BURNING.store(word == "burn", Ordering::Relaxed);
    }
    std::process::exit(0);
}

#[test]
fn burner_burns_and_rests_on_command() {
    if let Ok(name) = std::env::var(VARIABLE) {
        burn_until_stdin_ends(&name);
    }
    let mut burner = Burner::start("burner-itself");
    let mut values: Vec<i32> = burner.nice_values().iter().map(|(_, nice)| *nice).collect();
    values.sort_unstable();
    assert_eq!(
        values[values.len() - 2..],
        [1, 2],
        "threads start at different nice values"
    );

    let address = burner.serve_metrics();
    let runnable = || {
        let answer = super::http::get(address, "/metrics").expect("the burner's endpoint answers");
        super::metrics::Scrape::parse(&answer.body).sum("burner_runnable_threads", &[])
    };
    burner.burn();
    eventually("all threads to want a processor", START_TIMEOUT, || {
        (runnable() == Some(4.0)).then_some(())
    });
    burner.rest();
    eventually("all threads to rest", START_TIMEOUT, || {
        (runnable() == Some(0.0)).then_some(())
    });
}
