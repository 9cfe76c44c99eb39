//! Any selector, any label text, and a process whose files in /proc say anything: nothing panics, the process is who
//! its `stat` says, and the text of a label never selects more than itself.
//!
//! The input is text in sections that a line `%%` divides: selector, labels, name, rest of `stat`, `status`, `cmdline`,
//! `cgroup`. Missing sections are empty.
#![no_main]

use evenkeel::diagnostic::{Findings, SourceText};
use evenkeel::labels::Labels;
use evenkeel::process::consistent_read::ProcessReader;
use evenkeel::process::protection::recognise;
use evenkeel::process::selector::{Condition, Part, Pattern, SelectorMatch};
use evenkeel::process::table::Procfs;
use evenkeel::process::{BootId, Details, Process, ProcessFields, Selector};
use evenkeel::rule::file::read_select;
use evenkeel::rule::{Scope, compile_select};
use evenkeel::yaml;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const PID: i32 = 4711;
const SECTIONS: usize = 7;
const DIVIDER: &[u8] = b"\n%%\n";
/// Of fields 3 and on, for inputs that leave them out.
const GOOD_STAT: &[u8] = b"S 1 42 42 0 -1 4194304 100 0 0 0 500 250 0 0 20 0 1 0 1000 1000000 25";
const UPTIME: Duration = Duration::from_secs(3600);

/// A directory of files that looks like a procfs with one process; in memory, as the real one is.
static PROCFS: LazyLock<Procfs> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let root = parent.join(format!("evenkeel-fuzz-{}", std::process::id()));
    fs::create_dir_all(root.join(PID.to_string())).expect("a directory in memory");
    Procfs {
        root,
        boot: BootId(1),
        page_bytes: 4096,
        calls: None,
    }
});

fuzz_target!(|data: &[u8]| {
    let [selector, labels, name, rest, status, cmdline, cgroup] = sections(data);
    let stat = [
        PID.to_string().as_bytes(),
        b" (",
        name,
        b") ",
        if rest.is_empty() { GOOD_STAT } else { rest },
    ]
    .concat();
    let files = [
        ("stat", stat.as_slice()),
        ("status", status),
        ("cmdline", cmdline),
        ("cgroup", cgroup),
    ];
    let directory = PROCFS.root.join(PID.to_string());
    for (file, content) in files {
        fs::write(directory.join(file), content).expect("a file in memory");
    }

    let Some(mut process) = PROCFS.read_process(PID, UPTIME) else {
        return;
    };
    assert_eq!(process.identity.pid, PID);
    if !rest.contains(&b')') {
        assert_eq!(process.name, String::from_utf8_lossy(name));
    }
    let needs = ProcessFields::CMDLINE
        | ProcessFields::EXE
        | ProcessFields::HOST_PROGRAM
        | ProcessFields::LOGIN
        | ProcessFields::USER
        | ProcessFields::CGROUP
        | ProcessFields::SIGNALS
        | ProcessFields::OOM_SCORE;
    let needs = needs | ProcessFields::SWAP | ProcessFields::CONTEXT_SWITCHES;
    assert!(ProcessReader::new(PROCFS.clone()).read_details(&mut process, needs));
    recognise(&process);

    let Some(selector) = read_selector(selector) else {
        return;
    };
    let labels = read_labels(labels);
    judge(&selector, &labels, &process);
});

fn sections(data: &[u8]) -> [&[u8]; SECTIONS] {
    let mut sections = [&b""[..]; SECTIONS];
    let mut rest = data;
    for section in &mut sections {
        let end = rest.windows(DIVIDER.len()).position(|window| window == DIVIDER);
        *section = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + DIVIDER.len()..]);
    }
    sections
}

/// Names and values, a line each: `name=value`.
fn read_labels(text: &[u8]) -> Labels {
    let text = String::from_utf8_lossy(text);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.collect()
}

fn read_selector(text: &[u8]) -> Option<Selector> {
    let source = SourceText::new("select.yml", std::str::from_utf8(text).ok()?);
    let mut findings = Findings::new(&source);
    let batch = Arc::new(Selector {
        conditions: vec![Condition::Cgroup(Pattern::fixed("/batch(/.*)?").expect("a pattern"))],
    });
    let groups = BTreeMap::from([("batch".to_owned(), batch)]);
    let written = yaml::parse(&mut findings).and_then(|root| read_select(&root, &mut findings))?;
    let scope = Scope {
        groups: &groups,
        labels: true,
        // A selector of cgroups has no other keys, only fewer; what it judges is not read from processes.
        cgroups: false,
    };
    let selector = compile_select(&written, scope, &mut findings);
    (!findings.has_errors()).then_some(selector)
}

fn judge(selector: &Selector, labels: &Labels, process: &Process) {
    let resolved = selector.resolve(labels);
    let judgement = resolved.judge(process);
    // What is read lazily decides as what is read at once.
    if matches!(resolved.judge_cheaply(process), SelectorMatch::Fails(_)) {
        assert!(
            matches!(judgement, SelectorMatch::Fails(_)),
            "left out unread, and then {judgement:?}"
        );
    }
    let mut unread = process.clone();
    unread.details = Details::default();
    if !resolved.needs().is_empty() && judgement == SelectorMatch::Holds {
        assert!(
            !matches!(resolved.judge(&unread), SelectorMatch::Fails(_)),
            "what was not read failed"
        );
    }
    if judgement != SelectorMatch::Holds {
        return;
    }
    assert!(!selector.conditions.is_empty(), "no condition selects nothing");
    for condition in &selector.conditions {
        let single = Selector {
            conditions: vec![condition.clone()],
        };
        assert_eq!(
            single.resolve(labels).judge(process),
            SelectorMatch::Holds,
            "{condition:?}"
        );
        assert_literal(condition, labels, process);
    }
}

/// A process that was chosen by label text bears that text, letter by letter.
fn assert_literal(condition: &Condition, labels: &Labels, process: &Process) {
    let pid = process.identity.pid.to_string();
    let uid = process.details.uid.map(|uid| uid.to_string());
    let (pattern, texts) = match condition {
        Condition::Name(pattern) => (pattern, [Some(&process.name), None]),
        Condition::Cmdline(pattern) => (pattern, [process.details.cmdline.as_ref(), None]),
        Condition::Exe(pattern) => (pattern, [process.details.exe.as_ref(), None]),
        Condition::User(pattern) => (pattern, [process.details.user.as_ref(), uid.as_ref()]),
        Condition::Cgroup(pattern) => (pattern, [process.details.cgroup.as_ref(), None]),
        Condition::Pid(pattern) => (pattern, [Some(&pid), None]),
        _ => return,
    };
    let Pattern::Template(parts) = pattern else { return };
    for part in parts {
        let Part::Label(name) = part else { continue };
        let value = labels.get(name).expect("a missing label selects nothing");
        assert!(!value.is_empty(), "an empty label selects nothing");
        assert!(
            texts.iter().flatten().any(|text| text.contains(value)),
            "{value:?} of the label is not in {texts:?}"
        );
    }
}
