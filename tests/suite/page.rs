//! The status page in a real browser: three widths, light and dark, an empty and a busy host with hostile
//! names. Pictures of all are left in `target/tmp`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::{envelope, firing};
use crate::support::tools::folder;
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);
const WIDTHS: [u32; 3] = [375, 768, 1440];
const SCHEMES: [&str; 2] = ["light", "dark"];

const HOSTILE_PROCESS: &str = "<img src=x>'\"&";
const HOSTILE_LABEL: &str = "</td><script>document.title='taken'</script>\u{202e}";
const SECRET_ANNOTATION: &str = "only-for-those-who-are-paged";

/// A daemon with leases on a process with a hostile name, from an alert with hostile labels.
struct Scene {
    home: Home,
    daemon: Daemon,
    burner: Burner,
    nice_before: Vec<(u32, i32)>,
}

impl Scene {
    fn new() -> Self {
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

    fn wait_until_busy(&self) {
        self.post("firing");
        eventually("the burner to be niced", TIMEOUT, || {
            self.burner.is_at(15).then_some(())
        });
        eventually("the leases to be settled", TIMEOUT, || {
            (self.daemon.metric("evenkeel_actions_total", &[("outcome", "applied")]) >= 2.0).then_some(())
        });
    }

    fn url(&self) -> String {
        format!("http://{}/", self.daemon.metrics)
    }
}

/// The findings of axe about the open page, including best practices.
fn findings(browser: &mut Browser) -> Vec<String> {
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

/// Checks the page at every width, in light and dark mode.
fn look_everywhere(browser: &mut Browser, url: &str, name: &str) {
    for width in WIDTHS {
        for scheme in SCHEMES {
            let what = format!("{name}-{width}-{scheme}");
            browser.look_with(width, scheme);
            browser.open(url);
            let needed = browser.evaluate("document.documentElement.scrollWidth");
            assert!(
                needed.as_u64().is_some_and(|needed| needed <= u64::from(width)),
                "{what}: the page is {needed} wide"
            );
            browser.take_picture(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{what}.png")));
            assert_eq!(findings(browser), [""; 0], "{what}");
        }
    }
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
        "nice 0 -> 15",
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
fn page_updates_without_losing_the_place_of_its_reader() {
    let mut scene = Scene::new();
    scene.wait_until_busy();
    let mut browser = Browser::start();
    browser.look_with(375, "light");
    browser.open(&scene.url());
    browser.evaluate(
        "window.untouched = true;
         window.place = document.querySelector('[aria-labelledby=rules]');
         place.focus(); place.scrollLeft = 40; scrollTo(0, 300); 0",
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
        "place.scrollLeft === 40",
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
