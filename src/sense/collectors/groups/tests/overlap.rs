//! Tests of entries that overlap: metrics that only some entries read.

use super::names::process;
use super::*;

fn shared(config: impl Into<GroupConfig>) -> Groups {
    Arc::new(ArcSwap::from_pointee(config.into()))
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
