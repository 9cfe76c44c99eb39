//! The shape of `src/`: rooms use only rooms below them, in the order of `lib.rs`, and sensing and acting never meet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms that sense and publish, and rooms that act: neither side imports the other.
const SENSING: [&str; 2] = ["sense", "publish"];
const ACTING: [&str; 5] = ["alert", "rule", "act", "ledger", "engine"];

/// Rooms whose decisions are pure, with the files that are their edges to the world.
const EDGES: [&str; 9] = [
    "host",
    "process/open.rs",
    "process/table.rs",
    "sense",
    "ledger/salvage.rs",
    "ledger/store.rs",
    "http",
    "config",
    "control.rs",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms, top line first.
fn rooms() -> Vec<String> {
    let text = std::fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    text.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// Every file of `src/` that ships, as (path below `src/`, code without comments and tests).
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of src/") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(source()).expect("below src/").display().to_string();
                let text = std::fs::read_to_string(&path).expect("a source file");
                let shipped = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
                let code: Vec<&str> = shipped
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .collect();
                found.push((name, code.join("\n")));
            }
        }
    }
    // Whole files of tests.
    found.retain(|(name, _)| !name.ends_with("tests.rs") && !name.contains("/tests/"));
    found
}

fn room_of(file: &str) -> &str {
    file.split('/')
        .next()
        .and_then(|part| part.split('.').next())
        .unwrap_or(file)
}

/// The rooms that a text names after `crate::`, alone or in braces.
fn used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names = part
            .strip_prefix('{')
            .map_or(part, |list| list.split('}').next().unwrap_or(""));
        let is_list = part.starts_with('{');
        for name in names.split(',') {
            let word: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            used.insert(word);
            if !is_list {
                break;
            }
        }
    }
    used
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rooms = rooms();
    let place = |room: &str| rooms.iter().position(|known| known == room);
    let mut wrong = Vec::new();
    for (file, code) in files() {
        let Some(own) = place(room_of(&file)) else { continue };
        for other in used(&code) {
            if place(&other).is_some_and(|other| other < own) {
                wrong.push(format!("{file} uses {other}, which is above it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sensing_and_acting_never_import_each_other() {
    let mut wrong = Vec::new();
    for (file, code) in files() {
        let room = room_of(&file);
        let forbidden: &[&str] = match room {
            room if SENSING.contains(&room) => &ACTING,
            room if ACTING.contains(&room) => &SENSING,
            _ => continue,
        };
        let crossing = used(&code)
            .into_iter()
            .filter(|other| forbidden.contains(&other.as_str()));
        wrong.extend(crossing.map(|other| format!("{file} uses {other}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_world_is_touched_at_named_edges_only() {
    const TOUCHING: [&str; 8] = [
        "std::fs",
        "fs::read",
        "File::open",
        "SystemTime::now",
        "Timestamp::now",
        "std::net",
        "UnixStream",
        "Command::new",
    ];
    let pure = [
        "engine",
        "act",
        "rule",
        "ledger",
        "watch",
        "process",
        "alert/matcher.rs",
        "alert/decode.rs",
        "template.rs",
        "family.rs",
    ];
    let mut wrong = Vec::new();
    for (file, code) in files() {
        let is_pure = pure.iter().any(|start| file.starts_with(start));
        let is_edge = EDGES.iter().any(|start| file.starts_with(start));
        if is_pure && !is_edge {
            let touches = TOUCHING.iter().filter(|word| code.contains(**word));
            wrong.extend(touches.map(|word| format!("{file} has {word}")));
        }
    }
    // Their reason to exist: the files of unit tests, and addresses as names of a host.
    wrong.retain(|found| {
        ![
            "engine/here.rs has std::net",
            "watch/unit_test.rs has std::fs",
            "watch/test_file.rs has std::fs",
            "watch/test_file.rs has fs::read",
        ]
        .contains(&found.as_str())
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_open_with_what_they_own() {
    let missing: Vec<String> = files()
        .into_iter()
        .map(|(file, _)| file)
        .filter(|file| {
            let text = std::fs::read_to_string(source().join(file)).expect("a source file");
            !text.starts_with("//! ")
        })
        .collect();
    assert!(missing.is_empty(), "no first lines: {missing:?}");
}

#[test]
fn what_is_unsafe_is_where_no_crate_wraps_a_call() {
    let mut found: Vec<String> = files()
        .into_iter()
        .filter(|(_, code)| code.contains("unsafe {"))
        .map(|(file, _)| file)
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "host/linux.rs",
            "host/pageout.rs",
            "host/standing.rs",
            "host/trial.rs",
            "sense/collectors/timex.rs"
        ]
    );
}

#[test]
fn only_the_room_of_yaml_knows_a_yaml_crate() {
    let knows = |(file, code): &(String, String)| {
        room_of(file) != "yaml" && (code.contains("serde_yaml") || code.contains("saphyr"))
    };
    let wrong: Vec<String> = files().into_iter().filter(knows).map(|(file, _)| file).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
