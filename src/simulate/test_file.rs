//! The format of test files: structs with the position of each expectation, and their parser.

mod keys;

pub use keys::{ANSWER, CGROUP, EXPECTED, MOMENT, PROCESS, TEST, TEST_FILE, VALUES};

use crate::alert::{Labels, Source as AlertSource};
use crate::diagnostic::{Findings, Span, Spanned, suggest};
use crate::knob::limit::{CgroupFile, Setting};
use crate::ledger::{Decision, Outcome};
use crate::step::read_json;
use crate::yaml::{Content, Fields, Node, Text};
use keys::PID;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// Maximum simulated time of a test. Later, only deadlines of weeks would be due, with a round every 15 s.
const MAX_LENGTH: Duration = Duration::from_secs(31 * 24 * 3600);

#[derive(Debug)]
pub struct TestFile {
    pub rule_files: Vec<Text>,
    pub config_file: Option<Text>,
    pub cpus: u32,
    pub tests: Vec<Test>,
}

/// The mode of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Enforce all rules, including those in dry-run.
    Enforce,
    DryRun,
}

#[derive(Debug)]
pub struct Test {
    pub name: Text,
    /// `None` uses the mode of each rule, with a daemon that enforces.
    pub mode: Option<Mode>,
    pub source: AlertSource,
    pub processes: Vec<ProcessSpec>,
    pub cgroups: Vec<CgroupSpec>,
    pub timeline: Vec<TimelineEntry>,
}

/// The given properties of a process. Other properties stay unchanged.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    pub pid: i32,
    pub count: i32,
    pub name: Option<String>,
    pub exe: Option<String>,
    pub cmdline: Option<String>,
    pub user: Option<String>,
    pub cgroup: Option<String>,
    pub age: Option<Duration>,
    pub memory_bytes: Option<u64>,
    pub cpu_cores: Option<f64>,
    pub threads: Option<u32>,
    pub nice: Option<i32>,
    pub oom_score: Option<i64>,
    pub parent: Option<i32>,
    pub state: Option<char>,
    pub kernel_thread: Option<bool>,
    pub login_leader: Option<bool>,
    pub ignores: Option<BTreeSet<Signal>>,
    pub catches: Option<BTreeSet<Signal>>,
}

/// A cgroup at the start of the test.
#[derive(Debug)]
pub struct CgroupSpec {
    pub path: String,
    pub memory_bytes: u64,
    pub reclaimable_bytes: u64,
    pub settings: Vec<Setting>,
}

#[derive(Debug)]
pub struct TimelineEntry {
    pub at: Duration,
    pub fire: Option<Labels>,
    pub resolve: Option<Labels>,
    pub start: Vec<ProcessSpec>,
    pub change: Vec<ProcessSpec>,
    pub exit: Vec<i32>,
    pub restart: Vec<Text>,
    pub condition: Option<bool>,
    pub answer: Option<ScriptedResponse>,
    /// The expected events, of which a missing key matches anything.
    pub expect: Option<Spanned<Vec<Spanned<StepEvent>>>>,
    pub values: Vec<Values>,
}

/// The scripted responses of allocators and commands.
#[derive(Debug, Clone, Default)]
pub struct ScriptedResponse {
    pub status: Option<u16>,
    pub body: Option<serde_json::Value>,
    pub exit: i32,
}

/// What is known of a denial, an action or a revert.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepEvent {
    pub rule: Option<String>,
    pub pid: Option<i32>,
    /// Path of the cgroup, if the target is one.
    pub cgroup: Option<String>,
    pub step: Option<String>,
    /// Exactly one of `decision` and `outcome` is set.
    pub decision: Option<Decision>,
    pub outcome: Option<Outcome>,
    pub before: Option<String>,
    pub after: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug)]
pub struct Values {
    pub span: Span,
    pub target: ValueTarget,
    pub alive: Option<bool>,
    /// Keys and values as written.
    pub knobs: Vec<(&'static str, Text)>,
}

/// The process or cgroup whose values are expected.
#[derive(Debug, Clone)]
pub enum ValueTarget {
    Process(i32),
    Cgroup(String),
}

/// Whether this is a unit-test file of promtool, which is about alerts and not about processes.
pub fn is_promtool(root: &Node) -> bool {
    let has = |node: &Node, keys: &[&str]| keys.iter().any(|key| node.entry(key).is_some());
    let tests = match root.entry("tests").map(|entry| &entry.value.content) {
        Some(Content::Sequence(tests)) => tests.as_slice(),
        _ => &[],
    };
    let of_test = ["input_series", "alert_rule_test", "promql_expr_test"];
    has(root, &["evaluation_interval", "group_eval_order"]) || tests.iter().any(|test| has(test, &of_test))
}

/// Reads a test file. Errors become findings; the valid rest is returned.
pub fn read(root: &Node, findings: &mut Findings) -> Option<TestFile> {
    let fields = Fields::open(root, &TEST_FILE, findings)?;
    let config_file = fields.text("config_file", findings);
    let rule_files = fields.texts("rule_files", findings);
    if rule_files.is_empty() && config_file.is_none() && fields.get("tests").is_some() {
        let help = "name the rules to test: `rule_files: [my-rules.yml]`";
        findings.error(root.span, "no `rule_files` and no `config_file`", help);
    }
    let tests = fields.filled_list("tests", findings);
    Some(TestFile {
        rule_files,
        config_file,
        cpus: integer(&fields, "cpus", findings).unwrap_or(4),
        tests: tests.iter().filter_map(|test| read_test(test, findings)).collect(),
    })
}

fn read_test(node: &Node, findings: &mut Findings) -> Option<Test> {
    let fields = Fields::open(node, &TEST, findings)?;
    let mut timeline: Vec<TimelineEntry> = Vec::new();
    for item in fields.filled_list("timeline", findings) {
        let Some(moment) = read_moment(item, findings) else {
            continue;
        };
        if timeline.last().is_some_and(|last| last.at > moment.at) {
            let help = "moments stand in the order of time, all counted from the start of the test";
            findings.error(item.span, "this moment is earlier than the one before it", help);
        }
        timeline.push(moment);
    }
    let expects = |moment: &TimelineEntry| moment.expect.is_some() || !moment.values.is_empty();
    if !timeline.is_empty() && !timeline.iter().any(expects) {
        let help = "add an `expect` to a moment; `expect: []` if nothing happens";
        findings.error(node.span, "this test expects nothing, so it cannot fail", help);
    }
    Some(Test {
        name: fields.text("name", findings)?,
        mode: fields.choice("mode", findings).map(|mode| match mode.value {
            "enforce" => Mode::Enforce,
            _ => Mode::DryRun,
        }),
        source: match fields.choice("source", findings) {
            Some(source) if source.value == "local" => AlertSource::Local,
            _ => AlertSource::Alertmanager,
        },
        processes: read_new(&fields, "processes", findings),
        cgroups: read_all(&fields, "cgroups", findings, read_group),
        timeline,
    })
}

fn read_moment(node: &Node, findings: &mut Findings) -> Option<TimelineEntry> {
    let fields = Fields::open(node, &MOMENT, findings)?;
    let at = fields.duration("at", findings);
    if let Some(at) = at.as_ref().filter(|at| at.value > MAX_LENGTH) {
        findings.error(at.span, "a test may play for 31 days at most", "");
    }
    let expect = fields.get("expect").map(|list| {
        let entries = read_all(&fields, "expect", findings, read_expected);
        Spanned::new(entries, list.span)
    });
    Some(TimelineEntry {
        at: at?.value,
        fire: read_labels(&fields, "fire", findings),
        resolve: read_labels(&fields, "resolve", findings),
        start: read_new(&fields, "start", findings),
        change: read_all(&fields, "change", findings, read_process_spec),
        restart: fields.texts("restart", findings),
        exit: read_all(&fields, "exit", findings, read_pid),
        condition: fields.flag("while", findings).map(|flag| flag.value),
        answer: fields
            .get("answer")
            .and_then(|node| read_scripted_response(node, findings)),
        expect,
        values: read_all(&fields, "values", findings, read_values),
    })
}

/// The valid items of a list.
fn read_all<T>(
    fields: &Fields,
    key: &str,
    findings: &mut Findings,
    read: fn(&Node, &mut Findings) -> Option<T>,
) -> Vec<T> {
    let items = fields.list(key, findings);
    items.iter().filter_map(|item| read(item, findings)).collect()
}

/// An integer, whose range in the table of keys fits the type.
fn integer<T: TryFrom<i64>>(fields: &Fields, key: &str, findings: &mut Findings) -> Option<T> {
    let number = fields.integer(key, findings)?;
    T::try_from(number.value).ok()
}

fn read_scripted_response(node: &Node, findings: &mut Findings) -> Option<ScriptedResponse> {
    let fields = Fields::open(node, &ANSWER, findings)?;
    Some(ScriptedResponse {
        status: integer(&fields, "status", findings),
        body: match fields.get("body") {
            Some(node) => Some(read_json(node, findings)?),
            None => None,
        },
        exit: integer(&fields, "exit", findings).unwrap_or(0),
    })
}

fn read_labels(fields: &Fields, key: &str, findings: &mut Findings) -> Option<Labels> {
    let node = fields.get(key)?;
    let labels = fields.map_of_texts(key, findings);
    if !labels.contains_key("alertname") && matches!(node.content, Content::Mapping(_)) {
        let help = format!("write it as `{key}: {{alertname: HostCpuSaturated}}`");
        findings.error(node.span, "an alert has the label `alertname`", help);
    }
    Some(labels.into_iter().map(|(name, text)| (name, text.value)).collect())
}

fn read_group(node: &Node, findings: &mut Findings) -> Option<CgroupSpec> {
    let fields = Fields::open(node, &CGROUP, findings)?;
    let mut settings = Vec::new();
    for file in CgroupFile::ALL {
        let Some(text) = fields.text(file.as_str(), findings) else {
            continue;
        };
        match Setting::parse(file, &text.value) {
            Ok(setting) => settings.push(setting),
            Err(error) => findings.error(text.span, error.to_string(), "write it as the kernel shows it"),
        }
    }
    let path = fields.text("path", findings);
    if let Some(path) = path.as_ref().filter(|path| !path.value.starts_with('/')) {
        findings.error(path.span, "the path of a control group begins with `/`", "");
    }
    let mut size = |key| fields.size(key, findings).map_or(0, |size| size.value);
    Some(CgroupSpec {
        path: path?.value,
        memory_bytes: size("memory"),
        reclaimable_bytes: size("reclaimable"),
        settings,
    })
}

fn read_pid(node: &Node, findings: &mut Findings) -> Option<i32> {
    let pid = node.integer("pid", &PID, findings)?;
    i32::try_from(pid.value).ok()
}

/// New processes, which need a name.
fn read_new(fields: &Fields, key: &str, findings: &mut Findings) -> Vec<ProcessSpec> {
    let mut all = Vec::new();
    for item in fields.list(key, findings) {
        let Some(spec) = read_process_spec(item, findings) else {
            continue;
        };
        if spec.name.is_none() && spec.exe.is_none() {
            findings.error(
                item.span,
                "a process needs a `name` or an `exe`",
                "such as `name: ffmpeg`",
            );
        }
        all.push(spec);
    }
    all
}

fn read_process_spec(node: &Node, findings: &mut Findings) -> Option<ProcessSpec> {
    let fields = Fields::open(node, &PROCESS, findings)?;
    let pid = integer(&fields, "pid", findings);
    Some(ProcessSpec {
        count: integer(&fields, "count", findings).unwrap_or(1),
        name: fields.string("name", findings),
        exe: fields.string("exe", findings),
        cmdline: fields.string("cmdline", findings),
        user: fields.string("user", findings),
        cgroup: fields.string("cgroup", findings),
        threads: integer(&fields, "threads", findings),
        nice: integer(&fields, "nice", findings),
        oom_score: integer(&fields, "oom_score", findings),
        parent: integer(&fields, "parent", findings),
        pid: pid?,
        age: fields.duration("age", findings).map(|age| age.value),
        memory_bytes: fields.size("memory", findings).map(|size| size.value),
        cpu_cores: fields.number("cpu", findings).map(|cores| cores.value),
        state: fields
            .choice("state", findings)
            .and_then(|state| state.value.chars().next()),
        kernel_thread: fields.flag("kernel_thread", findings).map(|flag| flag.value),
        login_leader: fields.flag("login_leader", findings).map(|flag| flag.value),
        ignores: read_signals(&fields, "ignores", findings),
        catches: read_signals(&fields, "catches", findings),
    })
}

fn read_signals(fields: &Fields, key: &str, findings: &mut Findings) -> Option<BTreeSet<Signal>> {
    fields.get(key)?;
    let mut signals = BTreeSet::new();
    for name in fields.texts(key, findings) {
        match name.value.parse() {
            Ok(signal) => drop(signals.insert(signal)),
            Err(_) => {
                let known: Vec<&str> = Signal::iterator().map(Signal::as_str).collect();
                let message = format!("`{}` is no signal", name.value);
                findings.error(name.span, message, suggest(&name.value, "signals", &known));
            }
        }
    }
    Some(signals)
}

fn read_expected(node: &Node, findings: &mut Findings) -> Option<Spanned<StepEvent>> {
    let fields = Fields::open(node, &EXPECTED, findings)?;
    let decision = fields.choice("decision", findings);
    let outcome = fields.choice("outcome", findings);
    if fields.get("decision").is_some() == fields.get("outcome").is_some() {
        let help = "`outcome` for a step that was applied, reverted or simulated; `decision` for one that was denied";
        findings.error(
            node.span,
            "an expectation has either an `outcome` or a `decision`",
            help,
        );
    }
    if let Some(word) = decision
        .as_ref()
        .filter(|word| ["planned", "dry_run", "duplicate", "invalid"].contains(&word.value))
    {
        let help = "expect the `outcome` of the step: applied, already_set, dry_run …";
        let message = format!("`{}` is not listed, because it refuses nothing", word.value);
        findings.error(word.span, message, help);
    }
    let event = StepEvent {
        rule: fields.string("rule", findings),
        pid: integer(&fields, "pid", findings),
        cgroup: fields.string("cgroup", findings),
        step: fields.string("step", findings),
        decision: decision.and_then(|word| Decision::ALL.iter().copied().find(|known| known.as_str() == word.value)),
        outcome: outcome.and_then(|word| Outcome::ALL.iter().copied().find(|known| known.as_str() == word.value)),
        before: fields.string("before", findings),
        after: fields.string("after", findings),
        reason: fields.string("reason", findings),
    };
    Some(Spanned::new(event, node.span))
}

fn read_values(node: &Node, findings: &mut Findings) -> Option<Values> {
    let fields = Fields::open(node, &VALUES, findings)?;
    let pid = integer(&fields, "pid", findings);
    let cgroup = fields.string("cgroup", findings);
    if pid.is_some() == cgroup.is_some() {
        findings.error(node.span, "values are those of one `pid` or of one `cgroup`", "");
    }
    let alive = fields.flag("alive", findings).map(|flag| flag.value);
    let knobs = fields
        .known()
        .filter(|(_, key)| !matches!(*key, "pid" | "cgroup" | "alive"))
        .filter_map(|(_, key)| Some((key, fields.text(key, findings)?)))
        .collect();
    Some(Values {
        span: node.span,
        target: pid.map(ValueTarget::Process).or(cgroup.map(ValueTarget::Cgroup))?,
        alive,
        knobs,
    })
}
