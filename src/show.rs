//! The commands other than `run`: each prints its result, such as findings, explanations, leases or history.

mod check;
mod leases;
mod listing;
mod progress;
mod status;
mod status_text;
mod unrecognised;

pub use check::check;
pub use leases::leases;
pub use status::status;

use crate::alert;
use crate::app;
use crate::cli::{Completions, Explain, History, Manual, Output, Pause, Reach, Reason, Release, Storage, Test, manual};
use crate::control::{self, ControlError, Reply, Request};
use crate::diagnostic::{printable, render_all};
use crate::engine::host_identity::HostIdentity;
use crate::host::LinuxHost;
use crate::ledger::Record;
use crate::ledger::operation::MAX_REASON;
use crate::ledger::store::read_records;
use crate::process::table::Procfs;
use crate::simulate::explain::{Explanation, explain};
use crate::simulate::{recording, test};
use crate::storage::{self, LEDGER};
use crate::terminal::{COLUMNS, Style, shell_word};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Maximum size of a payload, as for the webhook.
const MAX_PAYLOAD_BYTES: u64 = 4 << 20;
/// Maximum width, because longer lines are hard to read even on a wide terminal.
const MAX_COLUMNS: usize = 120;

fn linux_host(procfs: &Path) -> Result<LinuxHost, String> {
    let procfs = Procfs::open(procfs).map_err(|error| error.to_string())?;
    Ok(LinuxHost::new(procfs, Arc::new(|_| ())))
}

/// Runs test files and prints the differences from their expectations.
pub fn tests(command: &Test) -> ExitCode {
    let play = |file: &std::path::PathBuf| progress::during(&file.display().to_string(), || test::run(file));
    let reports: Vec<test::TestReport> = command.files.iter().map(play).collect();
    match command.output {
        Output::Json => println!("{}", json(&reports)),
        Output::Text => {
            for report in &reports {
                print!("{}", report.text(use_color()));
            }
        }
    }
    exit_code(reports.iter().all(test::TestReport::is_ok))
}

/// Prints what each rule would do for a payload, or records the host for a later explanation.
pub fn explanation(command: &Explain) -> ExitCode {
    let result = match (&command.record, &command.alert) {
        (Some(file), _) => record(command, file),
        (None, Some(payload)) => try_explain(command, payload),
        (None, None) => Err("--alert or --record is required\n".to_owned()),
    };
    match &result {
        Ok(text) => print!("{text}"),
        Err(problem) => eprint!("{problem}"),
    }
    exit_code(result.is_ok())
}

fn measure(time: Duration) {
    let what = format!("measuring processor use for {} s", time.as_secs());
    progress::during(&what, || std::thread::sleep(time));
}

fn record(command: &Explain, file: &Path) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}\n", file.display());
    let loaded = app::settings::load(&command.config).map_err(|findings| render_all(&findings, use_color()))?;
    let names = app::policy::policy(&loaded.config, loaded.rules, false)
        .host_identity
        .names()
        .to_vec();
    let (mut host, _) = daemons_host(command)?;
    let recording = recording::record(&mut host, names, measure).map_err(|error| failed(&error))?;
    // Command lines may contain secrets, so only the owner may read the file.
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| writeln!(file, "{}", json(&recording)))
        .map_err(|error| failed(&error))?;
    Ok(format!(
        "recorded; to use it: evenkeel explain --host {} --alert FILE\n",
        printable(&shell_word(&file.display().to_string()))
    ))
}

fn try_explain(command: &Explain, payload_file: &Path) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}\n", payload_file.display());
    let payload = read_payload(payload_file).map_err(|error| failed(&error))?;
    let envelope = alert::decode::decode(&payload, jiff::Timestamp::now()).map_err(|error| failed(&error))?;
    let loaded = app::settings::load(&command.config).map_err(|findings| render_all(&findings, use_color()))?;
    let mut policy = app::policy::policy(&loaded.config, loaded.rules, false);
    let (mut alerts, mut invalid) = (Vec::new(), Vec::new());
    for entry in envelope.alerts {
        match entry {
            Ok(alert) => alerts.push(alert),
            Err(why) => invalid.push(why.to_string()),
        }
    }
    let explanation: Explanation = match &command.host {
        Some(file) => {
            let failed = |error: &dyn std::fmt::Display| format!("{}: {error}\n", file.display());
            let bytes = std::fs::read(file).map_err(|error| failed(&error))?;
            let recording = recording::read(&bytes).map_err(|error| failed(&error))?;
            policy.host_identity = HostIdentity::new(loaded.config.host_names.labels.clone(), "", "", &recording.names);
            explain(&recording.host(), &policy, &alerts, invalid, command.pid, |_| ())
        }
        None => {
            let (host, hidden) = daemons_host(command)?;
            let mut explanation = explain(&host, &policy, &alerts, invalid, command.pid, measure);
            // Without a daemon there are no episodes.
            if let Ok(Reply::Leases { unconfirmed, .. }) = control::request(&command.storage.path, &Request::Leases, "")
            {
                explanation.note_unconfirmed(&alerts, &unconfirmed);
            }
            Explanation {
                remarks: hidden.into_iter().collect(),
                ..explanation
            }
        }
    };
    Ok(match command.output {
        Output::Json => format!("{}\n", json(&explanation)),
        Output::Text => explanation.text(style()),
    })
}

/// This host as the daemon sees it, because the daemon protects itself and its ancestors, and the option that hides
/// processes from it. Without a daemon, the host as this command sees it.
fn daemons_host(command: &Explain) -> Result<(LinuxHost, Option<String>), String> {
    let host = linux_host(&command.roots.procfs).map_err(|error| format!("{error}\n"))?;
    let hidden = host.procfs().hides_processes();
    let host = match control::daemon_pid(&command.storage.path) {
        Some(pid) => host.seen_by(pid),
        None => host,
    };
    Ok((host, hidden))
}

fn read_payload(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path)?),
    };
    source.take(MAX_PAYLOAD_BYTES).read_to_end(&mut payload)?;
    Ok(payload)
}

/// Prints the audit trail, oldest of the newest first.
pub fn history(command: &History) -> ExitCode {
    let is_wanted = |record: &Record| {
        command.rule.as_ref().is_none_or(|rule| record.rule == *rule)
            && command.pid.is_none_or(|pid| {
                record
                    .target
                    .as_ref()
                    .is_some_and(|(target, _)| target.pid() == Some(pid))
            })
    };
    let read = if command.rule.is_some() || command.pid.is_some() {
        usize::MAX >> 1
    } else {
        command.limit
    };
    let records = progress::during("reading the ledger", || {
        let storage = &command.query.storage.path;
        // Another user could show a history that is none, or lead SQLite to another file.
        storage::check_as_client(&storage.join(LEDGER)).map_err(|refused| refused.to_string())?;
        match storage.join(LEDGER).try_exists() {
            Ok(false) => Err(format!(
                "{}: there is no ledger yet; did evenkeel run with this --storage.path?",
                storage.display()
            )),
            _ => read_records(storage, read).map_err(|error| error.to_string()),
        }
    });
    finish(records.map(|records| {
        let mut wanted: Vec<&Record> = records
            .iter()
            .filter(|record| is_wanted(record))
            .take(command.limit)
            .collect();
        wanted.reverse();
        match command.query.output {
            Output::Json => wanted.iter().map(|record| format!("{}\n", json(record))).collect(),
            Output::Text => listing::history(&wanted, style()),
        }
    }))
}

fn ask(what: &str, storage: &Path, request: &Request, reason: &Reason) -> Result<Reply, String> {
    if reason.text.chars().count() > MAX_REASON {
        return Err(format!("--reason is too long: at most {MAX_REASON} characters"));
    }
    progress::during(what, || control::request(storage, request, &reason.text)).map_err(|error| error.to_string())
}

/// Releases leases by hand.
pub fn release(command: &Release) -> ExitCode {
    if let Some(rule) = &command.breaker {
        return close_breaker(&command.storage, rule, &command.reason);
    }
    let request = Request::Release(command.id);
    let reply = ask("releasing", &command.storage.path, &request, &command.reason);
    finish(reply.and_then(|reply| match reply {
        Reply::Released(0) if command.id.is_some() => {
            let leases = printable(&format!("evenkeel leases{}", command.storage.option()));
            Err(format!("there is no such lease; `{leases}` lists them"))
        }
        Reply::Released(count) => Ok(format!("{count} released\n")),
        other => Ok(unexpected(&other)),
    }))
}

fn close_breaker(storage: &Storage, rule: &str, reason: &Reason) -> ExitCode {
    let request = Request::CloseBreaker(rule.to_owned());
    let answer = ask("asking the daemon", &storage.path, &request, reason);
    finish(answer.and_then(|reply| match reply {
        Reply::ClosedBreaker(true) => Ok(format!("rule {rule:?} applies irreversible actions again\n")),
        Reply::ClosedBreaker(false) => Err(format!(
            "rule {rule:?} has no open breaker; `{}` lists the rules that have",
            printable(&format!("evenkeel leases{}", storage.option()))
        )),
        other => Ok(unexpected(&other)),
    }))
}

/// Pauses or resumes the daemon, or one rule.
pub fn pause(command: &Pause, paused: bool) -> ExitCode {
    let reach = &command.reach;
    if let Some(rule) = &command.rule {
        return pause_rule(reach, rule, paused);
    }
    let words = if paused {
        "paused: no new steps; leases are still reverted\n"
    } else {
        "resumed\n"
    };
    let request = Request::Pause(paused);
    let reply = ask("asking the daemon", &reach.storage.path, &request, &reach.reason);
    finish(reply.map(|_| words.to_owned()))
}

fn pause_rule(reach: &Reach, rule: &str, paused: bool) -> ExitCode {
    let request = Request::PauseRule {
        rule: rule.to_owned(),
        paused,
    };
    let answer = ask("asking the daemon", &reach.storage.path, &request, &reach.reason);
    finish(answer.and_then(|reply| match (reply, paused) {
        (Reply::PausedRule(true), true) => Ok(format!(
            "rule {rule:?} paused: no new steps; its leases are still reverted\n"
        )),
        (Reply::PausedRule(true), false) => Ok(format!("rule {rule:?} resumed\n")),
        (Reply::PausedRule(false), _) => Err(format!(
            "there is no rule {rule:?}; `{}` lists the rules",
            printable(&format!("evenkeel status --output json{}", reach.storage.option()))
        )),
        (other, _) => Ok(unexpected(&other)),
    }))
}

/// Makes the daemon load its configuration again.
pub fn reload(reach: &Reach) -> ExitCode {
    let answer = progress::during("asking the daemon", || {
        control::request(&reach.storage.path, &Request::Reload, &reach.reason.text)
    });
    match answer {
        Ok(_) => finish(Ok("reloaded\n".to_owned())),
        Err(ControlError::Refused(reason)) => {
            eprintln!(
                "{}\nerror: not reloaded, the last good configuration stays in force",
                reason.trim_end()
            );
            ExitCode::FAILURE
        }
        Err(error) => finish(Err(error.to_string())),
    }
}

/// Prints the completion script of a shell.
pub fn completions(command: &Completions) -> ExitCode {
    print_bytes(&manual::completions(command.shell))
}

/// Prints a manual page, or writes all of them.
pub fn manual(command: &Manual) -> ExitCode {
    if let Some(directory) = &command.directory {
        return match manual::write_man_pages(directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => finish(Err(format!("{}: {error}", directory.display()))),
        };
    }
    match manual::man_page(command.command.as_deref()) {
        Some(page) => print_bytes(&page),
        None => finish(Err("there is no such command; `evenkeel help` lists them".to_owned())),
    }
}

/// Ignores errors, because a reader such as `head` may close the pipe early.
fn print_bytes(bytes: &[u8]) -> ExitCode {
    drop(std::io::stdout().write_all(bytes));
    ExitCode::SUCCESS
}

fn exit_code(is_ok: bool) -> ExitCode {
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unexpected(reply: &Reply) -> String {
    format!("unexpected answer: {reply:?}\n")
}

fn finish(result: Result<String, String>) -> ExitCode {
    match &result {
        Ok(text) => print!("{text}"),
        Err(problem) => report(&format!("error: {problem}")),
    }
    exit_code(result.is_ok())
}

/// Prints a message on standard error, wrapped where that is a terminal.
fn report(message: &str) {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    let columns = size.map(|(width, _)| usize::from(width.0).min(MAX_COLUMNS));
    let style = Style { color: false, columns };
    for line in message.lines() {
        eprintln!("{}", style.wrap(line, 2).join("\n  "));
    }
}

/// The colours and the width that standard output supports.
fn style() -> Style {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    let columns = size.map_or(COLUMNS, |(width, _)| usize::from(width.0));
    Style {
        color: use_color(),
        columns: std::io::stdout().is_terminal().then_some(columns.min(MAX_COLUMNS)),
    }
}

fn use_color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys is JSON")
}
