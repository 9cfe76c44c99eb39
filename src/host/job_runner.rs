//! The jobs of a runner: requests on its async worker, and each command on its own thread. It bounds the memory that
//! servers and commands can use.

use super::job::{Authorization, End, Job, Report, Request, Run, Server};
use super::umask;
use crate::http::client::{ClientSettings, Connection, Credentials, Secret};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Uri};
use jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest response of an allocator, which is a line of JSON.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Bytes at the end of a command's output that are kept, because the error is there; earlier ones are dropped.
const MAX_OUTPUT_BYTES: usize = 4096;
/// The mark before an output whose beginning was dropped.
const DROPPED_OUTPUT: &str = "… ";
/// Reads of 4 KiB between two checks of the timeout.
const MAX_READS: usize = 64;
/// Time between SIGTERM and SIGKILL after a command's timeout.
const GRACE_PERIOD: Duration = Duration::from_secs(5);
/// Interval between checks for the exit of a command's group; each check reads the process table.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// `PATH` of commands, as login(1) and systemd set it for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Called from any thread with the ticket and the report of a job.
pub type OnReport = Arc<dyn Fn(u64, Report) + Send + Sync>;

/// The runner of jobs. Cheap to clone.
#[derive(Clone)]
pub struct JobRunner {
    runtime: tokio::runtime::Handle,
    on_report: OnReport,
}

impl JobRunner {
    /// `on_report` may block.
    pub fn new(runtime: tokio::runtime::Handle, on_report: OnReport) -> JobRunner {
        JobRunner { runtime, on_report }
    }

    /// Returns at once; the report comes later, unless no thread can be started.
    pub fn begin(&self, ticket: u64, job: Job) {
        let on_report = Arc::clone(&self.on_report);
        match job {
            Job::Request(request, server) => drop(self.runtime.spawn(async move {
                let report = ask(request, server).await;
                drop(tokio::task::spawn_blocking(move || on_report(ticket, report)));
            })),
            Job::Command(run) => {
                let failed = Arc::clone(&on_report);
                let work = move || {
                    on_report(ticket, execute(&run));
                };
                let thread = std::thread::Builder::new().name("command".into());
                if let Err(error) = thread.spawn(work) {
                    let reason = format!("could not start a thread: {error}");
                    failed(ticket, Report::NotStarted { reason });
                }
            }
        }
    }
}

async fn ask(request: Request, server: Server) -> Report {
    let unsent = |reason: String| Report::Unanswered {
        reason,
        was_sent: false,
    };
    let url: Uri = match request.url.parse() {
        Ok(url) => url,
        Err(error) => return unsent(format!("{:?} is no URL: {error}", request.url)),
    };
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let parts = (
        request.method.parse::<Method>(),
        target.parse::<Uri>(),
        HeaderValue::from_str(&request.key),
    );
    let (Ok(method), Ok(target), Ok(key)) = parts else {
        return unsent("the request does not fit into HTTP".to_owned());
    };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(&IDEMPOTENCY_KEY, key);
    if request.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let settings = settings(server);
    let mut connection = match Connection::open(&url, &settings).await {
        Ok(connection) => connection,
        Err(error) => return unsent(error.to_string()),
    };
    let body = Bytes::from(request.body.unwrap_or_default());
    match connection.send(method, target, headers, body).await {
        Ok(reply) => Report::Answered {
            status: reply.status.as_u16(),
            body: reply.body.to_vec(),
            retry_after: retry_after(&reply.headers, Timestamp::now()),
        },
        Err(error) => Report::Unanswered {
            reason: error.to_string(),
            was_sent: true,
        },
    }
}

/// The time of `Retry-After`, which is a number of seconds or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // A date in the past asks for no delay.
    Duration::try_from(at.duration_since(now)).ok()
}

fn settings(server: Server) -> ClientSettings {
    let credentials = server.authorization.map(|authorization| match authorization {
        Authorization::Basic {
            username,
            password_file,
        } => Credentials::Basic {
            username,
            password: Secret::File(password_file),
        },
        Authorization::Header { kind, credentials_file } => Credentials::Authorization {
            kind,
            credentials: Secret::File(credentials_file),
        },
    });
    ClientSettings {
        credentials,
        trust: server.tls,
        timeout: server.timeout,
        max_body_bytes: MAX_ANSWER_BYTES,
    }
}

/// Runs a command until it exits or its timeout expires. Blocks.
fn execute(run: &Run) -> Report {
    let not_started = |reason: String| Report::NotStarted { reason };
    match start(run) {
        Err(reason) => not_started(reason),
        Ok((mut child, output)) => match attend(&mut child, output, run.timeout) {
            Ok((end, output)) => Report::Ended {
                end,
                output: output.to_text(),
            },
            Err(error) => {
                // The command must not run without supervision.
                let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                drop(child.wait());
                not_started(format!("waiting for it failed: {error}"))
            }
        },
    }
}

/// Starts a command in its own process group. Returns the child and the reading end of the pipe for both its outputs.
fn start(run: &Run) -> Result<(Child, io::PipeReader), String> {
    let (program, arguments) = run.argv.split_first().ok_or("a command without a program")?;
    let (output, input) = io::pipe().map_err(|error| error.to_string())?;
    let errors = input.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH);
    let user = match &run.user {
        Some(name) => {
            let found = User::from_name(name).map_err(|errno| format!("user {name:?}: {errno}"))?;
            Some(found.ok_or(format!("there is no user {name:?}"))?)
        }
        // In a container the user may have no name.
        None => User::from_uid(nix::unistd::geteuid()).ok().flatten(),
    };
    if let Some(user) = &user {
        command.env("HOME", &user.dir).env("USER", &user.name);
        command.env("LOGNAME", &user.name);
    }
    command.envs(&run.env);
    if let Some(user) = user.filter(|_| run.user.is_some()) {
        // As root this drops the supplementary groups, too.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").process_group(0);
    umask::pass_on(&mut command);
    command.stdin(Stdio::null()).stdout(input).stderr(errors);
    let child = command.spawn().map_err(|error| format!("{program:?}: {error}"))?;
    // The command must not inherit the oom_score_adj that systemd gave to evenkeel. Best effort, because it may have exited.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
    // Dropping `command` closes evenkeel's writing ends of the pipe, so that the reader sees the end of file.
    Ok((child, output))
}

/// The end of an output.
#[derive(Default)]
struct OutputTail {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl OutputTail {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let surplus = self.bytes.len().saturating_sub(MAX_OUTPUT_BYTES);
        self.is_cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    fn to_text(&self) -> String {
        // The cut may be within a character.
        let is_inside = |byte: &u8| self.is_cut && byte & 0b1100_0000 == 0b1000_0000;
        let start = self.bytes.iter().take(3).take_while(|byte| is_inside(byte)).count();
        let mark = if self.is_cut { DROPPED_OUTPUT } else { "" };
        format!("{mark}{}", String::from_utf8_lossy(&self.bytes[start..]))
    }
}

/// Waits for the exit of a child, and keeps the end of the output of the child and its descendants.
fn attend(child: &mut Child, mut output: io::PipeReader, timeout: Duration) -> io::Result<(End, OutputTail)> {
    let pid = child.id() as i32;
    let group = Pid::from_raw(pid);
    let pidfd = rustix::process::Pid::from_child(child);
    let pidfd: OwnedFd = rustix::process::pidfd_open(pidfd, PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let mut kept = OutputTail::default();
    let mut is_open = true;
    let mut has_ended = false;
    let mut due = Instant::now() + timeout;
    let mut sent = None;
    loop {
        // Children get the grace period as well, because a shell may exit at once while its command cleans up.
        if has_ended && (sent != Some(Signal::SIGTERM) || !has_members(group)) {
            if sent.is_some() {
                // A process of the group may have started meanwhile.
                let _ = killpg(group, Signal::SIGKILL);
            }
            let status = child.wait()?;
            let end = match (sent, status.code(), status.signal()) {
                (Some(_), ..) => End::TimedOut,
                (None, Some(code), _) => End::Status(code),
                (None, None, signal) => End::Signal(signal.unwrap_or(0)),
            };
            return Ok((end, kept));
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let next = if sent.is_none() {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            };
            // The child is reaped last, so that its group id is not reused.
            let _ = killpg(group, next);
            (sent, due) = (Some(next), Instant::now() + GRACE_PERIOD);
            continue;
        }
        let mut watched = Vec::with_capacity(2);
        if !has_ended {
            watched.push(PollFd::new(&pidfd, PollFlags::IN));
        }
        if is_open {
            watched.push(PollFd::new(&output, PollFlags::IN));
        }
        let left = if has_ended { left.min(EXIT_POLL_INTERVAL) } else { left };
        let wait = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        has_ended = has_ended || watched[0].revents().contains(PollFlags::IN);
        is_open = is_open && read_on(&mut output, &mut kept)?;
    }
}

/// Whether a process group has a running process. The caller must not have reaped its leader. If `/proc` hides the
/// leader, it may hide members as well, so this returns true.
fn has_members(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let mut is_leader_seen = false;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(member) = std::fs::read(process.path().join("stat"))
            .ok()
            .and_then(|stat| read_member(&stat))
        else {
            continue;
        };
        if member.group == group.as_raw() {
            is_leader_seen |= pid == group.as_raw();
            if member.runs {
                return true;
            }
        }
    }
    !is_leader_seen
}

struct GroupMember {
    group: i32,
    runs: bool,
}

/// Parses fields 3, 5 and 20 of `/proc/PID/stat` (proc_pid_stat(5)). A zombie with more than one thread is a process
/// whose first thread has exited while others run.
fn read_member(stat: &[u8]) -> Option<GroupMember> {
    // The name may contain parentheses and bytes that are not UTF-8.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    Some(GroupMember {
        group: fields.get(2)?.parse().ok()?,
        runs: !matches!(*fields.first()?, "Z" | "X") || threads > 1,
    })
}

/// Reads the available output. Returns false at the end of file.
fn read_on(output: &mut io::PipeReader, kept: &mut OutputTail) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    // Endless output must not prevent the check of the timeout.
    for _ in 0..MAX_READS {
        match output.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => kept.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shell(script: &str, timeout: Duration) -> Run {
        Run {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Default::default(),
            user: None,
            timeout,
        }
    }

    fn is_timed_out(report: &Report) -> bool {
        matches!(report, Report::Ended { end: End::TimedOut, .. })
    }

    #[test]
    fn members_of_a_group_are_read_from_stat() {
        let read = |stat: &[u8]| read_member(stat).map(|member| (member.group, member.runs));
        let rest = b" 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0";
        let stat = |name: &[u8], state: &[u8], threads: &[u8]| {
            [b"7 (", name, b") ", state, rest, b" ", threads, b" 0"].concat()
        };
        assert_eq!(read(&stat(b"a) R (\xff", b"S", b"1")), Some((42, true)));
        assert_eq!(read(&stat(b"a", b"Z", b"1")), Some((42, false)));
        assert_eq!(read(&stat(b"a", b"Z", b"3")), Some((42, true)));
        assert_eq!(read(b"7 (a) S"), None);
    }

    #[test]
    fn end_of_a_long_output_is_kept() {
        let run = |script: &str| match execute(&shell(script, Duration::from_secs(60))) {
            Report::Ended { end, output } => (end, output),
            report => panic!("{report:?}"),
        };
        let (end, output) = run("head -c 100000 /dev/zero | tr '\\0' x; echo; echo no space left >&2; exit 3");
        assert_eq!(end, End::Status(3));
        assert!(
            output.starts_with("… x") && output.ends_with("x\nno space left\n"),
            "{output}"
        );
        assert_eq!(run("echo short").1, "short\n");
        let mut tail = OutputTail::default();
        tail.push("é".repeat(MAX_OUTPUT_BYTES).as_bytes());
        tail.push(b"!");
        let text = tail.to_text();
        assert!(text.starts_with("… é") && text.ends_with("é!"), "{text}");
        assert!(!text.contains('\u{fffd}'));
    }

    #[test]
    fn grace_period_is_for_the_whole_group_of_a_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cleaned");
        // SIGTERM kills the shell at once. Its child needs a second to clean up.
        let script = format!(
            "(trap 'sleep 1; echo done >{}; exit' TERM; while :; do sleep 0.05; done) & wait",
            file.display()
        );
        let started = Instant::now();
        let report = execute(&shell(&script, Duration::from_secs(1)));
        assert!(is_timed_out(&report), "{report:?}");
        assert!(file.exists(), "the child was killed within its grace period");
        assert!(
            started.elapsed() < Duration::from_secs(1) + GRACE_PERIOD,
            "an empty group is not waited for"
        );
    }

    #[test]
    fn process_that_outlives_the_grace_period_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!(
            "sh -c 'trap \"\" TERM; echo $$ >{}; exec sleep 1000' >/dev/null & wait",
            file.display()
        );
        let started = Instant::now();
        let report = execute(&shell(&script, Duration::from_secs(1)));
        assert!(is_timed_out(&report), "{report:?}");
        assert!(started.elapsed() >= Duration::from_secs(1) + GRACE_PERIOD);
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the process is still alive"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 22 Nov 2026 10:02:00 GMT", Some(120)),
            ("Sun, 22 Nov 2026 09:00:00 GMT", None),
            ("-5", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
