//! The command `evenkeel test`: runs test files on the real engine, and those of promtool on evenkeel's evaluator, and
//! reports the differences from the expectations. It changes nothing on this host.

use super::harness::{HOST_NAME, Happening, Harness};
use super::test_file::{self, Mode, StepEvent, Test, TestFile, TimelineEntry, ValueTarget, Values};
use crate::act::budget::Budget;
use crate::config::{self, Config};
use crate::diagnostic::{Diagnostic, Findings, Severity, SourceText, Span, Spanned, printable};
use crate::engine::Policy;
use crate::engine::host_identity::HostIdentity;
use crate::knob::Knob;
use crate::rule::RuleSet;
use crate::terminal::{self, count};
use crate::watch::promql::Dialect;
use crate::watch::unit_test::{self, LoadedTests};
use crate::yaml;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The result of a test file.
#[derive(Debug, Default, Serialize)]
pub struct TestReport {
    pub file: String,
    pub tests: usize,
    pub checks: usize,
    /// The errors in the file and in the files that it names. With errors, no test runs.
    pub errors: Vec<Diagnostic>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Diagnostic>,
    pub failures: Vec<Failure>,
    /// The rules under test. `acted` has those that applied a step in a test, or would have in dry-run.
    pub rules: BTreeSet<String>,
    pub fired: BTreeSet<String>,
}

/// A failed expectation.
#[derive(Debug, Serialize)]
pub struct Failure {
    pub test: String,
    #[serde(flatten)]
    pub diagnostic: Diagnostic,
    /// Expected entries that are missing, in the notation of the file.
    pub expected: Vec<String>,
    /// Unexpected entries.
    pub found: Vec<String>,
}

impl TestReport {
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty() && self.failures.is_empty()
    }

    /// The report for a terminal. The last line is a summary.
    pub fn text(&self, color: bool) -> String {
        let paint = |style: &str, text: &str| terminal::paint(color, style, text);
        let mut text = String::new();
        for found in self.warnings.iter().chain(&self.errors) {
            text += &(found.render(color) + "\n");
        }
        for failure in &self.failures {
            text += &failure.diagnostic.render(color);
            for line in &failure.expected {
                text += &(paint("31", &format!("  - {}", printable(line))) + "\n");
            }
            for line in &failure.found {
                text += &(paint("32", &format!("  + {}", printable(line))) + "\n");
            }
            text.push('\n');
        }
        let failed = self.failures.len();
        let sum = match (self.errors.is_empty(), failed) {
            (false, _) => paint("1;31", "cannot be run"),
            (_, 0) => paint("1;32", "ok"),
            _ => paint("1;31", &format!("{failed} failed")),
        };
        let (tests, checks) = (count(self.tests, "test"), count(self.checks, "check"));
        text + &format!("{}: {tests}, {checks}: {sum}\n", printable(&self.file))
    }
}

/// Runs one test file.
pub fn run(path: &Path) -> TestReport {
    let mut report = TestReport {
        file: path.display().to_string(),
        ..TestReport::default()
    };
    let source = match config::read_file(path) {
        Ok(source) => source,
        Err(problem) => {
            let message = format!("cannot read the test file: {problem}");
            let help = "such as rules/cpu-saturated.test.yml";
            let error = Diagnostic::of_file(Severity::Error, &report.file, message, help);
            report.errors.push(error);
            return report;
        }
    };
    let mut findings = Findings::new(&source);
    let root = yaml::parse(&mut findings);
    let is_promtool = match &root {
        Some(root) => test_file::is_promtool(root),
        None => yaml::document(&source).is_ok_and(|root| test_file::is_promtool(&root)),
    };
    if is_promtool {
        return run_promtool(path, report);
    }
    let written = match &root {
        Some(root) => test_file::read(root, &mut findings),
        None if findings.has_errors() => None,
        None => {
            findings.error(Span::START, "no tests in this file", "a test file begins with `tests:`");
            None
        }
    };
    let loaded = written
        .as_ref()
        .and_then(|file| load(file, path, &mut findings, &mut report));
    report.errors.extend(findings.into_diagnostics());
    report.errors.retain(|found| found.severity == Severity::Error);
    if let (Some(file), Some((config, rules)), true) = (written, loaded, report.errors.is_empty()) {
        report.rules = rules.rules.iter().map(|rule| rule.name.to_string()).collect();
        for test in &file.tests {
            report.tests += 1;
            let policy = policy(config.as_ref(), rules.clone(), test.mode);
            Player::play(test, &file, policy, &source, &mut report);
        }
    }
    report
}

fn run_promtool(path: &Path, mut report: TestReport) -> TestReport {
    match unit_test::load(path) {
        Err(errors) => {
            report.errors = errors.iter().map(config::diagnose_unread).collect();
        }
        Ok(LoadedTests { tests, rules, warnings }) => {
            report.warnings = warnings.iter().map(config::diagnose_unread).collect();
            report
                .warnings
                .iter_mut()
                .for_each(|warning| warning.severity = Severity::Warning);
            let result = tests.run(&rules, Dialect::V3);
            (report.tests, report.checks) = (result.tests, result.checks);
            report.failures = result
                .mismatches
                .into_iter()
                .map(|mismatch| {
                    let at = mismatch.at_ms as f64 / 1000.0;
                    let message = format!("{} at {at}s is not what was expected", mismatch.subject);
                    let help = match &mismatch.error {
                        Some(error) => error.clone(),
                        None => format!("test `{}`", mismatch.test),
                    };
                    Failure {
                        diagnostic: Diagnostic::of_file(Severity::Error, &report.file, message, help),
                        test: mismatch.test,
                        expected: mismatch.missing,
                        found: mismatch.unexpected,
                    }
                })
                .collect();
        }
    }
    report
}

/// The configuration that a test file names, and the rules that it tests.
fn load(
    file: &TestFile,
    path: &Path,
    findings: &mut Findings,
    report: &mut TestReport,
) -> Option<(Option<Config>, RuleSet)> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut config = None;
    let mut rules = None;
    if let Some(name) = &file.config_file {
        match Config::load(&directory.join(&name.value)) {
            Ok(loaded) => (config, rules) = (Some(loaded.config), Some(loaded.rules)),
            Err(errors) => {
                report.errors.extend(errors);
                return None;
            }
        }
    }
    if !file.rule_files.is_empty() {
        let groups = config.as_ref().map(Config::groups).unwrap_or_default();
        let compiled = config::compile_rules(directory, &file.rule_files, &groups, findings);
        report.errors.extend(compiled.diagnostics);
        rules = compiled.rules;
    }
    rules.map(|rules| (config, rules))
}

fn policy(config: Option<&Config>, mut rules: RuleSet, mode: Option<Mode>) -> Policy {
    if mode == Some(Mode::Enforce) {
        for rule in rules.rules.iter_mut().filter(|rule| rule.dry_run) {
            Arc::make_mut(rule).dry_run = false;
        }
    }
    let labels = config.map_or(vec!["instance".to_owned()], |config| config.host_names.labels.clone());
    let names = config.map_or(Vec::new(), |config| config.host_names.names.clone());
    Policy {
        rules,
        enforce: mode != Some(Mode::DryRun),
        host_identity: HostIdentity::new(labels, HOST_NAME, "", &names),
        protect: config.map_or(Vec::new(), |config| config.protect.clone()),
        budget: config.map_or(Budget::default(), |config| config.budget),
        restore_on_exit: true,
        retention: Default::default(),
    }
}

/// The state of a running test.
struct Player<'a> {
    test: &'a Test,
    source: &'a SourceText,
    report: &'a mut TestReport,
    harness: Harness,
    /// Events since the last `expect`.
    happened: Vec<Happening>,
}

impl Player<'_> {
    fn play(test: &Test, file: &TestFile, policy: Policy, source: &SourceText, report: &mut TestReport) {
        let harness = match Harness::new(policy, file.cpus, test.source, &test.processes, &test.cgroups) {
            Ok(harness) => harness,
            Err(problem) => {
                let error = source.diagnose(Severity::Error, test.name.span, problem.to_string(), "");
                return report.errors.push(error);
            }
        };
        let mut player = Player {
            test,
            source,
            report,
            harness,
            happened: Vec::new(),
        };
        for moment in &test.timeline {
            player.live_through(moment);
        }
        player.collect();
        let left: Vec<&Happening> = player
            .happened
            .iter()
            .filter(|left| left.event.outcome.is_some())
            .collect();
        if !left.is_empty() {
            let found = left.into_iter().map(Happening::to_string).collect();
            player.fail(
                test.name.span,
                "more happened than the test expects".to_owned(),
                "end it with a moment that has an `expect`",
                Vec::new(),
                found,
            );
        }
    }

    fn live_through(&mut self, moment: &TimelineEntry) {
        self.harness.pass_until(moment.at);
        if let Some(holds) = moment.condition {
            self.harness.set_condition(holds);
        }
        if let Some(answer) = &moment.answer {
            self.harness.set_answer(answer.clone());
        }
        let at = seconds(moment.at);
        for spec in &moment.start {
            self.harness.start(spec);
        }
        for spec in &moment.change {
            if !self.harness.change(spec) {
                self.no_such(spec.pid, &at);
            }
        }
        for pid in &moment.exit {
            if !self.harness.exit(*pid) {
                self.no_such(*pid, &at);
            }
        }
        for path in &moment.restart {
            if !self.harness.restart(&path.value) {
                let message = format!("there is no cgroup {} at {at} to restart", path.value);
                self.fail(path.span, message, "", Vec::new(), Vec::new());
            }
        }
        if let Some(labels) = &moment.resolve {
            self.harness.resolve(labels.clone());
        }
        if let Some(labels) = &moment.fire {
            self.harness.fire(labels.clone());
        }
        if let Some(expect) = &moment.expect {
            self.collect();
            self.compare(expect, &at);
        }
        for values in &moment.values {
            self.check_values(values, &at);
        }
    }

    /// Collects new events, and the rules that applied a step.
    fn collect(&mut self) {
        let news = self.harness.happenings();
        let acted = news.iter().filter(|news| news.event.outcome.is_some());
        self.report
            .fired
            .extend(acted.filter_map(|news| news.event.rule.clone()));
        self.happened.extend(news);
    }

    fn compare(&mut self, expect: &Spanned<Vec<Spanned<StepEvent>>>, at: &str) {
        let mut found = std::mem::take(&mut self.happened);
        let mut missing: Vec<&Spanned<StepEvent>> = Vec::new();
        // The most specific entries choose first, so that `{pid: 1}` does not match the event for `{pid: 1, step: …}`.
        let mut entries: Vec<&Spanned<StepEvent>> = expect.value.iter().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.value.weight()));
        for entry in entries {
            self.report.checks += 1;
            match found.iter().position(|happening| entry.value.means(&happening.event)) {
                Some(place) => drop(found.remove(place)),
                None => missing.push(entry),
            }
        }
        if expect.value.is_empty() {
            self.report.checks += 1;
        }
        if missing.is_empty() {
            // Denials may be omitted, except kinds of denials that the list names. If an entry is missing, all denials
            // are shown, because one of them may be the reason.
            let is_named = |denial| expect.value.iter().any(|entry| entry.value.decision == Some(denial));
            found.retain(|found| found.event.decision.is_none_or(is_named));
        }
        if missing.is_empty() && found.is_empty() {
            return;
        }
        missing.sort_by_key(|entry| entry.span);
        let span = missing.first().map_or(expect.span, |entry| entry.span);
        let message = match (missing.len(), found.len()) {
            (0, more) => format!("{} by {at} that the test does not expect", count(more, "thing")),
            (less, 0) => format!("{} did not happen by {at}", count(less, "expectation")),
            _ => format!("what happened by {at} is not what was expected"),
        };
        let expected = missing.iter().map(|entry| entry.value.to_string()).collect();
        let found = found.iter().map(Happening::to_string).collect();
        self.fail(span, message, "", expected, found);
    }

    fn check_values(&mut self, values: &Values, at: &str) {
        let target = match &values.target {
            ValueTarget::Process(pid) => pid.to_string(),
            ValueTarget::Cgroup(path) => path.clone(),
        };
        if let Some(expected) = values.alive {
            self.report.checks += 1;
            let found = self.harness.is_alive(&values.target);
            if found != expected {
                let message = format!("whether {target} is alive at {at}: {found}");
                let (expected, found) = (format!("alive: {expected}"), format!("alive: {found}"));
                self.fail(values.span, message, "", vec![expected], vec![found]);
            }
        }
        for (key, expected) in &values.knobs {
            self.report.checks += 1;
            let Some(knob) = Knob::named(key) else {
                continue;
            };
            let found = self.harness.value(&values.target, knob);
            if found.as_ref() == Some(&expected.value) {
                continue;
            }
            let found = found.unwrap_or_else(|| "nothing, because it has ended".to_owned());
            let message = format!("{key} of {target} at {at} is {found}");
            let (expected_line, found) = (format!("{key}: {}", expected.value), format!("{key}: {found}"));
            self.fail(expected.span, message, "", vec![expected_line], vec![found]);
        }
    }

    fn no_such(&mut self, pid: i32, at: &str) {
        let message = format!("there is no process {pid} at {at} that could change or end");
        self.fail(self.test.name.span, message, "", Vec::new(), Vec::new());
    }

    fn fail(&mut self, span: Span, message: String, help: &str, expected: Vec<String>, found: Vec<String>) {
        let test = self.test.name.value.clone();
        let help = match help {
            "" => format!("in the test `{test}`"),
            help => format!("in the test `{test}`: {help}"),
        };
        let diagnostic = self.source.diagnose(Severity::Error, span, message, help);
        self.report.failures.push(Failure {
            test,
            diagnostic,
            expected,
            found,
        });
    }
}

impl StepEvent {
    /// Whether this expected event is the one that happened.
    fn means(&self, found: &StepEvent) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let reason = found.reason.as_deref().unwrap_or_default();
        same(&self.rule, &found.rule)
            && (self.pid.is_none() || self.pid == found.pid)
            && same(&self.cgroup, &found.cgroup)
            && self
                .step
                .as_ref()
                .is_none_or(|wanted| is_step(wanted, found.step.as_deref()))
            && self.decision == found.decision
            && self.outcome == found.outcome
            && same(&self.before, &found.before)
            && same(&self.after, &found.after)
            && self.reason.as_ref().is_none_or(|part| reason.contains(part))
    }

    fn weight(&self) -> usize {
        let texts = [
            &self.rule,
            &self.cgroup,
            &self.step,
            &self.before,
            &self.after,
            &self.reason,
        ];
        texts.into_iter().flatten().count() + usize::from(self.pid.is_some())
    }
}

/// Whether a step is the expected one, which may omit the revert: `signal SIGUSR1, undone by SIGUSR2`.
fn is_step(wanted: &str, found: Option<&str>) -> bool {
    found
        .and_then(|found| found.strip_prefix(wanted))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(", "))
}

/// A string in YAML's notation.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " -_./+%".contains(c));
    if is_plain { text.to_owned() } else { format!("{text:?}") }
}

/// A mapping in one line, in the notation of the test file.
impl std::fmt::Display for StepEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |text: &Option<String>| text.as_deref().map(quoted);
        let pairs = [
            ("rule", text(&self.rule)),
            ("pid", self.pid.map(|pid| pid.to_string())),
            ("cgroup", text(&self.cgroup)),
            ("step", text(&self.step)),
            ("decision", self.decision.map(|word| word.to_string())),
            ("outcome", self.outcome.map(|word| word.to_string())),
            ("before", text(&self.before)),
            ("after", text(&self.after)),
            ("reason", text(&self.reason)),
        ];
        let given = pairs
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}: {}", value?)));
        write!(f, "{{{}}}", Vec::from_iter(given).join(", "))
    }
}

impl std::fmt::Display for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let without_reason = StepEvent {
            reason: None,
            ..self.event.clone()
        };
        write!(f, "{without_reason} # at {}", seconds(self.at))?;
        match &self.event.reason {
            Some(reason) => write!(f, ": {}", reason.escape_debug()),
            None => Ok(()),
        }
    }
}

fn seconds(time: std::time::Duration) -> String {
    // Rounding hides the millisecond between a signal and the exit.
    format!("{}s", (time.as_secs_f64() * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests;
