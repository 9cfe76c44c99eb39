//! A lenient parser of an exposition.

use std::collections::BTreeMap;

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// One scrape. Unreadable lines are left out, because another test checks the format.
#[derive(Debug)]
pub struct Scrape(Vec<Sample>);

impl Scrape {
    pub fn parse(text: &str) -> Self {
        Scrape(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(parse_line)
                .collect(),
        )
    }

    /// The sum of all samples of this name (with `_total`) and at least these labels; `None` without samples.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels).reduce(|sum, value| sum + value)
    }

    /// Every series with its value, as `name{label="value",…}` with the labels in order. An empty label is left out, as
    /// in Prometheus.
    pub fn series(&self) -> BTreeMap<String, f64> {
        let text = |sample: &Sample| notation(&sample.name, &sample.labels);
        self.0.iter().map(|sample| (text(sample), sample.value)).collect()
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = f64> + 'a {
        let carries = |sample: &Sample| {
            labels
                .iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        };
        self.0
            .iter()
            .filter(move |sample| sample.name == name && carries(sample))
            .map(|sample| sample.value)
    }
}

/// A series as `name{label="value",…}` with the labels in order; an empty one is left out.
pub fn notation<'a>(name: &str, labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => parse_labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The labels up to the closing brace, and the rest of the line.
fn parse_labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, quoted) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        text = &quoted[end + 1..];
    }
}

#[test]
fn sums_samples_that_carry_the_labels() {
    let scrape = Scrape::parse(
        "# TYPE actions counter\n\
         actions_total{rule=\"a, \\\"b\\\"}\",outcome=\"applied\"} 2\n\
         actions_total{rule=\"c\",outcome=\"applied\"} 3 1700000000.5\n\
         actions_total{rule=\"c\",outcome=\"gone\"} 5\n\
         up 1\n",
    );
    let sum = |labels: &[(&str, &str)]| scrape.sum("actions_total", labels);
    assert_eq!(sum(&[]), Some(10.0));
    assert_eq!(sum(&[("outcome", "applied")]), Some(5.0));
    assert_eq!(sum(&[("rule", "a, \"b\"}")]), Some(2.0));
    assert_eq!(sum(&[("rule", "d")]), None);
    assert_eq!(scrape.sum("up", &[]), Some(1.0));
}
