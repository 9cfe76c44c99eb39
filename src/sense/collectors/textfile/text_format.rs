//! A parser of Prometheus' text format 0.0.4, as programs write it for the textfile collector. Pure.

use crate::family::{Family, Histogram, Label, MetricKind};
use crate::sense::runtime::kernel_file::ParseError;
use std::collections::BTreeMap;

/// The type of a family in the file; `MetricKind` has no summary.
#[derive(Clone, Copy, PartialEq)]
enum DeclaredType {
    Plain(MetricKind),
    Histogram,
    Summary,
}

/// A family before its samples are merged.
#[derive(Default)]
struct Draft {
    help: Option<String>,
    kind: Option<DeclaredType>,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    labels: Vec<Label>,
    value: f64,
}

/// The families of a file, by name.
///
/// # Errors
///
/// The number of the bad line and the reason. Nothing of such a file is used.
pub fn parse(text: &str) -> Result<Vec<Family>, ParseError> {
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let at = |problem| ParseError::Line {
            number: index + 1,
            problem,
        };
        if let Some(comment) = line.strip_prefix('#') {
            parse_comment(comment.trim_start(), &mut drafts).map_err(at)?;
        } else if !line.is_empty() {
            let sample = parse_sample(line).map_err(at)?;
            let owner = owner(&sample.name, &drafts);
            drafts.entry(owner).or_default().samples.push(sample);
        }
    }
    Ok(drafts
        .into_iter()
        .flat_map(|(name, draft)| families(name, draft))
        .collect())
}

fn parse_comment(comment: &str, drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let mut words = comment.splitn(3, char::is_whitespace);
    let (keyword, name, rest) = (
        words.next().unwrap_or(""),
        words.next().unwrap_or(""),
        words.next().unwrap_or(""),
    );
    match keyword {
        "HELP" => {
            let draft = drafts.entry(name.to_owned()).or_default();
            draft.help.get_or_insert_with(|| unescape(rest));
        }
        "TYPE" => {
            let kind = match rest.trim() {
                "counter" => DeclaredType::Plain(MetricKind::Counter),
                "gauge" => DeclaredType::Plain(MetricKind::Gauge),
                "untyped" => DeclaredType::Plain(MetricKind::Untyped),
                "histogram" => DeclaredType::Histogram,
                "summary" => DeclaredType::Summary,
                _ => return Err("the type is none of counter, gauge, histogram, summary, untyped"),
            };
            let draft = drafts.entry(name.to_owned()).or_default();
            if draft.kind.is_some() {
                return Err("a second TYPE for the same metric");
            }
            if !draft.samples.is_empty() {
                return Err("TYPE comes after samples of the metric");
            }
            draft.kind = Some(kind);
        }
        _ => {}
    }
    Ok(())
}

/// The family of a sample; the suffixes of histograms and summaries are stripped.
fn owner(name: &str, drafts: &BTreeMap<String, Draft>) -> String {
    for (suffix, kinds) in [
        ("_bucket", &[DeclaredType::Histogram][..]),
        ("_count", &[DeclaredType::Histogram, DeclaredType::Summary][..]),
        ("_sum", &[DeclaredType::Histogram, DeclaredType::Summary][..]),
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

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            (other, false) => plain.push(other),
        }
    }
    plain
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':')
}

/// Splits off a leading name.
fn name(text: &str) -> Result<(&str, &str), &'static str> {
    let end = text
        .find(|character| !is_name_character(character))
        .unwrap_or(text.len());
    if end == 0 || text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("a name is expected, of letters, digits, _ and :, not beginning with a digit");
    }
    Ok(text.split_at(end))
}

/// Splits off a leading quoted string.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let inner = text
        .strip_prefix('"')
        .ok_or("a label's value must be in double quotes")?;
    let mut escaped = false;
    for (index, character) in inner.char_indices() {
        match character {
            '"' if !escaped => return Ok((unescape(&inner[..index]), &inner[index + 1..])),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Err("a label's value has no closing quote")
}

fn parse_labels(text: &str) -> Result<(Vec<Label>, &str), &'static str> {
    let mut labels: Vec<Label> = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (label, after) = name(rest)?;
        let after = after
            .trim_start()
            .strip_prefix('=')
            .ok_or("a label needs `=` and a value")?;
        let (value, after) = quoted(after.trim_start())?;
        if labels.iter().any(|(before, _)| before == label) {
            return Err("a label is given twice");
        }
        labels.push((label.to_owned().into(), value.into()));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.starts_with('}') => after,
            None => return Err("between two labels a comma is expected"),
        };
    }
}

fn parse_number(text: &str) -> Option<f64> {
    // Rust and Go accept these spellings in any case.
    text.parse().ok()
}

fn parse_sample(line: &str) -> Result<Sample, &'static str> {
    let (name, rest) = name(line)?;
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(labels) => parse_labels(labels)?,
        None => (Vec::new(), rest),
    };
    let mut fields = rest.split_ascii_whitespace();
    let value = fields
        .next()
        .and_then(parse_number)
        .ok_or("the value is not a number")?;
    if fields.next().is_some() {
        return Err("timestamps are not supported here: the file's own time is what counts");
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn families(name: String, draft: Draft) -> Vec<Family> {
    let help = draft.help.unwrap_or_default();
    match draft.kind {
        Some(DeclaredType::Histogram) => vec![histograms(name, help, draft.samples)],
        // A summary becomes untyped families, one per suffix.
        Some(DeclaredType::Summary) => {
            let mut parts: BTreeMap<String, Family> = BTreeMap::new();
            for sample in draft.samples {
                let new = |name: &String| Family::new(name.clone(), help.clone(), MetricKind::Untyped);
                let family = parts.entry(sample.name).or_insert_with_key(new);
                family.push(sample.labels, sample.value);
            }
            parts.into_values().collect()
        }
        Some(DeclaredType::Plain(kind)) => vec![plain(name, help, kind, draft.samples)],
        None => vec![plain(name, help, MetricKind::Untyped, draft.samples)],
    }
}

fn plain(name: String, help: String, kind: MetricKind, samples: Vec<Sample>) -> Family {
    let mut family = Family::new(name, help, kind);
    for sample in samples {
        family.push(sample.labels, sample.value);
    }
    family
}

fn histograms(name: String, help: String, samples: Vec<Sample>) -> Family {
    let mut points: Vec<(Vec<Label>, Histogram)> = Vec::new();
    for sample in samples {
        let mut labels = sample.labels;
        let bound = labels
            .iter()
            .position(|(label, _)| label == "le")
            .map(|index| labels.remove(index).1);
        let index = points
            .iter()
            .position(|(known, _)| *known == labels)
            .unwrap_or_else(|| {
                points.push((labels, Histogram::default()));
                points.len() - 1
            });
        let histogram = &mut points[index].1;
        match (
            sample.name.strip_prefix(name.as_str()),
            bound.as_deref().and_then(parse_number),
        ) {
            (Some("_sum"), _) => histogram.sum = sample.value,
            (Some("_count"), _) => histogram.count = sample.value as u64,
            (Some("_bucket"), Some(bound)) if bound.is_finite() => histogram.buckets.push((bound, sample.value as u64)),
            (Some("_bucket"), Some(_)) => histogram.count = sample.value as u64,
            _ => {}
        }
    }
    let mut family = Family::new(name, help, MetricKind::Histogram);
    for (labels, mut histogram) in points {
        histogram.buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        family.push_histogram(labels, histogram);
    }
    family
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
            "# a comment\n#HELP a Two\\nlines.\n# TYPE a counter\n a { x = \"1,}\\\"\\\\\" , y=\"\", } 2\na 3e2\n\nb +Inf\n",
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
    fn histograms_are_merged_and_summaries_split() {
        let families = parse(
            "# TYPE h histogram\nh_bucket{le=\"+Inf\",l=\"v\"} 4\nh_bucket{le=\"1\",l=\"v\"} 3\nh_bucket{le=\"0.5\",l=\"v\"} 1\n\
             h_sum{l=\"v\"} 7.5\nh_count{l=\"v\"} 4\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 2\ns_count 3\n",
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
            ["s{quantile=\"0.5\"} 1", "s_count 3", "s_sum 2"]
        );
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
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{bad:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
