//! `status`: asks the running daemon for its state and prints it, once or again and again.

use super::status_text::text;
use super::{finish, json, progress, style, unexpected};
use crate::cli::{Output, Status};
use crate::control::{self, Reply, Request};
use crate::diagnostic::printable;
use jiff::Timestamp;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Interval of `--watch`, that of the status page.
const INTERVAL: Duration = Duration::from_secs(2);
/// Moves to the upper left corner, and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints the status once, or again and again until a signal ends it.
pub fn status(command: &Status) -> ExitCode {
    if !command.watch {
        return finish(progress::during("asking the daemon", || ask(command)));
    }
    let is_screen = std::io::stdout().is_terminal();
    loop {
        let text = match ask(command) {
            Ok(text) => text,
            Err(error) => format!("error: {error}\n"),
        };
        let text = match terminal_size::terminal_size_of(std::io::stdout()).filter(|_| is_screen) {
            Some((_, rows)) => {
                CLEAR.to_owned() + &first_lines(&text, usize::from(rows.0), &command.query.storage.option())
            }
            None => text,
        };
        // A reader such as `head` may close the pipe.
        if std::io::stdout().write_all(text.as_bytes()).is_err() {
            return ExitCode::SUCCESS;
        }
        drop(std::io::stdout().flush());
        std::thread::sleep(INTERVAL);
    }
}

/// The lines that fit on a screen. Without this a long status would scroll its beginning, which matters most, away.
fn first_lines(text: &str, rows: usize, storage: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The cursor stands below the last line.
    if lines.len() < rows {
        return text.to_owned();
    }
    let shown = rows.saturating_sub(2);
    let more = lines.len() - shown;
    format!(
        "{}\nand {more} more lines: `evenkeel status{}` without --watch\n",
        lines[..shown].join("\n"),
        printable(storage)
    )
}

fn ask(command: &Status) -> Result<String, String> {
    let value = read(&command.query.storage.path)?;
    match command.query.output {
        Output::Json => Ok(format!("{}\n", json(&value))),
        Output::Text => {
            let status = serde_json::from_value(value).map_err(|error| format!("unexpected answer: {error}"))?;
            Ok(text(
                &status,
                Timestamp::now(),
                &command.query.storage.option(),
                style(),
            ))
        }
    }
}

fn read(storage: &Path) -> Result<serde_json::Value, String> {
    match control::request(storage, &Request::Status, "") {
        Ok(Reply::Status(value)) => Ok(value),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_shows_the_beginning() {
        let text = "1\n2\n3\n4\n";
        assert_eq!(first_lines(text, 5, ""), text);
        assert_eq!(
            first_lines(text, 4, " --storage.path=/x"),
            "1\n2\nand 2 more lines: `evenkeel status --storage.path=/x` without --watch\n"
        );
    }
}
