//! `evenkeel status --watch` on a terminal: a pseudo terminal that `script` opens.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::page::Scene;
use crate::support::eventually;

const TIMEOUT: Duration = Duration::from_secs(30);
/// What begins a screen: the cursor moves to the upper left corner, and what is below it is cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `evenkeel status --watch` in a terminal of a size.
struct Terminal {
    script: Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(scene: &Scene, rows: u32, columns: u32) -> Terminal {
        let watch = format!(
            "stty rows {rows} cols {columns}; exec {} status --watch --storage.path={}",
            env!("CARGO_BIN_EXE_evenkeel"),
            scene.home.path().join("storage").display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &watch, "/dev/null"])
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script of util-linux");
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut output = script.stdout.take().expect("a pipe");
        let writes = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                writes.lock().expect("no panic").extend_from_slice(&bytes[..count]);
            }
        });
        Terminal { script, written }
    }

    /// The screens that are complete, because another one follows.
    fn screens(&self) -> Vec<String> {
        let written = String::from_utf8_lossy(&self.written.lock().expect("no panic")).into_owned();
        let mut screens: Vec<String> = written.split(CLEAR).skip(1).map(str::to_owned).collect();
        screens.pop();
        screens
    }
}

impl Drop for Terminal {
    /// The end of the terminal ends the command in it.
    fn drop(&mut self) {
        drop(self.script.kill());
        drop(self.script.wait());
    }
}

/// The text without colours.
fn plain(screen: &str) -> String {
    let mut parts = screen.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text));
    first + &rest.collect::<String>()
}

#[test]
fn watch_shows_the_order_of_the_page_and_follows() {
    let scene = Scene::new();
    let terminal = Terminal::start(&scene, 200, 80);
    let idle = eventually("a screen", TIMEOUT, || terminal.screens().into_iter().next());
    assert!(plain(&idle).contains("no alert of a rule is open"), "{idle}");
    assert!(idle.contains("\x1b[1mFIRING ALERTS\x1b[0m"), "{idle:?}");
    scene.wait_until_busy();
    let busy = eventually("a screen with the steps", TIMEOUT, || {
        let screen = plain(&terminal.screens().pop()?);
        (screen.contains("held: leases 1, 2, until the alert is over") && screen.contains("did it help? CPU busy "))
            .then_some(screen)
    });
    let places = [
        "enforce: steps are applied",
        "last action ",
        "healthy: ledger, configuration, actuator, frontend and breakers",
        "FIRING ALERTS",
        "  rule calm-batch-jobs",
        "applied nice 15 on ",
        "held: leases 1, 2",
        "did it help? ",
        "HOST, LAST MINUTES",
        "LEASES",
        "LAST ACTIONS",
        "RULES",
        "COLLECTORS",
    ]
    .map(|text| busy.find(text).unwrap_or_else(|| panic!("no {text:?} in {busy}")));
    assert!(places.is_sorted(), "{places:?}: {busy}");
    for line in busy.lines() {
        // A word that is longer than a line, such as the name of a process, stays whole.
        assert!(line.trim_end().chars().count() <= 80 || !line.contains(' '), "{line:?}");
    }
}

#[test]
fn watch_shows_what_fits_on_the_screen() {
    let scene = Scene::new();
    scene.wait_until_busy();
    let terminal = Terminal::start(&scene, 12, 80);
    let screen = eventually("two screens", TIMEOUT, || terminal.screens().into_iter().nth(1));
    let screen = plain(&screen);
    assert!(screen.lines().count() < 12, "{screen}");
    assert!(screen.starts_with("evenkeel "), "{screen}");
    let last = screen.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("and ") && last.contains(" more lines: `evenkeel status"),
        "{screen}"
    );
}
