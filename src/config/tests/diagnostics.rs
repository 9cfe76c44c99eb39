//! Golden files of diagnostics. Each `NAME.yml` under `tests/fixtures/diagnostics` has a `NAME.stderr` that holds
//! everything `evenkeel check` reports about it, and is empty for a valid file.

use crate::config::*;
use crate::diagnostic::{SourceText, render_all};
use std::collections::BTreeMap;
use std::fs;

const FOLDER: &str = "tests/fixtures/diagnostics";
/// Set to write the `.stderr` files instead of comparing them.
const UPDATE: &str = "UPDATE_DIAGNOSTICS";

/// The configuration that a rule file under `rules` is checked with. An `alerting/alertmanager.yml` beside it repeats
/// alerts every five minutes.
const AROUND_RULES: &str = "
allow_exec: true
alerting_rule_files: [beside/alerting.yml]
process_groups:
- {name: batch, select: {cgroup: '/batch.*'}}
- {name: everything, select: {exe: '/.+'}}
";

#[test]
fn diagnostics_are_those_of_the_golden_files() {
    let cases = cases();
    assert!(cases.len() > 60, "{FOLDER} has only {} files", cases.len());
    let is_update = std::env::var_os(UPDATE).is_some();
    let mut problems = Vec::new();
    for (path, text) in &cases {
        let golden = path.with_extension("stderr");
        // The name of a rule that must not be reported ends so.
        if text.contains("-fine`)") {
            problems.push(format!("{} reports a rule that is fine:\n{text}", path.display()));
        }
        if is_update {
            fs::write(&golden, text).unwrap();
            continue;
        }
        match fs::read_to_string(&golden) {
            Ok(expected) if expected == *text => {}
            Ok(expected) => problems.push(format!("{} differs:\n{}", golden.display(), diff(&expected, text))),
            Err(error) => problems.push(format!("{}: {error}\n", golden.display())),
        }
    }
    let goldens = files("").into_iter().filter(|path| has_extension(path, "stderr"));
    let orphans = goldens.filter(|path| !cases.contains_key(&path.with_extension("yml")));
    problems.extend(orphans.map(|path| format!("{} has no .yml beside it\n", path.display())));
    assert!(
        problems.is_empty(),
        "{}\nIf the new text is right, write it with {UPDATE}=1 and look at the difference in git.",
        problems.concat()
    );
}

/// What is reported about each rule file, alerting rule file and configuration, by its path.
fn cases() -> BTreeMap<PathBuf, String> {
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let rules = files("rules").into_iter().map(|path| {
        let config = format!("{AROUND_RULES}rule_files: [{}]\n", named(&path));
        (load_beside(&path, &config), path)
    });
    let alerting = files("alerting").into_iter().map(|path| {
        let config = format!("alerting_rule_files: [{}]\n", named(&path));
        (load_beside(&path, &config), path)
    });
    let folders = fs::read_dir(Path::new(FOLDER).join("configuration")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let of_several_files = folders.map(|folder| folder.join("evenkeel.yml"));
    let configurations = files("configuration")
        .into_iter()
        .chain(of_several_files)
        .map(|path| (Config::load(&path), path));
    let warnings =
        |(loaded, path): (Result<Loaded, Vec<Diagnostic>>, PathBuf)| (loaded.map(|loaded| loaded.warnings), path);
    let of_process_exporter = files("process-exporter").into_iter().map(|path| {
        let read = read_process_exporter(&path, ExporterOptions::default());
        (read.map(|(_, warnings)| warnings), path)
    });
    rules
        .chain(alerting)
        .chain(configurations)
        .map(warnings)
        .chain(of_process_exporter)
        .filter(|(_, path)| has_extension(path, "yml"))
        .map(|(loaded, path)| {
            let findings = match loaded {
                Ok(warnings) => warnings,
                Err(findings) => {
                    let has_error = findings.iter().any(|found| found.severity == Severity::Error);
                    assert!(has_error, "{} is refused without an error", path.display());
                    findings
                }
            };
            (path, render_all(&findings, false))
        })
        .collect()
}

fn load_beside(path: &Path, config: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let folder = FileSource::Directory(path.parent().unwrap());
    assemble(&SourceText::new("evenkeel.yml", config), &folder)
}

/// The files in a folder of the golden files; those in all folders for an empty name.
fn files(folder: &str) -> Vec<PathBuf> {
    let pattern = match folder {
        "" => format!("{FOLDER}/**/*"),
        folder => format!("{FOLDER}/{folder}/*"),
    };
    let paths = glob::glob(&pattern).unwrap().map(Result::unwrap);
    paths.filter(|path| path.is_file()).collect()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// The lines between the first and the last that differ, and three lines before them.
fn diff(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let before = expected.iter().zip(&found).take_while(same).count();
    let (old, new) = (&expected[before..], &found[before..]);
    let after = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let lines =
        |mark: char, lines: &[&str]| -> String { lines.iter().map(|line| format!("{mark} {line}\n")).collect() };
    [
        lines(' ', &expected[before.saturating_sub(3)..before]),
        lines('-', &old[..old.len() - after]),
        lines('+', &new[..new.len() - after]),
    ]
    .concat()
}
