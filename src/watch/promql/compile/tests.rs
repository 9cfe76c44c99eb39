//! Tests of what is refused and how long samples are kept.

use super::*;
use crate::watch::history::ReadSet;

fn refusals(text: &str) -> Vec<String> {
    parse(text)
        .err()
        .unwrap_or_default()
        .iter()
        .map(Refusal::to_string)
        .collect()
}

#[test]
fn unsupported_promql_is_refused_by_name_and_place() {
    for (text, refusal) in [
        (
            "a{l=\"info\"} * info(a)",
            "the function info is experimental in Prometheus and not supported (at character 15)",
        ),
        (
            "a >/ 1",
            ">/ reads native histograms, which evenkeel does not have (at character 3)",
        ),
        (
            "rate(a[5m] anchored)",
            "the modifier anchored is experimental in Prometheus and not supported (at character 12)",
        ),
        (
            "max_over_time(a[5m * 2 - 10m])",
            "a duration must be greater than 0 (at character 17)",
        ),
        (
            "label_join(a, \"b\", \"-\", \"\")",
            "an empty string is not a label name (at character 25)",
        ),
        (
            "limitk(2, a)",
            "the aggregation limitk is experimental in Prometheus and not supported (at character 1)",
        ),
        ("a[5m]", "a range vector is no result (at character 2)"),
        ("nothing(a)", "unknown function with name 'nothing' (at character 1)"),
        (
            "rate(a[5d] offset 3d)",
            "looks back more than 7 days, which is more than the history in memory keeps",
        ),
        (
            "max_over_time(a[1d:1s])",
            "a subquery of more than 11000 steps (at character 16)",
        ),
        (
            "a offset 99999y",
            "looks back more than 7 days, which is more than the history in memory keeps",
        ),
        ("a +", "not a PromQL expression"),
        ("\"a\"", "a text is no result"),
        (
            "count_values(\"\", a)",
            "an empty string is not a label name (at character 14)",
        ),
        (
            "sum by (b, '') (a)",
            "an empty string is not a label name (at character 12)",
        ),
        (
            "a + fill_right(0) b",
            "the modifier fill_right is experimental in Prometheus and not supported (at character 5)",
        ),
        (
            "{a=\"1\" or b=\"2\"}",
            "alternatives of matchers are not supported (at character 8)",
        ),
    ] {
        assert_eq!(refusals(text), [refusal], "{text}");
    }
}

/// Of Prometheus 3.14.
#[test]
fn every_experimental_function_is_refused_by_name() {
    let of_ranges = "double_exponential_smoothing mad_over_time ts_of_first_over_time ts_of_last_over_time \
                     ts_of_max_over_time ts_of_min_over_time";
    let of_ranges = of_ranges.split(' ').map(|name| match name {
        "double_exponential_smoothing" => format!("{name}(a[5m], 0.1, 0.1)"),
        _ => format!("{name}(a[5m])"),
    });
    let others = [
        "end()",
        "histogram_quantiles(a, \"q\", 0.5)",
        "info(a)",
        "max_of(1, 2)",
        "min_of(1, 2)",
        "range()",
        "sort_by_label(a, \"l\")",
        "sort_by_label_desc(a, \"l\")",
        "start()",
        "start_timestamp(a)",
        "step()",
        "limitk(1, a)",
        "limit_ratio(0.5, a)",
        "a + fill(0) b",
        "a + fill_left(0) b",
        "a smoothed",
    ];
    for text in of_ranges.chain(others.map(String::from)) {
        let refusals = refusals(&text);
        assert!(
            refusals.len() == 1 && refusals[0].contains("is experimental in Prometheus and not supported (at"),
            "{text}: {refusals:?}"
        );
    }
}

#[test]
fn functions_of_native_histograms_have_no_result() {
    for name in NATIVE_HISTOGRAMS {
        let query = parse(&format!("absent({name}(vector(1)))")).unwrap();
        assert_eq!(query.native_functions, [name]);
        let value = query.evaluate(&Default::default(), 0, Default::default()).unwrap();
        assert_eq!(value.into_vector().len(), 1, "{name}");
    }
    let clash = "histogram_sum(label_replace({__name__=~\"a|b\"}, \"__name__\", \"c\", \"\", \"\"))";
    assert_eq!(refusals(clash), Vec::<String>::new());
}

/// Of Prometheus 3.14, beside the experimental ones and those of native histograms.
#[test]
fn every_stable_function_is_evaluated() {
    let of_values = "abs acos acosh asin asinh atan atanh ceil cos cosh day_of_month day_of_week day_of_year \
                     days_in_month deg exp floor hour ln log10 log2 minute month rad round sgn sin sinh sort \
                     sort_desc sqrt tan tanh timestamp year absent scalar";
    let of_ranges = "absent_over_time avg_over_time changes count_over_time delta deriv first_over_time idelta \
                     increase irate last_over_time max_over_time min_over_time present_over_time rate resets \
                     stddev_over_time stdvar_over_time sum_over_time";
    let others = [
        "clamp(a, 1, 2)",
        "clamp_max(a, 1)",
        "clamp_min(a, 1)",
        "histogram_fraction(0, 1, a)",
        "histogram_quantile(0.9, a)",
        "label_join(a, \"b\", \"-\", \"c\", \"d\")",
        "label_replace(a, \"b\", \"$1\", \"c\", \"(.*)\")",
        "pi()",
        "predict_linear(a[5m], 60)",
        "quantile_over_time(0.9, a[5m])",
        "time()",
        "vector(1)",
    ];
    let of_values = of_values.split_whitespace().map(|name| format!("{name}(a)"));
    let of_ranges = of_ranges.split_whitespace().map(|name| format!("{name}(a[5m])"));
    for text in of_values.chain(of_ranges).chain(others.map(String::from)) {
        assert_eq!(refusals(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn names_may_be_any_strings() {
    for text in [
        r#"{"metric.name", "label.name"="x", 'é'=~"y|z", l!=""}"#,
        r#"rate({`metric name`}[5m])"#,
        r#"{"metric.name"} / on ("label.name") group_left ("é", b) {"other.metric"}"#,
        r#"sum without ("label.name", b) ({"metric.name"})"#,
        r#"count_values("label.name", a)"#,
        r#"label_replace(a, "label.name", "$1", "other.name", "(.*)")"#,
        r#"label_join(a, "label.name", "-", "one.name", "é")"#,
        r#"absent({"metric.name", "label.name"="x"})"#,
    ] {
        assert_eq!(refusals(text), Vec::<String>::new(), "{text}");
    }
    let mut read_set = ReadSet::default();
    parse(r#"rate({"metric.name"}[5m])"#)
        .unwrap()
        .add_to_read_set(&mut read_set);
    assert_eq!(read_set.keep_ms("metric.name"), Some(300_000));
    assert_eq!(read_set.keep_ms("a"), None);
}

#[test]
fn comments_may_be_anywhere_between_words() {
    for text in [
        "rate(a[5m # why\n])",
        "rate(a[5m # twice\n * 2])",
        "rate(a[5m # it's ]\n])",
        "max_over_time(a[5m # range\n : # step\n 1m # end\n])",
        "a # {\r+ b",
        "# first\na offset # back\n (1m # more\n + 1m)",
        "a{ # all\n l=\"#\" } # (",
    ] {
        assert_eq!(refusals(text), Vec::<String>::new(), "{text}");
    }
    // A position is that in the text with the comment.
    assert_eq!(
        refusals("a # info\n + info(b)"),
        ["the function info is experimental in Prometheus and not supported (at character 13)"]
    );
}

#[test]
fn no_metric_is_found_in_a_comment() {
    for (text, at) in [
        ("# it's slow\nfoo > 1", 12),
        ("# foo\nfoo > 1", 6),
        ("bar # foo\n> foo", 12),
    ] {
        let names = parse(text).unwrap().metric_names();
        assert!(names.contains(&(at, "foo".to_owned())), "{text}: {names:?}");
    }
}

#[test]
fn modifiers_decide_how_long_samples_are_kept() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    for (text, keep_ms) in [
        ("a", 0),
        ("a offset -5m", 0),
        ("rate(a[5m] offset -4m)", 60_000),
        ("rate(a[5m * 2] offset -(2m + 2m))", 360_000),
        (
            "max_over_time((a offset (30s * 2))[2 * 150s:max_of(step(), 1m)])",
            360_000,
        ),
        ("rate(a[5m] @ end())", 300_000),
        ("max_over_time((a @ start())[1d:1h])", 0),
        ("max_over_time((a offset 1m)[5m:1m] @ start())", 360_000),
        ("rate(a[5m] @ 1700000000 offset 6d)", 7 * DAY_MS),
        ("max_over_time((a offset 1m)[5m:1m] @ 1700000000)", 7 * DAY_MS),
    ] {
        let mut read_set = ReadSet::default();
        parse(text).unwrap().add_to_read_set(&mut read_set);
        assert_eq!(read_set.keep_ms("a"), Some(keep_ms), "{text}");
    }
}

#[test]
fn deep_nesting_is_rejected_before_parsing() {
    let many = |one: &str| one.repeat(20_000);
    for text in [
        format!("{}a{}", many("("), many(")")),
        format!("{}a", many("-")),
        format!("a{}", many(" and a")),
    ] {
        assert!(refusals(&text)[0].starts_with("more than 400 operators"));
    }
    let most = format!("{}a{}", "(".repeat(200), " + a)".repeat(200));
    assert_eq!(refusals(&most), Vec::<String>::new());
    for text in ["rate(a[1e30])", "a offset 1e300", "a offset NaN"] {
        assert_eq!(refusals(text), ["number out of range"], "{text}");
    }
}

#[test]
fn all_errors_of_an_expression_are_reported() {
    assert_eq!(refusals("info(a) + sum(mad_over_time(b[5m]))").len(), 2);
}

#[test]
fn read_set_includes_range_offset_and_subquery() {
    for (text, keep_ms) in [
        ("a", 0),
        ("a offset 1m", 60_000),
        ("rate(a[5m] offset 1m)", 360_000),
        ("max_over_time(rate(a[1m])[10m:10s] offset 2m)", 780_000),
        ("sum(b) / on() group_left() topk(scalar(a offset 3s), b)", 3_000),
    ] {
        let mut read_set = ReadSet::default();
        parse(text).unwrap().add_to_read_set(&mut read_set);
        assert_eq!(read_set.keep_ms("a"), Some(keep_ms), "{text}");
        assert_eq!(read_set.keep_ms("c"), None);
    }
}
