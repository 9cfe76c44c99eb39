//! Tests of entries that overlap: names that several entries yield, and metrics that only some entries read.

use super::names::{counts, of_file, process};
use super::*;
use crate::sense::collectors::groups::group::ExporterOptions;
use crate::sense::collectors::groups::name_template::NameTemplate;

fn template(name: &str, metrics: ProcessFields, names: &str) -> Group {
    Group {
        template: Some(Arc::new(NameTemplate::parse(name).unwrap())),
        ..group(name, metrics, vec![Condition::Name(pattern(names))])
    }
}

fn shared(config: impl Into<GroupConfig>) -> Groups {
    Arc::new(ArcSwap::from_pointee(config.into()))
}

fn sizes(families: &[Family]) -> Vec<String> {
    let lines = text_of(families, "evenkeel_group_processes");
    let start = "evenkeel_group_processes{group=";
    lines
        .iter()
        .map(|line| line.replace(start, "").replace('}', ""))
        .collect()
}

/// A process with threads of these numbers of voluntary context switches, in the order of their ids.
fn with_threads(tree: &Tree, pid: i32, switches: &[u32]) {
    process(tree, pid, 1, "a", &["a"]);
    let count = switches.len();
    for (index, switches) in switches.iter().enumerate() {
        let tid = pid + i32::try_from(index).unwrap();
        let stat = format!("{tid} (a) S 1 1 1 0 -1 0 7 0 0 0 50 50 0 0 20 0 {count} 0 5000 8192 2 1 1 1\n");
        let status = format!("VmSwap: 4 kB\nvoluntary_ctxt_switches: {switches}\nnonvoluntary_ctxt_switches: 2\n");
        for folder in [format!("{pid}/task/{tid}"), pid.to_string()]
            .iter()
            .take(if index == 0 { 2 } else { 1 })
        {
            tree.proc(&format!("{folder}/stat"), stat.clone());
            tree.proc(&format!("{folder}/status"), status.clone());
            tree.proc(&format!("{folder}/wchan"), "do_wait");
        }
    }
}

#[test]
fn process_counts_once_in_a_group_of_several_entries() {
    let tree = tree();
    process(&tree, 7, 1, "sleep", &["/usr/bin/sleep", "9"]);
    let by_comm = || template("{{.Comm}}", ProcessFields::empty(), "sleep");
    let by_exe = || template("{{.ExeBase}}", ProcessFields::empty(), "sleep");
    let fixed = || group("sleep", ProcessFields::empty(), vec![Condition::Name(pattern("sleep"))]);
    for entries in [
        vec![by_comm(), by_exe()],
        vec![fixed(), by_comm(), by_exe()],
        vec![by_comm(), by_exe(), fixed()],
    ] {
        let mut groups = GroupsReader::new(shared(entries));
        for _ in 0..2 {
            let families = groups.read(&tree.roots).unwrap();
            assert_eq!(sizes(&families), ["\"sleep\" 1"]);
            assert_eq!(value(&families, "evenkeel_group_overflow_processes"), 0.0);
        }
    }
}

#[test]
fn template_name_does_not_join_a_fixed_group() {
    let tree = tree();
    process(&tree, 7, 1, "postgres", &["postgres"]);
    // A user chooses this name.
    process(&tree, 8, 1, "database", &["database"]);
    let mut groups = GroupsReader::new(shared(vec![
        group(
            "database",
            ProcessFields::empty(),
            vec![Condition::Name(pattern("postgres"))],
        ),
        template("{{.Comm}}", DEFAULT_METRICS, "database|idle"),
    ]));
    for _ in 0..2 {
        let families = groups.read(&tree.roots).unwrap();
        assert_eq!(sizes(&families), ["\"database\" 1", "\"other\" 1"]);
        assert_eq!(value(&families, "evenkeel_group_overflow_processes"), 1.0);
        assert!(text_of(&families, "read_bytes_total{group=\"database\"}").is_empty());
    }
    // The bound is not reached, so that groups without processes stay.
    process(&tree, 9, 1, "idle", &["idle"]);
    groups.read(&tree.roots).unwrap();
    std::fs::remove_dir_all(tree.roots.proc("9")).unwrap();
    for _ in 0..2 {
        let families = groups.read(&tree.roots).unwrap();
        assert_eq!(sizes(&families), ["\"database\" 1", "\"other\" 1", "\"idle\" 0"]);
    }
}

#[test]
fn literal_names_of_the_file_have_their_groups_beyond_the_bound() {
    let tree = tree();
    process(&tree, 7, 1, "a", &["a"]);
    let entries = [("{{\"data\"}}base", "postgres"), ("{{.Comm}}", ".+")];
    let mut config = of_file(&entries, ExporterOptions::default());
    config.grouping.max_groups = 1;
    let mut groups = GroupsReader::new(shared(config));
    assert_eq!(counts(&groups.read(&tree.roots).unwrap()), ["\"a\" 1"]);
    process(&tree, 8, 1, "b", &["b"]);
    process(&tree, 9, 1, "postgres", &["postgres"]);
    let expected = ["\"a\" 1", "\"database\" 1", "\"other\" 1"];
    assert_eq!(counts(&groups.read(&tree.roots).unwrap()), expected);
    std::fs::remove_dir_all(tree.roots.proc("9")).unwrap();
    let expected = ["\"a\" 1", "\"database\" 0", "\"other\" 1"];
    for _ in 0..2 {
        assert_eq!(counts(&groups.read(&tree.roots).unwrap()), expected);
    }
}

#[test]
fn names_of_process_exporter_show_only_metrics_of_the_group() {
    let tree = tree();
    with_threads(&tree, 7, &[1, 2]);
    process(&tree, 20, 1, "a", &["a"]);
    let all = DEFAULT_METRICS.union(ProcessFields::OPEN_FDS);
    let mut everything = group("everything", all, vec![Condition::Pid(pattern("7"))]);
    everything.extra = ExtraMetrics::THREADS | ExtraMetrics::WAITS;
    let plain = group("plain", ProcessFields::empty(), vec![Condition::Name(pattern("a"))]);
    let config = GroupConfig {
        groups: vec![everything, plain],
        grouping: Grouping {
            exporter_names: true,
            ..Grouping::default()
        },
        exporter: None,
    };
    let families = GroupsReader::new(shared(config)).read(&tree.roots).unwrap();
    let lines = text_of(&families, "groupname=\"plain\"");
    let names: Vec<&str> = lines
        .iter()
        .map(|line| line["namedprocess_namegroup_".len()..].split('{').next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "num_procs",
            "num_threads",
            "memory_bytes",
            "memory_bytes",
            "oldest_start_time_seconds",
            "states",
            "states",
            "states",
            "states",
            "states",
            "cpu_seconds_total",
            "cpu_seconds_total",
            "major_page_faults_total",
            "minor_page_faults_total",
        ]
    );
    let sleeping = |group| {
        let states = format!("states{{groupname=\"{group}\",state=\"Sleeping\"}}");
        value(&families, &states)
    };
    assert_eq!((sleeping("plain"), sleeping("everything")), (2.0, 3.0));
    assert_eq!(value(&families, "wchan=\"do_wait\""), 3.0);
}

#[test]
fn reload_that_changes_threads_keeps_context_switches() {
    let tree = tree();
    let config = |extra| {
        let mut group = group("g", DEFAULT_METRICS, vec![Condition::Name(pattern("a"))]);
        group.extra = extra;
        GroupConfig {
            groups: vec![group],
            grouping: Grouping {
                exporter_names: true,
                ..Grouping::default()
            },
            exporter: None,
        }
    };
    let groups = shared(config(ExtraMetrics::empty()));
    let mut reader = GroupsReader::new(Arc::clone(&groups));
    let mut read = |switches: &[u32]| {
        with_threads(&tree, 7, switches);
        let families = reader.read(&tree.roots).unwrap();
        let of = |name: &str| value(&families, name);
        (
            of("evenkeel_group_context_switches_total{group=\"g\",type=\"voluntary\"}"),
            of("namedprocess_namegroup_context_switches_total{groupname=\"g\",ctxswitchtype=\"voluntary\"}"),
        )
    };
    assert_eq!(read(&[10, 500]), (0.0, 0.0));
    assert_eq!(read(&[15, 510]), (5.0, 5.0));
    groups.store(Arc::new(config(ExtraMetrics::THREADS)));
    assert_eq!(read(&[15, 520]), (5.0, 5.0));
    assert_eq!(read(&[16, 530]), (6.0, 16.0));
    groups.store(Arc::new(config(ExtraMetrics::empty())));
    assert_eq!(read(&[18, 540]), (8.0, 18.0));
    groups.store(Arc::new(config(ExtraMetrics::THREADS)));
    assert_eq!(read(&[18, 600]), (8.0, 18.0));
}

#[test]
fn overflow_counts_each_process_once() {
    let tree = tree();
    process(&tree, 7, 1, "a", &["a"]);
    let mut config = of_file(&[("{{.Comm}}", ".+")], ExporterOptions::default());
    config.grouping.max_groups = 1;
    config.groups = vec![
        template("{{.Comm}}", ProcessFields::empty(), ".*"),
        template("{{.ExeBase}}", ProcessFields::empty(), ".*"),
    ];
    let mut groups = GroupsReader::new(shared(config));
    groups.read(&tree.roots).unwrap();
    // Beyond the bound with three names: two of `process_groups`, one of the file.
    process(&tree, 8, 1, "b", &["c"]);
    let families = groups.read(&tree.roots).unwrap();
    assert_eq!(value(&families, "evenkeel_group_overflow_processes"), 1.0);
    assert_eq!(sizes(&families), ["\"a\" 1", "\"other\" 1"]);
}
