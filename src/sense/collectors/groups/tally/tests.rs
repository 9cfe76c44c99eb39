//! Tests of names, bounds and sums on examples of processes.

use super::*;

const BOUNDS: Bounds = Bounds {
    groups: 2,
    thread_names: 3,
    remove_empty: false,
};

fn entry() -> Entry<'static> {
    Entry {
        source: "{{.Comm}}",
        metrics: ProcessFields::empty(),
        extra: ExtraMetrics::empty(),
    }
}

/// A read in which each process has a group of its own name.
fn read(tally: &mut Tally, bounds: &Bounds, second: u64, members: &[(i32, &str, u64)]) {
    tally.begin();
    for (pid, name, ticks) in members {
        let mut process = Process::example(*pid, name);
        process.cpu_ticks = *ticks;
        tally.add_to_made(name, entry(), &process, &ExtraReading::default(), bounds);
    }
    tally.finish(Duration::from_secs(second), bounds);
}

fn shown(tally: &Tally) -> Vec<(String, u64, u64)> {
    let groups = tally.groups().iter();
    groups
        .map(|group| (group.name.clone(), group.totals.processes, group.counters()[0]))
        .collect()
}

#[test]
fn names_beyond_the_bound_count_in_one_group() {
    let mut tally = Tally::default();
    let all = [(1, "a", 5), (2, "b", 5), (3, "c", 5), (4, "d", 5), (5, "a", 5)];
    read(&mut tally, &BOUNDS, 100, &all);
    let named = |name: &str, processes, ticks| (name.to_owned(), processes, ticks);
    assert_eq!(
        shown(&tally),
        [named("a", 2, 0), named("b", 1, 0), named("other", 2, 0)]
    );
    assert_eq!(tally.overflow().len(), 2);
    read(&mut tally, &BOUNDS, 110, &[(1, "a", 9), (3, "c", 7), (4, "d", 6)]);
    assert_eq!(
        shown(&tally),
        [named("a", 1, 4), named("b", 0, 0), named("other", 2, 3)]
    );
    // The group without members makes space.
    read(&mut tally, &BOUNDS, 120, &[(1, "a", 9), (3, "c", 9), (4, "d", 6)]);
    assert_eq!(
        shown(&tally),
        [named("a", 1, 4), named("other", 1, 3), named("c", 1, 0)]
    );
    assert_eq!(tally.overflow().len(), 1);
}

#[test]
fn sums_of_ended_members_stay_unless_empty_groups_are_removed() {
    for remove_empty in [false, true] {
        let bounds = Bounds {
            groups: 9,
            remove_empty,
            ..BOUNDS
        };
        let mut tally = Tally::default();
        read(&mut tally, &bounds, 100, &[(1, "a", 5)]);
        read(&mut tally, &bounds, 110, &[(1, "a", 9)]);
        read(&mut tally, &bounds, 120, &[]);
        let expected = [("a".to_owned(), 0, 4)];
        assert_eq!(shown(&tally), expected[usize::from(remove_empty)..]);
    }
}

#[test]
fn reload_keeps_groups_whose_entry_stays() {
    let mut tally = Tally::default();
    let fixed = [("fixed", entry())];
    tally.configure(&fixed, &[entry()]);
    read(&mut tally, &BOUNDS, 100, &[(1, "a", 5)]);
    read(&mut tally, &BOUNDS, 110, &[(1, "a", 9)]);
    tally.configure(&fixed, &[entry()]);
    let kept = [("fixed".to_owned(), 0, 0), ("a".to_owned(), 1, 4)];
    assert_eq!(shown(&tally), kept);
    let other = Entry {
        source: "{{.ExeBase}}",
        ..entry()
    };
    tally.configure(&fixed, &[other]);
    assert_eq!(shown(&tally), kept[..1]);
}
