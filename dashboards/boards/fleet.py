"""Many hosts at once: which are paused, in dry-run, or unable to act."""

from .panels import bars, build, distribution, figure, graph, listing, row, states


def by_host(metric, matchers=""):
    return f"max by (instance) ({metric}{{HOST{matchers}}})"


def count(title, description, expr, colour="red"):
    """The number of hosts; 0 is good."""
    return figure(title, description, "short", expr, steps=[(1, colour)])


FAULTS = (
    "max by (instance) (evenkeel_paused{HOST}) + max by (instance) (evenkeel_ledger_writable{HOST} == bool 0)"
    " + max by (instance) (evenkeel_config_last_reload_successful{HOST} == bool 0)"
    " + max by (instance) (evenkeel_budget_remaining{HOST} == bool 0)"
    " + (sum by (instance) (evenkeel_breaker_open{HOST}) or max by (instance) (0 * evenkeel_paused{HOST}))"
)

ROWS = [
    row(
        "Number of hosts",
        figure("Hosts", "Hosts with a scraped evenkeel.", "short", "count(evenkeel_build_info{HOST})"),
        count("Down", "Targets of the job evenkeel that do not answer.", 'sum(up{HOST, job="evenkeel"} == bool 0)'),
        count("In dry-run", "Hosts on which evenkeel only reports actions.", 'sum(evenkeel_mode{HOST, mode="dry-run"})',
              colour="blue"),
        count("Paused", "Hosts on which evenkeel is paused and plans nothing new.", "sum(evenkeel_paused{HOST})", colour="orange"),
        count("Out of budget", "Hosts on which the budget currently allows no irreversible action.",
              "sum(evenkeel_budget_remaining{HOST} == bool 0)", colour="orange"),
        count("Ledger broken", "Hosts on which evenkeel applies nothing new because it cannot write its ledger.",
              "sum(evenkeel_ledger_writable{HOST} == bool 0)"),
        count("Reload failed", "Hosts whose newest configuration has an error.",
              "sum(evenkeel_config_last_reload_successful{HOST} == bool 0)"),
        count("Old samples", "Collectors whose last read is more than two minutes ago.",
              "sum(evenkeel_sample_age_seconds{HOST} > bool 120)", colour="orange"),
    ),
    row(
        "Host by host",
        listing(
            "Hosts", "One row per host, those with a fault first. Faults: paused, in a failed reload, without a ledger or a budget,"
            " or with an open breaker. Click on a heading to sort.",
            ("Faults", FAULTS, "short", (), [(1, "red")]),
            ("Enforces", by_host("evenkeel_mode", ', mode="enforce"'), "none",
             [("0", "dry-run", "blue"), ("1", "enforce", "green")], ()),
            ("Pause", by_host("evenkeel_paused"), "none", [("0", "no", "green"), ("1", "paused", "orange")], ()),
            ("Ledger", by_host("evenkeel_ledger_writable"), "none",
             [("0", "not writable", "red"), ("1", "writable", "green")], ()),
            ("Configuration", by_host("evenkeel_config_last_reload_successful"), "none",
             [("0", "reload failed", "red"), ("1", "loaded", "green")], ()),
            ("Loaded", "1000 * " + by_host("evenkeel_config_last_reload_success_timestamp_seconds"), "dateTimeFromNow", (), ()),
            ("Rules", by_host("evenkeel_rules"), "short", (), ()),
            ("Budget", by_host("evenkeel_budget_remaining"), "short", (), ()),
            ("Alerts open", "sum by (instance) (evenkeel_alerts_firing{HOST})", "short", (), [(1, "orange")]),
            ("Leases", "sum by (instance) (evenkeel_leases{HOST})", "short", (), [(1, "orange")]),
            ("Oldest sample", by_host("evenkeel_sample_age_seconds"), "s", (), [(120, "orange")]),
            ("CPU busy", by_host("evenkeel_cpu_busy_ratio"), "percentunit", (), [(0.7, "orange"), (0.8, "red")]),
            ("Memory used", by_host("evenkeel_memory_used_ratio"), "percentunit", (), [(0.6, "orange"), (0.7, "red")]),
        ),
    ),
    row(
        "What fired, what was done, over all hosts",
        states("Alerts", "Hosts with the most alerts that match a rule.",
               ("sum by (instance) (evenkeel_alerts_firing{HOST}) > 0", "{{instance}}"),
               ranges=[(1, 1e9, None, "orange")], show=True, empty="No alert of a rule fires"),
        states("Leases", "Hosts with the most changes that evenkeel will revert.",
               ("sum by (instance) (evenkeel_leases{HOST}) > 0", "{{instance}}"),
               ranges=[(1, 1e9, None, "blue")], show=True, empty="Nothing is held"),
        bars("Actions", "Outcomes of the steps.", "evenkeel_actions_total{HOST}", "outcome", width=12, empty="No step was taken"),
        bars("Not done", "Reasons why evenkeel applied no step.",
             'evenkeel_decisions_total{HOST, decision!~"planned|dry_run"}', "decision", width=12, empty="Nothing was refused"),
        distribution("CPU busy", "Distribution of the one-second samples of all hosts.", "evenkeel_cpu_busy_ratio_distribution"),
        distribution("Memory used", "Distribution of the one-second samples of all hosts.", "evenkeel_memory_used_ratio_distribution"),
    ),
    row(
        "Roll-out",
        graph("Versions", "Hosts by version of evenkeel.", "short",
              ("count by (version) (evenkeel_build_info{HOST})", "{{version}}"), width=12, stacked=True, all_hosts=True),
        graph("Modes", "Hosts by active mode.", "short",
              ("sum by (mode) (evenkeel_mode{HOST})", "{{mode}}"), width=12, stacked=True, all_hosts=True),
    ),
]


def board():
    return build(
        "evenkeel-fleet",
        "evenkeel / Fleet",
        "All hosts with an evenkeel: which act, which are paused, which cannot act, and their actions.",
        ROWS,
        every="1m",
    )
