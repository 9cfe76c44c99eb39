//! The tools that `tests/tools.sh` fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the tools.
pub fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("target/tmp lies in target");
    target.join("tools")
}

/// The program of this name in `target/tools/bin`.
///
/// # Panics
///
/// When the tool is missing, because a test must not skip itself.
pub fn tool(name: &str) -> Command {
    let path = folder().join("bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make test`, or tests/tools.sh before `cargo test`",
        path.display()
    );
    Command::new(path)
}

/// Python with the strict OpenMetrics parser (`prometheus_client`) to import, and nothing else from outside.
pub fn python() -> Command {
    let library = folder().join("python");
    assert!(library.exists(), "{} is missing: run tests/tools.sh", library.display());
    let mut command = Command::new("python3");
    command.arg("-S").env("PYTHONPATH", library);
    command
}

/// Runs a command to its end and returns its output of both streams.
///
/// # Panics
///
/// When the program cannot start or exits with another status than 0.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success(), "{command:?}: {}\n{printed}", output.status);
    printed
}

/// Runs a command that must fail, and returns its output of both streams.
pub fn fail(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(!output.status.success(), "{command:?}: {}", said.concat());
    // Without the line breaks for terminals.
    said.concat().split_whitespace().collect::<Vec<_>>().join(" ")
}
