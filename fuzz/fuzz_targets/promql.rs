//! Any text as PromQL: it is refused, or it has a value (or an error) on a small history, the same one twice.
#![no_main]

use evenkeel::family::{Family, label};
use evenkeel::watch::history::{History, ReadSet, SnapshotSource};
use evenkeel::watch::promql::{Query, Semantics, parse};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::panic;

const NOW_MS: i64 = 1_700_000_000_000;
const STEP_MS: i64 = 15_000;
const STEPS: i64 = 20;

fuzz_target!(
    init: {
        // The parser that is used may panic where it should refuse, and is caught; a panic of our own is a finding.
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|place| place.file().contains("promql-parser")) {
                report(info);
            }
        }));
    },
    |data: &[u8]| -> Corpus {
        let Ok(text) = std::str::from_utf8(data) else {
            return Corpus::Reject;
        };
        match parse(text) {
            Ok(query) => {
                let value = evaluate(&query);
                assert_eq!(value, evaluate(&query), "the same data, another value");
            }
            Err(refusals) => {
                assert!(!refusals.is_empty(), "refused without a reason");
                for refusal in refusals {
                    assert!(!refusal.message.is_empty());
                    assert!(refusal.offset.is_none_or(|offset| text.is_char_boundary(offset)), "{refusal:?}");
                }
            }
        }
        Corpus::Keep
    }
);

/// As text, in which a NaN equals itself.
fn evaluate(query: &Query) -> String {
    let mut read_set = ReadSet::default();
    query.add_to_read_set(&mut read_set);
    let mut history = History::new(read_set);
    for step in 0..STEPS {
        history.append(
            SnapshotSource(0),
            NOW_MS - (STEPS - step) * STEP_MS,
            &families(step),
            &[],
        );
    }
    format!("{:?}", query.evaluate(&history, NOW_MS, Semantics::default()))
}

fn families(step: i64) -> [Family; 3] {
    let mut cpu = Family::counter("node_cpu_seconds_total", "");
    for (mode, factor) in [("idle", 3), ("user", 1), ("system", 7)] {
        cpu.push(
            vec![label("cpu", "0"), label("mode", mode)],
            (step * factor % 40) as f64,
        );
    }
    let mut gauge = Family::gauge("a", "");
    gauge.push(
        vec![label("b", "c")],
        if step % 5 == 0 { f64::NAN } else { step as f64 },
    );
    [cpu, gauge, Family::gauge("up", "").value(1.0)]
}
