//! A configuration folder of evenkeel, and the daemon with this configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use evenkeel::host::own_processes::LINES;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::metrics::Scrape;
use super::process::{Process, child};
use super::tools::succeed;
use super::{eventually, http};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);
const ANY_PORT: &str = "127.0.0.1:0";

/// The token of every test's webhook listener.
pub const TOKEN: &str = "the-token-of-the-tests";

/// A configuration folder: `evenkeel.yml`, `rules/test.yml`, `webhook.token`, and the ledger under `storage`.
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// `rules` is the text of a rule file.
    pub fn new(rules: &str) -> Self {
        let home = Home {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        std::fs::create_dir(home.path().join("rules")).expect("a writable folder");
        home.write("rules/test.yml", rules);
        home.write("webhook.token", TOKEN);
        home.write(
            "evenkeel.yml",
            "mode: dry-run\nsampling: {interval: 1s}\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n",
        );
        home
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a writable folder");
    }

    /// `evenkeel COMMAND` on this configuration, not started yet.
    pub fn evenkeel(&self, command: &str) -> Command {
        let mut evenkeel = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        evenkeel
            .arg(command)
            .arg(format!("--config.file={}", self.path().join("evenkeel.yml").display()));
        evenkeel
    }

    /// `evenkeel run` on ports that the kernel chooses.
    pub fn start(&self, flags: &[&str]) -> Daemon {
        self.start_on(ANY_PORT, ANY_PORT, flags)
    }

    /// `evenkeel run` without a capability.
    pub fn start_without(&self, capability: &str, flags: &[&str]) -> Daemon {
        let mut command = self.without(Some(capability), &self.run_command(ANY_PORT, ANY_PORT));
        self.start_command(command.args(flags))
    }

    /// `evenkeel run` by a command that takes another one to run as its last arguments.
    pub fn start_by(&self, mut command: Command, flags: &[&str]) -> Daemon {
        let run = self.run_command(ANY_PORT, ANY_PORT);
        self.start_command(command.arg(run.get_program()).args(run.get_args()).args(flags))
    }

    /// A command without one capability in its bounding set, because root would regain a capability that it only
    /// dropped.
    pub fn without(&self, capability: Option<&str>, command: &Command) -> Command {
        let mut lessened = Command::new("setpriv");
        lessened.args(capability.map(|capability| format!("--bounding-set=-{capability}")));
        lessened.arg("--").arg(command.get_program()).args(command.get_args());
        lessened
    }

    /// `evenkeel run` on the addresses of an earlier daemon.
    pub fn start_again(&self, before: &Daemon, flags: &[&str]) -> Daemon {
        self.start_on(&before.metrics.to_string(), &before.webhook.to_string(), flags)
    }

    fn start_on(&self, metrics: &str, webhook: &str, flags: &[&str]) -> Daemon {
        self.start_command(self.run_command(metrics, webhook).args(flags))
    }

    fn start_command(&self, command: &mut Command) -> Daemon {
        let mut process = Process::start("evenkeel", command);
        let (metrics, webhook) = eventually("evenkeel to log its two addresses", START_TIMEOUT, || {
            let log = process.log();
            if let Some(status) = process.ended() {
                panic!("evenkeel ended at the start: {status}\n{}", log.join("\n"));
            }
            Some((bound_address(&log, "metrics")?, bound_address(&log, "webhook")?))
        });
        Daemon {
            metrics,
            webhook,
            process,
        }
    }

    /// Runs an `evenkeel run` that must exit by itself; returns its status and its output.
    pub fn run_to_its_end(&self, metrics: &str, webhook: &str) -> (ExitStatus, String) {
        let mut process = Process::start("evenkeel", &mut self.run_command(metrics, webhook));
        let status = eventually("evenkeel to end", START_TIMEOUT, || process.ended());
        (status, process.whole_log().join("\n"))
    }

    pub fn run_command(&self, metrics: &str, webhook: &str) -> Command {
        let mut command = self.evenkeel("run");
        command
            .arg(format!("--storage.path={}", self.path().join("storage").display()))
            .arg(format!("--web.listen-address={metrics}"))
            .arg(format!("--webhook.listen-address={webhook}"));
        command
    }

    /// Number of steps with this outcome in `evenkeel history`, over all runs with this folder.
    pub fn outcomes(&self, outcome: &str) -> usize {
        let said = succeed(
            Command::new(env!("CARGO_BIN_EXE_evenkeel"))
                .args(["history", "--output=json", "--limit=100000"])
                .arg(format!("--storage.path={}", self.path().join("storage").display())),
        );
        let records = said
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        records.filter(|record| record["outcome"] == outcome).count()
    }

    /// Whether a row of the ledger has all of these strings, in any columns.
    pub fn ledger_has_row_with(&self, texts: &[&str]) -> bool {
        let storage = std::fs::read_dir(self.path().join("storage")).expect("the daemon has made its storage");
        let is_database = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
        let files = storage.map(|entry| entry.expect("a readable folder").path());
        files
            .filter(|path| is_database(path))
            .any(|path| database_has_row_with(&path, texts).expect("a readable ledger"))
    }
}

fn database_has_row_with(path: &Path, texts: &[&str]) -> rusqlite::Result<bool> {
    let database = rusqlite::Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(5))?;
    let mut names = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    let tables: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for table in tables {
        let mut statement = database.prepare(&format!("SELECT * FROM \"{table}\""))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let cells: Vec<String> = (0..columns)
                .filter_map(|column| Some(row.get_ref(column).ok()?.as_str().ok()?.to_owned()))
                .collect();
            if texts.iter().all(|text| cells.iter().any(|cell| cell.contains(text))) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The address in the log line of a listener: `… listener=NAME … addr=ADDRESS …`.
fn bound_address(log: &[String], listener: &str) -> Option<SocketAddr> {
    let wanted = format!("listener={listener}");
    let words = |line: &String| line.split(' ').map(|word| word.replace('"', "")).collect::<Vec<_>>();
    let line = log.iter().map(words).find(|words| words.contains(&wanted))?;
    line.iter().find_map(|word| word.strip_prefix("addr=")?.parse().ok())
}

/// A running `evenkeel run`.
pub struct Daemon {
    pub metrics: SocketAddr,
    pub webhook: SocketAddr,
    process: Process,
}

impl Daemon {
    pub fn scrape_text(&self) -> String {
        let answer = http::get(self.metrics, "/metrics").expect("evenkeel answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// The sum of the metric's samples with at least these labels, 0 without samples.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Scrape::parse(&self.scrape_text()).sum(name, labels).unwrap_or(0.0)
    }

    /// The number of leases whose outcomes are recorded.
    pub fn leases(&self) -> usize {
        self.metric("evenkeel_leases", &[]) as usize
    }

    /// Waits until the outcomes of this number of leases are recorded. A daemon that is killed before reverts them.
    pub fn wait_for_leases(&self, count: usize) {
        eventually("the leases to be recorded", LEASE_TIMEOUT, || {
            (self.leases() == count).then_some(())
        });
    }

    /// Sends a payload to the webhook as Alertmanager does, token included.
    pub fn post(&self, payload: &[u8]) -> http::Response {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [
            ("Content-Type", "application/json"),
            ("Authorization", authorization.as_str()),
        ];
        http::request(self.webhook, "POST", "/webhook", &headers, payload).expect("evenkeel answers")
    }

    /// The daemon, and the processes that serve HTTP and run jobs for it.
    fn processes(&self) -> Vec<u32> {
        let lines = LINES.map(|(starter, started)| {
            let starter = child(self.pid(), starter);
            [starter, starter.and_then(|starter| child(starter, started))]
        });
        let others = lines.into_iter().flatten().flatten();
        std::iter::once(self.pid()).chain(others).collect()
    }

    /// Threads of these processes.
    pub fn threads(&self) -> usize {
        // A process may be replaced meanwhile.
        let count = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        self.processes().into_iter().map(count).sum()
    }

    /// Resident memory of these processes (`VmRSS` of proc(5)). What they share counts for each.
    pub fn resident_bytes(&self) -> u64 {
        let bytes = |pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("evenkeel runs");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line
                .and_then(|text| text.trim().strip_suffix(" kB"))
                .expect("a size in kB");
            kib.parse::<u64>().expect("a number") * 1024
        };
        self.processes().into_iter().map(bytes).sum()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Open files of these processes.
    pub fn open_descriptors(&self) -> usize {
        let count = |pid| {
            let folder = std::fs::read_dir(format!("/proc/{pid}/fd"));
            folder.expect("evenkeel runs").count()
        };
        self.processes().into_iter().map(count).sum()
    }

    /// The log so far. A thread of the daemon writes it, so a line comes after what it is about.
    pub fn log(&self) -> Vec<String> {
        self.process.log()
    }

    /// The log, once it has a line with this text.
    pub fn log_with(&self, text: &str) -> Vec<String> {
        eventually(&format!("a log line with {text:?}"), START_TIMEOUT, || {
            let log = self.log();
            log.iter().any(|line| line.contains(text)).then_some(log)
        })
    }

    /// The log, once it has the last line of the start.
    pub fn log_of_start(&self) -> Vec<String> {
        self.log_with("to send an alert")
    }

    /// The complete log of a daemon that has exited.
    pub fn whole_log(&mut self) -> Vec<String> {
        self.process.whole_log()
    }

    /// The exit status, if evenkeel has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Makes it reload by a signal.
    pub fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Stops it by SIGTERM and waits for its exit.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.end_by(Signal::SIGTERM)
    }

    /// Stops it as an upgrade does, so that it keeps its leases.
    pub fn hand_over(&mut self) -> ExitStatus {
        self.process.end_by(Signal::SIGUSR1)
    }

    /// Kills it by SIGKILL, so that it reverts nothing.
    pub fn kill(&mut self) -> ExitStatus {
        self.process.end_by(Signal::SIGKILL)
    }
}
