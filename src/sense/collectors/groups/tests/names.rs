//! Tests of names that templates make, of process-exporter's file, and of threads.

use super::*;
use crate::sense::collectors::groups::group::ExporterOptions;
use crate::sense::collectors::groups::name_matcher::NameMatcher;
use crate::sense::collectors::groups::name_template::NameTemplate;

/// The groups of process-exporter's file with these entries: a name, and a regular expression for the command line.
pub(super) fn of_file(entries: &[(&str, &str)], options: ExporterOptions) -> GroupConfig {
    let matcher = |(name, cmdline): &(&str, &str)| NameMatcher {
        comms: None,
        exes: None,
        cmdlines: vec![regex::Regex::new(cmdline).unwrap()],
        template: NameTemplate::parse(name).unwrap(),
    };
    GroupConfig {
        exporter: Some(ExporterGroups {
            source: format!("{entries:?}").into(),
            matchers: entries.iter().map(matcher).collect(),
            options,
        }),
        ..GroupConfig::default()
    }
}

/// A process of a fixture: its pid, its parent, its `comm` and its arguments.
pub(super) fn process(tree: &Tree, pid: i32, parent: i32, name: &str, arguments: &[&str]) {
    let stat = format!("{pid} ({name}) S {parent} 1 1 0 -1 0 7 0 0 0 50 50 0 0 20 0 1 0 5000 8192 2 1 1 1\n");
    tree.proc(&format!("{pid}/stat"), stat);
    let status = "Uid:\t0\t0\t0\t0\nVmSwap: 4 kB\nvoluntary_ctxt_switches: 1\nnonvoluntary_ctxt_switches: 2\n";
    tree.proc(&format!("{pid}/status"), status);
    tree.proc(&format!("{pid}/io"), "read_bytes: 1\nwrite_bytes: 1\n");
    tree.proc(&format!("{pid}/fd/0"), "");
    let cmdline: String = arguments.iter().map(|argument| format!("{argument}\0")).collect();
    tree.proc(&format!("{pid}/cmdline"), cmdline);
}

pub(super) fn counts(families: &[Family]) -> Vec<String> {
    let mut counts = text_of(families, "namedprocess_namegroup_num_procs");
    counts.sort_unstable();
    let start = "namedprocess_namegroup_num_procs{groupname=";
    counts
        .into_iter()
        .map(|line| line.replace(start, "").replace('}', ""))
        .collect()
}

#[test]
fn first_entry_of_the_file_names_a_process_and_its_children() {
    let tree = tree();
    process(&tree, 10, 1, "sh", &["sh", "-c", "x"]);
    process(&tree, 5, 10, "child", &["child"]);
    process(&tree, 11, 5, "grandchild", &["grandchild"]);
    process(&tree, 12, 10, "named", &["/opt/named", "--config=a.yml"]);
    process(&tree, 13, 1, "alone", &["alone"]);
    let entries = [
        ("{{.ExeBase}}:{{.Matches.file}}", "--config=(?P<file>[a-z.]+)"),
        ("{{.Comm}}", "^sh|--config"),
    ];
    for (children, expected) in [
        (true, ["\"named:a.yml\" 1", "\"sh\" 3"]),
        (false, ["\"named:a.yml\" 1", "\"sh\" 1"]),
    ] {
        let options = ExporterOptions {
            children,
            ..ExporterOptions::default()
        };
        let mut groups = GroupsReader::new(Arc::new(ArcSwap::from_pointee(of_file(&entries, options))));
        assert_eq!(counts(&groups.read(&tree.roots).unwrap()), expected);
        // The second read knows the groups.
        assert_eq!(counts(&groups.read(&tree.roots).unwrap()), expected);
    }
}

#[test]
fn process_keeps_its_group_until_it_runs_another_program() {
    let tree = tree();
    process(&tree, 10, 1, "parent", &["parent"]);
    process(&tree, 11, 10, "child", &["child"]);
    process(&tree, 12, 1, "late", &["late"]);
    let entries = [("{{.Comm}}", "parent|group")];
    let config = |options| Arc::new(ArcSwap::from_pointee(of_file(&entries, options)));
    let recheck = ExporterOptions {
        recheck: Some(Duration::MAX),
        ..ExporterOptions::default()
    };
    let readers = [ExporterOptions::default(), recheck].map(|options| GroupsReader::new(config(options)));
    let [mut plain, mut rechecking] = readers;
    for groups in [&mut plain, &mut rechecking] {
        assert_eq!(counts(&groups.read(&tree.roots).unwrap()), ["\"parent\" 2"]);
    }
    // The parent has ended, the other process has new arguments.
    std::fs::remove_dir_all(tree.roots.proc("10")).unwrap();
    process(&tree, 11, 1, "child", &["child"]);
    process(&tree, 12, 1, "late", &["group"]);
    assert_eq!(counts(&plain.read(&tree.roots).unwrap()), ["\"parent\" 1"]);
    assert_eq!(
        counts(&rechecking.read(&tree.roots).unwrap()),
        ["\"late\" 1", "\"parent\" 1"]
    );
    process(&tree, 11, 1, "group", &["group"]);
    assert_eq!(
        counts(&plain.read(&tree.roots).unwrap()),
        ["\"group\" 1", "\"parent\" 0"]
    );
}

#[test]
fn reload_of_an_unchanged_file_keeps_its_counters() {
    let tree = tree();
    process(&tree, 10, 1, "a", &["a"]);
    let shared = Arc::new(ArcSwap::from_pointee(of_file(
        &[("{{.Comm}}", "a")],
        ExporterOptions::default(),
    )));
    let mut groups = GroupsReader::new(Arc::clone(&shared));
    groups.read(&tree.roots).unwrap();
    tree.proc("10/io", "read_bytes: 5\nwrite_bytes: 1\n");
    let read = |groups: &mut GroupsReader| value(&groups.read(&tree.roots).unwrap(), "namegroup_read_bytes_total");
    assert_eq!(read(&mut groups), 4.0);
    shared.store(Arc::new(of_file(&[("{{.Comm}}", "a")], ExporterOptions::default())));
    assert_eq!(read(&mut groups), 4.0);
    shared.store(Arc::new(of_file(&[("{{.Comm}}", "a|b")], ExporterOptions::default())));
    assert_eq!(read(&mut groups), 0.0);
}

#[test]
fn templates_make_groups_of_a_selector() {
    let tree = tree();
    for (pid, unit) in [(7, "a"), (8, "b"), (9, "b")] {
        process(&tree, pid, 1, "ffmpeg", &["/usr/bin/ffmpeg", "-i", "x"]);
        tree.proc(
            &format!("{pid}/cgroup"),
            format!("0::/system.slice/app-{unit}.service\n"),
        );
    }
    let template = |name: &str, conditions| Group {
        template: Some(Arc::new(NameTemplate::parse(name).unwrap())),
        ..group(name, ProcessFields::empty(), conditions)
    };
    let by_name = || vec![Condition::Name(pattern("ffmpeg"))];
    let by_unit = vec![Condition::Unit(pattern(r"app-(?P<app>.*)\.service"))];
    let config = |first_match| GroupConfig {
        groups: vec![
            group("fixed", ProcessFields::empty(), vec![Condition::Pid(pattern("7"))]),
            template("{{.Matches.app}}/{{.ExeBase}}", by_unit.clone()),
            template("{{.Unit}} {{.Comm}}", by_name()),
        ],
        grouping: Grouping {
            first_match,
            exporter_names: true,
            ..Grouping::default()
        },
        exporter: None,
    };
    let shared = Arc::new(ArcSwap::from_pointee(config(true)));
    let mut groups = GroupsReader::new(Arc::clone(&shared));
    let families = groups.read(&tree.roots).unwrap();
    assert_eq!(
        text_of(&families, "evenkeel_group_processes"),
        [
            "evenkeel_group_processes{group=\"fixed\"} 1",
            "evenkeel_group_processes{group=\"b/ffmpeg\"} 2",
        ]
    );
    assert_eq!(counts(&families), ["\"b/ffmpeg\" 2", "\"fixed\" 1"]);
    assert_eq!(value(&families, "evenkeel_group_overflow_processes"), 0.0);
    shared.store(Arc::new(config(false)));
    let mut lines = text_of(&groups.read(&tree.roots).unwrap(), "evenkeel_group_processes");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "evenkeel_group_processes{group=\"a/ffmpeg\"} 1",
            "evenkeel_group_processes{group=\"app-a.service ffmpeg\"} 1",
            "evenkeel_group_processes{group=\"app-b.service ffmpeg\"} 2",
            "evenkeel_group_processes{group=\"b/ffmpeg\"} 2",
            "evenkeel_group_processes{group=\"fixed\"} 1",
        ]
    );
}

#[test]
fn thread_families_sum_threads_of_one_name() {
    let tree = tree();
    let thread = |tid: u32, name: &str, state: char, switches: u32, bytes: u32| {
        let stat = format!("{tid} ({name}) {state} 1 1 1 0 -1 0 7 0 3 0 {bytes} 50 0 0 20 0 3 0 5000 8192 2 1 1 1\n");
        let status = format!("VmSwap: 4 kB\nvoluntary_ctxt_switches: {switches}\nnonvoluntary_ctxt_switches: 2\n");
        let io = format!("read_bytes: {bytes}\nwrite_bytes: 1\n");
        for folder in [format!("7/task/{tid}"), "7".to_owned()]
            .iter()
            .take(if tid == 7 { 2 } else { 1 })
        {
            tree.proc(&format!("{folder}/stat"), stat.clone());
            tree.proc(&format!("{folder}/status"), status.clone());
            tree.proc(&format!("{folder}/io"), io.clone());
            tree.proc(&format!("{folder}/wchan"), if state == 'S' { "do_wait" } else { "0" });
        }
    };
    thread(7, "main", 'S', 10, 100);
    thread(8, "worker", 'S', 20, 100);
    thread(9, "worker", 'R', 30, 100);
    tree.proc(
        "7/smaps_rollup",
        "00-01 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 8 kB\nSwapPss: 4 kB\n",
    );
    let mut with_extra = group("g", DEFAULT_METRICS, vec![Condition::Name(pattern("main"))]);
    with_extra.extra = ExtraMetrics::THREADS | ExtraMetrics::SMAPS;
    let mut config = of_file(&[("file", ".*")], ExporterOptions::default());
    config.groups = vec![with_extra];
    tree.proc("7/cmdline", "main\0");
    let mut groups = GroupsReader::new(Arc::new(ArcSwap::from_pointee(config)));
    groups.read(&tree.roots).unwrap();
    thread(8, "worker", 'S', 25, 150);
    thread(9, "worker", 'R', 31, 110);
    let families = groups.read(&tree.roots).unwrap();
    assert_eq!(
        text_of(&families, "evenkeel_group_thread_"),
        [
            "evenkeel_group_thread_count{group=\"g\",thread=\"main\"} 1",
            "evenkeel_group_thread_count{group=\"g\",thread=\"worker\"} 2",
            "evenkeel_group_thread_cpu_seconds_total{group=\"g\",thread=\"main\",mode=\"user\"} 0",
            "evenkeel_group_thread_cpu_seconds_total{group=\"g\",thread=\"main\",mode=\"system\"} 0",
            "evenkeel_group_thread_cpu_seconds_total{group=\"g\",thread=\"worker\",mode=\"user\"} 0.6",
            "evenkeel_group_thread_cpu_seconds_total{group=\"g\",thread=\"worker\",mode=\"system\"} 0",
            "evenkeel_group_thread_major_page_faults_total{group=\"g\",thread=\"main\"} 0",
            "evenkeel_group_thread_major_page_faults_total{group=\"g\",thread=\"worker\"} 0",
            "evenkeel_group_thread_minor_page_faults_total{group=\"g\",thread=\"main\"} 0",
            "evenkeel_group_thread_minor_page_faults_total{group=\"g\",thread=\"worker\"} 0",
            "evenkeel_group_thread_context_switches_total{group=\"g\",thread=\"main\",type=\"voluntary\"} 0",
            "evenkeel_group_thread_context_switches_total{group=\"g\",thread=\"main\",type=\"involuntary\"} 0",
            "evenkeel_group_thread_context_switches_total{group=\"g\",thread=\"worker\",type=\"voluntary\"} 6",
            "evenkeel_group_thread_context_switches_total{group=\"g\",thread=\"worker\",type=\"involuntary\"} 0",
            "evenkeel_group_thread_read_bytes_total{group=\"g\",thread=\"main\"} 0",
            "evenkeel_group_thread_read_bytes_total{group=\"g\",thread=\"worker\"} 60",
            "evenkeel_group_thread_write_bytes_total{group=\"g\",thread=\"main\"} 0",
            "evenkeel_group_thread_write_bytes_total{group=\"g\",thread=\"worker\"} 0",
        ]
    );
    assert_eq!(value(&families, "evenkeel_group_proportional_bytes"), 8192.0);
    assert_eq!(value(&families, "evenkeel_group_proportional_swap_bytes"), 4096.0);
    // The own name counts the first thread, process-exporter's all of them.
    assert_eq!(
        value(
            &families,
            "evenkeel_group_context_switches_total{group=\"g\",type=\"voluntary\"}"
        ),
        0.0
    );
    let switches = "namedprocess_namegroup_context_switches_total{groupname=\"file\",ctxswitchtype=\"voluntary\"}";
    assert_eq!(value(&families, switches), 6.0);
    assert_eq!(value(&families, "states{groupname=\"file\",state=\"Sleeping\"}"), 3.0);
    assert_eq!(value(&families, "states{groupname=\"file\",state=\"Running\"}"), 1.0);
    assert_eq!(
        value(&families, "threads_wchan{groupname=\"file\",wchan=\"do_wait\"}"),
        3.0
    );
    assert_eq!(
        value(
            &families,
            "memory_bytes{groupname=\"file\",memtype=\"proportionalSwapped\"}"
        ),
        4096.0
    );
}

#[test]
fn ended_thread_does_not_lower_the_counters_of_its_group() {
    let tree = tree();
    process(&tree, 7, 1, "a", &["a"]);
    let threads = |tids: &[u32]| {
        let stat = format!(
            "7 (a) S 1 1 1 0 -1 0 7 0 0 0 50 50 0 0 20 0 {} 0 5000 8192 2 1 1 1\n",
            tids.len()
        );
        tree.proc("7/stat", stat);
        let _ = std::fs::remove_dir_all(tree.roots.proc("7/task"));
        for tid in tids {
            let stat = format!("{tid} (a) S 1 1 1 0 -1 0 7 0 0 0 50 50 0 0 20 0 1 0 5000 8192 2 1 1 1\n");
            tree.proc(&format!("7/task/{tid}/stat"), stat);
            tree.proc(
                &format!("7/task/{tid}/status"),
                format!(
                    "voluntary_ctxt_switches: {}\nnonvoluntary_ctxt_switches: 2\n",
                    100 * tid
                ),
            );
        }
    };
    let config = of_file(&[("{{.Comm}}", "a")], ExporterOptions::default());
    let mut groups = GroupsReader::new(Arc::new(ArcSwap::from_pointee(config)));
    let mut switches = || {
        let families = groups.read(&tree.roots).unwrap();
        value(
            &families,
            "namegroup_context_switches_total{groupname=\"a\",ctxswitchtype=\"voluntary\"}",
        )
    };
    threads(&[7, 8, 9]);
    assert_eq!(switches(), 0.0);
    threads(&[7, 9]);
    assert_eq!(switches(), 0.0);
    tree.proc(
        "7/task/9/status",
        "voluntary_ctxt_switches: 905\nnonvoluntary_ctxt_switches: 2\n",
    );
    assert_eq!(switches(), 5.0);
}

#[test]
fn file_is_the_authority_for_names_of_process_exporter() {
    let tree = tree();
    process(&tree, 7, 1, "a", &["a"]);
    process(&tree, 8, 1, "b", &["b"]);
    let mut config = of_file(&[("same", "a")], ExporterOptions::default());
    config.grouping.exporter_names = true;
    let all = || vec![Condition::Cmdline(pattern(".*"))];
    config.groups = vec![
        group("same", ProcessFields::empty(), all()),
        group("own", ProcessFields::empty(), all()),
    ];
    let mut groups = GroupsReader::new(Arc::new(ArcSwap::from_pointee(config)));
    let families = groups.read(&tree.roots).unwrap();
    assert_eq!(counts(&families), ["\"own\" 2", "\"same\" 1"]);
    assert_eq!(text_of(&families, "evenkeel_group_processes").len(), 2);
}
