//! Formatters of text, sizes and times for the page. All text from outside passes through [`EscapedText`].

use crate::terminal::{is_invisible, shell_word};
use jiff::{SignedDuration, Timestamp};
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
                control if control.is_control() => write!(f, "{}", control.escape_debug())?,
                hidden if is_invisible(hidden) => write!(f, "{}", hidden.escape_unicode())?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Text escaped, without its middle where that takes more than `limit` bytes: names are told apart by their start, and
/// paths by their end.
pub fn shortened(text: &str, limit: usize) -> String {
    let whole = EscapedText(text).to_string();
    if whole.len() <= limit {
        return whole;
    }
    let escaped = |character: char| EscapedText(character.encode_utf8(&mut [0; 4])).to_string();
    let mut start = String::new();
    for piece in text.chars().map(escaped) {
        if start.len() + piece.len() > limit / 3 {
            break;
        }
        start += &piece;
    }
    let (mut end, mut room) = (Vec::new(), limit - start.len() - '…'.len_utf8());
    for piece in text.chars().rev().map(escaped) {
        let Some(left) = room.checked_sub(piece.len()) else {
            break;
        };
        room = left;
        end.push(piece);
    }
    end.reverse();
    start + "…" + &end.concat()
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

/// A time as text: `2026-01-02 03:04:05 UTC`.
pub fn absolute(at: Timestamp) -> impl Display {
    at.strftime("%Y-%m-%d %H:%M:%S UTC")
}

/// A time element (UTC); the date is omitted on the day of `now`.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let day = |moment: Timestamp| moment.strftime("%Y-%m-%d").to_string();
    let people = at.strftime(if day(at) == day(now) {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M"
    });
    element(at, people).replacen("<time", "<time class=\"clock\"", 1)
}

/// A time element that says how far away a time is: `4 min ago`, `in 12 s`. The time itself is its title.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    element(at, distance(at, now))
}

/// A time element that says how long a time is ago: `4 min`.
pub fn elapsed(since: Timestamp, now: Timestamp) -> String {
    element(since, span(now.duration_since(since)))
}

fn element(at: Timestamp, text: impl Display) -> String {
    let machine = at.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("<time datetime=\"{machine}\" title=\"{}\">{text}</time>", absolute(at))
}

/// How far away a time is.
pub fn distance(at: Timestamp, now: Timestamp) -> String {
    let ahead = at.duration_since(now);
    match ahead.as_secs() {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(ahead)),
        _ => format!("{} ago", span(ahead)),
    }
}

/// The one or two largest units of a duration: `12 s`, `4 min`, `3 h 5 min`, `2 d`.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().unsigned_abs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, 1..10) if !seconds.is_multiple_of(60) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (1..10, 1.., _) => format!("{days} d {hours} h"),
        _ => format!("{days} d"),
    }
}

/// A word with a capital first letter, for the start of a sentence.
pub fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest).collect()
}

/// A command to copy. A click, or the focus of the keyboard, selects all of it. A word, or a part of a path, that fits on
/// a line stays whole, because a line that ends with one of its hyphens would look like two words.
pub fn command(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.contains(['-', '/']) {
        true => {
            let parts = word.split_inclusive('/');
            parts
                .map(|part| format!("<span>{}</span>", EscapedText(part)))
                .collect()
        }
        false => EscapedText(word).to_string(),
    });
    format!("<code tabindex=\"0\">{}</code>", words.collect::<Vec<_>>().join(" "))
}

/// The command that pauses a rule, or resumes a paused one.
pub fn pause_command(rule: &str, is_paused: bool, storage_option: &str) -> String {
    let verb = if is_paused { "resume" } else { "pause" };
    command(&format!("evenkeel {verb} --rule {}{storage_option}", shell_word(rule)))
}

/// A mark beside the name of a paused rule.
pub fn pause_mark(is_paused: bool) -> &'static str {
    if is_paused {
        " <strong>❚❚ paused</strong>"
    } else {
        ""
    }
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
            (
                "ba\u{ad}sh\u{3164}\u{fe0f}\u{e0041}",
                "ba\\u{ad}sh\\u{3164}\\u{fe0f}\\u{e0041}",
            ),
            ("größe 東京", "größe 東京"),
        ] {
            assert_eq!(EscapedText(hostile).to_string(), expected);
        }
    }

    #[test]
    fn long_text_lacks_its_middle() {
        for (text, expected) in [
            ("ffmpeg", "ffmpeg"),
            ("/system.slice/a-very-long-name.service", "/system.sl…long-name.service"),
            ("'''''''''", "&#39;&#39;…&#39;&#39;&#39;"),
        ] {
            let short = shortened(text, 30);
            assert_eq!(short, expected);
            assert!(short.len() <= 30, "{short}");
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
        assert!(clock(at, at).ends_with(">03:04:05</time>"));
        let next_day = at + SignedDuration::from_hours(24);
        assert!(clock(at, next_day).ends_with(">2026-01-02 03:04</time>"));
    }

    #[test]
    fn relative_times_have_the_absolute_one_as_title() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (seconds, expected) in [
            (0, "now"),
            (-12, "12 s ago"),
            (75, "in 1 min 15 s"),
            (-900, "15 min ago"),
            (-11_100, "3 h 5 min ago"),
            (90_000, "in 1 d 1 h"),
            (-8_640_000, "100 d ago"),
        ] {
            assert_eq!(distance(now + SignedDuration::from_secs(seconds), now), expected);
        }
        assert_eq!(
            relative(now, now),
            "<time datetime=\"2026-01-02T03:04:05Z\" title=\"2026-01-02 03:04:05 UTC\">now</time>"
        );
    }

    #[test]
    fn words_of_a_command_and_parts_of_a_path_stay_whole() {
        let expected =
            "<code tabindex=\"0\">evenkeel release <span>--breaker</span> &#39;a <span>b-c&#39;</span></code>";
        assert_eq!(command("evenkeel release --breaker 'a b-c'"), expected);
        let expected =
            "<code tabindex=\"0\">evenkeel leases <span>--storage.path=/</span><span>a-b/</span><span>c</span></code>";
        assert_eq!(command("evenkeel leases --storage.path=/a-b/c"), expected);
    }

    #[test]
    fn first_letter_becomes_a_capital() {
        assert_eq!([capitalised("firing"), capitalised("")], ["Firing", ""]);
    }
}
