//! The status page with a keyboard, a mouse, a finger and a screen reader, in a real browser.

use std::time::Duration;

use evenkeel::sense::{Sampler, SamplerConfig};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::page::Scene;
use crate::page_views::serve_page;
use crate::support::browser::Browser;
use crate::support::status_page::{day_activity, day_history, telemetry};
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A page with a day of history, and marks and bars all over it.
fn day(runtime: &Runtime) -> String {
    let sampler = Sampler::start(SamplerConfig::default(), Box::new(())).expect("a sampler");
    sampler.restore(day_history());
    serve_page(runtime, sampler, telemetry(day_activity(6), 3, true)) + "?range=24h"
}

fn press(browser: &mut Browser, key: &str) {
    let mut down = json!({"type": "keyDown", "key": key, "code": key});
    if key == "Enter" {
        down["text"] = json!("\r");
        down["windowsVirtualKeyCode"] = json!(13);
    }
    browser.call("Input.dispatchKeyEvent", down);
    browser.call(
        "Input.dispatchKeyEvent",
        json!({"type": "keyUp", "key": key, "code": key}),
    );
}

fn text(browser: &mut Browser, expression: &str) -> String {
    browser.evaluate(expression).as_str().expect("a text").to_owned()
}

/// Scrolls an element into sight, and returns the middle of it.
fn middle(browser: &mut Browser, element: &str) -> [f64; 2] {
    let found = browser.evaluate(&format!(
        "((found) => {{
            found.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = found.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})({element})"
    ));
    [0, 1].map(|place| found[place].as_f64().expect("a number"))
}

const POINTER: &str = "document.getElementById('pointer').textContent";
/// The last mark, which none covers.
const MARK: &str = "[...document.querySelectorAll('.drawing a[href^=\"episodes/\"]:has(.mark)')].at(-1)";

fn label(browser: &mut Browser) -> String {
    text(browser, &format!("{MARK}.getAttribute('aria-label')"))
}

/// Waits for the page of an episode, whose entry is marked as the target of the link.
fn expect_entry(browser: &mut Browser) {
    eventually("the entry of the mark", TIMEOUT, || {
        let shown = browser
            .evaluate("location.pathname.startsWith('/episodes/') && Boolean(document.querySelector('tr:target'))");
        (shown == json!(true)).then_some(())
    });
}

#[test]
fn finger_shows_an_entry_before_it_follows_the_link() {
    let runtime = Runtime::new().expect("a runtime");
    let url = day(&runtime);
    let mut browser = Browser::start();
    browser.look_with(390, "light");
    browser.call("Emulation.setTouchEmulationEnabled", json!({"enabled": true}));
    browser.open(&url);
    let tap = |browser: &mut Browser| {
        let [x, y] = middle(browser, MARK);
        let points = json!([{"x": x, "y": y}]);
        browser.call(
            "Input.dispatchTouchEvent",
            json!({"type": "touchStart", "touchPoints": points}),
        );
        browser.call(
            "Input.dispatchTouchEvent",
            json!({"type": "touchEnd", "touchPoints": []}),
        );
    };
    let label = label(&mut browser);
    tap(&mut browser);
    eventually("the text of the entry", TIMEOUT, || {
        (text(&mut browser, POINTER) == label).then_some(())
    });
    // The browser would have followed the link by now.
    browser.evaluate("new Promise((done) => setTimeout(done, 700))");
    assert_eq!(text(&mut browser, "location.pathname"), "/");
    let seen = browser.evaluate(
        "(({top, bottom}) => top >= 0 && bottom <= innerHeight)(document.getElementById('pointer').getBoundingClientRect())",
    );
    assert_eq!(seen, json!(true), "the text is in sight");
    tap(&mut browser);
    expect_entry(&mut browser);
}

#[test]
fn mouse_shows_values_and_entries_and_follows_links_at_once() {
    let runtime = Runtime::new().expect("a runtime");
    let url = day(&runtime);
    let mut browser = Browser::start();
    browser.look_with(1200, "light");
    browser.open(&url);
    let mouse = |browser: &mut Browser, kind: &str, [x, y]: [f64; 2]| {
        let buttons = if kind == "mouseMoved" { "none" } else { "left" };
        browser.call(
            "Input.dispatchMouseEvent",
            json!({"type": kind, "x": x, "y": y, "button": buttons, "clickCount": 1}),
        );
    };
    let curve = middle(&mut browser, "document.querySelector('.curves')");
    mouse(&mut browser, "mouseMoved", curve);
    let values = eventually("the values at the pointer", TIMEOUT, || {
        let said = text(&mut browser, POINTER);
        said.contains("CPU busy").then_some(said)
    });
    for figure in [
        "UTC",
        "Memory used",
        "Waiting for I/O",
        "Disk read",
        "Network in",
        " %",
        "iB/s",
    ] {
        assert!(values.contains(figure), "{figure} in {values}");
    }
    let mark = middle(&mut browser, MARK);
    mouse(&mut browser, "mouseMoved", mark);
    let label = label(&mut browser);
    eventually("the text of the entry", TIMEOUT, || {
        (text(&mut browser, POINTER) == label).then_some(())
    });
    // It stays while the page updates, and goes with the pointer.
    browser.evaluate("new Promise((done) => setTimeout(done, 2500))");
    assert_eq!(text(&mut browser, POINTER), label);
    let curve = middle(&mut browser, "document.querySelector('.curves')");
    mouse(&mut browser, "mouseMoved", curve);
    eventually("the values again", TIMEOUT, || {
        text(&mut browser, POINTER).contains("CPU busy").then_some(())
    });
    let mark = middle(&mut browser, MARK);
    for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
        mouse(&mut browser, kind, mark);
    }
    expect_entry(&mut browser);
}

#[test]
fn keyboard_opens_ranges_details_and_entries() {
    let runtime = Runtime::new().expect("a runtime");
    let url = day(&runtime);
    let mut browser = Browser::start();
    browser.look_with(1200, "light");
    browser.open(&url);
    browser.evaluate("document.querySelector('summary').focus()");
    press(&mut browser, "Enter");
    eventually("unfolded details", TIMEOUT, || {
        (browser.evaluate("document.activeElement.parentNode.open") == json!(true)).then_some(())
    });
    browser.evaluate("document.querySelector('a[href=\"?range=6h\"]').focus()");
    press(&mut browser, "Enter");
    eventually("the other range", TIMEOUT, || {
        (browser.evaluate("location.search + document.readyState") == json!("?range=6hcomplete")).then_some(())
    });
    browser.open(&url);
    browser.evaluate(&format!("{MARK}.focus()"));
    let label = label(&mut browser);
    assert_eq!(text(&mut browser, POINTER), label, "the focus shows the entry");
    press(&mut browser, "Enter");
    expect_entry(&mut browser);
}

#[test]
fn keyboard_copies_every_command() {
    let scene = Scene::new();
    scene.wait_until_busy();
    let mut browser = Browser::start();
    browser.look_with(1200, "light");
    for url in [scene.url(), scene.url() + &scene.episode("calm-batch-jobs")] {
        browser.open(&url);
        browser.evaluate(
            "window.copied = []; window.reached = new Set();
             document.addEventListener('copy', () => copied.push(getSelection().toString()));
             document.querySelectorAll('details').forEach((found) => { found.open = true; })",
        );
        let commands = browser.evaluate(
            "[...document.querySelectorAll('main code')].map((found) => found.textContent)
                .filter((found) => found.startsWith('evenkeel ') && found !== 'evenkeel release')",
        );
        let commands: Vec<&str> = commands
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(commands.len() > 3, "{commands:?}");
        for _ in 0..120 {
            press(&mut browser, "Tab");
            let is_command = browser.evaluate("document.activeElement.matches('code, pre:has(code)')");
            if is_command == json!(true) {
                let copy = json!({"type": "keyDown", "key": "c", "code": "KeyC", "modifiers": 2, "commands": ["copy"]});
                browser.call("Input.dispatchKeyEvent", copy);
                browser.call(
                    "Input.dispatchKeyEvent",
                    json!({"type": "keyUp", "key": "c", "code": "KeyC"}),
                );
            }
        }
        let copied = browser.evaluate("copied");
        let copied: Vec<&str> = copied
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for command in commands {
            assert!(copied.contains(&command), "{url}: {command} in {copied:?}");
        }
    }
}

#[test]
fn keyboard_reaches_everything_and_screen_readers_hear_it_in_order() {
    let scene = Scene::new();
    scene.wait_until_busy();
    eventually("the leases in the timeline", TIMEOUT, || {
        let page = http::get(scene.daemon.metrics, "/").ok()?.body;
        page.contains("<a href=\"#lease-1\" aria-label").then_some(())
    });
    let mut browser = Browser::start();
    browser.look_with(1200, "light");
    browser.open(&scene.url());
    let mut reached = Vec::new();
    for _ in 0..80 {
        press(&mut browser, "Tab");
        reached.push(text(
            &mut browser,
            "((found) => `${found.nodeName} ${found.getAttribute('href') ?? found.textContent}`)(document.activeElement)",
        ));
    }
    for wanted in [
        "A ?range=24h",
        "A episodes/",
        "a episodes/",
        "a #lease-1",
        "CODE evenkeel pause",
        "CODE evenkeel release 1",
        "SUMMARY Last decisions",
    ] {
        let is_wanted = |found: &String| found.to_lowercase().starts_with(&wanted.to_lowercase());
        assert!(reached.iter().any(is_wanted), "{wanted}: {reached:?}");
    }
    // An entry of the timeline says what it is about when it has the focus.
    browser.evaluate("document.querySelector('.drawing a[href=\"#lease-1\"]').focus()");
    let said = text(&mut browser, POINTER);
    assert!(said.contains("lease 1 on "), "{said}");

    // Elsewhere there is a switch of the zone.
    browser.call("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Tehran"}));
    let episode = scene.url() + &scene.episode("calm-batch-jobs");
    for width in [1200, 390] {
        browser.look_with(width, "light");
        browser.open(&scene.url());
        let names = names(&mut browser);
        let sections = [
            "State",
            "Firing alerts",
            "Timeline",
            "Leases",
            "Last actions",
            "Rules",
            "Host",
            "Collectors",
        ];
        let headings = names("heading");
        let found: Vec<&str> = headings
            .iter()
            .map(String::as_str)
            .filter(|name| sections.contains(name))
            .collect();
        assert_eq!(found, sections, "{width}");
        for (role, least) in [
            ("link", 11),
            ("button", 1),
            ("table", 5),
            ("figure", 1),
            ("DisclosureTriangle", 2),
        ] {
            expect_names(&format!("{width}"), role, &names(role), least);
        }
        browser.open(&episode);
        let names = self::names(&mut browser);
        for (role, least) in [("link", 4), ("button", 1), ("table", 1), ("heading", 7)] {
            expect_names(&format!("episode, {width}"), role, &names(role), least);
        }
    }
}

/// The names that a screen reader has for the elements of a role, in their order.
fn names(browser: &mut Browser) -> impl Fn(&str) -> Vec<String> + use<> {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("a list").clone();
    move |role| {
        let is_its = |node: &&Value| node["role"]["value"] == role && node["ignored"] == json!(false);
        let its = nodes.iter().filter(is_its);
        its.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

#[track_caller]
fn expect_names(place: &str, role: &str, names: &[String], least: usize) {
    let are_there = names.len() >= least && names.iter().all(|name| !name.trim().is_empty());
    assert!(are_there, "{place}: {role}: {names:?}");
}
