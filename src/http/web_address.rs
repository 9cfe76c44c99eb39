//! Which addresses from outside a page may link to. Pure.

use smol_str::SmolStr;

/// The longest address that is kept.
const MAX_BYTES: usize = 2048;

/// An address that a page may link to; `None` for other schemes, and for what is no address or very long.
pub fn web_address(text: &str) -> Option<SmolStr> {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    (is_web && text.len() <= MAX_BYTES && text.chars().all(is_plain)).then(|| SmolStr::new(text))
}

#[test]
fn only_plain_web_addresses_are_linked() {
    for good in ["http://prometheus:9090/graph?g0.expr=up", "https://x"] {
        assert_eq!(web_address(good).as_deref(), Some(good));
    }
    let long = format!("https://{}", "x".repeat(MAX_BYTES));
    for bad in [
        "",
        "javascript:alert(1)",
        "//x",
        "HTTP ://x",
        "https://a b",
        "http://a\nb",
        &long,
    ] {
        assert_eq!(web_address(bad), None, "{bad:?}");
    }
}
