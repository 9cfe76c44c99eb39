//! The status page in a real browser: five widths, light, dark and print, an empty, a busy and a paused host with
//! hostile names. Pictures of all are left in `target/tmp`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::{envelope, firing};
use crate::support::tools::{folder, succeed};
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);
const WIDTHS: [u32; 5] = [320, 390, 768, 1200, 2560];
const SCHEMES: [&str; 3] = ["light", "dark", "print"];

const HOSTILE_PROCESS: &str = "<img src=x>'\"&";
const HOSTILE_LABEL: &str = "</td><script>document.title='taken'</script>\u{202e}";
const SECRET_ANNOTATION: &str = "only-for-those-who-are-paged";

/// A daemon with leases on a process with a hostile name, from an alert with hostile labels.
pub struct Scene {
    pub home: Home,
    pub daemon: Daemon,
    burner: Burner,
    nice_before: Vec<(u32, i32)>,
}

impl Scene {
    pub fn new() -> Self {
        let burner = Burner::start(HOSTILE_PROCESS);
        let pid = burner.pid();
        let home = Home::new(&format!(
            "rules:\n\
             \x20 - {{name: calm-batch-jobs, matchers: ['alertname=\"HostCpuSaturated\"'], select: {{pid: {pid}}}, actions: [{{nice: 15}}, {{ionice: idle}}]}}\n\
             \x20 - {{name: end-expendable, matchers: ['alertname=\"HostMemoryLow\"'], select: {{name: no-such-process}}, actions: [{{signal: SIGTERM}}, {{wait: 10s}}, {{signal: SIGKILL}}]}}\n\
             \x20 - {{name: only-said, mode: dry-run, matchers: ['alertname=\"HostCpuSaturated\"'], select: {{pid: {pid}}}, actions: [{{freeze: true}}]}}\n"
        ));
        let daemon = home.start(&["--enforce"]);
        let nice_before = burner.nice_values();
        Scene {
            home,
            daemon,
            burner,
            nice_before,
        }
    }

    fn post(&self, status: &str) {
        let alert = |alertname: &str| {
            let labels = json!({
                "alertname": alertname, "instance": node_name(), "severity": "warning",
                "hostile": HOSTILE_LABEL, "long": "x".repeat(300),
            });
            let mut alert = firing(labels);
            alert["annotations"] = json!({"summary": SECRET_ANNOTATION});
            let entry = alert.as_object_mut().expect("an entry");
            entry.remove("fingerprint");
            alert["status"] = json!(status);
            if status == "resolved" {
                alert["endsAt"] = json!("2024-01-02T04:00:00Z");
            }
            alert
        };
        let payload = envelope(&[alert("HostCpuSaturated"), alert("HostMemoryLow")]);
        let answer = self.daemon.post(payload.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub fn wait_until_busy(&self) {
        self.post("firing");
        eventually("the burner to be niced", TIMEOUT, || {
            self.burner.is_at(15).then_some(())
        });
        eventually("the leases to be settled", TIMEOUT, || {
            (self.daemon.metric("evenkeel_actions_total", &[("outcome", "applied")]) >= 2.0).then_some(())
        });
    }

    /// `evenkeel COMMAND` to this daemon.
    fn ask(&self, command: &[&str]) {
        let mut evenkeel = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        evenkeel.args(command);
        evenkeel.arg(format!("--storage.path={}", self.home.path().join("storage").display()));
        succeed(&mut evenkeel);
    }

    /// The address of the page of a rule's open episode, below that of the status page.
    pub fn episode(&self, rule: &str) -> String {
        // The lists follow at most four times a second.
        eventually("an open episode", TIMEOUT, || {
            let status = http::get(self.daemon.metrics, "/api/v1/status").ok()?.body;
            let status: Value = serde_json::from_str(&status).expect("JSON");
            let alerts = status["alerts"].as_array().expect("a list");
            let its = alerts.iter().find(|alert| alert["rule"] == rule)?;
            Some(format!("episodes/{}", its["episode"].as_str().expect("a text")))
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.daemon.metrics)
    }
}

/// The findings of axe about the open page, including best practices.
pub fn findings(browser: &mut Browser) -> Vec<String> {
    let axe = folder().join("axe-core/axe.min.js");
    let axe = std::fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{}: {error}", axe.display()));
    browser.evaluate(&format!("{axe}\n0"));
    let found = browser.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(({passes, violations}) => ({
            passed: passes.length,
            findings: violations.map(({id, help, nodes}) => `${id}: ${help}: ${nodes[0].html} ${nodes[0].failureSummary}`),
        }))",
    );
    assert!(found["passed"].as_u64().is_some_and(|passed| passed > 10), "{found}");
    let findings: Vec<Value> = found["findings"].as_array().expect("a list").clone();
    findings.iter().map(ToString::to_string).collect()
}

/// Where a picture is left for people to look at.
pub fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

/// Where a page is looked at with everything unfolded as well: on a phone, on a desk and on paper. Other widths and
/// colours show the same rows.
const UNFOLDED: [(u32, &str); 3] = [(320, "light"), (1200, "dark"), (768, "print")];

/// Checks the page at every width, in light and dark mode and as printed, as it comes, and at some with everything
/// unfolded.
pub fn look_everywhere(browser: &mut Browser, url: &str, name: &str) {
    for width in WIDTHS {
        for scheme in SCHEMES {
            let what = format!("{name}-{width}-{scheme}");
            browser.look_with(width, scheme);
            browser.open(url);
            look(browser, width, &what);
            if !UNFOLDED.contains(&(width, scheme)) {
                continue;
            }
            let folded = browser
                .evaluate("[...document.querySelectorAll('details')].map((found) => { found.open = true; }).length");
            if folded != json!(0) {
                look(browser, width, &format!("{what}-unfolded"));
            }
        }
    }
}

/// Checks that everything on the open page is shown, none of it beyond an edge or over something else, that each
/// identifier is there once, and that axe finds nothing.
pub fn look(browser: &mut Browser, width: u32, what: &str) {
    // The widest figures, whatever this host does now.
    browser.evaluate("document.querySelectorAll('.figures td').forEach((found) => found.textContent = '1023.9 MiB/s')");
    browser.evaluate(
        "for (const lane of document.querySelectorAll('.drawing .lane')) {
            const texts = document.createTreeWalker(lane, NodeFilter.SHOW_TEXT);
            while (texts.nextNode())
                texts.currentNode.data = texts.currentNode.data
                    .replace(/[\\d.]+ %/, '100.0 %').replace(/[\\d.]+ [KMGT]?i?B\\/s/, '1023.9 MiB/s');
        }",
    );
    // A drawing hides what does not fit.
    let cut = browser.evaluate(
        "[...document.querySelectorAll('.drawing text, .drawing .mark')]
            .filter((found) => {
                const [its, whole] = [found, found.ownerSVGElement].map((found) => found.getBoundingClientRect());
                return its.right > whole.right + 0.5 || (its.width && its.left < whole.left - 0.5);
            })
            .map((found) => found.textContent || found.outerHTML)",
    );
    assert_eq!(cut.as_array().map(Vec::len), Some(0), "{what}: cut off: {cut}");
    let repeated = browser.evaluate(
        "[...document.querySelectorAll('[id]')]
            .filter((found) => found !== document.getElementById(found.id))
            .map((found) => found.id)",
    );
    assert_eq!(repeated, json!([]), "{what}: identifiers of several elements");
    let needed = browser.evaluate("document.documentElement.scrollWidth");
    let wide = "[...document.querySelectorAll('body *')]
        .filter((found) => found.getBoundingClientRect().right > innerWidth)
        .map((found) => found.outerHTML.slice(0, 200))";
    assert!(
        needed.as_u64().is_some_and(|needed| needed <= u64::from(width)),
        "{what}: the page is {needed} wide, because of {}",
        browser.evaluate(wide)
    );
    // A table that needs more than its column lies over the next one.
    let covered = browser.evaluate(
        "[...document.querySelectorAll('.side')]
            .map((side) => [...side.children].map((table) => table.getBoundingClientRect()))
            .filter(([one, other]) => other && one.right > other.left && one.bottom > other.top).length",
    );
    assert_eq!(covered, json!(0), "{what}: tables lie over each other");
    let crowded = browser.evaluate(
        "[...document.querySelectorAll('.drawing :is(.word, .label)')]
            .map((found) => [found.getBoundingClientRect(), found.textContent])
            .filter(([box]) => box.width)
            .sort(([one], [other]) => one.top - other.top || one.left - other.left)
            .filter(([box], place, all) => {
                const before = place > 0 && all[place - 1][0];
                return before && Math.abs(before.top - box.top) < 1 && before.right > box.left + 0.5;
            })
            .map(([, text]) => text)",
    );
    assert_eq!(crowded, json!([]), "{what}: texts of the timeline lie over each other");
    browser.take_picture(&picture(what));
    assert_eq!(findings(browser), [""; 0], "{what}");
}

#[test]
fn everybody_can_read_it_at_every_width_in_light_and_dark() {
    let scene = Scene::new();
    let mut browser = Browser::start();
    // Only for axe. The policy itself is tested below.
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    look_everywhere(&mut browser, &scene.url(), "empty");
    scene.wait_until_busy();
    look_everywhere(&mut browser, &scene.url(), "busy");
    let episode = scene.url() + &scene.episode("calm-batch-jobs");
    look_everywhere(&mut browser, &episode, "episode");
    scene.ask(&["pause", "--reason=a <b>test</b>"]);
    look_everywhere(&mut browser, &scene.url(), "paused");
}

/// First screens: of a desk and of a phone.
const FIRST_SCREENS: [(u32, f64); 2] = [(1200, 900.0), (390, 844.0)];

/// The visible elements of a place, with their text and their lower edge.
fn visible(browser: &mut Browser, place: &str) -> Vec<(String, f64)> {
    let found = browser.evaluate(&format!(
        "[...{place}].filter((found) => found && found.checkVisibility())
            .map((found) => [found.innerText, found.getBoundingClientRect().bottom])"
    ));
    let found = found.as_array().expect("a list").iter();
    found
        .map(|found| {
            let text = found[0].as_str().expect("a text").to_owned();
            (text, found[1].as_f64().expect("a number"))
        })
        .collect()
}

/// Elements by a selector, as an expression.
fn all(selector: &str) -> String {
    format!("document.querySelectorAll({})", json!(selector))
}

/// The values of a fact about a rule that answers an alert, as an expression.
fn fact(name: &str) -> String {
    format!(
        "[...{}].filter((name) => name.innerText === {}).map((name) => name.nextElementSibling)",
        all("#alerts ~ article dt"),
        json!(name)
    )
}

#[test]
fn ten_questions_are_answered_at_first_sight_or_one_click_away() {
    let scene = Scene::new();
    scene.wait_until_busy();
    scene.ask(&["pause", "--reason=a test"]);
    let episode = scene.episode("calm-batch-jobs");
    eventually("the page to say who paused, and whether it helped", TIMEOUT, || {
        let page = http::get(scene.daemon.metrics, "/").expect("evenkeel answers").body;
        (page.contains("by root (uid 0): a test") && page.contains("<dd>CPU busy ")).then_some(())
    });
    let mut browser = Browser::start();
    let target = format!("on {} {HOSTILE_PROCESS} (", scene.burner.pid());
    let applied = format!("applied nice 15 {target}");
    let questions = [
        ("What fired?", all("#alerts ~ article h3"), "HostCpuSaturated"),
        ("Which processes were touched?", fact("Did"), &*applied),
        ("Is the change still held?", fact("Held"), "leases 1, 2, until"),
        (
            "Until when?",
            fact("Held"),
            ", until the alert is over, at the latest in ",
        ),
        ("Did it help?", fact("Did it help?"), "CPU busy "),
        (
            "Who paused?",
            all(".banner dd"),
            "by root (uid 0): a test, until evenkeel resume",
        ),
        ("When did it last act?", all(".banner p"), &*target),
        (
            "Is it healthy?",
            all(".banner .health"),
            "Healthy: ledger, configuration, actuator, frontend and breakers; ",
        ),
        (
            "Where is the episode?",
            all(&format!("#alerts ~ article a[href='{episode}']")),
            "this episode",
        ),
    ];
    for (width, height) in FIRST_SCREENS {
        browser.look_with(width, "light");
        browser.open(&scene.url());
        browser.take_picture(&picture(&format!("questions-{width}")));
        for (question, place, answer) in &questions {
            let found = visible(&mut browser, place);
            let is_answer = |(text, bottom): &(String, f64)| text.contains(*answer) && *bottom < height;
            assert!(
                found.iter().any(is_answer),
                "{width}: {question} no {answer:?} in {found:?}"
            );
        }
    }

    // The page of the episode has the command that answers the other two, now and on this host.
    browser.open(&(scene.url() + &episode));
    let question =
        "[...document.querySelectorAll('h2')].filter((found) => /would happen now.*why not/.test(found.innerText))";
    let found = visible(
        &mut browser,
        &format!("{question}.map((found) => found.parentNode.querySelector('pre'))"),
    );
    let (command, _) = found.first().expect("a command below the questions");
    let config = scene.home.path().join("evenkeel.yml");
    let asked = format!("evenkeel explain --config.file={} --pid 1 ", config.display());
    let program = Path::new(env!("CARGO_BIN_EXE_evenkeel"));
    let others = std::env::var("PATH").expect("a path of programs");
    let path = format!("{}:{others}", program.parent().expect("a folder").display());
    let mut shell = std::process::Command::new("sh");
    shell
        .env("PATH", path)
        .args(["-c", &command.replacen("evenkeel explain ", &asked, 1)]);
    let said = succeed(&mut shell);
    for (question, answer) in [
        ("What would happen now?", "rule calm-batch-jobs: matches"),
        ("Why not this process?", " is not selected: "),
    ] {
        assert!(said.contains(answer), "{question} no {answer:?} in\n{said}");
    }
}

#[test]
fn page_without_scripts_has_the_same_content() {
    let scene = Scene::new();
    scene.wait_until_busy();
    let mut browser = Browser::start();
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    for path in [String::new(), "?range=24h".to_owned(), scene.episode("calm-batch-jobs")] {
        browser.open(&(scene.url() + &path));
        let seen = browser.evaluate("document.body.innerText");
        let seen = seen.as_str().expect("a text");
        for expected in [HOSTILE_PROCESS, "applied", "evenkeel release 1"] {
            assert!(seen.contains(expected), "{path}: no {expected:?} in\n{seen}");
        }
    }
}

/// The times of the first and the last point of the curve of the processor over the last hour, in milliseconds.
fn extent_of_curve(daemon: &Daemon) -> Option<[i64; 2]> {
    let page = http::get(daemon.metrics, "/?range=1h").ok()?.body;
    let value = |text: &str, name: &str| -> Option<String> {
        let rest = text.split(&format!(" {name}=\"")).nth(1)?;
        Some(rest.split('"').next()?.to_owned())
    };
    let [start, end] = ["data-start", "data-end"].map(|name| value(&page, name)?.parse::<i64>().ok());
    let (start, end) = (start?, end?);
    let curve = page.split("data-name=\"CPU busy\"").nth(1)?;
    let path = value(curve, "d")?;
    let numbers: Vec<i64> = path
        .split(['M', ' '])
        .filter_map(|number| number.parse().ok())
        .collect();
    let at = |x: i64| start + (end - start) * x / 1000;
    Some([at(*numbers.first()?), at(*numbers.iter().nth_back(1)?)])
}

#[test]
fn timeline_and_episodes_survive_a_restart() {
    let mut scene = Scene::new();
    scene.wait_until_busy();
    let episode = scene.episode("calm-batch-jobs");
    // A step of the hour takes 10 s.
    eventually("a curve of some steps", 2 * TIMEOUT, || {
        let [began, ended] = extent_of_curve(&scene.daemon)?;
        (ended - began > 15_000).then_some(())
    });
    scene.post("resolved");
    eventually("the episode to be over", TIMEOUT, || {
        let page = http::get(scene.daemon.metrics, &format!("/{episode}")).expect("evenkeel answers");
        page.body.contains("Over <time").then_some(())
    });
    scene.daemon.terminate();
    let stopped_at = Timestamp::now();
    scene.daemon = scene.home.start_again(&scene.daemon, &["--enforce"]);
    let extent = eventually("a curve", TIMEOUT, || extent_of_curve(&scene.daemon));
    let began = Timestamp::from_millisecond(extent[0]).expect("a time");
    assert!(
        began < stopped_at - SignedDuration::from_secs(8),
        "the curve begins at {began}, {stopped_at}"
    );
    let page = http::get(scene.daemon.metrics, &format!("/{episode}")).expect("evenkeel answers");
    assert_eq!(page.status, 200);
    for text in ["Over <time", "name: calm-batch-jobs", "→ 15", "undo nice"] {
        assert!(page.body.contains(text), "{text:?} in {}", page.body);
    }
    assert!(!page.body.contains(SECRET_ANNOTATION));
    let page = http::get(scene.daemon.metrics, "/?range=1h")
        .expect("evenkeel answers")
        .body;
    assert!(page.contains("class=\"bar lease\""), "{page}");
    let unknown = http::get(scene.daemon.metrics, "/episodes/0123456789abcdef").expect("evenkeel answers");
    assert_eq!(unknown.status, 404);
}

#[test]
fn names_from_outside_are_text_and_secrets_are_not_there() {
    let scene = Scene::new();
    scene.wait_until_busy();
    let mut browser = Browser::start();
    browser.open(&scene.url());
    let seen = browser.evaluate("document.body.innerText");
    let seen = seen.as_str().expect("a text");
    for expected in [
        HOSTILE_PROCESS,
        "</td><script>document.title='taken'</script>\\u{202e}",
        "calm-batch-jobs",
        "nice 0 → 15",
    ] {
        assert!(seen.contains(expected), "no {expected:?} in\n{seen}");
    }
    assert_eq!(
        browser.evaluate("document.querySelectorAll('main img, main script').length"),
        json!(0)
    );
    assert!(
        browser
            .evaluate("document.title")
            .as_str()
            .is_some_and(|title| title.ends_with(&node_name()))
    );

    // Waits for an update of the page, to see its requests.
    browser.evaluate("new Promise((done) => setTimeout(done, 2500))");
    let (complaints, requests) = browser.complaints_and_requests();
    assert_eq!(complaints, [""; 0]);
    assert!(
        requests.iter().filter(|url| **url == scene.url()).count() >= 2,
        "{requests:?}"
    );
    assert!(requests.iter().all(|url| url.starts_with(&scene.url())), "{requests:?}");

    for path in ["/", "/api/v1/status"] {
        let body = crate::support::http::get(scene.daemon.metrics, path)
            .expect("evenkeel answers")
            .body;
        for secret in [SECRET_ANNOTATION, "--nocapture", "EVENKEEL_TEST_BURNER"] {
            assert!(!body.contains(secret), "{path} tells {secret}");
        }
    }
}

#[test]
fn addresses_of_an_alert_are_for_those_who_log_in() {
    let hash = bcrypt::hash("a password", 4).expect("a hash");
    let credentials = base64::engine::general_purpose::STANDARD.encode("alice:a password");
    let basic = format!("Basic {credentials}");
    for has_password in [true, false] {
        let home = Home::new(
            "rules: [{name: calm, mode: dry-run, matchers: ['alertname=\"A\"'], select: {name: none}, actions: [{nice: 15}]}]\n",
        );
        home.write("web.yml", &format!("basic_auth_users: {{alice: '{hash}'}}\n"));
        let option = format!("--web.config.file={}", home.path().join("web.yml").display());
        let daemon = match has_password {
            true => home.start(&[option.as_str()]),
            false => home.start(&[]),
        };
        let get = |path: &str| {
            let headers: &[(&str, &str)] = if has_password {
                &[("Authorization", basic.as_str())]
            } else {
                &[]
            };
            http::request(daemon.metrics, "GET", path, headers, b"").expect("evenkeel answers")
        };
        let mut alert = firing(json!({"alertname": "A", "instance": node_name()}));
        alert["annotations"] = json!({"runbook_url": "https://example.org/runbook"});
        alert["generatorURL"] = json!("https://prometheus.example.org/graph?g0.expr=up");
        let answer = daemon.post(envelope(&[alert]).to_string().as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        let episode = eventually("an open episode", TIMEOUT, || {
            let status: Value = serde_json::from_str(&get("/api/v1/status").body).expect("JSON");
            Some(status["alerts"][0]["episode"].as_str()?.to_owned())
        });
        let page = get(&format!("/episodes/{episode}"));
        assert_eq!(page.status, 200, "{page:?}");
        for link in [
            "<a href=\"https://example.org/runbook\" rel=\"noopener noreferrer\">",
            "<a href=\"https://prometheus.example.org/graph?g0.expr=up\" rel=\"noopener noreferrer\">",
        ] {
            assert_eq!(page.body.contains(link), has_password, "{link} in {}", page.body);
        }
        let unknown = http::get(daemon.metrics, &format!("/episodes/{episode}")).expect("evenkeel answers");
        assert_eq!(unknown.status, if has_password { 401 } else { 200 });
        assert!(!unknown.body.contains("example.org"), "{}", unknown.body);
    }
}

#[test]
fn page_updates_without_losing_the_place_of_its_reader() {
    let mut scene = Scene::new();
    scene.wait_until_busy();
    let mut browser = Browser::start();
    browser.look_with(375, "light");
    browser.open(&scene.url());
    browser.evaluate(
        "window.untouched = true;
         window.place = document.querySelector('#decisions summary');
         place.parentNode.open = true; place.focus(); scrollTo(0, 300); 0",
    );
    scene.post("resolved");
    eventually("the page to say that nothing is held", TIMEOUT, || {
        let seen = browser.evaluate("document.querySelector('main [role=status]').textContent");
        seen.as_str()
            .expect("a text")
            .contains("0 leases are held")
            .then_some(())
    });
    for kept in [
        "untouched",
        "document.activeElement === place",
        "place.parentNode.open",
        "scrollY === 300",
    ] {
        assert_eq!(browser.evaluate(kept), json!(true), "{kept}");
    }
    assert_eq!(scene.burner.nice_values(), scene.nice_before);

    scene.daemon.terminate();
    eventually("the page to say that evenkeel does not answer", TIMEOUT, || {
        let said = browser.evaluate("document.getElementById('contact').textContent");
        said.as_str()
            .expect("a text")
            .starts_with("No response since ")
            .then_some(())
    });
    scene.daemon = scene.home.start_again(&scene.daemon, &["--enforce"]);
    eventually("the page to go on", TIMEOUT, || {
        (browser.evaluate("document.getElementById('contact').textContent") == json!("")).then_some(())
    });
    assert_eq!(browser.evaluate("untouched"), json!(true));
}

#[test]
fn disabled_collectors_leave_no_gaps() {
    let home = Home::new("rules: []\n");
    let daemon = home.start(&["--collector.disable-defaults"]);
    let page = http::get(daemon.metrics, "/").expect("evenkeel answers").body;
    for text in [
        "<h1>evenkeel on this host</h1>",
        "<p>Version 0.1.0. Sampled at ",
        "<p>The collectors of these figures are disabled.</p>",
        "<p>All collectors are disabled.</p>",
    ] {
        let text = text.replace("0.1.0", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&text), "{text:?} in {page}");
    }
}
