//! More views of the status page in a real browser: a broken ledger, 1,000 leases, a day of history, and the viewer's time
//! zone.

use std::sync::Arc;

use evenkeel::publish::{HandlerOptions, MetricsHandler};
use evenkeel::sense::{Sampler, SamplerConfig};
use evenkeel::telemetry::{StoredActivity, Telemetry};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::page::{findings, look, look_everywhere, picture};
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::status_page::{day_activity, day_history, serve, telemetry};

/// Serves a page with these leases until the runtime ends.
fn page_of(runtime: &Runtime, leases: u64, ledger_writable: bool) -> String {
    let sampler = Sampler::start(SamplerConfig::default(), Box::new(())).expect("a sampler");
    serve_page(
        runtime,
        sampler,
        telemetry(StoredActivity::default(), leases, ledger_writable),
    )
}

/// Serves a page until the runtime ends, and returns its address.
pub fn serve_page(runtime: &Runtime, sampler: Sampler, telemetry: Telemetry) -> String {
    let handler = MetricsHandler::new(Arc::new(sampler), telemetry, HandlerOptions::default());
    serve(runtime, Arc::new(handler)).expect("a free port")
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

#[test]
fn broken_ledger_is_readable_everywhere() {
    let runtime = runtime();
    let mut browser = Browser::start();
    // Only for axe, as in page.rs.
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    let url = page_of(&runtime, 3, false);
    look_everywhere(&mut browser, &url, "ledger-broken");
    let said = browser.evaluate("document.querySelector('.health').textContent");
    assert!(
        said.as_str()
            .is_some_and(|said| said.contains("the ledger cannot be written")),
        "{said}"
    );
}

#[test]
fn thousand_leases_are_readable_everywhere() {
    let runtime = runtime();
    let mut browser = Browser::start();
    // Only for axe, as in page.rs.
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    let url = page_of(&runtime, 1000, true);
    look_everywhere(&mut browser, &url, "thousand-leases");
    let seen = browser.evaluate("document.body.textContent");
    assert!(
        seen.as_str().is_some_and(|seen| seen.contains("11000 worker-1000")),
        "the last lease"
    );
}

#[test]
fn day_with_all_its_marks_is_readable_on_phones_and_screens() {
    let runtime = runtime();
    let mut browser = Browser::start();
    // Only for axe, as in page.rs.
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    // Few leases have a bar each, many are summed up.
    for (episodes, bars) in [(6, 6..=9), (64, 1..=1)] {
        let sampler = Sampler::start(SamplerConfig::default(), Box::new(())).expect("a sampler");
        sampler.restore(day_history());
        let url = serve_page(&runtime, sampler, telemetry(day_activity(episodes), 3, true));
        for (width, scheme) in [
            (320, "light"),
            (320, "dark"),
            (1200, "light"),
            (1200, "dark"),
            (1200, "print"),
        ] {
            browser.look_with(width, scheme);
            browser.open(&format!("{url}?range=24h"));
            let drawn = browser.evaluate(
                "({
                    curves: [...document.querySelectorAll('.drawing [data-top]')]
                        .filter((path) => path.getAttribute('d').split(' ').length > 600).length,
                    bars: document.querySelectorAll('.bar.lease').length,
                    marks: document.querySelectorAll('.drawing .mark').length,
                    guides: document.querySelectorAll('.drawing .guide').length,
                })",
            );
            let figure = |name: &str| drawn[name].as_u64().expect("a number");
            assert_eq!(figure("curves"), 9, "every curve has the whole day: {drawn}");
            assert!(bars.contains(&figure("bars")), "{drawn}");
            assert!(figure("marks") > 6 && figure("guides") > 6, "{drawn}");
            look(&mut browser, width, &format!("day-{episodes}-{width}-{scheme}"));
        }
    }
}

/// The switch appears only with scripts and outside of UTC, where no other test looks.
#[test]
fn switch_of_the_zone_is_readable_in_both_states() {
    let runtime = runtime();
    let url = page_of(&runtime, 1, true);
    let mut browser = Browser::start();
    // Only for axe, as in page.rs.
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    browser.call("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Tehran"}));
    for (name, words) in [("utc", "Show times in Asia/Tehran"), ("zone", "Show times in UTC")] {
        for (width, scheme) in [(320, "light"), (1200, "light"), (1200, "dark")] {
            browser.look_with(width, scheme);
            browser.open(&url);
            let said = browser.evaluate("document.getElementById('switch').innerText");
            assert_eq!(said, words);
            assert_eq!(findings(&mut browser), [""; 0], "{name} {width} {scheme}");
            browser.take_picture(&picture(&format!("times-{name}-{width}-{scheme}")));
        }
        browser.evaluate("document.getElementById('switch').click(); 0");
    }
}

#[test]
fn times_are_in_the_zone_that_the_viewer_chose() {
    let runtime = runtime();
    let url = page_of(&runtime, 1, true);
    let mut browser = Browser::start();
    browser.call("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Tehran"}));
    browser.look_with(1200, "light");
    browser.open(&url);
    const TIMES: &str = "(() => {
        const time = document.querySelector('header time');
        const tick = document.querySelector('text.tick[data-at]');
        const shift = (moment, text) => {
            const [hours, minutes] = text.split(':').map(Number);
            const utc = moment.getUTCHours() * 60 + moment.getUTCMinutes();
            return (hours * 60 + minutes - utc + 1440) % 1440;
        };
        return {
            clock: shift(new Date(time.dateTime), time.textContent),
            tick: shift(new Date(tick.dataset.at * 1000), tick.textContent),
            zone: document.getElementById('zone').textContent,
            button: document.getElementById('switch').textContent,
            isHidden: document.getElementById('switch').hidden,
        };
    })()";
    let in_utc = json!({
        "clock": 0, "tick": 0, "zone": "UTC, as are all times here", "button": "Show times in Asia/Tehran", "isHidden": false,
    });
    // 3 h 30 min ahead of UTC.
    let in_zone = json!({
        "clock": 210, "tick": 210, "zone": "in Asia/Tehran, as are all times here", "button": "Show times in UTC", "isHidden": false,
    });
    let becomes = |browser: &mut Browser, expected: &serde_json::Value| {
        eventually(
            &expected["button"].to_string(),
            std::time::Duration::from_secs(10),
            || (browser.evaluate(TIMES) == *expected).then_some(()),
        );
    };
    assert_eq!(browser.evaluate(TIMES)["clock"], 0);
    becomes(&mut browser, &in_utc);
    browser.evaluate("document.getElementById('switch').focus(); document.activeElement.click(); 0");
    becomes(&mut browser, &in_zone);
    assert_eq!(
        browser.evaluate("document.activeElement.id"),
        "switch",
        "the focus stays"
    );
    // The choice holds for the next page, and after the next update.
    browser.open(&format!("{url}?range=24h"));
    becomes(&mut browser, &in_zone);
    let (complaints, _) = browser.complaints_and_requests();
    assert_eq!(complaints, [""; 0]);
    browser.evaluate("document.getElementById('switch').click(); 0");
    becomes(&mut browser, &in_utc);

    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    browser.open(&url);
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": false}));
    let hidden = browser.evaluate("getComputedStyle(document.getElementById('switch')).display");
    assert_eq!(hidden, "none", "without scripts there is no switch");
}
