//! Text, sizes and times as the page writes them. Nothing from outside gets into the page but through [`Escaped`].

use jiff::Timestamp;
use std::fmt::{self, Display, Write};

/// Any text inside HTML, in content and in quoted attributes. What cannot be seen is spelled out, so that no name can look
/// like another one.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
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

/// Marks that change the direction of the text around them, and breaks of lines.
fn turns_text(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// A size with a unit as people read it.
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

/// A share of 1 as people read it.
pub fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// A moment as people read it on the day of `now` (UTC), for machines beside it.
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
    fn text_from_the_world_cannot_leave_its_place_or_pose_as_other_text() {
        for (hostile, expected) in [
            ("<script>\"'&", "&lt;script&gt;&quot;&#39;&amp;"),
            ("a\u{1}\n\0", "a\\u{1}\\n\\0"),
            ("\u{202e}txt.exe\u{2069}", "\\u{202e}txt.exe\\u{2069}"),
            ("größe 東京", "größe 東京"),
        ] {
            assert_eq!(Escaped(hostile).to_string(), expected);
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
    fn times_of_other_days_say_so() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert!(time(at, at).ends_with(">03:04:05</time>"));
        let next_day = at + jiff::SignedDuration::from_hours(24);
        assert!(time(at, next_day).ends_with(">2026-01-02 03:04</time>"));
    }
}
