//! Any web configuration, and any answer of an Alertmanager that is polled or of an allocator: read, or refused with a
//! reason.
#![no_main]

use evenkeel::alert::alertmanager::{decode_alerts, decode_receivers, decode_start};
use evenkeel::host::Report;
use evenkeel::http::web_config::WebConfig;
use evenkeel::ledger::Allocation;
use evenkeel::step::allocate::lifecycle::AllocatorCall;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1000);

/// A request under way, as the ledger has it.
const REQUESTED: &str = r#"{
    "step": "allocate POST http://broker/take",
    "ask": {"method": "POST", "url": "http://broker/take", "body": "{}", "key": "evenkeel-1"},
    "server": {
        "tls": {"ca_file": null, "identity": null, "server_name": null, "insecure_skip_verify": false},
        "timeout": {"secs": 10, "nanos": 0}
    },
    "resource_at": "/id",
    "ttl_at": "/ttl",
    "release": {"method": "DELETE", "url": [{"text": "http://broker/give/"}, "resource"]},
    "stage": {"requested": {"in_doubt": false}},
    "course": {"next": {"secs": 1000, "nanos": 0}, "failures": 0}
}"#;

static ALLOCATION: LazyLock<Allocation> =
    LazyLock::new(|| serde_json::from_str(REQUESTED).expect("an allocation of the ledger"));

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = WebConfig::parse(text, Path::new("/nowhere"))
    {
        assert!(!error.to_string().is_empty());
    }
    let reasons = [
        decode_start(data).map(drop).err(),
        decode_receivers(data).map(drop).err(),
        decode_alerts(data).map(drop).err(),
    ];
    for reason in reasons.into_iter().flatten() {
        assert!(!reason.to_string().is_empty());
    }
    for status in [200, 404, 503] {
        answer(&ALLOCATION, status, data);
    }
});

/// Whatever an allocator answers, a grant has a name that can be released, and anything else a reason.
fn answer(requested: &Allocation, status: u16, body: &[u8]) {
    let report = Report::Answered {
        status,
        body: body.to_owned(),
        retry_after: None,
    };
    let update = requested.after_report(AllocatorCall::Ask, false, &report, NOW);
    let Some(resource) = update.allocation.as_ref().and_then(Allocation::resource) else {
        assert!(!update.reason.is_empty());
        return;
    };
    assert_eq!(status, 200);
    assert!(
        !resource.is_empty() && !resource.chars().any(char::is_control),
        "{resource:?}"
    );
    let granted = update.allocation.as_ref().expect("it has a resource");
    let released = granted.after_report(AllocatorCall::GiveBack, false, &report, NOW);
    assert_eq!(released.allocation, None, "{released:?}");
    let refused = Report::Unanswered {
        reason: String::from_utf8_lossy(body).into_owned(),
        was_sent: true,
    };
    let kept = granted.after_report(AllocatorCall::GiveBack, false, &refused, NOW);
    assert!(
        kept.allocation.is_some(),
        "a release without an answer is repeated: {kept:?}"
    );
}
