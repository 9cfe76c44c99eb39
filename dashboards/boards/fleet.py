"""Many hosts at once: which are paused, in dry-run, or unable to act."""

from .panels import build, figure, graph, listing, row


def by_host(metric, matchers=""):
    return f"max by (instance) ({metric}{{HOST{matchers}}})"


def count(title, description, expr, colour="red"):
    """The number of hosts; 0 is good."""
    return figure(title, description, "short", expr, steps=[(1, colour)], legend=title)


ROWS = [
    row(
        "Number of hosts",
        figure("Hosts", "Hosts with a scraped evenkeel.", "short", "count(evenkeel_build_info{HOST})",
               legend="hosts"),
        count("Down", "Targets of the job evenkeel that do not answer.", 'sum(up{HOST, job="evenkeel"} == bool 0)'),
        count("In dry-run", "Hosts on which evenkeel only reports actions.", 'sum(evenkeel_mode{HOST, mode="dry-run"})',
              colour="blue"),
        count("Paused", "Hosts on which evenkeel is paused and plans nothing new.", "sum(evenkeel_paused{HOST})", colour="orange"),
        count("Out of budget", "Hosts on which the budget currently allows no irreversible action.",
              "sum(evenkeel_budget_remaining{HOST} == bool 0)", colour="orange"),
        count("Ledger not writable", "Hosts on which evenkeel applies nothing new because it cannot write its ledger.",
              "sum(evenkeel_ledger_writable{HOST} == bool 0)"),
        count("Reload failed", "Hosts whose newest configuration has an error.",
              "sum(evenkeel_config_last_reload_successful{HOST} == bool 0)"),
        count("Old samples", "Collectors whose last read is more than two minutes ago.",
              "sum(evenkeel_sample_age_seconds{HOST} > bool 120)", colour="orange"),
    ),
    row(
        "Host by host",
        listing(
            "Hosts", "One row per host; click on a heading to sort.",
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
        "Over time",
        graph("Alerts open", "Alerts that match a rule, by host.", "short",
              ("sum by (instance) (evenkeel_alerts_firing{HOST})", "{{instance}}"), stacked=True),
        graph("Leases", "Current changes that evenkeel will revert, by host.", "short",
              ("sum by (instance) (evenkeel_leases{HOST})", "{{instance}}"), stacked=True),
        graph("Actions", "Outcomes of the steps, over all hosts.", "short",
              ("sum by (outcome) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))", "{{outcome}}"), stacked=True),
        graph("Refusals", "Reasons why evenkeel applied no step, over all hosts.", "short",
              ('sum by (decision) (increase(evenkeel_decisions_total{HOST, decision!~"planned|dry_run"}[$__rate_interval]))',
               "{{decision}}"), stacked=True),
        graph("Versions", "Hosts by version of evenkeel.", "short",
              ("count by (version) (evenkeel_build_info{HOST})", "{{version}}"), stacked=True),
        graph("Modes", "Hosts by active mode.", "short",
              ("sum by (mode) (evenkeel_mode{HOST})", "{{mode}}"), stacked=True),
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
