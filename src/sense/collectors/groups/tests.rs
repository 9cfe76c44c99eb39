//! Tests of groups on fixture trees and on real child processes.

mod names;
mod overlap;

use super::group::EXPENSIVE_METRICS;
use super::*;
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::sense::fixture::{Tree, text_of};
use arc_swap::ArcSwap;
use std::process::{Child, Command};
use std::sync::Arc;

fn group(name: &str, metrics: ProcessFields, conditions: Vec<Condition>) -> Group {
    Group {
        name: name.to_owned(),
        template: None,
        selector: Arc::new(Selector { conditions }),
        metrics,
        extra: ExtraMetrics::empty(),
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::fixed(text).unwrap()
}

fn reader(groups: Vec<Group>) -> GroupsReader {
    GroupsReader::new(Arc::new(ArcSwap::from_pointee(groups.into())))
}

fn tree() -> Tree {
    let tree = Tree::new();
    tree.proc("stat", "cpu0 1\nbtime 1000\n");
    tree.proc("sys/kernel/random/boot_id", "6e0d8a1c-0c1d-4f3e-9a52-0123456789ab\n");
    tree
}

/// `/proc/PID/stat` of a process with three threads that started 50 s after boot; `count` is the value of its counters.
fn stat(tree: &Tree, pid: u32, name: &str, count: u32) {
    let stat = format!(
        "{pid} ({name}) D 1 1 1 0 -1 4194304 {count} 0 {count} 0 {count} {count} 0 0 20 0 3 0 5000 8192 2 18446744073709551615 1 1\n"
    );
    tree.proc(&format!("{pid}/stat"), stat);
}

#[test]
fn group_shows_totals_of_members() {
    let tree = tree();
    for (pid, name) in [(7, "ffmpeg"), (8, "ffmpeg"), (9, "other")] {
        stat(&tree, pid, name, 100);
        let status = "Name:\tvoluntary_ctxt_switches:\nVmSwap:\t  4 kB\nvoluntary_ctxt_switches:\t10\n\
                      nonvoluntary_ctxt_switches:\t20\n";
        tree.proc(&format!("{pid}/status"), status);
        tree.proc(
            &format!("{pid}/io"),
            "rchar: 1\nread_bytes: 30\nwrite_bytes: 40\ncancelled_write_bytes: 5\n",
        );
        for fd in 0..pid {
            tree.proc(&format!("{pid}/fd/{fd}"), "");
        }
        tree.proc(
            &format!("{pid}/limits"),
            "Limit  Soft Limit Hard Limit Units\nMax open files  16  64  files\n",
        );
    }
    let all = EXPENSIVE_METRICS
        .iter()
        .fold(ProcessFields::empty(), |all, (_, needs)| all | *needs);
    let mut groups = reader(vec![group("video", all, vec![Condition::Name(pattern("ffmpeg"))])]);
    groups.read(&tree.roots).unwrap();
    for pid in [7, 8] {
        stat(&tree, pid, "ffmpeg", 150);
        tree.proc(&format!("{pid}/io"), "read_bytes: 35\nwrite_bytes: 41\n");
    }
    assert_eq!(
        text_of(&groups.read(&tree.roots).unwrap(), ""),
        [
            "evenkeel_group_processes{group=\"video\"} 2",
            "evenkeel_group_threads{group=\"video\"} 6",
            &format!(
                "evenkeel_group_resident_bytes{{group=\"video\"}} {}",
                4 * rustix::param::page_size()
            ),
            "evenkeel_group_virtual_bytes{group=\"video\"} 16384",
            "evenkeel_group_swap_bytes{group=\"video\"} 8192",
            "evenkeel_group_open_fds{group=\"video\"} 15",
            "evenkeel_group_worst_fd_ratio{group=\"video\"} 0.5",
            "evenkeel_group_cpu_seconds_total{group=\"video\",mode=\"user\"} 1",
            "evenkeel_group_cpu_seconds_total{group=\"video\",mode=\"system\"} 1",
            "evenkeel_group_major_page_faults_total{group=\"video\"} 100",
            "evenkeel_group_minor_page_faults_total{group=\"video\"} 100",
            "evenkeel_group_context_switches_total{group=\"video\",type=\"voluntary\"} 0",
            "evenkeel_group_context_switches_total{group=\"video\",type=\"involuntary\"} 0",
            "evenkeel_group_read_bytes_total{group=\"video\"} 10",
            "evenkeel_group_write_bytes_total{group=\"video\"} 2",
            "evenkeel_group_states{group=\"video\",state=\"running\"} 0",
            "evenkeel_group_states{group=\"video\",state=\"sleeping\"} 0",
            "evenkeel_group_states{group=\"video\",state=\"waiting\"} 2",
            "evenkeel_group_states{group=\"video\",state=\"stopped\"} 0",
            "evenkeel_group_states{group=\"video\",state=\"zombie\"} 0",
            "evenkeel_group_states{group=\"video\",state=\"other\"} 0",
            "evenkeel_group_oldest_start_time_seconds{group=\"video\"} 1050",
        ]
    );
}

#[test]
fn disabled_metrics_are_neither_shown_nor_read() {
    let tree = tree();
    stat(&tree, 7, "a", 1);
    // A read of any of these would be noticed: files would be wrong, directories cannot be read.
    for file in ["status", "io", "limits", "fd", "cgroup", "cmdline"] {
        tree.proc(&format!("7/{file}/x"), "");
    }
    let mut groups = reader(vec![
        group("cheap", ProcessFields::empty(), vec![Condition::Name(pattern("a"))]),
        group("swap", ProcessFields::SWAP, vec![Condition::Name(pattern("b"))]),
        group(
            "by-cgroup",
            ProcessFields::empty(),
            vec![Condition::Name(pattern("b")), Condition::Cgroup(pattern(".*"))],
        ),
    ]);
    let families = groups.read(&tree.roots).unwrap();
    assert_eq!(
        text_of(&families, "_swap_bytes"),
        ["evenkeel_group_swap_bytes{group=\"swap\"} 0"]
    );
    for off in ["context_switches", "read_bytes", "open_fds", "worst_fd"] {
        assert!(text_of(&families, off).is_empty(), "{off}");
    }
    assert_eq!(
        text_of(&families, "_processes"),
        [
            "evenkeel_group_processes{group=\"cheap\"} 1",
            "evenkeel_group_processes{group=\"swap\"} 0",
            "evenkeel_group_processes{group=\"by-cgroup\"} 0",
        ]
    );
}

#[test]
fn usage_is_read_again_when_it_may_have_changed() {
    let tree = tree();
    let metrics = ProcessFields::CONTEXT_SWITCHES
        .union(ProcessFields::IO)
        .union(ProcessFields::SWAP);
    let mut groups = reader(vec![group("all", metrics, vec![Condition::Name(pattern("a"))])]);
    // State, threads and resident pages of a process, its run time, and its swapped memory.
    let mut swapped = |state: char, threads: u32, pages: u32, ran: &str, kibibytes: u32| {
        let stat = format!("7 (a) {state} 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 {threads} 0 5000 8192 {pages} 1 1 1\n");
        tree.proc("7/stat", stat);
        tree.proc("7/schedstat", ran);
        tree.proc(
            "7/status",
            format!("VmSwap: {kibibytes} kB\nvoluntary_ctxt_switches: 1\nnonvoluntary_ctxt_switches: 1\n"),
        );
        tree.proc("7/io", "read_bytes: 1\nwrite_bytes: 1\n");
        let families = groups.read(&tree.roots).unwrap();
        let text = text_of(&families, "swap_bytes").join("");
        text.rsplit_once(' ').unwrap().1.parse::<u32>().unwrap() / 1024
    };
    assert_eq!(swapped('S', 1, 2, "900 5 1", 1), 1);
    assert_eq!(swapped('S', 1, 2, "900 5 1", 2), 1, "it has not run");
    assert_eq!(swapped('S', 1, 2, "900 7 1", 3), 1, "it has only waited");
    assert_eq!(swapped('S', 1, 2, "900 7 2", 4), 4, "it got a processor");
    assert_eq!(swapped('S', 1, 2, "901 7 2", 5), 5, "it went on");
    assert_eq!(swapped('S', 1, 1, "901 7 2", 6), 6, "pages were taken from it");
    assert_eq!(
        swapped('R', 1, 1, "901 7 2", 7),
        7,
        "a running process is reported late"
    );
    assert_eq!(swapped('S', 2, 1, "901 7 2", 8), 8, "another thread may have run");
    assert_eq!(
        swapped('S', 1, 1, "901 7 2", 9),
        9,
        "another thread may have run before"
    );
    assert_eq!(swapped('S', 1, 1, "0 0 0", 10), 10, "the kernel does not count");
    assert_eq!(swapped('S', 1, 1, "0 0 0", 11), 11);
}

#[test]
fn reloaded_groups_apply_at_next_read() {
    let tree = tree();
    stat(&tree, 7, "a", 100);
    let stays = || group("stays", ProcessFields::empty(), vec![Condition::Name(pattern("a"))]);
    let shared: Groups = Arc::new(ArcSwap::from_pointee(vec![stays()].into()));
    let mut groups = GroupsReader::new(Arc::clone(&shared));
    groups.read(&tree.roots).unwrap();
    stat(&tree, 7, "a", 200);
    groups.read(&tree.roots).unwrap();
    let new = group("new", ProcessFields::empty(), stays().selector.conditions.clone());
    shared.store(Arc::new(vec![new, stays()].into()));
    stat(&tree, 7, "a", 300);
    assert_eq!(
        text_of(&groups.read(&tree.roots).unwrap(), "minor"),
        [
            "evenkeel_group_minor_page_faults_total{group=\"new\"} 0",
            "evenkeel_group_minor_page_faults_total{group=\"stays\"} 200",
        ]
    );
    shared.store(Arc::default());
    assert!(groups.read(&tree.roots).unwrap().is_empty());
}

#[test]
fn cpu_is_measured_over_five_seconds() {
    for interval in [1, 3, 5, 15] {
        let mut cores = CpuBaselines::default();
        let mut process = Process::example(7, "burner");
        for round in 0..20 {
            let now = Duration::from_secs(100 + round * interval);
            process.cpu_ticks = round * interval * 50;
            process.cpu_cores = None;
            cores.measure(&mut process, now);
            let expected = (round * interval >= 5).then_some(0.5);
            assert_eq!(process.cpu_cores, expected, "every {interval} s, round {round}");
            cores.update(CpuBaseline::take(std::slice::from_ref(&process), now));
        }
    }
}

fn value(families: &[Family], part: &str) -> f64 {
    let lines = text_of(families, part);
    assert_eq!(lines.len(), 1, "{part} in {families:?}");
    lines[0].rsplit(' ').next().unwrap().parse().unwrap()
}

/// A child that writes to /dev/null, then waits.
fn busy_child(words: &str) -> Child {
    let script = format!("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read line # {words}");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    child
}

#[test]
fn counters_of_ended_children_stay() {
    let words = format!("evenkeel-group-{}", std::process::id());
    let roots = Roots::default();
    let by_cmdline = vec![Condition::Cmdline(pattern(&format!(".*{words}")))];
    let all = EXPENSIVE_METRICS
        .iter()
        .fold(ProcessFields::empty(), |all, (_, needs)| all | *needs);
    let mut groups = reader(vec![group("children", all, by_cmdline)]);
    let none = groups.read(&roots).unwrap();
    assert_eq!(value(&none, "_processes"), 0.0);

    let mut children = [busy_child(&words), busy_child(&words)];
    let voluntary = |children: &[Child; 2]| -> f64 {
        let of = |child: &Child| -> f64 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        };
        children.iter().map(of).sum()
    };
    let switches_before = voluntary(&children);
    let both = groups.read(&roots).unwrap();
    let switches_after = voluntary(&children);
    assert_eq!(value(&both, "_processes"), 2.0);
    // Children inherit open files of the test, so the expected number is counted another way.
    let fds = |child: &Child| std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert_eq!(
        value(&both, "_open_fds"),
        children.iter().map(fds).sum::<usize>() as f64
    );
    assert!(value(&both, "_worst_fd_ratio") > 0.0 && value(&both, "_resident_bytes") > 0.0);
    let faults = value(&both, "minor_page_faults");
    let switches = value(&both, "type=\"voluntary\"");
    assert!(faults > 20.0, "{faults}");
    assert!(
        (switches_before..=switches_after).contains(&switches),
        "{switches_before} {switches} {switches_after}"
    );
    let started = value(&both, "oldest_start");
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((now - 120.0..=now + 2.0).contains(&started), "{started} at {now}");

    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let after = groups.read(&roots).unwrap();
    assert_eq!(value(&after, "_processes"), 0.0);
    assert_eq!(value(&after, "minor_page_faults"), faults);
    assert_eq!(value(&after, "type=\"voluntary\""), switches);
}

#[test]
fn activity_between_two_sleeps_is_counted() {
    use std::io::{Read, Write};
    let mut cat = Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    let pid = cat.id();
    let by_pid = vec![Condition::Pid(pattern(&pid.to_string()))];
    let mut groups = reader(vec![group("cat", ProcessFields::CONTEXT_SWITCHES, by_pid)]);
    let mut own = || value(&groups.read(&Roots::default()).unwrap(), "type=\"voluntary\"");
    let of_kernel = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<f64>().unwrap()
    };
    // The child goes to sleep in its own time; until then the two figures belong to different moments.
    let mut both = |echoes: u8| {
        for _ in 0..echoes {
            stdin.write_all(b"x").unwrap();
            stdout.read_exact(&mut [0]).unwrap();
        }
        let looks = std::iter::repeat_with(|| (of_kernel(), own(), of_kernel()));
        let mut still = looks.filter(|(before, _, after)| before == after);
        let (kernel, own, _) = still.next().unwrap();
        (kernel, own)
    };
    let (first_of_kernel, first) = both(1);
    for round in 0..50 {
        let (kernel, own) = both(round % 3);
        assert_eq!(own - first, kernel - first_of_kernel, "round {round}");
    }
    let (kernel, _) = both(0);
    assert!(kernel > first_of_kernel, "it has slept in between");
    cat.kill().unwrap();
    cat.wait().unwrap();
}
