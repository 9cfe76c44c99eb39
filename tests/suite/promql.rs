//! The real promtool agrees with our PromQL: generated expressions over generated series, from a fixed seed, written as a
//! unit-test file that expects what evenkeel computes.

use evenkeel::watch::evaluator::{Evaluator, Settings};
use evenkeel::watch::history::{History, Interest};
use evenkeel::watch::labels::LabelSet;
use evenkeel::watch::promql::{self, Dialect, Element, Semantics};
use evenkeel::watch::rule_file;
use evenkeel::watch::series_notation::{parse_series, parse_values};
use evenkeel::watch::unit_test;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SEED: u64 = 20_240_229;
const WORLDS: usize = 10;
const RULE_WORLDS: usize = 12;
const EXPRESSIONS_PER_WORLD: usize = 100;
const SAMPLES: usize = 60;
const INTERVAL_SECONDS: usize = 15;

/// SplitMix64: the same sequence on every machine and with every version of every crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// Counters with resets, gauges with NaN and infinities, few distinct values, and labels to join; all with gaps and ends.
fn world(random: &mut Random) -> Vec<(String, String)> {
    let mut series = Vec::new();
    for (metric, kind) in [("c_total", 0), ("g", 1), ("few", 2), ("other", 1)] {
        for job in ["a", "b"] {
            for instance in ["1", "2", "3"] {
                if !random.one_in(6) {
                    let labels = format!("{metric}{{instance=\"{instance}\", job=\"{job}\"}}");
                    series.push((labels, values(random, kind)));
                }
            }
        }
    }
    for (index, labels) in [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b"), ("3", "a")]
        .iter()
        .enumerate()
    {
        let labels = format!("rank{{instance=\"{}\", job=\"{}\"}}", labels.0, labels.1);
        let ranks: Vec<String> = (0..SAMPLES)
            .map(|_| (index + 10 * random.below(100)).to_string())
            .collect();
        series.push((labels, ranks.join(" ")));
    }
    for instance in ["1", "2", "3"] {
        let version = random.pick(&["v1", "v2"]);
        series.push((
            format!("info{{instance=\"{instance}\", version=\"{version}\"}}"),
            "1x60".into(),
        ));
    }
    series
}

fn values(random: &mut Random, kind: usize) -> String {
    let mut text = String::new();
    let (mut counter, mut left_out) = (random.below(50) as f64, 0);
    for _ in 0..SAMPLES {
        if random.one_in(25) {
            left_out = 1 + random.below(25);
        }
        counter = if random.one_in(15) {
            0.0
        } else {
            counter + (random.below(400) as f64) / 16.0
        };
        let gauge = (random.below(2000) as f64 - 800.0) / 7.0;
        let value = if left_out > 0 {
            left_out -= 1;
            "_".to_owned()
        } else if random.one_in(30) {
            "stale".to_owned()
        } else {
            match kind {
                0 => counter.to_string(),
                1 if random.one_in(25) => random.pick(&["NaN", "Inf", "-Inf"]).to_owned(),
                1 => gauge.to_string(),
                _ => random.below(4).to_string(),
            }
        };
        let _ = write!(text, "{value} ");
    }
    text
}

/// Grows expressions of a given type, at most `depth` levels deep.
struct Grower<'a>(&'a mut Random);

impl Grower<'_> {
    fn selector(&mut self) -> String {
        let metric = self.0.pick(&["c_total", "g", "few", "other", "info", "nothing"]);
        let matchers = self.0.pick(&[
            "",
            "",
            "",
            "{job=\"a\"}",
            "{job!=\"a\"}",
            "{instance=~\"1|2\"}",
            "{instance!~\"[12]\"}",
            "{instance=~\".+\", job=\"b\"}",
        ]);
        match self.0.below(20) {
            0 => "{__name__=~\"g|few\", job=\"a\"}".into(),
            1 => "{__name__=\"g\"}".into(),
            _ => format!("{metric}{matchers}"),
        }
    }

    fn offset(&mut self) -> &'static str {
        self.0.pick(&["", "", "", " offset 1m", " offset 37s"])
    }

    fn range(&mut self, depth: usize) -> String {
        let length = self.0.pick(&["30s", "1m", "2m30s", "5m", "71s"]);
        if depth > 0 && self.0.one_in(6) {
            let (inner, step) = (self.vector(depth - 1), self.0.pick(&["", "20s", "1m"]));
            return format!("({inner})[{length}:{step}]{}", self.offset());
        }
        format!("{}[{length}]{}", self.selector(), self.offset())
    }

    fn scalar(&mut self, depth: usize) -> String {
        match self.0.below(if depth == 0 { 4 } else { 7 }) {
            0 | 1 => self.0.pick(&["0", "1", "2", "-3", "0.5", "100", "7.25"]).into(),
            2 => "time()".into(),
            3 => self.0.pick(&["NaN", "Inf", "-Inf", "1e3", "0x10"]).into(),
            4 => format!("scalar({})", self.vector(depth - 1)),
            5 => format!("-{}", self.scalar(depth - 1)),
            _ => {
                let operator = self
                    .0
                    .pick(&["+", "-", "*", "/", "%", "^", "atan2", "> bool", "== bool"]);
                format!("({} {operator} {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
        }
    }

    fn grouping(&mut self) -> &'static str {
        self.0.pick(&[
            "",
            " by (job)",
            " by (instance)",
            " without (instance)",
            " by (job, version)",
            " by (__name__)",
        ])
    }

    fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.offset());
        }
        match self.0.below(13) {
            0..=3 => self.over_time(depth),
            4 | 5 => self.aggregate(depth),
            6..=9 => self.binary(depth),
            _ => self.function(depth),
        }
    }

    fn over_time(&mut self, depth: usize) -> String {
        match self.0.below(12) {
            0 => format!(
                "quantile_over_time({}, {})",
                self.0.pick(&["0.5", "0.9", "-1", "2"]),
                self.range(depth - 1)
            ),
            1 => format!(
                "predict_linear({}, {})",
                self.range(depth - 1),
                self.0.pick(&["60", "3600"])
            ),
            2 => format!("absent_over_time({})", self.range(depth - 1)),
            _ => {
                let function = self.0.pick(&[
                    "rate",
                    "rate",
                    "irate",
                    "increase",
                    "increase",
                    "delta",
                    "idelta",
                    "deriv",
                    "avg_over_time",
                    "min_over_time",
                    "max_over_time",
                    "sum_over_time",
                    "count_over_time",
                    "stddev_over_time",
                    "stdvar_over_time",
                    "last_over_time",
                    "present_over_time",
                    "changes",
                    "resets",
                ]);
                format!("{function}({})", self.range(depth - 1))
            }
        }
    }

    fn aggregate(&mut self, depth: usize) -> String {
        let (inner, grouping) = (self.vector(depth - 1), self.grouping());
        // Among equal values promtool's choice depends on chance, so what is ranked here is never equal.
        let ranked = self
            .0
            .pick(&["rank", "rank offset 1m", "-rank{job=\"a\"}", "last_over_time(rank[2m])"]);
        match self.0.below(14) {
            0 => format!(
                "quantile{grouping} ({}, {inner})",
                self.0.pick(&["0.5", "0.25", "NaN", "1.5"])
            ),
            1 => format!("topk{grouping} ({}, {ranked})", self.0.pick(&["1", "2", "5"])),
            2 => format!("bottomk{grouping} ({}, {ranked})", self.0.pick(&["0", "1", "3"])),
            3 => format!("count_values{grouping} (\"value\", {inner})"),
            _ => {
                let name = self
                    .0
                    .pick(&["sum", "avg", "min", "max", "count", "stddev", "stdvar", "group"]);
                format!("{name}{grouping} ({inner})")
            }
        }
    }

    fn binary(&mut self, depth: usize) -> String {
        let arithmetic = ["+", "-", "*", "/", "%", "^", "atan2"];
        let comparison = ["==", "!=", ">", "<", ">=", "<=", "> bool", "<= bool", "== bool"];
        let operator = if self.0.one_in(2) {
            self.0.pick(&arithmetic)
        } else {
            self.0.pick(&comparison)
        };
        match self.0.below(8) {
            0 => format!("({}) {operator} ({})", self.vector(depth - 1), self.scalar(depth - 1)),
            1 => format!("({}) {operator} ({})", self.scalar(depth - 1), self.vector(depth - 1)),
            2 | 3 => {
                let set = self.0.pick(&["and", "or", "unless"]);
                let matching = self.0.pick(&["", "", "on (job)", "ignoring (job)", "on ()"]);
                format!(
                    "({}) {set} {matching} ({})",
                    self.vector(depth - 1),
                    self.vector(depth - 1)
                )
            }
            4 => {
                let side = self.0.pick(&["group_left (version)", "group_left ()", "group_left"]);
                format!("({}) {operator} on (instance) {side} info", self.vector(depth - 1))
            }
            5 => {
                let side = self.0.pick(&["group_right (version)", "group_right"]);
                format!("info {operator} on (instance) {side} ({})", self.vector(depth - 1))
            }
            _ => {
                let matching = self
                    .0
                    .pick(&["", "", "", "on (job, instance)", "ignoring (version)", "on (instance)"]);
                format!(
                    "({}) {operator} {matching} ({})",
                    self.vector(depth - 1),
                    self.vector(depth - 1)
                )
            }
        }
    }

    fn function(&mut self, depth: usize) -> String {
        let inner = self.vector(depth - 1);
        match self.0.below(14) {
            0 => format!("clamp({inner}, {}, {})", self.scalar(0), self.scalar(0)),
            1 => format!("clamp_min({inner}, {})", self.scalar(depth - 1)),
            2 => format!("clamp_max({inner}, {})", self.scalar(depth - 1)),
            3 => format!("round({inner}, {})", self.0.pick(&["0.1", "5", "0.25"])),
            4 => format!("absent({inner})"),
            5 => format!("timestamp({inner})"),
            6 => format!("-({inner})"),
            7 => format!("vector({})", self.scalar(depth - 1)),
            8 => {
                let date = self.0.pick(&[
                    "hour",
                    "minute",
                    "day_of_week",
                    "day_of_month",
                    "month",
                    "year",
                    "days_in_month",
                ]);
                let argument = if self.0.one_in(2) {
                    String::new()
                } else {
                    "few * 1e6 * 7.7".into()
                };
                format!("{date}({argument})")
            }
            9 => {
                let (replacement, pattern) =
                    [("x$1", "(.)"), ("$0-${1}", "(1|2)"), ("", ".*"), ("c$$", "a")][self.0.below(4)];
                let (to, from) = (
                    self.0.pick(&["new", "job", "instance"]),
                    self.0.pick(&["job", "instance", "none"]),
                );
                format!("label_replace({inner}, \"{to}\", \"{replacement}\", \"{from}\", \"{pattern}\")")
            }
            _ => {
                let function = self.0.pick(&[
                    "abs",
                    "ceil",
                    "floor",
                    "round",
                    "sgn",
                    "sqrt",
                    "exp",
                    "ln",
                    "log2",
                    "log10",
                    "sort",
                    "sort_desc",
                ]);
                format!("{function}({inner})")
            }
        }
    }
}

/// One expression, when it was evaluated, and what came out.
struct Case {
    expression: String,
    at_seconds: usize,
    result: Result<Vec<Element>, String>,
}

fn history_of(series: &[(String, String)]) -> History {
    let mut interest = Interest::default();
    interest.add(&[], i64::MAX / 4);
    let mut history = History::new(interest);
    for (series, values) in series {
        let labels = parse_series(series).unwrap();
        for (index, value) in parse_values(values).unwrap().into_iter().enumerate() {
            if let Some(value) = value {
                history.record((index * INTERVAL_SECONDS * 1000) as i64, &labels, value);
            }
        }
    }
    history
}

fn semantics() -> Semantics {
    Semantics {
        dialect: Dialect::V2_42,
        default_step_ms: INTERVAL_SECONDS as i64 * 1000,
        ..Semantics::default()
    }
}

fn cases(random: &mut Random, history: &History) -> Vec<Case> {
    let mut cases = Vec::new();
    while cases.len() < EXPRESSIONS_PER_WORLD {
        let depth = 1 + random.below(3);
        let mut grower = Grower(random);
        let expression = if grower.0.one_in(12) {
            grower.scalar(depth)
        } else {
            grower.vector(depth)
        };
        let at_seconds = 300 + random.below(SAMPLES * INTERVAL_SECONDS - 240);
        let Ok(query) = promql::parse(&expression) else {
            continue;
        };
        let value = query.evaluate(history, at_seconds as i64 * 1000, semantics());
        let result = value.map(promql::Value::into_vector).map_err(|error| error.to_string());
        // Most expressions shall say something.
        if result.as_ref().is_ok_and(Vec::is_empty) && !random.one_in(4) {
            continue;
        }
        cases.push(Case {
            expression,
            at_seconds,
            result,
        });
    }
    cases
}

fn yaml_number(value: f64) -> String {
    if value.is_nan() {
        ".nan".into()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf".into() } else { "-.inf".into() }
    } else {
        format!("{value:e}")
    }
}

fn unit_test_file(worlds: &[(Vec<(String, String)>, Vec<Case>)]) -> String {
    let mut text = format!("evaluation_interval: {INTERVAL_SECONDS}s\ntests:\n");
    let mut number = 0;
    for (series, cases) in worlds {
        let _ = writeln!(text, "- interval: {INTERVAL_SECONDS}s\n  input_series:");
        for (series, values) in series {
            let _ = writeln!(text, "  - {{series: '{series}', values: '{values}'}}");
        }
        let _ = writeln!(text, "  promql_expr_test:");
        for case in cases {
            // The comment finds the case again in what promtool prints.
            let expression = format!("{} # case {number}", case.expression);
            let _ = writeln!(
                text,
                "  - expr: '{expression}'\n    eval_time: {}s\n    exp_samples:",
                case.at_seconds
            );
            for element in case.result.as_deref().unwrap_or_default() {
                let (labels, value) = (&element.labels, yaml_number(element.value));
                let _ = writeln!(text, "    - {{labels: '{labels}', value: {value}}}");
            }
            number += 1;
        }
    }
    text
}

/// The Debian package of Prometheus, unpacked by `tests/tools.sh`, or any promtool on the path.
fn promtool() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/root/usr/bin/promtool");
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let candidates = std::iter::once(unpacked).chain(on_path.map(|folder| folder.join("promtool")));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .expect("promtool is missing: run tests/tools.sh, or put it on PATH")
}

fn run_promtool(files: &[PathBuf]) -> String {
    let output = Command::new(promtool())
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

/// What promtool has to object, by number of the case: what it got instead, or its error.
fn objections(file: &Path) -> HashMap<usize, Result<BTreeMap<LabelSet, f64>, String>> {
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

/// promtool compares the bits of floats and holds no NaN to be equal to another; sums of ours are compensated and 2.42's
/// are not. So what it objects to is compared once more, to eleven digits.
fn same(ours: &[Element], theirs: &BTreeMap<LabelSet, f64>) -> bool {
    let near = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-11 * a.abs().max(b.abs());
    ours.len() == theirs.len()
        && ours.iter().all(|element| {
            theirs
                .get(&element.labels)
                .is_some_and(|value| near(element.value, *value))
        })
}

#[test]
fn promtool_agrees_with_generated_expressions() {
    let mut random = Random(SEED);
    let worlds: Vec<(Vec<(String, String)>, Vec<Case>)> = (0..WORLDS)
        .map(|_| {
            let series = world(&mut random);
            let cases = cases(&mut random, &history_of(&series));
            (series, cases)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("generated.test.yml");
    std::fs::write(&file, unit_test_file(&worlds)).unwrap();
    if let Ok(copy) = std::env::var("KEEP_GENERATED") {
        std::fs::copy(&file, copy).unwrap();
    }

    let objections = objections(&file);
    let cases: Vec<&Case> = worlds.iter().flat_map(|(_, cases)| cases).collect();
    let mut disagreements = Vec::new();
    let (mut errors, mut with_values) = (0, 0);
    for (number, case) in cases.iter().enumerate() {
        let agreed = match (&case.result, objections.get(&number)) {
            (Ok(_), None) => true,
            (Ok(ours), Some(Ok(theirs))) => same(ours, theirs),
            (Err(_), Some(Err(_))) => true,
            _ => false,
        };
        errors += usize::from(case.result.is_err());
        with_values += usize::from(case.result.as_ref().is_ok_and(|elements| !elements.is_empty()));
        if !agreed {
            let objection = objections.get(&number);
            disagreements.push(format!(
                "{} at {}s\n  ours: {:?}\n  theirs: {objection:?}",
                case.expression, case.at_seconds, case.result
            ));
        }
    }
    println!(
        "{} cases: {with_values} with values, {errors} errors, {} looked at twice",
        cases.len(),
        objections.len()
    );
    assert!(with_values >= 300, "only {with_values} cases say something");
    assert!(
        disagreements.is_empty(),
        "{} disagreements:\n{}",
        disagreements.len(),
        disagreements.join("\n")
    );
}

const TEMPLATES: [&str; 10] = [
    "{{ $labels.instance }} of {{ .Labels.job }}: {{ $value | humanize }}",
    "{{ printf \"%.2f|%8.1f|%-6s|%q|%e|%.3g|%%\" $value $value $labels.job $labels.instance 12.5 $value }}",
    "{{ humanizeDuration $value }} {{ humanize1024 $value }}",
    "{{ $value | humanizePercentage }} {{ $labels }}",
    "{{ $externalLabels.site }} {{ $externalURL }} {{ .ExternalLabels }}",
    "{{ $labels.job | toUpper }}{{ title \"is a-b c_d\" | printf \" %s\" -}}   end",
    "{{ $labels.missing }}|{{- 3 }}|{{ -2.5 }}|{{ `raw` }}{{/* silent */}}",
    "{{ (printf \"%d %v %s\" 7 $labels.job) | toUpper }}",
    "{{ printf \"%d %s\" $value }}",
    "{{ humanize $labels.instance }} {{ humanize 0.00321 }} {{ humanizeDuration 93784.5 }}",
];

/// Rules whose values are few and exact, so that annotations agree to the last character.
fn rules(random: &mut Random) -> String {
    let mut text = "groups:\n".to_owned();
    for group in ["first", "second"] {
        let _ = writeln!(text, "- name: {group}\n  rules:");
        for index in 0..2 {
            let expression = random.pick(&[
                "sum by (job) (few)",
                "few > 1",
                "max_over_time(few[1m]) + rank",
                "count without (instance) (c_total)",
                "ALERTS{alertstate=\"pending\"}",
                "first:r0 * 2",
            ]);
            let _ = writeln!(
                text,
                "  - {{record: '{group}:r{index}', expr: '{expression}', labels: {{by: '{group}'}}}}"
            );
        }
        for index in 0..5 {
            let expression = random.pick(&[
                "few > 1",
                "few * 1000 + rank > 1500",
                "rank / 16 > 20",
                "first:r0 > 2",
                "absent(few{job=\"a\", instance=\"1\"})",
                "changes(few[2m]) > 3",
                "second:r1 unless first:r1",
                "sum by (instance) (rank) * 100000",
                "time() > 400",
            ]);
            let (delay, kept) = (random.pick(&["0s", "30s", "1m"]), random.pick(&["0s", "30s", "75s"]));
            let (one, two) = (random.pick(&TEMPLATES), random.pick(&TEMPLATES));
            let label = random.pick(&["fixed", "{{ $labels.job }}!", ""]);
            let _ = write!(
                text,
                "  - alert: Alert{index}\n    expr: {expression}\n    for: {delay}\n    keep_firing_for: {kept}\n    \
                 labels: {{severity: '{label}'}}\n    annotations:\n      one: '{one}'\n      two: '{two}'\n"
            );
        }
    }
    text
}

/// A unit-test file that expects, all the way along, what our evaluator makes of the rules; `None` where a rule fails.
fn rule_test(random: &mut Random, rules: &str, rule_file: &str) -> Option<String> {
    let series = world(random);
    let parsed = rule_file::parse(rule_file, rules).unwrap();
    let external_labels = LabelSet::from_pairs([("site", "here"), ("zone", "z")]);
    let settings = Settings {
        interval_ms: INTERVAL_SECONDS as i64 * 1000,
        external_labels,
        external_url: "http://prom".into(),
        semantics: semantics(),
    };
    let mut evaluator = Evaluator::new(settings, vec![parsed]);
    let mut text = format!(
        "rule_files: [{rule_file}]\nevaluation_interval: {INTERVAL_SECONDS}s\ntests:\n- interval: {INTERVAL_SECONDS}s\n  \
         external_labels: {{site: here, zone: z}}\n  external_url: http://prom\n  input_series:\n"
    );
    for (series, values) in &series {
        let _ = writeln!(text, "  - {{series: '{series}', values: '{values}'}}");
    }
    let mut history = history_of(&series);
    text.push_str("  alert_rule_test:\n");
    let mut expressions = "  promql_expr_test:\n".to_owned();
    for step in 0..SAMPLES {
        let at_ms = (step * INTERVAL_SECONDS * 1000) as i64;
        if !evaluator.evaluate_all(&mut history, at_ms).failures.is_empty() {
            return None;
        }
        for name in (0..5).map(|index| format!("Alert{index}")) {
            let offset_seconds = random.below(INTERVAL_SECONDS);
            let at_seconds = step * INTERVAL_SECONDS + offset_seconds;
            let _ = writeln!(
                text,
                "  - eval_time: {at_seconds}s\n    alertname: {name}\n    exp_alerts:"
            );
            let active = evaluator.active();
            for alert in active.filter(|a| a.fired_at_ms.is_some() && a.labels.get("alertname") == name) {
                text.push_str("    - exp_labels:\n");
                for (name, value) in alert.labels.pairs().iter().filter(|(name, _)| &**name != "alertname") {
                    let _ = writeln!(text, "        {name}: {}", serde_json::to_string(&**value).unwrap());
                }
                text.push_str("      exp_annotations:\n");
                for (name, value) in alert.annotations {
                    let _ = writeln!(text, "        {name}: {}", serde_json::to_string(value).unwrap());
                }
            }
        }
    }
    for expression in [
        "ALERTS",
        "ALERTS_FOR_STATE",
        "{__name__=~\"first:.*|second:.*\"}",
        "count_over_time(ALERTS[2m])",
    ] {
        for at_seconds in [200, 433, 600, 880] {
            let _ = writeln!(
                expressions,
                "  - expr: '{expression}'\n    eval_time: {at_seconds}s\n    exp_samples:"
            );
            let query = promql::parse(expression).unwrap();
            let value = query.evaluate(&history, at_seconds * 1000, semantics()).unwrap();
            for element in value.into_vector() {
                let (labels, value) = (&element.labels, yaml_number(element.value));
                let _ = writeln!(expressions, "    - {{labels: '{labels}', value: {value}}}");
            }
        }
    }
    Some(text + &expressions)
}

#[test]
fn promtool_agrees_with_generated_rules_and_alerts() {
    let mut random = Random(SEED + 1);
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let mut checks = 0;
    while files.len() < RULE_WORLDS {
        let name = format!("rules{}.yml", files.len());
        let rules = rules(&mut random);
        let Some(test) = rule_test(&mut random, &rules, &name) else {
            continue;
        };
        std::fs::write(folder.path().join(&name), rules).unwrap();
        let file = folder.path().join(format!("rules{}.test.yml", files.len()));
        std::fs::write(&file, test).unwrap();
        let (tests, rules) = unit_test::load(&file).unwrap();
        let report = tests.run(&rules, Dialect::V2_42);
        assert!(report.is_ok(), "{report}");
        checks += report.checks;
        files.push(file);
    }
    println!("{checks} checks in {} files", files.len());
    let said = run_promtool(&files);
    assert!(!said.contains("FAILED"), "{}", &said[..said.len().min(6000)]);
}
