//! A parser of Prometheus' text format 0.0.4, as programs write it for the textfile collector. It refuses what
//! node_exporter refuses. Pure.

use crate::family::{Family, Histogram, Label, MAX_LABELS, MetricKind};
use crate::sense::runtime::kernel_file::ParseError;
use std::collections::{BTreeMap, HashMap};

/// The characters that separate the parts of a line.
const BLANKS: [char; 2] = [' ', '\t'];

/// A family before its samples are merged.
#[derive(Default)]
struct Draft {
    help: Option<String>,
    kind: Option<MetricKind>,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    /// Without the label that `bound` is made of.
    labels: Vec<Label>,
    /// The number in `le` of a histogram, or in `quantile` of a summary.
    bound: Option<f64>,
    value: f64,
}

/// The families of a file, by name. A family without HELP has an empty help.
///
/// # Errors
///
/// The number of the bad line and the reason. Nothing of such a file is used.
pub fn parse(bytes: &[u8]) -> Result<Vec<Family>, ParseError> {
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        parse_line(line, &mut drafts).map_err(|problem| ParseError::Line {
            number: index + 1,
            problem,
        })?;
    }
    Ok(drafts
        .into_iter()
        .flat_map(|(name, draft)| families(name, draft))
        .collect())
}

fn parse_line(line: &[u8], drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let whole = line.strip_suffix(b"\n");
    let text = String::from_utf8_lossy(whole.unwrap_or(line));
    let content = text.trim_start_matches(BLANKS);
    if content.is_empty() {
        return Ok(());
    }
    if whole.is_none() {
        return Err("the last line has no newline, so the file may not be complete");
    }
    if let Some(comment) = content.strip_prefix('#') {
        return parse_comment(comment.trim_start_matches(BLANKS), drafts);
    }
    if str::from_utf8(line).is_err() {
        return Err("a sample must be UTF-8");
    }
    parse_sample(content, drafts)
}

fn parse_comment(comment: &str, drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let (keyword, rest) = comment.split_once(BLANKS).unwrap_or((comment, ""));
    let rest = rest.trim_start_matches(BLANKS);
    if !["HELP", "TYPE"].contains(&keyword) || rest.is_empty() {
        return Ok(());
    }
    let (name, text) = name(rest)?;
    if !text.is_empty() && !text.starts_with(BLANKS) {
        return Err(NO_NAME);
    }
    let text = text.trim_start_matches(BLANKS);
    if text.is_empty() {
        return Ok(());
    }
    let draft = drafts.entry(owner(name, drafts)).or_default();
    if keyword == "HELP" {
        if draft.help.is_some() {
            return Err("a second HELP for the same metric");
        }
        draft.help = Some(unescape(text)?);
        return Ok(());
    }
    if draft.kind.is_some() {
        return Err("a second TYPE for the same metric, or one after its samples");
    }
    draft.kind = Some(match text.to_ascii_lowercase().as_str() {
        "counter" => MetricKind::Counter,
        "gauge" => MetricKind::Gauge,
        "untyped" => MetricKind::Untyped,
        "histogram" => MetricKind::Histogram,
        "summary" => MetricKind::Summary,
        _ => return Err("the type is none of counter, gauge, histogram, summary, untyped"),
    });
    Ok(())
}

/// The family of a name; the suffixes of histograms and summaries are stripped.
fn owner(name: &str, drafts: &BTreeMap<String, Draft>) -> String {
    if drafts.contains_key(name) {
        return name.to_owned();
    }
    for (suffix, kinds) in [
        ("_bucket", &[MetricKind::Histogram][..]),
        ("_count", &[MetricKind::Histogram, MetricKind::Summary][..]),
        ("_sum", &[MetricKind::Histogram, MetricKind::Summary][..]),
    ] {
        let kind = |base: &str| drafts.get(base).and_then(|draft| draft.kind);
        if let Some(base) = name.strip_suffix(suffix)
            && kind(base).is_some_and(|kind| kinds.contains(&kind))
        {
            return base.to_owned();
        }
    }
    name.to_owned()
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(escaped @ ('\\' | '"')) => escaped,
                _ => return Err("only \\\\, \\\" and \\n are escapes"),
            },
            other => other,
        });
    }
    Ok(plain)
}

const NO_NAME: &str = "a name is expected, of letters, digits, _ and :, not beginning with a digit";

/// Splits off the leading name of a metric.
fn name(text: &str) -> Result<(&str, &str), &'static str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':');
    split_name(text, is_part).ok_or(NO_NAME)
}

/// Splits off the leading name of a label.
fn label_name(text: &str) -> Result<(&str, &str), &'static str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    split_name(text, is_part)
        .ok_or("the name of a label is expected, of letters, digits and _, not beginning with a digit")
}

fn split_name(text: &str, is_part: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|character| !is_part(character)).unwrap_or(text.len());
    let is_name = end > 0 && !text.starts_with(|first: char| first.is_ascii_digit());
    is_name.then(|| text.split_at(end))
}

/// Splits off a leading quoted string.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let inner = text
        .strip_prefix('"')
        .ok_or("a label's value must be in double quotes")?;
    let mut escaped = false;
    for (index, character) in inner.char_indices() {
        match character {
            '"' if !escaped => return Ok((unescape(&inner[..index])?, &inner[index + 1..])),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Err("a label's value has no closing quote")
}

fn parse_labels(text: &str) -> Result<(Vec<Label>, &str), &'static str> {
    let mut labels: Vec<Label> = Vec::new();
    let mut rest = text.trim_start_matches(BLANKS);
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (label, after) = label_name(rest)?;
        let after = after
            .trim_start_matches(BLANKS)
            .strip_prefix('=')
            .ok_or("a label needs `=` and a value")?;
        let (value, after) = quoted(after.trim_start_matches(BLANKS))?;
        if label == "__name__" {
            return Err("the label __name__ is reserved for the name of the metric");
        }
        if labels.iter().any(|(before, _)| before == label) {
            return Err("a label is given twice");
        }
        // The bound keeps the search above short.
        if labels.len() == MAX_LABELS {
            return Err("a series has more than 64 labels");
        }
        labels.push((label.to_owned().into(), value.into()));
        let after = after.trim_start_matches(BLANKS);
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start_matches(BLANKS),
            None if after.starts_with('}') => after,
            None => return Err("between two labels a comma is expected"),
        };
    }
}

/// A number as Go reads it. Rust reads more: a sign before NaN, and numbers that are too large.
fn parse_number(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    let is_too_large = number.is_infinite() && text.contains(|character: char| character.is_ascii_digit());
    let is_signed_nan = number.is_nan() && text.starts_with(['+', '-']);
    (!is_too_large && !is_signed_nan).then_some(number)
}

fn parse_sample(line: &str, drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let (name, rest) = name(line)?;
    let rest = rest.trim_start_matches(BLANKS);
    let (mut labels, rest) = match rest.strip_prefix('{') {
        Some(labels) => parse_labels(labels)?,
        None => (Vec::new(), rest),
    };
    let text = rest.trim_start_matches(BLANKS);
    let (value, after) = match text.find(BLANKS) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let value = parse_number(value).ok_or("the value is not a number")?;
    if !after.is_empty() {
        return Err("the value must be the last of its line: timestamps are not supported, the file's own time counts");
    }
    let draft = drafts.entry(owner(name, drafts)).or_default();
    let bound = match *draft.kind.get_or_insert(MetricKind::Untyped) {
        MetricKind::Histogram => {
            if !name.ends_with("_sum") && (value.is_nan() || value < 0.0) {
                return Err("a count of a histogram must not be negative");
            }
            take_bound(&mut labels, "le").ok_or("the label le is not a number")?
        }
        MetricKind::Summary => take_bound(&mut labels, "quantile").ok_or("the label quantile is not a number")?,
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Untyped => None,
    };
    draft.samples.push(Sample {
        name: name.to_owned(),
        labels,
        bound,
        value,
    });
    Ok(())
}

/// Takes the label of a bound out of the labels. `None` where it is not a number.
fn take_bound(labels: &mut Vec<Label>, name: &str) -> Option<Option<f64>> {
    let Some(index) = labels.iter().position(|(label, _)| label == name) else {
        return Some(None);
    };
    // -0 and 0 are one bound.
    Some(Some(parse_number(&labels.remove(index).1)? + 0.0))
}

fn families(name: String, draft: Draft) -> Vec<Family> {
    let help = draft.help.unwrap_or_default();
    match draft.kind.unwrap_or(MetricKind::Untyped) {
        MetricKind::Histogram => vec![histograms(name, help, draft.samples)],
        MetricKind::Summary => summaries(&name, &help, draft.samples).into(),
        kind => {
            let mut family = Family::new(name, help, kind);
            for sample in draft.samples {
                family.push(sample.labels, sample.value);
            }
            vec![family]
        }
    }
}

/// Merges the samples of each label set, whatever the order of its labels.
fn merge<T: Default>(
    samples: Vec<Sample>,
    mut add: impl FnMut(&mut T, &str, Option<f64>, f64),
) -> Vec<(Vec<Label>, T)> {
    let mut merged: Vec<(Vec<Label>, T)> = Vec::new();
    let mut places = HashMap::new();
    for sample in samples {
        let mut key = sample.labels.clone();
        key.sort_unstable();
        let index = *places.entry(key).or_insert_with(|| {
            merged.push((sample.labels, T::default()));
            merged.len() - 1
        });
        add(&mut merged[index].1, &sample.name, sample.bound, sample.value);
    }
    merged
}

/// Sorts by bound. Of equal bounds the last counts.
fn sort_bounds<T: Copy>(bounds: &mut Vec<(f64, T)>) {
    bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    bounds.dedup_by(|later, earlier| {
        let is_same = later.0.total_cmp(&earlier.0).is_eq();
        if is_same {
            earlier.1 = later.1;
        }
        is_same
    });
}

fn histograms(name: String, help: String, samples: Vec<Sample>) -> Family {
    let merged = merge(samples, |histogram: &mut Histogram, sample, bound, value| {
        let count = value as u64;
        match (&sample[name.len()..], bound) {
            ("_sum", _) => histogram.sum = value,
            ("_count", _) => histogram.count = count,
            (_, Some(bound)) if bound.is_finite() => histogram.buckets.push((bound, count)),
            (_, Some(f64::INFINITY)) => histogram.count = count,
            _ => {}
        }
    });
    let mut family = Family::new(name, help, MetricKind::Histogram);
    for (labels, mut histogram) in merged {
        sort_bounds(&mut histogram.buckets);
        family.push_histogram(labels, histogram);
    }
    family
}

#[derive(Default)]
struct Summary {
    quantiles: Vec<(f64, f64)>,
    sum: f64,
    count: u64,
}

/// The quantiles, the sums and the counts, a family each.
fn summaries(name: &str, help: &str, samples: Vec<Sample>) -> [Family; 3] {
    let merged = merge(samples, |summary: &mut Summary, sample, bound, value| {
        match (&sample[name.len()..], bound) {
            ("_sum", _) => summary.sum = value,
            ("_count", _) => summary.count = value as u64,
            (_, Some(bound)) if !bound.is_nan() => summary.quantiles.push((bound, value)),
            _ => {}
        }
    });
    let family = |suffix: &str, kind| Family::new(format!("{name}{suffix}"), help.to_owned(), kind);
    let mut quantiles = family("", MetricKind::Summary);
    let [mut sums, mut counts] = ["_sum", "_count"].map(|suffix| family(suffix, MetricKind::Untyped));
    for (labels, mut summary) in merged {
        sort_bounds(&mut summary.quantiles);
        for (quantile, value) in summary.quantiles {
            let bound = ("quantile".into(), quantile.to_string().into());
            quantiles.push(labels.iter().cloned().chain([bound]), value);
        }
        sums.push(labels.clone(), summary.sum);
        counts.push(labels, summary.count as f64);
    }
    [quantiles, sums, counts]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;
    use crate::sense::fixture::text_of;
    use proptest::prelude::*;

    #[test]
    fn samples_help_and_types_are_read() {
        let families = parse(
            b"# a comment\n#HELP a Two\\nlines.\n# TYPE a counter\n a { x = \"1,}\\\"\\\\\" , y=\"\", } 2\na 3e2\n\nb +Inf\n",
        )
        .unwrap();
        assert_eq!(
            (families[0].help.as_ref(), families[0].kind),
            ("Two\nlines.", MetricKind::Counter)
        );
        assert_eq!(families[0].point(0).labels[..], [label("x", "1,}\"\\"), label("y", "")]);
        assert_eq!(text_of(&families, "b"), ["b inf"]);
        assert_eq!(families[1].kind, MetricKind::Untyped);
    }

    #[test]
    fn histograms_and_summaries_are_merged_by_labels() {
        let families = parse(
            b"# TYPE h histogram\nh_bucket{le=\"+Inf\",l=\"v\"} 4\nh_bucket{le=\"1\",l=\"v\"} 3\nh_bucket{le=\"0.5\",l=\"v\"} 1\n\
             h_sum{l=\"v\"} 7.5\nh_count{l=\"v\"} 4\n# TYPE s summary\ns{quantile=\"1\",l=\"v\"} 1\ns_sum{l=\"v\"} 2\ns_count{l=\"v\"} 3\n\
             s{l=\"v\",quantile=\"0.5\"} 4\ns{quantile=\"0.5\"} 5\n",
        )
        .unwrap();
        let histogram = Histogram {
            buckets: vec![(0.5, 1), (1.0, 3)],
            sum: 7.5,
            count: 4,
        };
        let mut expected = Family::new("h", "", MetricKind::Histogram);
        expected.push_histogram([label("l", "v")], histogram);
        assert_eq!(families[0], expected);
        assert_eq!(
            text_of(&families[1..], ""),
            [
                "s{l=\"v\",quantile=\"0.5\"} 4",
                "s{l=\"v\",quantile=\"1\"} 1",
                "s{quantile=\"0.5\"} 5",
                "s_sum{l=\"v\"} 2",
                "s_sum 0",
                "s_count{l=\"v\"} 3",
                "s_count 0",
            ]
        );
        assert_eq!(families[1].kind, MetricKind::Summary);
    }

    #[test]
    fn last_of_equal_bounds_counts() {
        let histogram = |text: &str| {
            let families = parse(format!("# TYPE h histogram\n{text}").as_bytes()).unwrap();
            let crate::family::SampleValue::Histogram(histogram) = families[0].point(0).value else {
                panic!("no histogram")
            };
            histogram.buckets.clone()
        };
        assert_eq!(
            histogram("h_bucket{le=\"1\"} 1\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1.0\"} 2\n"),
            [(0.5, 1), (1.0, 2)]
        );
        assert_eq!(histogram("h_bucket{le=\"-0\"} 1\nh_bucket{le=\"0\"} 2\n"), [(0.0, 2)]);
        assert_eq!(histogram("h_bucket{le=\"NaN\"} 1\nh_bucket{le=\"-Inf\"} 1\n"), []);
        let summary = parse(b"# TYPE s summary\ns{quantile=\"0.50\"} 1\ns{quantile=\"0.5\"} 2\n").unwrap();
        assert_eq!(text_of(&summary[..1], ""), ["s{quantile=\"0.5\"} 2"]);
    }

    #[test]
    fn name_of_an_earlier_metric_is_no_part_of_a_histogram() {
        let families = parse(b"h_sum 1\n# TYPE h histogram\nh_sum 2\nh_count 3\n").unwrap();
        assert_eq!(text_of(&families[1..], ""), ["h_sum 1", "h_sum 2"]);
    }

    #[test]
    fn many_labels_and_series_are_read_in_linear_time() {
        let labels = |count: usize| (0..count).map(|index| format!("l{index}=\"v\",")).collect::<String>();
        assert!(parse(format!("a{{{}}} 1\n", labels(64)).as_bytes()).is_ok());
        let error = parse(format!("a{{{}}} 1\n", labels(40_000)).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "line 1: a series has more than 64 labels");
        let series = (0..100_000).map(|index| format!("h_count{{l=\"{index}\"}} 1\n"));
        let text = format!("# TYPE h histogram\n{}", series.collect::<String>());
        let begin = std::time::Instant::now();
        assert_eq!(parse(text.as_bytes()).unwrap()[0].len(), 100_000);
        // A search through all series for each one takes minutes.
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    }

    #[test]
    fn error_names_the_line() {
        for bad in [
            "a 1\nb\n",
            "a 1\nb x\n",
            "a 1\nb{l=1} 1\n",
            "a 1\nb{l=\"v} 1\n",
            "a 1\nb{l=\"v\" m=\"w\"} 1\n",
            "a 1\nb{l=\"v\",l=\"w\"} 1\n",
            "a 1\n1b 1\n",
            "a 1\nb 1 1700000000000\n",
            "a 1\n# TYPE b nonsense\n",
            "a 1\n# TYPE a gauge\n",
            "a 1\n{} 1\n",
            "a 1\nb{__name__=\"c\"} 1\n",
            "a 1\nb{l:m=\"v\"} 1\n",
            "a 1\nb{l=\"\\q\"} 1\n",
            "a 1\n# HELP b \\q\n",
            "# HELP b B.\n# HELP b B.\n",
            "a 1\nb 1",
            "a 1\n# the end",
            "a 1\nb 1e999\n",
            "a 1\nb -NaN\n",
            "a 1\nb 1 \n",
            "a 1\nb 1\r\n",
            "a 1\n# TYPE b gauge \n",
            "# TYPE h histogram\nh_bucket{le=\"x\"} 1\n",
            "# TYPE h histogram\nh_count -1\n",
            "# TYPE s summary\ns{quantile=\"x\"} 1\n",
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{bad:?}: {error}");
        }
    }

    #[test]
    fn only_help_may_be_other_than_utf8() {
        let error = parse(b"a 1\nb{l=\"\xff\"} 1\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        let families = parse(b"# HELP a \xff\n# TYPE A COUNTER\na 1\n  ").unwrap();
        assert_eq!(&*families[1].help, "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in prop_oneof!["(?s).{0,200}", "# TYPE (a|b) (histogram|summary)\n(a|b)(_sum|_count|_bucket)?(\\{(le|quantile|l)=\"[0-9.eInf-]{0,4}\"\\})? [0-9.e-]{1,4}\n"]) {
            let _ = parse(text.as_bytes());
        }
    }
}
