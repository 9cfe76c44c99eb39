//! Each format and coding as a real Prometheus scrapes it: all have the same series, with any names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::Duration;

use crate::support::daemon::Home;
use crate::support::prometheus::{Prometheus, start_server};
use crate::support::tools::tool;
use crate::support::{eventually, free_address, http};

const TIMEOUT: Duration = Duration::from_secs(60);
const SAMPLES: usize = 3;
const OFTEN: usize = 20;
const START_ATTEMPTS: u32 = 5;

const TEXT: &str = "text/plain; version=0.0.4";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A proxy before evenkeel that requests one format, regardless of Prometheus's preference. It ends with the test
/// process.
fn relay(evenkeel: SocketAddr, accept: &'static str, coding: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // The client may have disconnected.
            let _ = client.and_then(|client| pass_on(client, evenkeel, accept, coding));
        }
    });
    address
}

fn pass_on(client: TcpStream, evenkeel: SocketAddr, accept: &str, coding: &str) -> std::io::Result<()> {
    let mut head = BufReader::new(client);
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let answer = http::exchange(evenkeel, "/metrics", &[("Accept", accept), ("Accept-Encoding", coding)])?;
    let said = String::from_utf8_lossy(&answer[..answer.len().min(1024)]).to_ascii_lowercase();
    let is_as_asked = said.contains(&format!(
        "content-type: {}",
        accept.split(';').next().unwrap_or_default()
    )) && said.contains("content-encoding: gzip") == (coding == "gzip");
    assert!(is_as_asked, "asked for {accept} and {coding}: {said}");
    head.get_mut().write_all(&answer)
}

/// The series of a job that most scrapes have, and the number of successful scrapes.
fn series(prometheus: &Prometheus, job: &str) -> (BTreeSet<String>, usize) {
    let found = prometheus.query(&format!("{{job=\"{job}\"}}[2m]"));
    let mut scrapes = 0;
    let mut counts = BTreeMap::new();
    for series in &found {
        let mut labels: BTreeMap<String, String> =
            serde_json::from_value(series["metric"].clone()).expect("a map of labels");
        labels.remove("job");
        // As Prometheus 3 stores it in any format; 2 keeps `1` of text and `1.0` of OpenMetrics.
        if let Some(bound) = labels.get_mut("le") {
            *bound = format!("{:?}", bound.parse::<f64>().expect("a number"));
        }
        let values = series["values"].as_array().expect("samples");
        match labels["__name__"].as_str() {
            "up" => scrapes = values.iter().filter(|value| value[1] == "1").count(),
            name if name.starts_with("scrape_") => {}
            _ => drop(counts.insert(format!("{labels:?}"), values.len())),
        }
    }
    // Other tests create and remove devices and mounts.
    let lasting = counts.into_iter().filter(|(_, count)| 2 * count > scrapes);
    (lasting.map(|(name, _)| name).collect(), scrapes)
}

#[test]
fn a_prometheus_sees_the_same_in_each_format_and_coding() {
    let home = Home::new("rules: []\n");
    // A process with such a name, in its own group.
    home.write(
        "evenkeel.yml",
        "rule_files: [rules/*.yml]\nprocess_groups: [{name: \"o\\\"d\\\\d\\nname\", select: {cmdline: \".*-odd-.*\"}}]\n",
    );
    let folder = home.path().join("text");
    std::fs::create_dir(&folder).expect("a writable folder");
    let file = folder.join(OsStr::from_bytes(b"new\nline \"quote\" back\\slash \xff.prom"));
    std::fs::write(
        &file,
        b"odd_text{l=\"new\\nline \\\"quote\\\" back\\\\slash \xc3\xb6\"} 7\n",
    )
    .expect("a writable folder");
    let mut odd = std::process::Command::new("sh")
        .args(["-c", "read -r _", "new\nline \"quote\" back\\slash -odd-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let evenkeel = home.start(&[&format!("--collector.textfile.directory={}", folder.display())]);
    let jobs = [
        ("text", TEXT, "identity"),
        ("text-gzip", TEXT, "gzip"),
        ("openmetrics", OPENMETRICS, "identity"),
        ("openmetrics-gzip", OPENMETRICS, "gzip"),
    ];
    let targets = jobs.map(|(job, accept, coding)| (job, relay(evenkeel.metrics, accept, coding)));
    let prometheus = Prometheus::start(&targets, "groups: []\n", free_address());
    let seen = eventually("enough scrapes of each", TIMEOUT, || {
        std::thread::sleep(Duration::from_secs(1));
        let seen = jobs.map(|(job, ..)| series(&prometheus, job));
        seen.iter().all(|(_, scrapes)| *scrapes >= SAMPLES).then_some(seen)
    });
    // The process exits when its last writer closes.
    drop(odd.stdin.take());
    odd.wait().expect("the shell ends");
    for ((job, ..), (names, _)) in jobs.iter().zip(&seen) {
        assert!(names.len() > 200, "{job}: only {} series", names.len());
        let [more, less] =
            [(names, &seen[0].0), (&seen[0].0, names)].map(|(one, other)| one.difference(other).collect::<Vec<_>>());
        assert!(
            more.is_empty() && less.is_empty(),
            "{job} beside text: more {more:?}, less {less:?}"
        );
    }
    for odd in [
        r#""l": "new\nline \"quote\" back\\slash "#,
        r#"new\nline \"quote\" back\\slash "#,
        r#""group": "o\"d\\d\nname""#,
    ] {
        assert!(
            seen[0].0.iter().any(|series| series.contains(odd)),
            "no series with {odd}"
        );
    }
}

/// The first body is encoded completely, the others from the one before.
#[test]
fn a_prometheus_understands_many_scrapes_in_a_row() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&[]);
    let target = relay(evenkeel.metrics, OPENMETRICS, "gzip");
    let prometheus = Prometheus::start(&[("evenkeel", target)], "groups: []\n", free_address());
    eventually("many scrapes", TIMEOUT, || {
        std::thread::sleep(Duration::from_secs(1));
        (series(&prometheus, "evenkeel").1 >= OFTEN).then_some(())
    });
}

/// The objections of promtool to an exposition.
fn objections(metrics: &str) -> BTreeSet<String> {
    let mut promtool = tool("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("promtool runs");
    let mut input = promtool.stdin.take().expect("stdin is piped");
    input.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    // promtool exits with 3 for objections, and with 1 for an unreadable exposition.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
    said.lines().map(str::to_owned).collect()
}

#[test]
fn promtool_objects_to_no_more_than_in_node_exporter() {
    let home = Home::new("rules: []\n");
    let flags = ["--collector.interrupts", "--collector.processes", "--collector.tcpstat"];
    let evenkeel = home.start(&flags);
    let (node_exporter, _process) = start_server("node_exporter", START_ATTEMPTS, |address| {
        let mut command = tool("node_exporter");
        command.arg(format!("--web.listen-address={address}")).args(flags);
        command
    });
    let accept = [("Accept", TEXT)];
    let [our_text, their_text] = [evenkeel.metrics, node_exporter].map(|address| {
        let answer = http::request(address, "GET", "/metrics", &accept, b"").expect("an answer");
        answer.body
    });
    let [ours, theirs] = [&our_text, &their_text].map(|text| objections(text));
    assert!(!theirs.is_empty(), "promtool found nothing at all");
    // Names that came after Debian's node_exporter are those of a later one.
    let is_later = |objection: &&String| {
        let name = objection.split(' ').next().unwrap_or_default();
        name.starts_with("node_netstat_") && !their_text.contains(name)
    };
    let own: Vec<_> = ours
        .difference(&theirs)
        .filter(|objection| !is_later(objection))
        .collect();
    assert!(own.is_empty(), "{own:#?}");
}
