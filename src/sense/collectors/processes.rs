//! `processes`: processes and threads by state, from `/proc/PID/stat` and the like (proc_pid_stat(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, or_without, parse_number, read_text};
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;

/// The published metrics.
const METRICS: &str = "\
    node_processes_max_processes node_processes_max_threads node_processes_pids node_processes_state \
    node_processes_threads node_processes_threads_state";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "processes",
    Pace::Scrape,
    "processes and threads per state",
    METRICS,
    |_| Box::new(read_processes),
);

/// State and number of threads. The name in parentheses may hold anything, even `) R (`.
pub fn parse_stat_line(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // State is field 3, the number of threads field 20.
    let threads = fields.nth(16)?.parse().ok()?;
    Some((state, threads))
}

fn limit(roots: &Roots, file: &str) -> Result<Option<f64>, ReadError> {
    let path = format!("sys/kernel/{file}");
    let limit = roots.parse_lines_once(&path, |text, bad| Ok(bad.keep(parse_number(text))));
    Ok(or_without(limit)?.flatten())
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

pub fn read_processes(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut pids = 0.0;
    let mut threads = 0.0;
    let mut states: BTreeMap<char, f64> = BTreeMap::new();
    let mut thread_states: BTreeMap<char, f64> = BTreeMap::new();
    for pid in list_names(&roots.procfs)?.into_iter().filter(|name| is_number(name)) {
        let stat = |path: &str| parse_stat_line(&read_text(&roots.proc(path)).ok()?);
        // The process has ended meanwhile.
        let Some((state, count)) = stat(&format!("{pid}/stat")) else {
            continue;
        };
        pids += 1.0;
        threads += count as f64;
        *states.entry(state).or_default() += 1.0;
        for thread in list_names(&roots.proc(&format!("{pid}/task"))).unwrap_or_default() {
            // The state of the first thread is that of the process.
            let own = if thread == pid {
                Some(state)
            } else {
                stat(&format!("{pid}/task/{thread}/stat")).map(|s| s.0)
            };
            if let Some(state) = own {
                *thread_states.entry(state).or_default() += 1.0;
            }
        }
    }
    let mut by_state = Family::gauge("node_processes_state", "Processes in each state.");
    for (state, count) in states {
        by_state.push([label("state", state.to_string())], count);
    }
    let mut by_thread_state = Family::gauge("node_processes_threads_state", "Threads in each state.");
    for (state, count) in thread_states {
        by_thread_state.push([label("thread_state", state.to_string())], count);
    }
    let figures = [
        ("node_processes_threads", "Threads that there are.", Some(threads)),
        (
            "node_processes_max_threads",
            "Threads that there may be.",
            limit(roots, "threads-max")?,
        ),
        ("node_processes_pids", "Processes that there are.", Some(pids)),
        (
            "node_processes_max_processes",
            "Largest process number.",
            limit(roots, "pid_max")?,
        ),
    ];
    let figures = figures
        .into_iter()
        .filter_map(|(name, help, value)| Some(Family::gauge(name, help).value(value?)));
    Ok(figures.chain([by_state, by_thread_state]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    fn stat(name: &str, state: char, threads: u32) -> String {
        format!("7 ({name}) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 99\n")
    }

    #[test]
    fn process_name_cannot_fake_a_state() {
        assert_eq!(parse_stat_line(&stat("x) R 1 (\n", 'S', 3)), Some(('S', 3)));
        assert_eq!(parse_stat_line("7 (x"), None);
        assert_eq!(parse_stat_line("7 (x) S 1"), None);
    }

    #[test]
    fn ended_processes_are_not_counted() {
        let tree = Tree::new();
        tree.proc("sys/kernel/threads-max", "100\n");
        tree.proc("sys/kernel/pid_max", "32768\n");
        tree.proc("7/stat", stat("a", 'S', 2));
        tree.proc("7/task/7/stat", stat("a", 'S', 2));
        tree.proc("7/task/8/stat", stat("a", 'R', 2));
        tree.proc("9/status", "gone\n");
        tree.proc("uptime", "1\n");
        assert_eq!(
            text_of(&read_processes(&tree.roots).unwrap(), ""),
            [
                "node_processes_threads 2",
                "node_processes_max_threads 100",
                "node_processes_pids 1",
                "node_processes_max_processes 32768",
                "node_processes_state{state=\"S\"} 1",
                "node_processes_threads_state{thread_state=\"R\"} 1",
                "node_processes_threads_state{thread_state=\"S\"} 1",
            ]
        );
    }
}
