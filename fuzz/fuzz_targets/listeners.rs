//! Any web configuration, and any answer of an Alertmanager that is polled: read, or refused with a reason.
#![no_main]

use evenkeel::alert::alertmanager::{decode_alerts, decode_receivers, decode_start};
use evenkeel::http::web_config::WebConfig;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

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
});
