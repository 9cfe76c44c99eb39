//! Text for terminals: optional colours, word wrap, and tables. Pure.

use unicode_width::UnicodeWidthStr;

/// Columns of a terminal of unknown width.
pub const COLUMNS: usize = 80;

/// The style of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub color: bool,
    /// Width at which lines wrap. `None` wraps none, for output that programs read.
    pub columns: Option<usize>,
}

/// The meaning of a piece of text, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Heading,
    Good,
    /// Denied or left alone, as intended.
    Held,
    Bad,
    Dim,
}

impl Style {
    /// The style for a pipe or a file.
    pub const PLAIN: Style = Style {
        color: false,
        columns: None,
    };

    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Held => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
        };
        paint(self.color && !text.is_empty(), code, text)
    }

    /// Wraps a text that follows `first` columns of other text, and indents its lines by as many.
    pub fn wrap(self, text: &str, first: usize) -> Vec<String> {
        match self.columns {
            None => vec![text.to_owned()],
            Some(columns) => wrap(text, columns.saturating_sub(first).max(20)),
        }
    }
}

/// A text in an ANSI style, if there are colours.
pub fn paint(color: bool, code: &str, text: &str) -> String {
    if color {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// A number and the word for what it counts: `1 rule`, `2 rules`.
pub fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// Columns of the terminal that a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Whether a character has no shape of its own: what Unicode calls default ignorable, which includes the marks that
/// change the direction of text, and line breaks. With it a name could look like another one.
pub fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Breaks at blanks. A word longer than a line stays whole, so that it can be copied.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if line.is_empty() {
            line.push_str(word);
        } else if width(line) + 1 + width(word) <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Formats rows below a heading, each column as wide as its widest cell.
pub fn table<const N: usize>(style: Style, heading: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| width(&row[column]));
        cells.chain([width(heading[column])]).max().unwrap_or(0)
    });
    let line = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, columns)| format!("{cell}{}", " ".repeat(columns - width(cell))));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = style.paint(Tone::Heading, &line(heading)) + "\n";
    for row in rows {
        text += &(line(row.each_ref().map(String::as_str)) + "\n");
    }
    text
}

/// An argument of a shell's command.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_stay_one_word() {
        for (text, expected) in [
            ("calm-batch-jobs", "calm-batch-jobs"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(x)'", r"'$(x)'\'''"),
        ] {
            assert_eq!(shell_word(text), expected);
        }
    }

    #[test]
    fn columns_align_in_every_script() {
        let rows = [["1", "東京"], ["200", "x"]].map(|row| row.map(str::to_owned));
        let text = table(Style::PLAIN, ["N", "NAME"], &rows);
        assert_eq!(text, "N    NAME\n1    東京\n200  x\n");
    }

    #[test]
    fn invisible_characters_are_those_of_unicode() {
        let ignorable = regex::Regex::new(r"\A[\p{Default_Ignorable_Code_Point}\u{2028}\u{2029}]\z").unwrap();
        for character in ('\0'..=char::MAX).filter(|character| !character.is_control()) {
            let is_ignorable = ignorable.is_match(character.encode_utf8(&mut [0; 4]));
            assert_eq!(is_invisible(character), is_ignorable, "{character:?}");
        }
    }

    #[test]
    fn colours_and_breaks_are_for_terminals() {
        let style = Style {
            color: true,
            columns: Some(30),
        };
        assert_eq!(style.paint(Tone::Bad, "no"), "\x1b[31mno\x1b[0m");
        assert_eq!(style.paint(Tone::Bad, ""), "");
        let text = "one two three four five six";
        assert_eq!(style.wrap(text, 10), ["one two three four", "five six"]);
        assert_eq!(Style::PLAIN.wrap(text, 10), [text]);
        assert_eq!(Style::PLAIN.paint(Tone::Good, "yes"), "yes");
    }
}
