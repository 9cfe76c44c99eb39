//! Tests of the documents: every example is checked by its program, every command runs, and every link has a target.
//! Each page has its own environment, in which its blocks run from the top down as a reader would type them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use crate::support::desk::Desk;
use crate::support::page::{Block, blocks, commands};
use crate::support::selectors::selectors;
use crate::support::shipped::{names, root};

/// Number of attempts of a command with compared output. Such commands change nothing.
const ATTEMPTS: u32 = 5;

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

/// Replaces `make` by a check of its target, because it would build for minutes.
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

/// Whether a line of output matches the one in a document.
fn is_like(shown: &str, said: &str) -> bool {
    let number = Regex::new(r"[0-9]{3,}").expect("a pattern");
    let space = Regex::new(r"\s+").expect("a pattern");
    let words = |text: &str| {
        let text = number.replace_all(text, "N");
        space.replace_all(text.trim(), " ").into_owned()
    };
    // The date and time of an event.
    let date = Regex::new(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+Z)?|[0-9]{2}:[0-9]{2}:[0-9]{2}").expect("a pattern");
    let (shown, said) = (date.replace_all(shown, "D"), date.replace_all(said, "D"));
    let parts: Vec<String> = shown.split('…').map(|part| regex::escape(&words(part))).collect();
    let pattern = format!("^{}$", parts.join(r"\s?.*\s?"));
    Regex::new(&pattern).expect("a pattern").is_match(&words(&said))
}

/// Removes the note about autogroups, which some kernels have.
fn without_autogroups(said: &str) -> String {
    let remark = r"( - )?kernel\.sched_autogroup_enabled is 1: .* \(sched\(7\)\)";
    let remark = Regex::new(remark).expect("a pattern");
    let lines = said.lines().map(|line| (line, remark.replace(line, "")));
    let kept = lines.filter(|(before, after)| before == after || !after.trim().is_empty());
    kept.map(|(_, line)| line.into_owned() + "\n").collect()
}

fn is_shown(shown: &[String], said: &str) -> bool {
    let said = without_autogroups(said);
    let said: Vec<&str> = said.lines().collect();
    shown.len() == said.len() && shown.iter().zip(&said).all(|(shown, said)| is_like(shown, said))
}

/// Checks a YAML example with its program.
fn check_yaml(desk: &Desk, about: &str, block: &Block) {
    let name = block.file.clone().unwrap_or_else(|| "example.yml".to_owned());
    desk.write(&name, &block.text);
    let value: Value = serde_yaml::from_str(&block.text).unwrap_or_else(|error| panic!("{about}: {error}"));
    let has = |key: &str| value.get(key).is_some();
    if has("tests") {
        desk.run(about, &format!("evenkeel test {name}"));
    } else if has("rules") {
        // Rules may name groups from the configuration of another example.
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
    } else if has("spec") {
        // An object of the Prometheus operator, which promtool does not read.
        desk.write("check.yml", &format!("alerting_rule_files: [{name}]\n"));
        desk.run(about, "evenkeel check --config.file=check.yml");
    } else if has("process_names") {
        desk.run(about, &format!("evenkeel check --process-exporter.config={name}"));
    } else if has("route") {
        desk.run(about, &format!("amtool check-config {name}"));
    } else if has("scrape_configs") {
        desk.run(about, &format!("promtool check config --syntax-only {name}"));
    } else if has("tls_server_config") || has("basic_auth_users") {
        desk.run(about, &format!("promtool check web-config {name}"));
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
                // Repeats the command as a reader would, because a busy machine is slow.
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

/// Tries the blocks of these pages, each page in its own environment.
fn try_pages(is_wanted: impl Fn(&str) -> bool) {
    let mut tried = 0;
    for page in documents() {
        if !is_wanted(&page.display().to_string()) {
            continue;
        }
        let mut blocks = blocks(&root().join(&page));
        // A job name of this run, because other runs on this machine have jobs as well.
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
fn shown_output_is_compared_except_for_varying_parts() {
    for (shown, said, like) in [
        (" NI COMMAND", " NI COMMAND", true),
        (" 10 wild-job", "  10   wild-job", true),
        (" 10 wild-job", "  0 wild-job", false),
        ("4711 ffmpeg: … MiB", "123456 ffmpeg: 5.2 MiB", true),
        ("4711 ffmpeg: … MiB", "123456 xz: 5.2 MiB", false),
        ("2026-01-01T00:00:00Z  applied", "2027-11-22T06:48:05Z  applied", true),
        ("2026-01-01T00:00:00Z  applied", "2027-11-22T06:48:05Z  failed", false),
        ("2026-01-01  calm", "2027-11-22  calm", true),
        ("  00:00:00  applied", "  06:48:05  applied", true),
        ("  00:00:00  applied", "  06:48:05  failed", false),
    ] {
        assert_eq!(is_like(shown, said), like, "{shown:?} and {said:?}");
    }
}

/// The anchors of headings as on GitHub: lower case, without punctuation, with `-` for spaces.
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
        assert!(
            readme.contains(&format!("(docs/{name})")),
            "README.md does not link docs/{name}"
        );
    }
}

#[test]
fn every_fault_says_what_is_lost_and_names_tests() {
    let page = std::fs::read_to_string(root().join("docs/faults.md")).expect("a page");
    let sources = ["src", "tests"].map(|folder| sources_below(&root().join(folder)));
    let sources = sources.concat();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what") && !line.starts_with("| ---"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [_, _, lost, tests] = cells[..] else {
            panic!("not four cells: {row}")
        };
        assert!(lost.trim().ends_with('.'), "not what is lost: {row}");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
        }
    }
}

/// The text of all Rust files below a folder.
fn sources_below(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    let texts = entries.map(|entry| {
        let path = entry.expect("a readable folder").path();
        match path.extension() {
            _ if path.is_dir() => sources_below(&path),
            Some(extension) if extension == "rs" => std::fs::read_to_string(path).expect("a readable file"),
            _ => String::new(),
        }
    });
    texts.collect()
}
