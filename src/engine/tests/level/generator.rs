//! Random histories. Actions of one kind are in a history or not, so that some histories are about few kinds: these find
//! more than histories in which everything happens.

use super::*;

fn setup() -> impl Strategy<Value = Setup> {
    let skew = || prop_oneof![3 => Just(0), 1 => Just(-3600), 1 => Just(1800)];
    (
        any::<bool>(),
        any::<bool>(),
        [skew(), skew()],
        prop::bool::weighted(0.1),
    )
        .prop_map(|(has_surveys, has_gossip, skews, has_ledger)| Setup {
            has_surveys,
            has_gossip,
            skews,
            has_ledger,
        })
}

/// Seconds after which the ledger forgets victims.
const LONG: u64 = 25 * 3600;
/// Kinds of actions that are in a history or not.
const KINDS: usize = 20;

type Kind = (u32, BoxedStrategy<Action>);

fn kind(weight: u32, actions: impl Strategy<Value = Action> + 'static) -> Kind {
    (weight, actions.boxed())
}

/// The kinds, each with how often it comes among those that are in a history.
fn kinds() -> [Kind; KINDS] {
    let one = || 0..PAIR;
    let slot = || 0..processes::SLOTS.len();
    let renamed = || (slot(), 0..processes::NAMES.len());
    let down = || prop_oneof![2 => Just(1u64), 2 => 2u64..120, 1 => 120u64..2400];
    let minutes = prop_oneof![Just(-180i64), Just(180), -90i64..90];
    let fate = prop::sample::select(vec![Fate::Arrives, Fate::IsLost, Fate::ComesTwice, Fate::IsLate]);
    let prometheus_link = (one(), one(), any::<bool>());
    let alertmanager_link = (one(), any::<bool>());
    [
        kind(
            4,
            prometheus_link.prop_map(|(from, to, is_up)| Action::PrometheusLink(from, to, is_up)),
        ),
        kind(
            3,
            alertmanager_link.prop_map(|(which, is_up)| Action::AlertmanagerLink(which, is_up)),
        ),
        kind(1, one().prop_map(Action::RestartAlertmanager)),
        kind(4, fate.prop_map(Action::Network)),
        kind(4, down().prop_map(Action::Restart)),
        kind(3, down().prop_map(Action::Crash)),
        kind(2, Just(Action::EngineFault)),
        kind(1, down().prop_map(Action::Reboot)),
        kind(2, down().prop_map(Action::Suspend)),
        kind(4, minutes.prop_map(Action::SetClock)),
        kind(8, (0..policies::COUNT).prop_map(Action::Reload)),
        kind(4, proptest::option::of(0usize..4).prop_map(Action::Release)),
        kind(2, any::<bool>().prop_map(Action::Pause)),
        kind(4, renamed().prop_map(|(slot, name)| Action::Rename(slot, name))),
        kind(4, renamed().prop_map(|(slot, name)| Action::ReusePid(slot, name))),
        kind(4, slot().prop_map(Action::Dies)),
        kind(2, slot().prop_map(Action::ThreadBorn)),
        kind(3, any::<bool>().prop_map(Action::DenyNice)),
        kind(2, Just(Action::RestartUnit)),
        kind(1, Just(Action::Pass(LONG))),
    ]
}

fn action(is_in: [bool; KINDS]) -> impl Strategy<Value = Action> {
    let seconds = prop_oneof![6 => 1u64..90, 2 => 90u64..900, 1 => 900u64..4500];
    let condition = (0..policies::CONDITIONS, any::<bool>());
    let mut choices = vec![
        kind(
            16,
            condition.prop_map(|(alert, is_true)| Action::Condition(alert, is_true)),
        ),
        kind(24, seconds.prop_map(Action::Pass)),
    ];
    let kinds = kinds().into_iter().zip(is_in).filter(|(_, is_in)| *is_in);
    choices.extend(kinds.map(|(kind, _)| kind));
    proptest::strategy::Union::new_weighted(choices)
}

pub fn history() -> impl Strategy<Value = (Setup, Vec<Move>)> {
    let death = || prop_oneof![3 => Just(None), 1 => (0u32..90).prop_map(Some)];
    // The last kind takes as long as many others.
    let is_in = [0.3; KINDS - 1].into_iter().chain([0.02]).map(prop::bool::weighted);
    let moves = is_in.collect::<Vec<_>>().prop_flat_map(move |is_in| {
        let is_in = is_in.try_into().expect("one for each kind");
        proptest::collection::vec((action(is_in), death()), 1..40)
    });
    (setup(), moves)
}
