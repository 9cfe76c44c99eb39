//! What the documents say is tried: every example is checked by the program that would read it, every command is run, every link
//! leads somewhere, and the table of metrics is that of a running daemon.
//!
//! Each page has a folder of its own, in which its blocks run from the top down as a reader would type them. In it are
//! the files of the project's folder that a page may name, and under `etc/evenkeel` an installed configuration with a token. Commands find a
//! stand-in for `evenkeel` that adds free ports and such paths where the real defaults would be the machine's own; `evenkeel run`
//! returns when the daemon is ready, which then runs until the page starts another one or ends.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::burner::Burner;
use crate::support::daemon::Home;
use crate::support::page::{Block, blocks, commands};
use crate::support::payload::about;
use crate::support::selectors::selectors;
use crate::support::shipped::{names, root};
use crate::support::tools::{succeed, tool};
use crate::support::{eventually, free_address, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);
/// A command of a document that takes longer hangs.
const COMMAND_SECONDS: &str = "60";

/// How often a command whose output is compared is run again. Only such as look, without changing anything, are shown so.
const ATTEMPTS: u32 = 5;

/// Metrics that a daemon has only under a condition, which its table tells.
const RARE_METRICS: [&str; 2] = ["evenkeel_allocations", "evenkeel_breaker_open"];

/// Every document, as a path from the project's folder.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/runbooks", "dashboards"] {
        found.extend(
            names(&root().join(folder), ".md")
                .iter()
                .map(|name| Path::new(folder).join(name)),
        );
    }
    found
}

/// The folder of a page, and the daemon that its commands started.
struct Desk {
    dir: TempDir,
    metrics: SocketAddr,
    webhook: SocketAddr,
    /// The process groups of the commands, in which jobs in the background go on.
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
case ${1:-} in run | leases | history | release | pause | resume)
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
    fn new() -> Self {
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

    /// Runs a script as a reader would, and returns what it printed on both streams.
    #[track_caller]
    fn run(&self, about: &str, script: &str) -> String {
        let path = self.dir.path();
        let script = script
            .replace("/etc/evenkeel", &path.join("etc/evenkeel").display().to_string())
            .replace(
                "/var/lib/evenkeel",
                &path.join("var/lib/evenkeel").display().to_string(),
            )
            .replace("127.0.0.1:19797", &self.metrics.to_string())
            .replace("localhost:19797", &self.metrics.to_string())
            .replace("127.0.0.1:19798", &self.webhook.to_string());
        let search = std::env::var("PATH").unwrap_or_default();
        let output = path.join("output");
        let write = || std::fs::File::create(&output).expect("a writable folder");
        // Through a file: a job in the background would keep a pipe open.
        let file = write();
        // From nice 0, as a login begins, however nice the tests run.
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

    fn write(&self, name: &str, text: &str) {
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
        // The daemon is a grandchild: `timeout` hands the signal on.
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

/// `make` builds for minutes what the tests have built: that there is such a target must do.
fn without_make(about: &str, script: &str) -> String {
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let mut rest = String::new();
    for line in script.lines() {
        match line.trim().strip_prefix("make ") {
            Some(target) => {
                let target = target.split_whitespace().next().unwrap_or_default();
                assert!(
                    makefile.contains(&format!("\n{target}:")),
                    "{about}: no target {target}"
                );
            }
            None => rest = rest + line + "\n",
        }
    }
    rest
}

/// Whether a line of output is what a document shows.
fn is_like(shown: &str, said: &str) -> bool {
    let number = Regex::new(r"[0-9]{3,}").expect("a pattern");
    let space = Regex::new(r"\s+").expect("a pattern");
    let words = |text: &str| {
        let text = number.replace_all(text, "N");
        space.replace_all(text.trim(), " ").into_owned()
    };
    // The date and time of an event, as a whole.
    let date = Regex::new(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z").expect("a pattern");
    let (shown, said) = (date.replace_all(shown, "D"), date.replace_all(said, "D"));
    let parts: Vec<String> = shown.split('…').map(|part| regex::escape(&words(part))).collect();
    let pattern = format!("^{}$", parts.join(r"\s?.*\s?"));
    Regex::new(&pattern).expect("a pattern").is_match(&words(&said))
}

fn is_shown(shown: &[String], said: &str) -> bool {
    let said: Vec<&str> = said.lines().collect();
    shown.len() == said.len() && shown.iter().zip(&said).all(|(shown, said)| is_like(shown, said))
}

/// Has the program that would read it check a YAML example.
fn check_yaml(desk: &Desk, about: &str, block: &Block) {
    let name = block.file.clone().unwrap_or_else(|| "example.yml".to_owned());
    desk.write(&name, &block.text);
    let value: Value = serde_yaml::from_str(&block.text).unwrap_or_else(|error| panic!("{about}: {error}"));
    let has = |key: &str| value.get(key).is_some();
    if has("tests") {
        desk.run(about, &format!("evenkeel test {name}"));
    } else if has("rules") {
        // Groups that a rule may name stand in a configuration that is another example.
        let groups = "process_groups: [{name: batch, select: {cgroup: '/batch.slice/.*'}}]";
        desk.write(
            "check.yml",
            &format!("rule_files: [{name}]\nallow_exec: true\n{groups}\n"),
        );
        desk.run(about, "evenkeel check --config.file=check.yml");
    } else if has("groups") {
        desk.write("check.yml", &format!("alerting_rule_files: [{name}]\n"));
        desk.run(
            about,
            &format!("evenkeel check --config.file=check.yml; promtool check rules {name}"),
        );
    } else if has("route") {
        desk.run(about, &format!("amtool check-config {name}"));
    } else if has("scrape_configs") {
        desk.run(about, &format!("promtool check config --syntax-only {name}"));
    } else if has("tls_server_config") || has("basic_auth_users") {
        desk.run(
            about,
            &format!("promtool check web-config {name} || grep -q cert_file {name}"),
        );
    } else {
        desk.run(about, &format!("evenkeel check --config.file={name}"));
    }
}

fn try_block(desk: &Desk, about: &str, block: &Block) {
    if let Some(reason) = &block.not_run {
        assert!(reason.len() >= 10, "{about}: say why it is not run");
        return;
    }
    match block.language.as_str() {
        "sh" => {
            desk.run(about, &without_make(about, &block.text));
        }
        "console" => {
            for command in commands(&block.text) {
                let script = without_make(about, &command.script);
                let mut said = desk.run(about, &script);
                if !block.is_compared {
                    continue;
                }
                // What a reader would look at again a moment later; a machine that builds something is slow.
                let mut patience = ATTEMPTS;
                while !is_shown(&command.output, &said) {
                    let shown = command.output.join("\n");
                    assert!(
                        patience > 0,
                        "{about}: {script}\nshows\n{shown}\nand this is said:\n{said}"
                    );
                    patience -= 1;
                    said = desk.run(about, &script);
                }
            }
        }
        "yaml" => check_yaml(desk, about, block),
        "json" => {
            let _: Value = serde_json::from_str(&block.text).unwrap_or_else(|error| panic!("{about}: {error}"));
        }
        "promql" => assert!(!selectors(&block.text).is_empty(), "{about}"),
        "text" => {}
        other => panic!("{about}: a block in {other:?}"),
    }
    if let Some(name) = &block.file {
        desk.write(name, &block.text);
    }
}

/// Tries the blocks of these pages, each page at a desk of its own.
fn try_pages(is_wanted: impl Fn(&str) -> bool) {
    let mut tried = 0;
    for page in documents() {
        if !is_wanted(&page.display().to_string()) {
            continue;
        }
        let mut blocks = blocks(&root().join(&page));
        // Another run on this machine has jobs of its own.
        let job = format!("wild-{}", std::process::id() % 100_000);
        for block in &mut blocks {
            block.text = block.text.replace("wild-job", &job);
        }
        if blocks.is_empty() {
            continue;
        }
        let desk = Desk::new();
        for block in &blocks {
            try_block(&desk, &format!("{}:{}", page.display(), block.line), block);
            tried += 1;
        }
    }
    assert!(tried > 0, "nothing to try");
}

#[test]
fn the_readme_can_be_followed() {
    try_pages(|page| page == "README.md");
}

#[test]
fn the_quick_start_can_be_followed() {
    try_pages(|page| page == "docs/quick-start.md");
}

#[test]
fn examples_and_commands_of_all_other_documents_work() {
    try_pages(|page| !["README.md", "docs/quick-start.md"].contains(&page));
}

#[test]
fn what_is_shown_is_compared_but_for_what_differs_by_nature() {
    for (shown, said, like) in [
        (" NI COMMAND", " NI COMMAND", true),
        (" 10 wild-job", "  10   wild-job", true),
        (" 10 wild-job", "  0 wild-job", false),
        ("4711 ffmpeg: … MiB", "123456 ffmpeg: 5.2 MiB", true),
        ("4711 ffmpeg: … MiB", "123456 xz: 5.2 MiB", false),
        ("2026-01-01T00:00:00Z  applied", "2027-11-22T06:48:05Z  applied", true),
        ("2026-01-01T00:00:00Z  applied", "2027-11-22T06:48:05Z  failed", false),
    ] {
        assert_eq!(is_like(shown, said), like, "{shown:?} and {said:?}");
    }
}

/// As GitHub makes them: lower case, without punctuation, with `-` for spaces.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let code = Regex::new(r"(?s)```.*?```|`[^`\n]*`").expect("a pattern");
    for page in documents() {
        let path = root().join(&page);
        let text = std::fs::read_to_string(&path).expect("a document");
        for found in link.captures_iter(&code.replace_all(&text, "")) {
            let (file, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
            if file.starts_with("http") {
                continue;
            }
            let to = if file.is_empty() {
                path.clone()
            } else {
                path.with_file_name("").join(file)
            };
            assert!(to.exists(), "{}: {} leads nowhere", page.display(), &found[1]);
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&to).expect("a document");
                assert!(
                    anchors(&there).contains(anchor),
                    "{}: no heading {}",
                    page.display(),
                    &found[1]
                );
            }
        }
    }
}

#[test]
fn every_document_can_be_found_from_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for name in names(&root().join("docs"), ".md") {
        assert!(readme.contains(&format!("(docs/{name})")), "nobody finds docs/{name}");
    }
}

/// Names, types and labels of the tables in docs/metrics.md.
fn documented_metrics() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).expect("it ships");
    let row = Regex::new(r"(?m)^\| `(evenkeel_\w+)` \| (\w+) \| ([^|]*)\| [^|]+ \|$").expect("a pattern");
    let word = Regex::new("`([^`]+)`").expect("a pattern");
    let labels = |text: &str| word.captures_iter(text).map(|found| found[1].to_owned()).collect();
    let rows = row.captures_iter(&text);
    rows.map(|found| (found[1].to_owned(), (found[2].to_owned(), labels(&found[3]))))
        .collect()
}

/// The same of an exposition in text format 0.0.4.
fn published_metrics(exposition: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut current = String::new();
    let label = Regex::new(r#"[{,](\w+)=""#).expect("a pattern");
    for line in exposition.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            current = name.to_owned();
            found.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let labels = label.captures_iter(line).map(|found| found[1].to_owned());
            let (_, known) = found.get_mut(&current).expect("a sample belongs to a family");
            known.extend(labels.filter(|label| label != "le"));
        }
    }
    found.retain(|name, _| name.starts_with("evenkeel_"));
    found
}

#[test]
fn the_table_of_metrics_is_that_of_a_running_daemon() {
    let name = format!("metrics-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules: [{{name: test, matchers: ['alertname=\"Test\"'], select: {{name: {name}}}, actions: [{{nice: 15}}]}}]\n"
    ));
    let metrics = "metrics: [swap, context_switches, io, open_fds]";
    home.write(
        "evenkeel.yml",
        &format!(
            "rule_files: [rules/*.yml]\nwebhook: {{token_file: webhook.token}}\nsampling: {{slow_interval: 1s}}\n\
             process_groups: [{{name: test, select: {{name: {name}}}, {metrics}}}]\n"
        ),
    );
    let burner = Burner::start(&name);
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the burner to be niced", TIMEOUT, || burner.is_at(15).then_some(()));
    let mut documented = documented_metrics();
    assert!(documented.len() > 30, "{documented:?}");
    let source = succeed(
        Command::new("grep")
            .args(["-rhoE", "evenkeel_[a-z_]+"])
            .arg(root().join("src")),
    );
    for name in RARE_METRICS {
        assert!(documented.remove(name).is_some(), "{name} is not documented");
        assert!(source.lines().any(|found| found == name), "there is no {name}");
    }
    let published = eventually("all families", TIMEOUT, || {
        let headers = [("Accept", "text/plain")];
        let answer = crate::support::http::request(evenkeel.metrics, "GET", "/metrics", &headers, b"").ok()?;
        let mut published = published_metrics(&answer.body);
        RARE_METRICS.iter().for_each(|name| drop(published.remove(*name)));
        (published.len() >= documented.len()).then_some(published)
    });
    assert_eq!(published, documented);
}

#[test]
fn the_words_of_decisions_and_outcomes_are_those_of_the_ledger() {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).expect("it ships");
    let entry = std::fs::read_to_string(root().join("src/ledger/entry.rs")).expect("the source");
    let told = |heading: &str| -> BTreeSet<String> {
        let table = text.split_once(&format!("\n`{heading}`:\n")).expect("a table").1;
        let rows = table.trim_start().lines().take_while(|line| line.starts_with('|'));
        let word = |line: &str| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(word, _)| word.to_owned())
        };
        rows.filter_map(word).collect()
    };
    // `Name = "word",` in the enumeration of this name.
    let known = |name: &str| -> BTreeSet<String> {
        let body = entry.split_once(name).expect("an enumeration").1;
        let lines = body
            .lines()
            .skip(1)
            .map(str::trim)
            .take_while(|line| !line.starts_with('}'));
        lines
            .filter_map(|line| Some(line.split_once(" = \"")?.1.split_once('"')?.0.to_owned()))
            .collect()
    };
    assert_eq!(told("decision"), known("Decision {"));
    assert_eq!(told("outcome"), known("Outcome {"));
}
