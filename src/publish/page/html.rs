//! Formatters of text, sizes and times for the page. All text from outside passes through [`EscapedText`].

use jiff::Timestamp;
use std::fmt::{self, Display, Write};

/// Text escaped for HTML content and quoted attributes. Invisible characters are spelled out, so that no name can look
/// like another one.
pub struct EscapedText<'a>(pub &'a str);

impl Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // HTML allows no control characters, not even as references.
                hidden if hidden.is_control() || turns_text(hidden) => write!(f, "{}", hidden.escape_debug())?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Marks that change the direction of text, and line breaks.
fn turns_text(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// A size with a readable unit.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{scaled:.0} B")
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

/// A ratio as percentage.
pub fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// A time element (UTC); the date is omitted on the day of `now`.
pub fn time(at: Timestamp, now: Timestamp) -> String {
    let day = |moment: Timestamp| moment.strftime("%Y-%m-%d").to_string();
    let machine = at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let people = at.strftime(if day(at) == day(now) {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M"
    });
    format!("<time datetime=\"{machine}\" title=\"{machine}\">{people}</time>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_escaped() {
        for (hostile, expected) in [
            ("<script>\"'&", "&lt;script&gt;&quot;&#39;&amp;"),
            ("a\u{1}\n\0", "a\\u{1}\\n\\0"),
            ("\u{202e}txt.exe\u{2069}", "\\u{202e}txt.exe\\u{2069}"),
            ("größe 東京", "größe 東京"),
        ] {
            assert_eq!(EscapedText(hostile).to_string(), expected);
        }
    }

    #[test]
    fn sizes_are_readable() {
        for (size, expected) in [
            (0.0, "0 B"),
            (1536.0, "1.5 KiB"),
            (25.0 * 1024.0 * 1024.0 * 1024.0, "25.0 GiB"),
        ] {
            assert_eq!(bytes(size), expected);
        }
    }

    #[test]
    fn times_of_other_days_show_the_date() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert!(time(at, at).ends_with(">03:04:05</time>"));
        let next_day = at + jiff::SignedDuration::from_hours(24);
        assert!(time(at, next_day).ends_with(">2026-01-02 03:04</time>"));
    }
}
