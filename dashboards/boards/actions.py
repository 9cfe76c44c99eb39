"""Received alerts, decisions, actions, leases, and the limits that block actions."""

from .panels import build, distribution, figure, graph, row, states

ROWS = [
    row(
        "At a glance",
        figure("Mode", "Whether evenkeel applies actions on this host, or only reports them (dry-run).", "none",
               'evenkeel_mode{HOST, mode="enforce"}', mappings=[("0", "dry-run", "blue"), ("1", "enforce", "green")]),
        figure("Pause", "Whether evenkeel is paused and plans nothing new.", "none", "evenkeel_paused{HOST}",
               mappings=[("0", "no", "green"), ("1", "paused", "orange")]),
        figure("Alerts open", "Alerts from all sources that match a rule and are known to fire.", "short",
               "sum by (instance) (evenkeel_alerts_firing{HOST})", steps=[(1, "orange")]),
        figure("Leases", "Current changes that evenkeel will revert.", "short",
               "sum by (instance) (evenkeel_leases{HOST})", steps=[(1, "orange")]),
        figure("Budget", "Irreversible actions that the budget of this host still allows now.", "short",
               "evenkeel_budget_remaining{HOST}"),
        figure("Ledger", "Whether evenkeel can write its ledger. If not, it applies nothing new.", "none",
               "evenkeel_ledger_writable{HOST}", mappings=[("0", "not writable", "red"), ("1", "writable", "green")]),
        figure("Configuration", "Whether the newest configuration is active.", "none",
               "evenkeel_config_last_reload_successful{HOST}",
               mappings=[("0", "last reload failed", "red"), ("1", "loaded", "green")]),
        figure("Rules", "Number of active rules.", "short", "evenkeel_rules{HOST}"),
    ),
    row(
        "Received alerts",
        graph("Alerts received", "Received alerts by source and status, regardless of the decision, including repeats.",
              "short",
              ("sum by (instance, source, status) (increase(evenkeel_alerts_received_total{HOST}[$__rate_interval]))",
               "{{instance}} {{source}} {{status}}"), stacked=True),
        graph("Alerts open", "Alerts that match a rule and are known to fire.", "short",
              ("sum by (instance, source) (evenkeel_alerts_firing{HOST})", "{{instance}} {{source}}"), stacked=True),
        graph("Webhook requests", "Answers to Alertmanager by HTTP status. 200: the alerts are in the ledger. 503: Alertmanager"
              " retries. 401: wrong token. Truncated alerts are those that Alertmanager omitted (max_alerts).", "reqps",
              ("sum by (instance, code) (rate(evenkeel_webhook_requests_total{HOST}[$__rate_interval]))",
               "{{instance}} {{code}}"),
              ("sum by (instance) (rate(evenkeel_alerts_truncated_total{HOST}[$__rate_interval]))",
               "{{instance}} truncated alerts")),
    ),
    row(
        "Decisions",
        graph("Decisions by reason", "Decisions about alerts and planned steps. All values except planned and dry_run are"
              " reasons why evenkeel applied no step.", "short",
              ("sum by (instance, decision) (increase(evenkeel_decisions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{decision}}"), width=12, stacked=True),
        graph("Decisions by rule", "Decisions about alerts and planned steps, for each rule.", "short",
              ("sum by (instance, rule, decision) (increase(evenkeel_decisions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{decision}}"), width=12),
    ),
    row(
        "Actions",
        graph("Actions by outcome", "Outcomes of the steps, including simulated ones (dry-run). The first event of a kind creates"
              " its series and is no increase; the annotations show it.", "short",
              ("sum by (instance, outcome) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{outcome}}"), stacked=True),
        graph("Actions by rule", "Actions by rule.", "short",
              ("sum by (instance, rule, action) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{action}}")),
        graph("Reverted steps", "Steps reverted on resolve or by hand (restored), at the deadline (expired), and released"
              " allocations (released). superseded: evenkeel left a value alone that something else changed.", "short",
              ('sum by (instance, outcome) (increase(evenkeel_actions_total{HOST, outcome=~"restored|expired|released|superseded"}'
               "[$__rate_interval]))", "{{instance}} {{outcome}}"), stacked=True),
    ),
    row(
        "Leases",
        graph("Leases", "Current changes that evenkeel will revert, by rule and knob.", "short",
              ("sum by (instance, rule, knob) (evenkeel_leases{HOST})", "{{instance}} {{rule}} {{knob}}"),
              width=16, stacked=True),
        graph("Allocations", "Allocations by state: requested, granted, expired, or releasing.", "short",
              ("sum by (instance, rule, state) (evenkeel_allocations{HOST})", "{{instance}} {{rule}} {{state}}"),
              stacked=True),
    ),
    row(
        "Reaction time",
        distribution("Reaction time, every step", "Time from the arrival of an alert to the step on a process, over all selected hosts.",
                     "evenkeel_reaction_duration_seconds", unit="s"),
        graph("Reaction time", "Median, 90th and 99th percentile of the reaction time.", "s",
              *((f"histogram_quantile({quantile}, sum by (instance, le) "
                 "(rate(evenkeel_reaction_duration_seconds_bucket{HOST}[$__rate_interval])))", f"{{{{instance}}}} {name}")
                for quantile, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))), width=12),
    ),
    row(
        "Limits",
        graph("Budget", "Irreversible actions that the budget still allows. At 0 evenkeel refuses further ones.", "short",
              ("evenkeel_budget_remaining{HOST}", "{{instance}}")),
        states("Breakers", "Rules that apply no irreversible action because their last ones had no effect.",
               ("evenkeel_breaker_open{HOST}", "{{instance}} {{rule}}"),
               mappings=[("0", "closed", "green"), ("1", "open", "red")], width=8),
        states("Pause, ledger, configuration", "yes: evenkeel is not paused, its ledger is writable, its newest configuration is active.",
               ("1 - evenkeel_paused{HOST}", "{{instance}} not paused"),
               ("evenkeel_ledger_writable{HOST}", "{{instance}} ledger writable"),
               ("evenkeel_config_last_reload_successful{HOST}", "{{instance}} configuration loaded"),
               mappings=[("0", "no", "red"), ("1", "yes", "green")], width=8),
    ),
    row(
        "evenkeel itself",
        graph("Age of samples", "Seconds since the last read of each collector.", "s",
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
