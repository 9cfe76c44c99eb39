//! The structure of `src/`: a module uses only modules below it, in the order of `lib.rs`; sensing and acting never
//! import each other; the files of a module have no import cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules that sense and publish. They and the modules that act do not import each other.
const SENSING: [&str; 2] = ["sense", "publish"];
const ACTING: [&str; 6] = ["alert", "rule", "step", "act", "ledger", "engine"];

/// Modules with pure decisions, and their files that may have effects.
const EDGES: [&str; 12] = [
    "host",
    "process/proc_dir.rs",
    "process/read.rs",
    "process/table.rs",
    "sense",
    "ledger/files.rs",
    "ledger/recovery.rs",
    "ledger/store.rs",
    "ledger/write_ahead_log.rs",
    "http",
    "config",
    "control.rs",
];

/// Maximum number of modules that re-export a name.
const MAX_PASSES: usize = 8;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules from the top layer down.
fn modules() -> Vec<String> {
    let text = std::fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    text.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// Every shipped file of `src/`, as (path below `src/`, code without comments and tests).
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut test_modules = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of src/") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(source()).expect("below src/").display().to_string();
                let text = std::fs::read_to_string(&path).expect("a source file");
                let (code, test_only) = without_tests(&text);
                let module = module_of(&name);
                test_modules.extend(
                    test_only
                        .into_iter()
                        .map(|child| [module.clone(), vec![child]].concat()),
                );
                found.push((name, code));
            }
        }
    }
    found.retain(|(name, _)| {
        let module = module_of(name);
        !test_modules.iter().any(|test| module.starts_with(test))
    });
    found.sort_unstable();
    found
}

/// The code of a file without comments and items under `#[cfg(test)]`, and the names of such modules in other files.
/// Relies on rustfmt: an item ends on its first line or at a brace with the indentation of the item.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let mut code = String::new();
    let mut test_modules = Vec::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim_start() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let mut item = lines.by_ref().skip_while(|line| line.trim_start().starts_with("#["));
        let first = item.next().unwrap_or_default();
        if let Some((_, name)) = first.split_once("mod ")
            && let Some(name) = name.strip_suffix(';')
        {
            test_modules.push(name.to_owned());
        } else if !first.ends_with([';', '}', ',']) {
            item.find(|line| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}')));
        }
    }
    (code, test_modules)
}

/// The module path of a file: `ledger/entry.rs` is `[ledger, entry]`, `ledger/mod.rs` is `[ledger]`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

fn top_module_of(file: &str) -> &str {
    file.split('/')
        .next()
        .and_then(|part| part.split('.').next())
        .unwrap_or(file)
}

/// The modules after `crate::` in a file's code.
fn used(code: &str) -> BTreeSet<String> {
    let of_crate = paths(code).into_iter().filter(|path| path.segments[0] == "crate");
    of_crate.filter_map(|path| path.segments.into_iter().nth(1)).collect()
}

#[test]
fn modules_use_only_modules_below_them() {
    let modules = modules();
    let place = |module: &str| modules.iter().position(|known| known == module);
    let mut wrong = Vec::new();
    for (file, code) in files() {
        let Some(own) = place(top_module_of(&file)) else {
            continue;
        };
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
        let module = top_module_of(&file);
        let forbidden: &[&str] = match module {
            module if SENSING.contains(&module) => &ACTING,
            module if ACTING.contains(&module) => &SENSING,
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
        "step",
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
    // These exist for file access in unit tests, and for addresses as host names.
    wrong.retain(|found| {
        ![
            "engine/host_identity.rs has std::net",
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
fn unsafe_code_is_only_where_no_crate_wraps_a_call() {
    let mut found: Vec<String> = files()
        .into_iter()
        .filter(|(_, code)| code.contains("unsafe {"))
        .map(|(file, _)| file)
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "host/fork.rs",
            "host/linux/exit_watch.rs",
            "host/pageout.rs",
            "host/program_pages.rs",
            "host/self_priority.rs",
            "host/umask.rs",
            "knob/ionice.rs",
            "knob/privileges.rs",
            "knob/sched.rs",
            "sense/collectors/btrfs/ioctl.rs",
            "sense/collectors/ethtool/ioctl.rs",
            "sense/collectors/perf/counters.rs",
            "sense/collectors/timex.rs"
        ]
    );
}

#[test]
fn only_the_yaml_module_knows_a_yaml_crate() {
    let knows = |(file, code): &(String, String)| {
        top_module_of(file) != "yaml" && (code.contains("serde_yaml") || code.contains("saphyr"))
    };
    let wrong: Vec<String> = files().into_iter().filter(knows).map(|(file, _)| file).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What the YAML module offers beside trees and formats: values with their place, and notations of numbers.
const VALUES: [&str; 7] = [
    "Text",
    "DurationError",
    "SizeError",
    "parse_duration",
    "parse_milliseconds",
    "parse_size",
    "size_text",
];

#[test]
fn files_that_know_yaml_are_listed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = std::fs::read_to_string(page).expect("ARCHITECTURE.md");
    let begin = page.find("know YAML").expect("the invariant about YAML");
    let invariant = page[begin..].split("\n5. ").next().unwrap_or_default();
    let listed: BTreeSet<&str> = invariant.split('`').skip(1).step_by(2).collect();
    let is_listed = |file: &str| {
        let folders = file.match_indices('/').map(|(end, _)| &file[..=end]);
        folders.chain([file]).any(|path| listed.contains(path))
    };
    let knows = |code: &str| {
        paths(code).iter().any(|path| {
            let mut segments = path.segments.iter().map(String::as_str);
            (segments.next(), segments.next()) == (Some("crate"), Some("yaml"))
                && segments.next().is_none_or(|name| !VALUES.contains(&name))
        })
    };
    let of_yaml: Vec<String> = files()
        .into_iter()
        .filter(|(file, code)| top_module_of(file) != "yaml" && knows(code))
        .map(|(file, _)| file)
        .collect();
    let wrong: Vec<&String> = of_yaml.iter().filter(|file| !is_listed(file)).collect();
    assert!(wrong.is_empty(), "not in the invariant: {wrong:?}");
    let is_needed = |path: &&str| path.ends_with('/') || path.ends_with(".rs");
    let is_used = |path: &&str| of_yaml.iter().any(|file| file.starts_with(*path));
    let unused: Vec<&&str> = listed.iter().filter(|path| is_needed(path) && !is_used(path)).collect();
    assert!(unused.is_empty(), "in the invariant without need: {unused:?}");
}

/// A path in a file: `a::{b, c::d as e}` is two paths.
struct WrittenPath {
    segments: Vec<String>,
    /// Its name after a `use`.
    name: String,
    is_use: bool,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Splits off the first word.
fn split_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// Every path with `::` in a file's code.
fn paths(code: &str) -> Vec<WrittenPath> {
    let mut found = Vec::new();
    let mut rest = code;
    let mut is_inside_path = false;
    let mut is_use = false;
    while let Some(c) = rest.chars().next() {
        if !is_word(c) {
            is_inside_path = c == ':';
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (word, after) = split_word(rest);
        rest = if after.starts_with("::") && !is_inside_path {
            read_path(rest, &[], is_use, &mut found)
        } else {
            after
        };
        is_use = word == "use";
        is_inside_path = false;
    }
    found
}

/// Reads one path with its braces, and returns the rest.
fn read_path<'c>(text: &'c str, parent: &[String], is_use: bool, found: &mut Vec<WrittenPath>) -> &'c str {
    let mut segments = parent.to_vec();
    let mut rest = text;
    loop {
        if let Some(mut list) = rest.strip_prefix('{') {
            loop {
                list = list.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
                if let Some(after) = list.strip_prefix('}') {
                    return after;
                }
                let after = read_path(list, &segments, is_use, found);
                assert!(after.len() < list.len(), "no path: {list:.80}");
                list = after;
            }
        }
        let (word, after) = split_word(rest);
        if !word.is_empty() && (word != "self" || segments.is_empty()) {
            segments.push(word.to_owned());
        }
        rest = match after.strip_prefix("::") {
            Some(next) if next.starts_with(|c| is_word(c) || c == '{') => next,
            _ => {
                let renamed = after.strip_prefix(" as ").map(split_word);
                let (name, after) = renamed.unwrap_or((segments.last().map_or("", String::as_str), after));
                let name = name.to_owned();
                found.push(WrittenPath { segments, name, is_use });
                // All names of `a::*` count as the module itself.
                return after.trim_start_matches("::").trim_start_matches('*');
            }
        };
    }
}

/// The imports of each file of `src/`, by module paths from the root of the crate.
struct Imports {
    files: BTreeMap<Vec<String>, String>,
    /// The paths that a module uses, from the root of the crate.
    paths: BTreeMap<Vec<String>, Vec<Vec<String>>>,
    /// The names from the `use` lines of a module, and their paths.
    names: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
}

impl Imports {
    fn read() -> Self {
        let files = files();
        let mut imports = Imports {
            files: files.iter().map(|(file, _)| (module_of(file), file.clone())).collect(),
            paths: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        for (file, code) in &files {
            let module = module_of(file);
            let (mut all, mut names) = (Vec::new(), BTreeMap::new());
            for path in paths(code) {
                let Some(absolute) = imports.absolute(&module, &path.segments) else {
                    continue;
                };
                if path.is_use {
                    names.insert(path.name, absolute.clone());
                }
                all.push(absolute);
            }
            imports.paths.insert(module.clone(), all);
            imports.names.insert(module, names);
        }
        imports
    }

    /// The path from the root of the crate, if it belongs to the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        match path[0].as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
            child => {
                let is_child = self.files.contains_key(&[module, &[child.to_owned()]].concat());
                is_child.then(|| [module, path].concat())
            }
        }
    }

    /// The module that defines a path's item, behind all re-exports.
    fn owner(&self, path: &[String]) -> Option<Vec<String>> {
        let mut path = path.to_vec();
        for _ in 0..MAX_PASSES {
            let mut lengths = (1..=path.len()).rev();
            let length = lengths.find(|&length| self.files.contains_key(&path[..length]))?;
            let (module, rest) = path.split_at(length);
            let passed_on = rest.first().and_then(|name| self.names[module].get(name));
            match passed_on.filter(|from| **from != path) {
                Some(from) => path = [from, &rest[1..]].concat(),
                None => return Some(module.to_vec()),
            }
        }
        panic!("modules pass {} on in a circle", path.join("::"));
    }

    /// The files of the same top module that each file imports, except its parent.
    fn inside_modules(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let siblings = |(module, paths): (&Vec<String>, &Vec<Vec<String>>)| {
            let owners = paths.iter().filter_map(|path| self.owner(path));
            let siblings = owners.filter(|owner| owner[0] == module[0] && !module.starts_with(owner));
            let files = siblings.map(|owner| self.files[&owner].as_str()).collect();
            (self.files[module].as_str(), files)
        };
        self.paths.iter().map(siblings).collect()
    }
}

/// The files that `from` imports, directly or indirectly.
fn reachable<'f>(edges: &BTreeMap<&'f str, BTreeSet<&'f str>>, from: &str) -> BTreeSet<&'f str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = edges[from].iter().copied().collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(&edges[file]);
        }
    }
    reached
}

#[test]
fn files_of_one_module_do_not_import_each_other() {
    let imports = Imports::read();
    let edges = imports.inside_modules();
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|file| (*file, reachable(&edges, file))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let circle: Vec<&&str> = others.iter().filter(|other| reached[*other].contains(file)).collect();
        let inside = circle.iter().flat_map(|from| {
            let imported = edges[**from].iter().filter(|to| circle.contains(to));
            imported.map(move |to| format!("  {from} imports {to}"))
        });
        circles.insert(inside.collect::<Vec<_>>().join("\n"));
    }
    circles.remove("");
    let circles: Vec<String> = circles.into_iter().collect();
    assert!(circles.is_empty(), "files import each other:\n{}", circles.join("\n\n"));
}

/// `cargo test --lib` runs a share of the cases of long tests, so the checks of a change must ask for all.
#[test]
fn make_test_and_ci_run_all_cases() {
    let read = |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name);
    assert!(read("Makefile").contains("\tEVENKEEL_TESTS=full cargo test --locked\n"));
    assert!(read(".ci/run").contains("\nstep make test\n"));
}

#[test]
fn no_path_goes_up_two_modules() {
    let climbs = |(file, code): (String, String)| code.contains("super::super::").then_some(file);
    let wrong: Vec<String> = files().into_iter().filter_map(climbs).collect();
    assert!(wrong.is_empty(), "start these paths at `crate::`: {wrong:?}");
}

/// The alternatives of a path with braces: `ledger/{store,files}.rs` is two paths.
fn alternatives(path: &str) -> Vec<String> {
    let Some((start, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (list, end) = rest.split_once('}').expect("a closing brace");
    list.split(',').map(|name| format!("{start}{name}{end}")).collect()
}

#[test]
fn files_that_the_document_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let inline = text.split('`').skip(1).step_by(2);
    let named: Vec<String> = inline
        .filter(|code| code.ends_with(".rs"))
        .flat_map(alternatives)
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let folders = [root.to_owned(), source(), source().join("engine")];
    let is_there = |path: &String| folders.iter().any(|folder| folder.join(path).is_file());
    let missing: Vec<String> = named.into_iter().filter(|path| !is_there(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
