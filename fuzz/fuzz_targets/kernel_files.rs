//! Any content of the files below /proc and /sys that collectors read, of a text file, and of the limits of a cgroup: no
//! collector panics, what they publish can be written in every format, and a limit is read back as it is written.
//!
//! The input is text in sections that a line `%%` divides. The first line of a section is the path of a file, and the
//! rest is its content.
#![no_main]

use evenkeel::app::policy;
use evenkeel::config::Config;
use evenkeel::host::cgroup::Hierarchy;
use evenkeel::knob::limit::{CgroupFile, Setting};
use evenkeel::process::BootId;
use evenkeel::publish::{Content, Format, exposition};
use evenkeel::sense::{COLLECTORS, Collector, CollectorOptions, Groups, Roots, Sysctl};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock};

const DIVIDER: &str = "\n%%\n";
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 16;
/// They ask D-Bus and netlink of this host instead of files.
const OTHERS: [&str; 3] = ["systemd", "ethtool", "network_route"];
/// Groups of processes that together read every file of a process.
const GROUPS: &str = "process_groups:\n\
    - {name: all, select: {name: '.*'}, metrics: [swap, context_switches, io, open_fds, threads, smaps]}\n\
    - {name: '{{.Comm}}', select: {cmdline: '.+'}}\n\
    - {name: batch, select: {cgroup: '/batch(/.*)?', min_cpu: 0.1}}\n\
    grouping: {max_groups: 3}\n";

static PROCESS_GROUPS: LazyLock<Groups> = LazyLock::new(|| {
    let loaded = Config::from_texts(GROUPS, &[]).expect("a good configuration");
    let groups = Groups::default();
    groups.store(Arc::new(policy::groups(&loaded.config)));
    groups
});

/// A directory in memory, as the real procfs is.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    parent.join(format!("evenkeel-fuzz-files-{}", std::process::id()))
});

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let files = text.split(DIVIDER).take(MAX_FILES);
    let files: Option<Vec<_>> = files.map(|section| file(section)).collect();
    let Some(files) = files else {
        return Corpus::Reject;
    };
    files.iter().for_each(|(_, content)| check_limits(content));
    // An earlier run that was killed may have left files.
    let _ = fs::remove_dir_all(&*ROOT);
    for (path, content) in files {
        let path = ROOT.join(path);
        let folder = path.parent().expect("a path below the root");
        // One path may lead through the file of another.
        if fs::create_dir_all(folder).is_ok() {
            let _ = fs::write(path, content);
        }
    }
    read();
    Corpus::Keep
});

/// A relative path and the content of the file; `None` for a path that leads elsewhere.
fn file(section: &str) -> Option<(&Path, &str)> {
    let (path, content) = section.split_once('\n')?;
    let path = Path::new(path);
    let is_normal = |component: Component| matches!(component, Component::Normal(_));
    let is_below = path.components().all(is_normal) && path.components().count() <= MAX_DEPTH;
    (is_below && !path.as_os_str().is_empty() && !path.to_str()?.contains('\0')).then_some((path, content))
}

/// A limit is written as the kernel shows it, so that a revert sets what was read.
fn check_limits(content: &str) {
    for file in CgroupFile::ALL {
        let Ok(setting) = Setting::parse(file, content) else {
            continue;
        };
        assert_eq!(setting.file(), file);
        let written = setting.line();
        let again = Setting::parse(file, &written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
        assert!(setting.explains(&again), "{content:?} became {written:?}");
    }
}

fn read() {
    let found = Hierarchy::find(&ROOT.join("proc"), BootId(1));
    // A mount elsewhere is that of this host.
    if let Some(hierarchy) = found.filter(|found| found.mount().starts_with(&*ROOT)) {
        let _ = hierarchy.list();
    }
    let roots = Roots::new(ROOT.join("proc"), ROOT.join("sys"), ROOT.join("root"));
    let sysctl = |name, is_text| Sysctl::parse(name, is_text).expect("a name");
    let mut options = CollectorOptions {
        bcache_priority_stats: true,
        stat_softirqs: true,
        sysctls: vec![sysctl("fs.file-nr", false), sysctl("fs.words", true)],
        textfile_directories: vec![ROOT.join("text").display().to_string()],
        udev_data: ROOT.join("udev"),
        process_groups: Groups::clone(&PROCESS_GROUPS),
        qdisc_fixtures: Some(ROOT.join("qdisc")),
        wifi_fixtures: Some(ROOT.join("wifi")),
        ..CollectorOptions::default()
    };
    options.cpu.has_info = true;
    let collectors = COLLECTORS.iter().filter(|info| !OTHERS.contains(&info.name));
    let readings = collectors.map(|info| {
        let mut collector = Collector::new(info, &options);
        // What the first read remembers must not disturb the second.
        collector.read(&roots);
        let reading = collector.read(&roots);
        let error = reading.error.as_deref().unwrap_or_default();
        assert!(!error.contains("panicked"), "{}: {error}", info.name);
        reading
    });
    let content = Arc::new(Content {
        readings: readings.collect(),
        ..Content::default()
    });
    for format in [Format::OpenMetrics, Format::Text] {
        let text = exposition::write(&content, format).expect("an exposition");
        let mut series = HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, _value) = line.rsplit_once(' ').expect("a series and its value");
            assert!(series.insert(name), "twice: {name}");
        }
    }
}
