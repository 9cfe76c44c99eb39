//! The dashboards follow Grafana's dashboard-linter and the needs of a reader. `queries.rs` runs their queries, and
//! `make lint` compares them with `dashboards/build.py`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::selectors::selectors;
use crate::support::shipped::{dashboards, items, panels, root, yaml};

/// The values of the macros, distinct from every range in a query.
const RATE_INTERVAL: &str = "12345s";
const INTERVAL: &str = "1234s";

/// Ids of Grafana's value formats (its `packages/grafana-data/src/valueFormats/categories.ts`) that are in use here.
const UNITS: [&str; 12] = [
    "none",
    "short",
    "percentunit",
    "bytes",
    "Bps",
    "pps",
    "ops",
    "reqps",
    "s",
    "bool",
    "dateTimeFromNow",
    "hertz",
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every panel with queries, with its name for messages.
fn each_panel(mut look: impl FnMut(&str, &Value)) {
    for (file, board) in dashboards() {
        for panel in panels(&board) {
            look(&format!("{file}, panel {:?}", text(panel, "title")), panel);
        }
    }
}

fn each_target(mut look: impl FnMut(&str, &str)) {
    each_panel(|about, panel| {
        for target in items(panel, "targets") {
            let expr = text(target, "expr")
                .replace("$__rate_interval", RATE_INTERVAL)
                .replace("$__interval", INTERVAL)
                .replace("$__range", "123456s")
                .replace("$top", "10");
            look(&format!("{about}: {expr}"), &expr);
        }
    });
}

fn variable<'a>(board: &'a Value, name: &str) -> &'a Value {
    items(&board["templating"], "list")
        .find(|variable| variable["name"] == name)
        .unwrap_or(&Value::Null)
}

#[test]
fn there_is_a_board_for_each_question() {
    let boards: Vec<String> = dashboards().into_iter().map(|(file, _)| file).collect();
    assert_eq!(boards, ["actions.json", "fleet.json", "groups.json", "host.json"]);
    let mut uids = BTreeSet::new();
    for (file, board) in dashboards() {
        assert!(
            uids.insert(text(&board, "uid").to_owned()),
            "{file}: its uid is another's"
        );
        assert!(
            !text(&board, "title").is_empty() && !text(&board, "description").is_empty(),
            "{file}"
        );
        assert_eq!(
            board["editable"], false,
            "{file}: it is built; an edit in Grafana would be lost"
        );
        assert!(panels(&board).len() >= 10, "{file}");
    }
}

#[test]
fn data_source_job_and_instance_can_be_chosen() {
    for (file, board) in dashboards() {
        let source = variable(&board, "datasource");
        let chosen = (text(source, "type"), text(source, "label"), text(source, "query"));
        assert_eq!(chosen, ("datasource", "Data source", "prometheus"), "{file}");
        for (name, label) in [("job", "Job"), ("instance", "Instance")] {
            let variable = variable(&board, name);
            assert_eq!(
                (text(variable, "type"), text(variable, "label")),
                ("query", label),
                "{file}: {name}"
            );
            assert_eq!(
                (&variable["multi"], &variable["includeAll"]),
                (&true.into(), &true.into()),
                "{file}: {name}"
            );
            assert_eq!(text(variable, "allValue"), ".+", "{file}: {name}");
        }
        for variable in items(&board["templating"], "list").filter(|variable| variable["type"] == "query") {
            let about = format!("{file}: {}", text(variable, "name"));
            assert_eq!(text(&variable["datasource"], "uid"), "${datasource}", "{about}");
            // 2 refreshes on each change of the time range, so that new hosts are found.
            assert_eq!(variable["refresh"], 2, "{about}");
            let query = text(variable, "query");
            let inside = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inside
                .and_then(|inside| inside.rsplit_once(", "))
                .expect("label_values(SELECTOR, LABEL)");
            assert_eq!(label, text(variable, "name"), "{about}");
            assert_eq!(selectors(selector).len(), 1, "{about}");
        }
    }
}

#[test]
fn panels_have_title_description_unit_legend_and_source() {
    each_panel(|about, panel| {
        for key in ["title", "description"] {
            assert!(!text(panel, key).trim().is_empty(), "{about} has no {key}");
        }
        assert_eq!(text(&panel["datasource"], "uid"), "${datasource}", "{about}");
        let unit = text(&panel["fieldConfig"]["defaults"], "unit");
        assert!(UNITS.contains(&unit), "{about}: unit {unit:?}");
        for property in items(&panel["fieldConfig"], "overrides").flat_map(|entry| items(entry, "properties")) {
            if property["id"] == "unit" {
                assert!(UNITS.contains(&text(property, "value")), "{about}: {property}");
            }
        }
        if matches!(text(panel, "type"), "timeseries" | "state-timeline") {
            assert_eq!(panel["options"]["legend"]["showLegend"], true, "{about}");
        }
        assert!(items(panel, "targets").next().is_some(), "{about} asks for nothing");
        let mut refs = BTreeSet::new();
        for target in items(panel, "targets") {
            assert_eq!(text(&target["datasource"], "uid"), "${datasource}", "{about}");
            assert!(
                !text(target, "legendFormat").is_empty(),
                "{about}: a query without a legend"
            );
            assert!(refs.insert(text(target, "refId")), "{about}: two queries of one name");
        }
    });
}

#[test]
fn queries_are_about_the_chosen_jobs_and_instances() {
    each_target(|about, expr| {
        let found = selectors(expr);
        assert!(!found.is_empty(), "{about}");
        for selected in found {
            for matcher in ["job=~\"$job\"", "instance=~\"$instance\""] {
                assert!(selected.has_matcher(matcher), "{about} lacks {matcher}");
            }
        }
    });
}

#[test]
fn ranges_follow_the_scrape_interval_and_counters_are_rates() {
    each_target(|about, expr| {
        for selected in selectors(expr) {
            if let Some(range) = selected.range {
                assert_eq!(
                    format!("{}s", range.as_secs()),
                    RATE_INTERVAL,
                    "{about}: use $__rate_interval"
                );
            }
            let counts = ["_total", "_bucket", "_count", "_sum"];
            if counts.iter().any(|suffix| selected.name().ends_with(suffix)) {
                // A count of series does not use their values.
                let function = selected.function.as_deref();
                let is_rate = matches!(function, Some("rate" | "irate" | "increase" | "count"));
                let counts_events = expr.contains(&format!("clamp_min({}{{", selected.name()))
                    && expr.contains(&format!(" offset {INTERVAL} or {}{{", selected.name()));
                assert!(is_rate || counts_events, "{about}: {} is a counter", selected.name());
            }
        }
        assert!(
            !expr.contains("histogram_quantile") || expr.contains("le)"),
            "{about}: the bound of the buckets must survive the sum"
        );
    });
}

#[test]
fn panels_stay_readable_with_a_thousand_hosts() {
    for (file, board) in dashboards() {
        let top = variable(&board, "top");
        assert_eq!(
            (text(top, "type"), text(&top["current"], "value")),
            ("custom", "10"),
            "{file}"
        );
    }
    each_panel(|about, panel| {
        // A table scrolls, with the hosts first that have a fault.
        if panel["type"] == "table" {
            assert_eq!(panel["options"]["sortBy"][0]["desc"], true, "{about}");
            return;
        }
        for target in items(panel, "targets").filter(|target| text(target, "legendFormat").contains("{{instance}}")) {
            let expr = text(target, "expr");
            let bounds = ["topk($top, ", "bottomk($top, ", "topk(1, ", "bottomk(1, "];
            let is_bounded = bounds.iter().any(|bound| expr.contains(bound));
            assert!(is_bounded, "{about}: a series for each host: {expr}");
        }
    });
}

#[test]
fn story_of_the_status_page_stands_on_the_boards_of_hosts() {
    for (file, board) in dashboards() {
        if !["actions.json", "host.json"].contains(&file.as_str()) {
            continue;
        }
        let titles: Vec<&str> = items(&board, "panels").map(|panel| text(panel, "title")).collect();
        let begin = titles
            .iter()
            .position(|title| *title == "What fired, what was done, did it help");
        let begin = begin.unwrap_or_else(|| panic!("{file}: {titles:?}"));
        assert_eq!(
            titles[begin + 1..begin + 6],
            ["Host", "Alerts", "Leases", "Actions", "Not done"],
            "{file}"
        );
    }
}

#[test]
fn every_board_marks_where_evenkeel_acted() {
    for (file, board) in dashboards() {
        for name in ["evenkeel acted", "evenkeel reverted"] {
            let mark = items(&board["annotations"], "list").find(|mark| mark["name"] == name);
            let mark = mark.unwrap_or_else(|| panic!("{file} has no marks where {name}"));
            assert_eq!(
                (&mark["enable"], text(&mark["datasource"], "uid")),
                (&true.into(), "${datasource}"),
                "{file}"
            );
            for selected in selectors(text(mark, "expr")) {
                assert_eq!(selected.name(), "evenkeel_actions_total", "{file}");
                assert!(selected.has_matcher("instance=~\"$instance\""), "{file}");
            }
        }
    }
}

#[test]
fn boards_are_laid_out_without_overlap() {
    for (file, board) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in items(&board, "panels") {
            let place = |key: &str| {
                panel["gridPos"][key]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{file}: {panel}"))
            };
            assert!(place("x") + place("w") <= 24, "{file}: {}", text(panel, "title"));
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{file}: {} lies on another", text(panel, "title"));
                }
            }
        }
    }
}

#[test]
fn provisioning_files_name_what_ships() {
    let folder = root().join("dashboards/provisioning");
    let boards = yaml(&folder.join("dashboards/evenkeel.yml"));
    let provider = &boards["providers"][0];
    assert_eq!((&boards["apiVersion"], text(provider, "type")), (&1.into(), "file"));
    let readme = std::fs::read_to_string(root().join("dashboards/README.md")).expect("a README");
    // The commands of the README copy the dashboards to the folder of the provider.
    assert!(readme.contains(text(&provider["options"], "path")), "{provider}");
    let sources = yaml(&folder.join("datasources/prometheus.yml"));
    assert_eq!(
        (&sources["apiVersion"], text(&sources["datasources"][0], "type")),
        (&1.into(), "prometheus")
    );
    let scraped = yaml(&root().join("alerting/prometheus.yml"));
    assert_eq!(
        sources["datasources"][0]["jsonData"]["timeInterval"],
        scraped["global"]["scrape_interval"]
    );
    for (file, _) in dashboards() {
        assert!(
            readme.contains(&format!("`{file}`")),
            "the README does not tell of {file}"
        );
    }
}
