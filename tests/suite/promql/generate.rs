//! Series and expressions from a seed.

use super::SAMPLES;
use std::fmt::Write as _;

/// SplitMix64: the same sequence on every machine and with every version of every crate.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// Counters with resets, gauges with NaN and infinities, few distinct values, and labels to join; all with gaps and
/// ends.
pub fn world(random: &mut Random) -> World {
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
    for instance in ["1", "2"] {
        let mut counts = [0; SAMPLES];
        for bound in ["0.5", "1", "5", "+Inf"] {
            counts.iter_mut().for_each(|count| *count += random.below(20));
            let values: Vec<String> = counts.iter().map(usize::to_string).collect();
            let labels = format!("h_bucket{{instance=\"{instance}\", le=\"{bound}\"}}");
            series.push((labels, values.join(" ")));
        }
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
pub struct Grower<'a>(pub &'a mut Random);

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
        self.0.pick(&[
            "",
            "",
            "",
            "",
            " offset 1m",
            " offset 37s",
            " offset -45s",
            " @ 400",
            " @ end() offset 30s",
        ])
    }

    fn range(&mut self, depth: usize) -> String {
        let length = self.0.pick(&["30s", "1m", "2m30s", "5m", "71s"]);
        if depth > 0 && self.0.one_in(6) {
            let (inner, step) = (self.vector(depth - 1), self.0.pick(&["", "20s", "1m"]));
            return format!("({inner})[{length}:{step}]{}", self.offset());
        }
        format!("{}[{length}]{}", self.selector(), self.offset())
    }

    pub fn scalar(&mut self, depth: usize) -> String {
        match self.0.below(if depth == 0 { 4 } else { 8 }) {
            7 => "pi()".into(),
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

    pub fn vector(&mut self, depth: usize) -> String {
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
            3 => format!("count_values{grouping} (\"value\", round({inner}))"),
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
        match self.0.below(17) {
            14 => format!("label_join({inner}, \"new\", \"-\", \"job\", \"none\", \"instance\")"),
            15 | 16 => {
                let phi = self.0.pick(&["0", "0.3", "0.99", "1", "-1", "2", "NaN"]);
                let buckets = self
                    .0
                    .pick(&["h_bucket", "sum by (le) (h_bucket)", "h_bucket{le!=\"+Inf\"}"]);
                format!(
                    "histogram_quantile({phi}, {buckets}{})",
                    if buckets.ends_with(')') { "" } else { self.offset() }
                )
            }
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
                    "sin",
                    "cos",
                    "tan",
                    "asin",
                    "acos",
                    "atan",
                    "sinh",
                    "cosh",
                    "tanh",
                    "asinh",
                    "acosh",
                    "atanh",
                    "deg",
                    "rad",
                ]);
                format!("{function}({inner})")
            }
        }
    }
}

/// Series and their values, in promtool's notation.
pub type World = Vec<(String, String)>;
