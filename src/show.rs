//! What the short commands print: findings, explanations, leases, history. Asks others, decides nothing.

use crate::app;
use crate::cli::{Check, ConfigFile, DEFAULT_CONFIG, Explain, History, Output, Query, Reach, Release, Schema, Test};
use crate::control::{self, Reply, Request};
use crate::diagnostic::{Severity, render_all};
use crate::engine::here::Here;
use crate::host::{Host, LinuxHost};
use crate::ledger::store::read_records;
use crate::ledger::{Lease, Record};
use crate::process::Target;
use crate::process::table::Procfs;
use crate::rehearse::explain::{Explanation, explain};
use crate::rehearse::{recording, test, test_file};
use crate::{alert, config, config::Loaded, diagnostic::Diagnostic, rule, schema};
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A payload larger than the webhook takes is no payload.
const MAX_PAYLOAD_BYTES: u64 = 4 << 20;

/// Prints everything that is wrong with configuration, rules and alerting rules.
pub fn check(check: &Check) -> ExitCode {
    if let Some(kind) = check.schema {
        let root = match kind {
            Schema::Rules => &rule::file::RULE_FILE,
            Schema::Config => &config::CONFIG,
            Schema::Tests => &test_file::TEST_FILE,
        };
        println!("{:#}", schema::json_schema(root));
        return ExitCode::SUCCESS;
    }
    let (findings, summary) = match app::load(&check.config) {
        Ok(Loaded {
            warnings,
            rules,
            config,
        }) => {
            let mut warnings = warnings;
            let checked = Checked::of(&check.config);
            warnings.extend(missing_privileges(&rules));
            warnings.extend(missing_authentication(&config, &checked));
            let rules = count(rules.rules.len(), "rule");
            let files = count(config.alerting_rules.len(), "file");
            let Checked { name, hint } = checked;
            (
                warnings,
                format!("{name}: {rules} and {files} of alerting rules are fine{hint}"),
            )
        }
        Err(findings) => (findings, String::new()),
    };
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    match check.output {
        Output::Json => println!("{}", json(&findings)),
        Output::Text => {
            print!("{}", render_all(&findings, use_color()));
            if !has_errors {
                println!("{summary}");
            }
        }
    }
    if has_errors {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Which configuration was looked at, as a user would name it.
struct Checked {
    name: String,
    /// What might have been meant instead, with what joins it to a sentence.
    hint: &'static str,
}

impl Checked {
    fn of(file: &ConfigFile) -> Checked {
        let hint = match file.path {
            None if Path::new("evenkeel.yml").exists() => {
                "\nnot looked at: ./evenkeel.yml; name it with --config.file=evenkeel.yml"
            }
            _ => "",
        };
        let name = match &file.path {
            Some(path) => path.display().to_string(),
            None if Path::new(DEFAULT_CONFIG).exists() => DEFAULT_CONFIG.to_owned(),
            None => format!("what is built in (no configuration at {DEFAULT_CONFIG})"),
        };
        Checked { name, hint }
    }
}

fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// A configuration with which `run` starts only if its flags bring what is missing here.
fn missing_authentication(config: &config::Config, checked: &Checked) -> Option<Diagnostic> {
    let config::Webhook {
        token_file,
        allow_unauthenticated,
    } = &config.webhook;
    if !config.enforce || token_file.is_some() || *allow_unauthenticated {
        return None;
    }
    let message = "`mode: enforce` without authentication of alerts: `run` refuses to start without \
                   --webhook.config.file";
    let help = "set webhook: {token_file: webhook.token} and make the file: (umask 077; openssl rand -hex 32 \
                >webhook.token); or accept every local user with webhook: {allow_unauthenticated: true}";
    Some(Diagnostic::of_file(Severity::Warning, &checked.name, message, help))
}

/// Rules that whoever runs this could apply and not undo.
fn missing_privileges(rules: &crate::rule::RuleSet) -> Vec<Diagnostic> {
    let Ok(host) = linux_host(Path::new("/proc")) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for rule in &rules.rules {
        for step in &rule.actions {
            let crate::rule::Step::Set(change) = step else { continue };
            if let Err(missing) = host.may_undo(change.knob()) {
                let message = format!(
                    "rule {:?} cannot undo {} without {missing}, which this user lacks",
                    rule.name,
                    change.knob()
                );
                let help = format!(
                    "run evenkeel as root, or with AmbientCapabilities={missing}; without it the step is refused"
                );
                findings.push(Diagnostic::of_file(Severity::Warning, "privileges", message, help));
            }
        }
    }
    findings
}

fn linux_host(procfs: &Path) -> Result<LinuxHost, String> {
    let procfs = Procfs::open(procfs).map_err(|error| error.to_string())?;
    Ok(LinuxHost::new(procfs, Arc::new(|_| ())))
}

/// Plays test files and prints what differs from what they expect.
pub fn tests(command: &Test) -> ExitCode {
    let reports: Vec<test::Report> = command.files.iter().map(|file| test::run(file)).collect();
    match command.output {
        Output::Json => println!("{}", json(&reports)),
        Output::Text => {
            for report in &reports {
                print!("{}", report.text(use_color()));
            }
        }
    }
    if reports.iter().all(test::Report::is_ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what each rule would do with a payload, or records the host that it would be asked of.
pub fn explanation(command: &Explain) -> ExitCode {
    let result = match (&command.record, &command.alert) {
        (Some(file), _) => record(command, file),
        (None, Some(payload)) => try_explain(command, payload),
        (None, None) => Err("--alert or --record is needed\n".to_owned()),
    };
    match result {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprint!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn measure(time: Duration) {
    eprintln!("measuring processor use for {} s", time.as_secs());
    std::thread::sleep(time);
}

fn record(command: &Explain, file: &Path) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}\n", file.display());
    let loaded = app::load(&command.config).map_err(|findings| render_all(&findings, use_color()))?;
    let names = app::policy::policy(&loaded.config, loaded.rules, false)
        .here
        .names()
        .to_vec();
    let mut host = linux_host(&command.roots.procfs).map_err(|error| format!("{error}\n"))?;
    let recording = recording::record(&mut host, names, measure).map_err(|error| failed(&error))?;
    // Command lines may hold secrets, so nobody else may read them from the file either.
    use std::io::Write;
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
        "recorded; to ask of it: evenkeel explain --host {} --alert FILE\n",
        file.display()
    ))
}

fn try_explain(command: &Explain, payload_file: &Path) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}\n", payload_file.display());
    let payload = read_payload(payload_file).map_err(|error| failed(&error))?;
    let envelope = alert::decode::decode(&payload, jiff::Timestamp::now()).map_err(|error| failed(&error))?;
    let loaded = app::load(&command.config).map_err(|findings| render_all(&findings, use_color()))?;
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
            policy.here = Here::new(loaded.config.identity.labels.clone(), "", "", &recording.names);
            explain(&recording.host(), &policy, &alerts, invalid, command.pid, |_| ())
        }
        None => {
            let procfs = Procfs::open(&command.roots.procfs).map_err(|error| format!("{error}\n"))?;
            let hidden = procfs.hides_processes();
            let host = LinuxHost::new(procfs, Arc::new(|_| ()));
            let explanation = explain(&host, &policy, &alerts, invalid, command.pid, measure);
            Explanation {
                remarks: hidden.into_iter().collect(),
                ..explanation
            }
        }
    };
    Ok(match command.output {
        Output::Json => format!("{}\n", json(&explanation)),
        Output::Text => explanation.text(),
    })
}

fn read_payload(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_PAYLOAD_BYTES)
            .read_to_end(&mut payload)?;
    } else {
        std::fs::File::open(path)?
            .take(MAX_PAYLOAD_BYTES)
            .read_to_end(&mut payload)?;
    }
    Ok(payload)
}

/// Prints what is held.
pub fn leases(query: &Query) -> ExitCode {
    finish(
        control::request(&query.storage.path, &Request::Leases).map(|reply| match reply {
            Reply::Leases { leases, .. } if query.output == Output::Json => format!("{}\n", json(&leases)),
            Reply::Leases { leases, .. } if leases.is_empty() => "nothing is held\n".to_owned(),
            Reply::Leases { boot_now, leases } => leases.iter().map(|lease| lease_line(lease, boot_now)).collect(),
            other => unexpected(&other),
        }),
    )
}

fn lease_line(lease: &Lease, boot_now: Duration) -> String {
    let left = lease.deadline.saturating_sub(boot_now).as_secs();
    let (id, rule, what) = (lease.id, &lease.rule, &lease.effect);
    let who = who(lease.target, &lease.name);
    if lease.is_ending() {
        return format!("{id:>6}  {rule}  {who}  {what}  being given back\n");
    }
    format!("{id:>6}  {rule}  {who}  {what}  undone in {left} s at the latest\n")
}

/// A target and its name: `4711 ffmpeg`, the path of a cgroup, `host`.
fn who(target: Target, name: &str) -> String {
    let name = name.escape_debug();
    match target.pid() {
        Some(pid) => format!("{pid} {name}"),
        None => name.to_string(),
    }
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
    let records = read_records(&command.query.storage.path, read).map_err(|error| error.to_string());
    finish(records.map(|records| {
        let mut wanted: Vec<&Record> = records
            .iter()
            .filter(|record| is_wanted(record))
            .take(command.limit)
            .collect();
        wanted.reverse();
        match command.query.output {
            Output::Json => wanted.iter().map(|record| format!("{}\n", json(record))).collect(),
            Output::Text => wanted.iter().map(|record| record_line(record)).collect::<String>(),
        }
    }))
}

fn record_line(record: &Record) -> String {
    let mut words = vec![
        record.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        record.rule.clone(),
    ];
    let verdict = record
        .decision
        .map(|decision| decision.as_str())
        .or(record.outcome.map(|outcome| outcome.as_str()));
    words.extend(verdict.map(str::to_owned));
    words.extend(record.step.clone());
    words.extend(record.target.as_ref().map(|(target, name)| who(*target, name)));
    if let (Some(before), Some(after)) = (&record.before, &record.after) {
        words.push(format!("({before} -> {after})"));
    }
    if !record.reason.is_empty() {
        words.push(format!("- {}", record.reason));
    }
    if let Some(output) = &record.output {
        words.push(format!("| {output}"));
    }
    words.join("  ") + "\n"
}

/// Undoes by hand.
pub fn release(command: &Release) -> ExitCode {
    finish(
        control::request(&command.storage.path, &Request::Release(command.id)).and_then(|reply| match reply {
            Reply::Released(0) if command.id.is_some() => {
                Err("there is no such lease; `evenkeel leases` lists them".into())
            }
            Reply::Released(count) => Ok(format!("{count} released\n")),
            other => Ok(unexpected(&other)),
        }),
    )
}

/// Starts or ends a pause.
pub fn pause(reach: &Reach, paused: bool) -> ExitCode {
    let words = if paused {
        "paused: nothing new is planned, what is held is still undone\n"
    } else {
        "resumed\n"
    };
    finish(control::request(&reach.storage.path, &Request::Pause(paused)).map(|_| words.to_owned()))
}

fn unexpected(reply: &Reply) -> String {
    format!("unexpected answer: {reply:?}\n")
}

fn finish(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn use_color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys is JSON")
}
