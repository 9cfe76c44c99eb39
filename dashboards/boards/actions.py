"""What evenkeel was told, what it decided, what it did, what it holds, and what keeps it from doing more."""

from .panels import build, distribution, figure, graph, row, states

ROWS = [
    row(
        "At a glance",
        figure("Mode", "Whether evenkeel acts on this host, or only says what it would do.", "none",
               'evenkeel_mode{HOST, mode="enforce"}', mappings=[("0", "dry-run", "blue"), ("1", "enforce", "green")]),
        figure("Pause", "Whether somebody told it to plan nothing new.", "none", "evenkeel_paused{HOST}",
               mappings=[("0", "no", "green"), ("1", "paused", "orange")]),
        figure("Alerts open", "Alerts that a rule answers and that are known to fire, from all sources.", "short",
               "sum by (instance) (evenkeel_alerts_firing{HOST})", steps=[(1, "orange")]),
        figure("Leases", "What is changed at the moment and will be put back.", "short",
               "sum by (instance) (evenkeel_leases{HOST})", steps=[(1, "orange")]),
        figure("Budget", "Processes that may still be ended on this host now.", "short",
               "evenkeel_budget_remaining{HOST}"),
        figure("Ledger", "Whether decisions can be made durable. Without it nothing new is done.", "none",
               "evenkeel_ledger_writable{HOST}", mappings=[("0", "not writable", "red"), ("1", "writable", "green")]),
        figure("Configuration", "Whether the newest configuration is the one in force.", "none",
               "evenkeel_config_last_reload_successful{HOST}",
               mappings=[("0", "last reload failed", "red"), ("1", "loaded", "green")]),
        figure("Rules", "Rules in force.", "short", "evenkeel_rules{HOST}"),
    ),
    row(
        "Alerts in",
        graph("Alerts received", "Alerts that arrived, by source and status, whatever was decided about them; repeats count.",
              "short",
              ("sum by (instance, source, status) (increase(evenkeel_alerts_received_total{HOST}[$__rate_interval]))",
               "{{instance}} {{source}} {{status}}"), stacked=True),
        graph("Alerts open", "Alerts that a rule answers and that are known to fire.", "short",
              ("sum by (instance, source) (evenkeel_alerts_firing{HOST})", "{{instance}} {{source}}"), stacked=True),
        graph("Webhook requests", "Answers to Alertmanager by HTTP status: 200 is durable, 503 is to be sent again, 401 is a"
              " wrong token. Truncated alerts are those that Alertmanager left out (max_alerts).", "reqps",
              ("sum by (instance, code) (rate(evenkeel_webhook_requests_total{HOST}[$__rate_interval]))",
               "{{instance}} {{code}}"),
              ("sum by (instance) (rate(evenkeel_alerts_truncated_total{HOST}[$__rate_interval]))",
               "{{instance}} truncated alerts")),
    ),
    row(
        "Decisions",
        graph("Decisions by reason", "What was decided about alerts and planned steps. Everything but planned and dry_run is a"
              " reason why nothing was done.", "short",
              ("sum by (instance, decision) (increase(evenkeel_decisions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{decision}}"), width=12, stacked=True),
        graph("Decisions by rule", "The same, rule by rule.", "short",
              ("sum by (instance, rule, decision) (increase(evenkeel_decisions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{decision}}"), width=12),
    ),
    row(
        "Actions",
        graph("Actions by outcome", "What came of the steps; in dry-run what would have been done. The very first of a kind"
              " makes its series and does not show as an increase: the marks show it.", "short",
              ("sum by (instance, outcome) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{outcome}}"), stacked=True),
        graph("Actions by rule", "Which rule did what.", "short",
              ("sum by (instance, rule, action) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{action}}")),
        graph("Put back", "Steps that were undone: on resolve or by hand (restored), at the deadline (expired), given back to"
              " an allocator (released); or left alone because somebody else changed the value (superseded).", "short",
              ('sum by (instance, outcome) (increase(evenkeel_actions_total{HOST, outcome=~"restored|expired|released|superseded"}'
               "[$__rate_interval]))", "{{instance}} {{outcome}}"), stacked=True),
    ),
    row(
        "Leases",
        graph("Leases", "What is changed at the moment and will be put back, by rule and by what was set.", "short",
              ("sum by (instance, rule, knob) (evenkeel_leases{HOST})", "{{instance}} {{rule}} {{knob}}"),
              width=16, stacked=True),
        graph("Allocations", "What was asked of resource allocators: requested, granted, expired, or being given back.", "short",
              ("sum by (instance, rule, state) (evenkeel_allocations{HOST})", "{{instance}} {{rule}} {{state}}"),
              stacked=True),
    ),
    row(
        "Reaction time",
        distribution("Reaction time, every step", "From the arrival of an alert to the step on a process, all chosen hosts.",
                     "evenkeel_reaction_duration_seconds", unit="s"),
        graph("Reaction time", "Half of the steps, 90 and 99 of 100 were faster.", "s",
              *((f"histogram_quantile({quantile}, sum by (instance, le) "
                 "(rate(evenkeel_reaction_duration_seconds_bucket{HOST}[$__rate_interval])))", f"{{{{instance}}}} {name}")
                for quantile, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))), width=12),
    ),
    row(
        "What holds it back",
        graph("Budget", "Processes that may still be ended: at 0 further final steps are refused.", "short",
              ("evenkeel_budget_remaining{HOST}", "{{instance}}")),
        states("Breakers", "Rules that are stopped because their final steps had no effect.",
               ("evenkeel_breaker_open{HOST}", "{{instance}} {{rule}}"),
               mappings=[("0", "closed", "green"), ("1", "open", "red")], width=8),
        states("Pause, ledger, configuration", "1 is well for ledger and configuration; for a pause it is a pause.",
               ("1 - evenkeel_paused{HOST}", "{{instance}} not paused"),
               ("evenkeel_ledger_writable{HOST}", "{{instance}} ledger writable"),
               ("evenkeel_config_last_reload_successful{HOST}", "{{instance}} configuration loaded"),
               mappings=[("0", "no", "red"), ("1", "yes", "green")], width=8),
    ),
    row(
        "evenkeel itself",
        graph("Age of samples", "Seconds since each collector was read.", "s",
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
        "What evenkeel was told, what it decided and why, what it did, and what it holds.",
        ROWS,
    )
