"""Received alerts, decisions, actions, leases, and the limits that block actions."""

from .panels import bars, build, distribution, figure, graph, row, states, story

FAULTS = " or ".join(
    f'label_replace({expr}, "fault", "{fault}", "", "")'
    for fault, expr in (
        ("paused", "evenkeel_paused{HOST} == 1"),
        ("ledger not writable", "evenkeel_ledger_writable{HOST} == bool 0 == 1"),
        ("reload failed", "evenkeel_config_last_reload_successful{HOST} == bool 0 == 1"),
    )
)

ROWS = [
    row(
        "At a glance",
        figure("Mode", "Whether evenkeel applies actions, or only reports them (dry-run).", "none",
               'avg(evenkeel_mode{HOST, mode="enforce"})', mappings=[("0", "dry-run", "blue"), ("1", "enforce", "green")],
               ranges=[(0, 1, "both modes", "blue")]),
        figure("Pause", "Whether evenkeel is paused and plans nothing new.", "none", "avg(evenkeel_paused{HOST})",
               mappings=[("0", "no", "green"), ("1", "paused", "orange")], ranges=[(0, 1, "some paused", "orange")]),
        figure("Alerts open", "Alerts from all sources that match a rule and are known to fire.", "short",
               "sum(evenkeel_alerts_firing{HOST})", steps=[(1, "orange")]),
        figure("Leases", "Current changes that evenkeel will revert.", "short",
               "sum(evenkeel_leases{HOST}) or 0 * count(evenkeel_build_info{HOST})", steps=[(1, "orange")]),
        figure("Budget", "Irreversible actions that the budget still allows now, on the host that has the fewest left.", "short",
               "min(evenkeel_budget_remaining{HOST})"),
        figure("Ledger", "Whether evenkeel can write its ledger. If not, it applies nothing new.", "none",
               "min(evenkeel_ledger_writable{HOST})", mappings=[("0", "not writable", "red"), ("1", "writable", "green")]),
        figure("Configuration", "Whether the newest configuration is active.", "none",
               "min(evenkeel_config_last_reload_successful{HOST})",
               mappings=[("0", "reload failed", "red"), ("1", "loaded", "green")]),
        figure("Rules", "Number of active rules.", "short", "max(evenkeel_rules{HOST})"),
    ),
    story(),
    row(
        "Received alerts",
        bars("Alerts received", "Received alerts by source and status, over all selected hosts, regardless of the decision,"
             " including repeats.", "evenkeel_alerts_received_total{HOST}", "source, status", empty="No alert was received"),
        graph("Alerts open", "Alerts that match a rule and are known to fire, over all selected hosts.", "short",
              ("sum by (source) (evenkeel_alerts_firing{HOST})", "{{source}}"), stacked=True, all_hosts=True),
        graph("Webhook requests", "Answers to Alertmanager by HTTP status, over all selected hosts. 200: the alerts are in the"
              " ledger. 503: Alertmanager retries. 401: wrong token. Truncated alerts are those that Alertmanager omitted"
              " (max_alerts).", "reqps",
              ("sum by (code) (rate(evenkeel_webhook_requests_total{HOST}[$__rate_interval]))", "{{code}}"),
              ("sum(rate(evenkeel_alerts_truncated_total{HOST}[$__rate_interval]))", "truncated alerts"), all_hosts=True),
    ),
    row(
        "Decisions and actions by rule",
        bars("Decisions by reason", "Decisions about alerts and planned steps. All values except planned and dry_run are"
             " reasons why evenkeel applied no step.", "evenkeel_decisions_total{HOST}", "decision", empty="Nothing was decided"),
        bars("Decisions by rule", "Decisions about alerts and planned steps, for each rule.",
             "evenkeel_decisions_total{HOST}", "rule, decision", empty="Nothing was decided"),
        bars("Actions by rule", "Outcomes of the steps of each rule.", "evenkeel_actions_total{HOST}", "rule, action, outcome",
             empty="No step was taken"),
    ),
    row(
        "Leases",
        graph("Leases", "Current changes that evenkeel will revert, by rule and knob, over all selected hosts.", "short",
              ("sum by (rule, knob) (evenkeel_leases{HOST})", "{{rule}} {{knob}}"),
              width=12, stacked=True, all_hosts=True, empty="Nothing is held"),
        bars("Reverted steps", "Steps reverted on resolve or by hand (restored), at the deadline (expired), and released"
             " allocations (released). superseded: evenkeel left a value alone that something else changed.",
             'evenkeel_actions_total{HOST, outcome=~"restored|expired|released|superseded"}', "outcome", width=6,
             empty="Nothing was reverted"),
        graph("Allocations", "Allocations by state: requested, granted, expired, or releasing.", "short",
              ("sum by (rule, state) (evenkeel_allocations{HOST})", "{{rule}} {{state}}"), width=6, stacked=True,
              all_hosts=True, empty="Nothing is allocated"),
    ),
    row(
        "Reaction time",
        distribution("Reaction time, every step", "Time from the arrival of an alert to the step on a process, over all selected hosts.",
                     "evenkeel_reaction_duration_seconds", unit="s", empty="No step was taken"),
        graph("Reaction time", "Median, 90th and 99th percentile of the reaction time, over all selected hosts.", "s",
              *((f"histogram_quantile({quantile}, sum by (le) "
                 "(rate(evenkeel_reaction_duration_seconds_bucket{HOST}[$__rate_interval])))", name)
                for quantile, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))),
              width=12, all_hosts=True, points=True, empty="No step was taken"),
    ),
    row(
        "Limits",
        graph("Budget", "Irreversible actions that the budget still allows, on the hosts that have the fewest left. At 0 evenkeel"
              " refuses further ones.", "short",
              ("evenkeel_budget_remaining{HOST}", "{{instance}}"), width=6, lowest=True),
        states("Breakers", "Rules that apply no irreversible action because their last ones had no effect.",
               ("evenkeel_breaker_open{HOST}", "{{instance}} {{rule}}"),
               mappings=[("0", "closed", "green"), ("1", "open", "red")], width=9, empty="No rule has irreversible actions"),
        states("Pause, ledger, configuration", "Hosts that are paused, cannot write their ledger, or run an older configuration.",
               (FAULTS, "{{instance}} {{fault}}"), ranges=[(1, 1, None, "red")], width=9,
               empty="Nothing is paused or broken"),
    ),
    row(
        "evenkeel itself",
        graph("Age of samples", "Seconds since the last read, of the collectors with the oldest ones.", "s",
              ("max by (instance, collector) (evenkeel_sample_age_seconds{HOST})", "{{instance}} {{collector}}")),
        graph("Processor time", "Processor time that evenkeel itself uses, in cores.", "short",
              ("rate(process_cpu_seconds_total{HOST}[$__rate_interval])", "{{instance}}")),
        graph("Memory", "Resident memory of evenkeel itself.", "bytes",
              ("process_resident_memory_bytes{HOST}", "{{instance}}")),
    ),
]


def board():
    return build(
        "evenkeel-actions",
        "evenkeel / Actions",
        "Received alerts, decisions with their reasons, actions, and leases of evenkeel.",
        ROWS,
    )
