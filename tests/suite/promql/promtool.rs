//! The real promtool, and what it says.

use crate::support::tools::tool;
use evenkeel::watch::labels::LabelSet;
use evenkeel::watch::series_notation::parse_series;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Runs unit-test files; tells all that promtool prints.
pub fn run_promtool(files: &[PathBuf]) -> String {
    let output = tool("promtool")
        .args(["test", "rules"])
        .args(files)
        .output()
        .expect("promtool runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("FAILED") || text.contains("SUCCESS"),
        "promtool said neither: {text}"
    );
    text
}

/// Whether promtool accepts a rule file; else what it says.
pub fn accepts_rules(file: &Path) -> Result<(), String> {
    let output = tool("promtool").args(["check", "rules"]).arg(file).output();
    let output = output.expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// The objections of promtool by the number of the case: its own result, or its error.
pub fn objections(file: &Path) -> HashMap<usize, Result<BTreeMap<LabelSet, f64>, String>> {
    let text = run_promtool(&[file.to_owned()]);
    let sample = regex::Regex::new(r#"(\{(?:[^"}]|"[^"]*")*\}) ([^,\s]+)"#).unwrap();
    let mut objections = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(" # case ") {
            let number: usize = rest[..rest.find('"').unwrap()].parse().unwrap();
            current = Some(number);
            if let Some((_, error)) = line.split_once("err: ") {
                objections.insert(number, Err(error.to_owned()));
            }
        } else if let Some((_, got)) = line.split_once("  got: ") {
            let samples = sample.captures_iter(got).map(|captures| {
                let value = captures[2].parse().unwrap_or_else(|_| panic!("no number in {got}"));
                (parse_series(&captures[1]).unwrap(), value)
            });
            objections.insert(current.expect("a case before its result"), Ok(samples.collect()));
        }
    }
    objections
}
