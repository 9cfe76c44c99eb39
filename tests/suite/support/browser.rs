//! Headless Chromium, controlled by the DevTools protocol over a pair of named pipes: JSON messages, each terminated by
//! a zero byte (`--remote-debugging-pipe`).

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::tools::tool;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Flags for no traffic except to the pages of the tests, and for no sandbox, because the tests may run as root.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// A browser with one empty page.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: String,
    last_id: u64,
    /// Events that arrived while waiting for a response.
    events: VecDeque<Value>,
    _profile: TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let [to, from] = ["to", "from"].map(|name| profile.path().join(name));
        for path in [&to, &from] {
            mkfifo(path, Mode::S_IRWXU).expect("a named pipe");
        }
        // The shell opens both as the descriptors on which Chromium listens and answers.
        let child = Command::new("sh")
            .args(["-c", "to=$1 from=$2; shift 2; exec \"$@\" 3<\"$to\" 4>\"$from\"", "sh"])
            .args([&to, &from])
            .arg(tool("chromium").get_program())
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let to = File::options().write(true).open(&to).expect("Chromium listens");
        let answers = File::open(&from).expect("Chromium answers");
        let (sender, from) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("a message is JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Browser {
            child,
            to,
            from,
            session: String::new(),
            last_id: 0,
            events: VecDeque::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = text(&browser.call("Target.attachToTarget", attach)["sessionId"]);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// The first of its processes; all others descend from it.
    #[allow(dead_code)] // The benchmark of the page asks.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command and returns its result.
    ///
    /// # Panics
    ///
    /// When Chromium rejects it or does not respond.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("Chromium runs");
        loop {
            let message = self.receive(method);
            if message["id"] != json!(self.last_id) {
                self.events.push_back(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {}", message["error"]);
            return message["result"].clone();
        }
    }

    fn receive(&self, waiting_for: &str) -> Value {
        let message = self.from.recv_timeout(TIMEOUT);
        message.unwrap_or_else(|error| panic!("{waiting_for}: {error}"))
    }

    /// Opens an address and waits until everything is loaded.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        let started = Instant::now();
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            assert!(started.elapsed() < TIMEOUT, "{url} is not loaded");
            let message = self.receive(url);
            self.events.push_back(message);
        }
    }

    /// The value of an expression in the page. Waits for a promise.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params);
        let start: String = expression.chars().take(200).collect();
        assert!(
            answer["exceptionDetails"].is_null(),
            "{start}: {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].clone()
    }

    /// The browser's error messages and requested addresses since the page was opened.
    pub fn complaints_and_requests(&mut self) -> (Vec<String>, Vec<String>) {
        // Afterwards all earlier events have arrived.
        self.evaluate("0");
        let (mut complaints, mut requests) = (Vec::new(), Vec::new());
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str() {
                Some("Log.entryAdded") => complaints.push(text(&params["entry"]["text"])),
                Some("Runtime.exceptionThrown") => complaints.push(params["exceptionDetails"].to_string()),
                Some("Runtime.consoleAPICalled") => complaints.push(params["args"].to_string()),
                Some("Network.requestWillBeSent") => requests.push(text(&params["request"]["url"])),
                _ => {}
            }
        }
        (complaints, requests)
    }

    /// Sets the width of the screen, and light mode, dark mode or print.
    pub fn look_with(&mut self, width: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let (media, scheme) = match scheme {
            "print" => ("print", "light"),
            scheme => ("screen", scheme),
        };
        let features = json!({"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Writes a picture of the whole page, as PNG.
    pub fn take_picture(&mut self, path: &Path) {
        // Without a clip the picture lacks the width of the scrollbar, but the page in it does not.
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true}));
        let size = self.evaluate("[innerWidth, document.documentElement.scrollHeight]");
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let answer = self.call(
            "Page.captureScreenshot",
            json!({"format": "png", "captureBeyondViewport": true, "clip": clip}),
        );
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": false}));
        use base64::Engine;
        let picture = base64::engine::general_purpose::STANDARD.decode(text(&answer["data"]));
        std::fs::write(path, picture.expect("a picture in base64")).expect("a writable folder");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A regular exit ends its children, which a kill would leave.
        self.session.clear();
        if self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0").is_ok() {
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(5) {
                if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
