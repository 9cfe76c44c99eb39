//! Histories that found faults, each with the number of the finding in the issue *Level-triggered episodes*.

use super::policies::{
    ANY_HOST, BASE, BOTH, BY_WEBHOOK, FEWER_RULES, OF_A_PID, OTHER_CHOICES, OTHER_IDENTITY, OTHER_MATCHERS,
    OTHER_NAMES, OTHER_OWN_ALERTS, OTHER_STEPS, OWN,
};
use super::processes::{NAMES, SLOTS};
use super::*;
use Action::*;

const OTHER: usize = 4;

fn check(actions: impl IntoIterator<Item = Action>) {
    check_with(PLAIN, actions);
}

#[track_caller]
fn check_with(setup: Setup, actions: impl IntoIterator<Item = Action>) {
    let moves = actions.into_iter().map(|action| (action, None)).collect();
    assert_eq!(violation(setup, moves), None);
}

/// The index of a slot by its pid, and of a name.
fn slot(pid: i32) -> usize {
    SLOTS.iter().position(|known| *known == pid).unwrap()
}

fn name(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}

/// Finding 1: the steps of the former rule went on after the resolve, which the new matchers do not mean.
#[test]
fn resolve_ends_an_episode_whose_rule_has_other_matchers_now() {
    check([
        Condition(OWN, true),
        Pass(60),
        Reload(OTHER_MATCHERS),
        Condition(OWN, false),
        Pass(120),
    ]);
}

/// Finding 1.
#[test]
fn resolve_ends_an_episode_whose_own_alert_was_renamed() {
    check([Condition(OWN, true), Pass(60), Reload(OTHER_OWN_ALERTS), Pass(120)]);
}

/// Finding 1.
#[test]
fn resolve_ends_an_episode_of_a_host_that_has_another_identity_now() {
    check([
        Condition(BY_WEBHOOK, true),
        Pass(60),
        Reload(OTHER_IDENTITY),
        Condition(BY_WEBHOOK, false),
        Pass(300),
    ]);
}

/// Finding 1.
#[test]
fn resolve_ends_an_episode_of_a_rule_that_was_for_any_host() {
    check([
        Reload(ANY_HOST),
        Condition(BY_WEBHOOK, true),
        Pass(60),
        Reload(OTHER_IDENTITY),
        Condition(BY_WEBHOOK, false),
        Pass(300),
    ]);
}

/// Finding 2: SIGTERM at the start, to a process that was born after the alert had ended.
#[test]
fn start_ends_no_process_before_the_alert_is_confirmed() {
    check([
        Reload(OTHER_STEPS),
        Dies(slot(130)),
        Condition(OWN, true),
        Pass(60),
        Condition(OWN, false),
        ReusePid(slot(130), name("worker")),
        Crash(600),
        Pass(60),
    ]);
}

/// Finding 2.
#[test]
fn start_after_a_stop_ends_no_process_before_the_alert_is_confirmed() {
    check([
        Condition(OWN, true),
        Pass(60),
        Condition(OWN, false),
        Restart(600),
        Pass(120),
    ]);
}

/// Finding 3: stale for as long as it fired.
#[test]
fn alert_with_its_old_start_is_answered_after_a_cut_link_heals() {
    let links = |is_up| {
        [0, 1]
            .into_iter()
            .flat_map(move |one| [0, 1].map(|other| PrometheusLink(one, other, is_up)))
    };
    let cut = [Condition(BY_WEBHOOK, true), Pass(60)].into_iter().chain(links(false));
    check(cut.chain([Pass(700)]).chain(links(true)).chain([Pass(1800)]));
}

/// Finding 4: nothing was undone until `hold`.
#[test]
fn resolve_with_a_merged_earlier_start_ends_the_episode() {
    check([
        AlertmanagerLink(1, false),
        PrometheusLink(0, 0, false),
        Condition(BY_WEBHOOK, true),
        Pass(60),
        PrometheusLink(0, 0, true),
        Pass(120),
        Condition(BY_WEBHOOK, false),
        Pass(300),
    ]);
}

/// Finding 5: held until `hold`.
#[test]
fn own_alert_ends_under_a_clock_that_was_set_back() {
    check([
        Condition(OWN, true),
        Pass(60),
        SetClock(-120),
        Pass(90),
        Condition(OWN, false),
        Pass(120),
    ]);
}

/// Finding 6: blocked until the wall clock passed the end.
#[test]
fn own_alert_that_ended_under_a_fast_clock_is_answered_again() {
    check([
        SetClock(180),
        Condition(OWN, true),
        Pass(60),
        Condition(OWN, false),
        Pass(60),
        SetClock(-180),
        Pass(60),
        Condition(OWN, true),
        Pass(300),
    ]);
}

/// Finding 7: the start that was remembered over the restart was used, `for` was skipped, and the alert was stale.
#[test]
fn own_alert_that_was_over_after_a_restart_begins_again() {
    check([
        Reload(FEWER_RULES),
        Condition(OWN, true),
        Pass(60),
        Condition(OWN, false),
        Restart(10),
        Pass(240),
        Condition(OWN, true),
        Pass(300),
    ]);
}

/// Finding 8: the next victim waited for one that had only got SIGTERM.
#[test]
fn victim_that_outlives_its_episode_blocks_no_later_one() {
    check([
        Dies(slot(150)),
        Condition(BY_WEBHOOK, true),
        Pass(15),
        Condition(BY_WEBHOOK, false),
        Pass(100),
        Rename(slot(160), OTHER),
        ReusePid(slot(150), name("victim")),
        Pass(400),
        Condition(BY_WEBHOOK, true),
        Pass(800),
    ]);
}

/// Finding 9: a second one after a day.
#[test]
fn limit_of_victims_holds_for_days() {
    check([Condition(BY_WEBHOOK, true), Pass(60), Pass(25 * 3600)]);
}

/// Finding 13.
#[test]
fn pid_in_a_label_means_no_process_that_is_younger_than_the_alert() {
    check([
        Dies(slot(policies::PID)),
        Condition(OF_A_PID, true),
        Pass(60),
        ReusePid(slot(policies::PID), OTHER),
        Pass(60),
    ]);
}

/// Finding 17: postponed to `hold`.
#[test]
fn repeat_does_not_delay_a_failed_undo() {
    check([
        Condition(BY_WEBHOOK, true),
        Pass(60),
        DenyNice(true),
        Release(None),
        Pass(REPEAT_INTERVAL.as_secs()),
        DenyNice(false),
        Pass(120),
    ]);
}

/// Finding 18: the reload undid the other one.
#[test]
fn release_of_one_lease_leaves_the_other_on_its_target() {
    check([
        Condition(BY_WEBHOOK, true),
        Pass(60),
        Release(Some(0)),
        Reload(BASE),
        Pass(60),
    ]);
}

/// Finding 19: sent twice, undone once.
#[test]
fn signal_that_can_be_undone_is_sent_once_for_two_alerts() {
    check([
        Condition(OWN, true),
        Condition(BY_WEBHOOK, true),
        Pass(120),
        Condition(OWN, false),
        Pass(60),
        Condition(BY_WEBHOOK, false),
        Pass(300),
    ]);
}

/// What is no fault passes: each source alone, and all together.
#[test]
fn plain_histories_violate_nothing() {
    let both = [false, true];
    for has_surveys in both {
        for alert in [BY_WEBHOOK, OWN, BOTH, OF_A_PID] {
            let setup = Setup { has_surveys, ..PLAIN };
            check_with(
                setup,
                [Condition(alert, true), Pass(900), Condition(alert, false), Pass(900)],
            );
        }
    }
}

/// A rule of another name releases what the former one held, and the new one answers.
#[test]
fn renamed_rule_violates_nothing() {
    check([
        Condition(BY_WEBHOOK, true),
        Pass(60),
        Reload(OTHER_NAMES),
        Pass(1200),
        Condition(BY_WEBHOOK, false),
        Pass(300),
    ]);
}

/// The end of an alert is compared with starts from the same sender, whatever this host's clock shows.
#[test]
fn late_duplicate_of_a_merged_start_is_stale_under_a_slow_clock() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    check_with(
        setup,
        [
            SetClock(-60),
            PrometheusLink(0, 0, false),
            Network(Fate::ComesTwice),
            Condition(BY_WEBHOOK, true),
            Pass(1),
        ],
    );
}

/// A source that confirmed the alert after a start, and says now that it is over, leaves nothing that confirms it.
#[test]
fn word_from_before_a_start_confirms_nothing_after_another_source_ended() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    check_with(
        setup,
        [
            Condition(BOTH, true),
            Pass(25),
            Restart(1),
            Pass(34),
            Condition(BOTH, false),
        ],
    );
}

/// A list that lags behind the resolve opens the episode again, and its close must not make the end forgotten: a
/// duplicate of the first firing came after both, and counted for `hold`.
#[test]
fn duplicate_after_a_lagging_list_is_still_late() {
    let setup = Setup {
        has_surveys: true,
        skews: [0, 1800],
        ..PLAIN
    };
    check_with(setup, [Condition(0, true), Network(Fate::ComesTwice), Pass(30)]);
}

/// Undoing the lease on a unit's former cgroup took the property from the lease that another alert had on its next one.
#[test]
fn limit_on_the_next_cgroup_of_a_unit_outlives_the_former_lease() {
    let setup = Setup {
        has_surveys: true,
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Condition(BY_WEBHOOK, true),
        Condition(BOTH, true),
        Pass(1),
        Condition(BY_WEBHOOK, false),
        Crash(29),
        RestartUnit,
        Pass(90),
    ];
    check_with(setup, actions);
}

/// The retry of an undo that failed kept its target out of the next episode of the same alert.
#[test]
fn failed_undo_leaves_its_target_to_the_next_episode() {
    let setup = Setup {
        has_gossip: false,
        skews: [1800, 0],
        ..PLAIN
    };
    let actions = [
        Condition(BY_WEBHOOK, true),
        Pass(567),
        Condition(BY_WEBHOOK, false),
        Pass(22),
        DenyNice(true),
        Pass(27),
        Condition(BY_WEBHOOK, true),
        Pass(1004),
    ];
    check_with(setup, actions);
}

/// A victim of an episode before that got its SIGKILL in this one did not count against `limit`.
#[test]
fn victim_that_is_ended_in_a_later_episode_counts_against_the_limit() {
    let setup = Setup {
        has_surveys: true,
        skews: [1800, 0],
        ..PLAIN
    };
    let actions = [
        Rename(0, 1),
        Condition(BY_WEBHOOK, true),
        Pass(403),
        Suspend(86),
        Suspend(1),
    ];
    check_with(setup, actions);
}

/// A process that another rule had asked to end did not get its reversible steps again after an orderly stop.
#[test]
fn restart_sets_again_what_a_victim_of_another_rule_had() {
    let actions = [
        Rename(2, 2),
        Condition(OWN, true),
        Pass(1),
        Condition(OF_A_PID, true),
        Pass(90),
        Restart(1),
        RestartAlertmanager(0),
        Pass(58),
    ];
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    check_with(setup, actions);
}

/// An own alert whose rule a reload had removed came back after a reboot with its former start.
#[test]
fn reboot_after_a_reload_waits_for_the_whole_for() {
    check([
        Condition(OWN, true),
        Pass(15),
        Reload(OTHER_OWN_ALERTS),
        Reload(BASE),
        Reboot(1),
        Pass(15),
    ]);
}

/// The rule of before the reload sent SIGTERM to a process that the changed rule does not select.
#[test]
fn reload_changes_the_rule_of_an_open_episode() {
    check([Condition(OWN, true), Pass(60), Reload(OTHER_CHOICES), Pass(300)]);
}

/// A target whose steps a reload changed gets none of the changed ones.
#[test]
fn reload_of_other_steps_violates_nothing() {
    for crash in [None, Some(Crash(1))] {
        let reload = [Condition(OWN, true), Pass(60), Reload(OTHER_STEPS)];
        check(reload.into_iter().chain(crash).chain([Pass(900)]));
    }
}

/// An alert that another identity no longer means kept an episode firing that own evaluation had ended: SIGTERM.
#[test]
fn other_identity_asks_for_a_confirmation() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Pass(1),
        Condition(BOTH, true),
        Pass(55),
        Reload(OTHER_IDENTITY),
        AlertmanagerLink(0, false),
        Condition(BOTH, false),
        Pass(44),
    ];
    check_with(setup, actions);
}

/// A late duplicate opened an episode of a rule that had another name when the alert ended: SIGTERM.
#[test]
fn duplicate_is_late_for_a_renamed_rule() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Network(Fate::ComesTwice),
        Condition(BY_WEBHOOK, true),
        Pass(18),
        Condition(BY_WEBHOOK, false),
        Pass(67),
        Reload(OTHER_NAMES),
    ];
    check_with(setup, actions);
}

/// The same where no rule answered the alert when it ended: SIGTERM.
#[test]
fn duplicate_is_late_where_no_rule_answered_its_end() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Network(Fate::ComesTwice),
        Reload(OTHER_MATCHERS),
        Condition(BY_WEBHOOK, true),
        Pass(18),
        Condition(BY_WEBHOOK, false),
        Pass(67),
        Reload(OTHER_NAMES),
    ];
    check_with(setup, actions);
}

/// A resolve that left the episode open, because own evaluation still had the alert, was forgotten: SIGTERM.
#[test]
fn duplicate_is_late_where_another_source_ended_last() {
    let setup = Setup {
        skews: [0, 1800],
        ..PLAIN
    };
    let actions = [
        Pass(60),
        Network(Fate::ComesTwice),
        Condition(BOTH, true),
        Pass(45),
        SetClock(-1),
    ];
    check_with(setup, actions);
}

/// A duplicate counted for `hold` in an episode that a list kept open when the alert resolved.
#[test]
fn duplicate_is_late_where_a_list_keeps_the_episode() {
    let setup = Setup {
        has_surveys: true,
        skews: [0, 1800],
        ..PLAIN
    };
    check_with(
        setup,
        [Pass(30), Network(Fate::ComesTwice), Condition(BOTH, true), Pass(60)],
    );
}

/// A victim did not count for the next episode of an alert whose start had become an earlier one: another SIGTERM.
#[test]
fn victim_counts_after_its_alert_got_an_earlier_start() {
    let link = |is_up| [PrometheusLink(0, 0, is_up), PrometheusLink(0, 1, is_up)];
    let actions = [Condition(BY_WEBHOOK, true), Pass(40)];
    let more = [Pass(1000), Restart(2472), Pass(90)];
    check(link(false).into_iter().chain(actions).chain(link(true)).chain(more));
}

/// An alert whose resolve was lost in a stop began again after `hold`: that is another episode, with another victim.
#[test]
fn alert_that_began_again_unseen_gets_another_victim() {
    let setup = Setup {
        has_gossip: false,
        skews: [1800, 0],
        ..PLAIN
    };
    let actions = [
        Condition(BY_WEBHOOK, true),
        Pass(25),
        AlertmanagerLink(1, false),
        Condition(BY_WEBHOOK, false),
        Restart(1633),
        Pass(715),
        Condition(BY_WEBHOOK, true),
        Pass(87),
    ];
    check_with(setup, actions);
}

/// An Alertmanager that was cut off resolved an alert that had begun again meanwhile, and the other one still had.
#[test]
fn resolve_of_an_earlier_alert_ends_nothing() {
    let setup = Setup {
        has_surveys: false,
        has_gossip: true,
        skews: [-3600, 0],
        has_ledger: false,
    };
    let actions = [
        PrometheusLink(1, 1, false),
        Condition(0, true),
        Pass(9),
        Condition(0, false),
        Pass(23),
        Condition(0, true),
        PrometheusLink(0, 1, false),
        Pass(23),
        Pass(75),
        AlertmanagerLink(0, false),
        Pass(51),
    ];
    check_with(setup, actions);
}

/// A process that one alert of a rule was to end lived on, and kept its place for the rule's other alert after a stop.
#[test]
fn process_that_outlived_another_alert_keeps_its_place() {
    let setup = Setup {
        has_surveys: true,
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Reload(OTHER_CHOICES),
        Condition(OWN, true),
        Pass(90),
        Condition(BOTH, true),
        Pass(30),
        Restart(1),
        ReusePid(0, 4),
        Pass(91),
    ];
    check_with(setup, actions);
}

/// A crash forgot the end of an alert that no rule answered then, and a renamed rule answered a late duplicate.
#[test]
fn duplicate_is_late_after_a_reload_and_a_crash() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Reload(OTHER_MATCHERS),
        Network(Fate::ComesTwice),
        Condition(OF_A_PID, true),
        Pass(16),
        Condition(OF_A_PID, false),
        Pass(69),
        Reload(OTHER_NAMES),
        Crash(1),
    ];
    check_with(setup, actions);
}

/// The daemon died between the intent of SIGTERM and the signal. The process counts as a victim, and no other one follows.
#[test]
fn victim_without_a_signal_counts_after_a_crash() {
    let setup = Setup {
        has_surveys: true,
        has_gossip: false,
        skews: [0, -3600],
        has_ledger: true,
    };
    let moves = [
        (AlertmanagerLink(0, false), None),
        (Pass(4), None),
        (Condition(BY_WEBHOOK, true), None),
        (Pass(26), Some(16)),
        (ReusePid(5, 0), None),
    ];
    assert_eq!(violation(setup, moves.to_vec()), None);
}

/// A skewed Alertmanager resolved the alert each time, so that the firings between were late duplicates. The suspension
/// outlasted what own evaluation had said.
#[test]
fn late_duplicates_hold_nothing_over_a_suspension() {
    let setup = Setup {
        skews: [1800, 0],
        ..PLAIN
    };
    check_with(setup, [Condition(BOTH, true), Pass(145), Suspend(2210)]);
}

/// The patience for the absence of an alert begins again with each start of an Alertmanager.
#[test]
fn restarted_alertmanager_gets_its_patience_again() {
    let setup = Setup {
        has_surveys: true,
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Condition(BOTH, true),
        Suspend(25),
        Condition(BOTH, false),
        Pass(90),
        RestartAlertmanager(0),
    ];
    check_with(setup, actions);
}

/// An own alert that was not seen for `hold` is over, and begins again with another start.
#[test]
fn own_alert_begins_again_after_hold_without_the_daemon() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    let actions = [
        Rename(4, name("worker")),
        Condition(BOTH, true),
        ReusePid(0, name("worker")),
        Condition(OWN, true),
        Pass(135),
        Crash(1876),
        Restart(509),
        Pass(90),
    ];
    check_with(setup, actions);
}

/// The resolve overtook the firing, which another Prometheus server had begun later, and the host's clock was behind.
#[test]
fn late_firing_is_stale_where_the_clock_is_behind() {
    let actions = [
        Pass(75),
        PrometheusLink(0, 0, false),
        Pass(925),
        Condition(BY_WEBHOOK, true),
        SetClock(-180),
        Pass(29),
        Network(Fate::IsLate),
    ];
    check_with(PLAIN, actions);
}

/// Own evaluation had no time to collect samples between two starts, so that the alert stays unconfirmed until it has.
#[test]
fn own_evaluation_ends_nothing_without_samples() {
    let setup = Setup {
        has_gossip: false,
        ..PLAIN
    };
    // After the longer time Alertmanager has resolved the alert.
    for seconds in [14, 38] {
        let actions = [
            Condition(BOTH, true),
            Pass(30),
            Restart(601),
            Pass(1),
            Condition(BOTH, false),
            Pass(seconds),
            Restart(1),
        ];
        check_with(setup, actions);
    }
}

/// The daemon died before the first step of a target that another selector chose. The next selector chose another one.
#[test]
fn untouched_target_gives_way_to_one_that_is_selected() {
    let setup = Setup {
        has_gossip: false,
        has_ledger: true,
        ..PLAIN
    };
    let moves = [
        (Condition(BOTH, true), None),
        (Reload(OTHER_MATCHERS), None),
        (Pass(30), None),
        (Reload(OTHER_CHOICES), Some(13)),
        (Reload(OTHER_IDENTITY), None),
        (Pass(121), None),
    ];
    assert_eq!(violation(setup, moves.to_vec()), None);
}
