#!/usr/bin/env python3
"""Builds the Grafana dashboards beside this file; `make dashboards` runs it, `make lint` compares (--check).

A panel is a line of data here; what all panels share (datasource, legend, height) is said once.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HERE = Path(__file__).resolve().parent
DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Every query is about the chosen hosts only.
HOST = 'job=~"$job", instance=~"$instance"'
HEIGHT = 8
COLUMNS = 24


def queries(panel, exprs, instant=False, format_val=None):
    for ref, (expr, legend) in zip("ABCDEFGH", exprs):
        query = prometheus.Dataquery().ref_id(ref).expr(expr.replace("HOST", HOST)).legend_format(legend)
        query = query.datasource(DATASOURCE)
        query = query.instant() if instant else query.range()
        panel = panel.with_target(query.format(format_val) if format_val else query)
    return panel


def framed(panel, title, description, unit, width, height):
    panel = panel.title(title).description(description).datasource(DATASOURCE)
    return panel.unit(unit).span(width).height(height)


def graph(title, description, unit, *exprs, width=8, stacked=False, top=None, mirrored=None):
    """Lines over time. `mirrored`: series of this name pattern are drawn below zero (sent beside received)."""
    panel = framed(timeseries.Panel(), title, description, unit, width, HEIGHT)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_model.LegendDisplayMode.TABLE)
        .placement(common_model.LegendPlacement.BOTTOM)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel = panel.tooltip(
        common.VizTooltipOptions()
        .mode(common_model.TooltipDisplayMode.MULTI)
        .sort(common_model.SortOrder.DESCENDING)
    )
    panel = panel.line_width(1).fill_opacity(25 if stacked else 8).show_points(common_model.VisibilityMode.NEVER)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if mirrored:
        below_zero = model.DynamicConfigValue(id_val="custom.transform", value="negative-Y")
        panel = panel.override_by_regexp(mirrored, [below_zero])
    else:
        panel = panel.min(0)
    if top is not None:
        panel = panel.max(top)
    return queries(panel, exprs)


def figure(title, description, unit, expr, width=3, steps=(), mappings=()):
    """One number, coloured by (from, colour) steps."""
    panel = framed(stat.Panel(), title, description, unit, width, 4)
    panel = panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.thresholds(
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=None, color="green")] + [model.Threshold(value=v, color=c) for v, c in steps])
    )
    if mappings:
        options = {value: model.ValueMappingResult(text=text, color=color) for value, text, color in mappings}
        panel = panel.mappings([model.ValueMap(options=options)])
    return queries(panel, [(expr, "{{instance}}")], instant=True)


def distribution(title, description, metric):
    """How often the one-second samples fell into which bucket: what an average over a scrape hides."""
    panel = framed(heatmap.Panel(), title, description, "percentunit", 12, HEIGHT)
    panel = panel.color(
        heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    )
    panel = panel.y_axis(heatmap.YAxisConfig().unit("percentunit")).show_tooltip().show_legend()
    expr = f"sum by (le) (increase({metric}_bucket{{HOST}}[$__rate_interval]))"
    return queries(panel, [(expr, "{{le}}")], format_val=PromQueryFormat.HEATMAP)


def row(title, *panels):
    return dashboard.Row(title), panels


def variables():
    def values_of(name, label, query):
        variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
        variable = variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        return variable.sort(model.VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True)

    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        values_of("job", "Job", "label_values(node_uname_info, job)"),
        values_of("instance", "Host", 'label_values(node_uname_info{job=~"$job"}, instance)'),
    ]


def build(uid, title, description, tags, rows):
    board = dashboard.Dashboard(title).uid(uid).description(description).tags(tags)
    board = board.time("now-1h", "now").refresh("15s").timezone("browser").readonly()
    board = board.tooltip(model.DashboardCursorSync.CROSSHAIR)
    for variable in variables():
        board = board.with_variable(variable)
    board = board.annotation(
        dashboard.AnnotationQuery()
        .name("evenkeel acted")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("orange")
        .expr('sum by (instance, rule, action) (changes(evenkeel_actions_total{HOST, outcome="applied"}[1m])) > 0'
              .replace("HOST", HOST))
    )
    # Numbered, so that a link to one panel survives the next build.
    number = 0
    for heading, panels in rows:
        board = board.with_row(heading.id(number := number + 1))
        for panel in panels:
            board = board.with_panel(panel.id(number := number + 1))
    return board.build()


HOST_ROWS = [
    row(
        "At a glance",
        figure("CPU busy", "Share of time that the processors did anything but idle or wait for I/O, in the last second.",
               "percentunit", "evenkeel_cpu_busy_ratio{HOST}", steps=[(0.7, "orange"), (0.8, "red")]),
        figure("Memory used", "Share of memory that programs could not get any more (1 - MemAvailable / MemTotal).",
               "percentunit", "evenkeel_memory_used_ratio{HOST}", steps=[(0.6, "orange"), (0.7, "red")]),
        figure("Fullest filesystem", "The fullest of the host's filesystems, as df counts.",
               "percentunit", "max by (instance) (evenkeel_filesystem_used_ratio{HOST})",
               steps=[(0.85, "orange"), (0.95, "red")]),
        figure("Load per processor", "Five-minute load average divided by the number of processors.", "short",
               'node_load5{HOST} / count without (cpu, mode) (node_cpu_seconds_total{HOST, mode="idle"})',
               steps=[(1, "orange"), (2, "red")]),
        figure("Mode", "Whether evenkeel acts on this host, or only says what it would do.", "short",
               'evenkeel_mode{HOST, mode="enforce"}',
               mappings=[("0", "dry-run", "blue"), ("1", "enforce", "green")]),
        figure("Leases", "What evenkeel has changed on this host and will put back.", "short",
               "sum by (instance) (evenkeel_leases{HOST})", steps=[(1, "orange")]),
        figure("Alerts firing", "Alerts about this host that evenkeel knows to fire, from all sources.", "short",
               "sum by (instance) (evenkeel_alerts_firing{HOST})", steps=[(1, "orange")]),
        figure("Up for", "Time since the host was started.", "s", "node_time_seconds{HOST} - node_boot_time_seconds{HOST}"),
    ),
    row(
        "CPU",
        graph("CPU utilization", "What the processors spent their time on, as a share of all of them.", "percentunit",
              ('sum by (instance, mode) (rate(node_cpu_seconds_total{HOST, mode!="idle"}[$__rate_interval]))'
               ' / on (instance) group_left count by (instance) (node_cpu_seconds_total{HOST, mode="idle"})',
               "{{instance}} {{mode}}"), stacked=True, top=1),
        graph("CPU saturation", "Load averages against the number of processors: what is above the line waits.", "short",
              ("node_load1{HOST}", "{{instance}} load 1 m"),
              ("node_load5{HOST}", "{{instance}} load 5 m"),
              ('count by (instance) (node_cpu_seconds_total{HOST, mode="idle"})', "{{instance}} processors")),
        graph("CPU pressure", "Share of time in which some task wanted a processor and had none (PSI).", "percentunit",
              ("rate(node_pressure_cpu_waiting_seconds_total{HOST}[$__rate_interval])", "{{instance}} some"), top=1),
        distribution("CPU busy, every second", "Distribution of the one-second samples: spikes between two scrapes show here.",
                     "evenkeel_cpu_busy_ratio_distribution"),
        graph("Processes", "Processes that run or could run, and processes that wait for a disk.", "short",
              ("node_procs_running{HOST}", "{{instance}} runnable"),
              ("node_procs_blocked{HOST}", "{{instance}} blocked"), width=12),
    ),
    row(
        "Memory",
        graph("Memory utilization", "Memory by use. What is available is free or can be freed without swapping.", "bytes",
              ("node_memory_MemTotal_bytes{HOST} - node_memory_MemAvailable_bytes{HOST}", "{{instance}} used"),
              ("node_memory_MemAvailable_bytes{HOST}", "{{instance}} available"), stacked=True),
        graph("Swap", "Swap space in use: what memory had no room for.", "bytes",
              ("node_memory_SwapTotal_bytes{HOST} - node_memory_SwapFree_bytes{HOST}", "{{instance}} used")),
        graph("Memory pressure", "Share of time in which some, or all, tasks waited for memory (PSI).", "percentunit",
              ("rate(node_pressure_memory_waiting_seconds_total{HOST}[$__rate_interval])", "{{instance}} some"),
              ("rate(node_pressure_memory_stalled_seconds_total{HOST}[$__rate_interval])", "{{instance}} all"), top=1),
        distribution("Memory used, every second", "Distribution of the one-second samples.",
                     "evenkeel_memory_used_ratio_distribution"),
        graph("Waiting to be written", "Changed pages that are still to be written to disk.", "bytes",
              ("node_memory_Dirty_bytes{HOST}", "{{instance}} dirty"),
              ("node_memory_Writeback_bytes{HOST}", "{{instance}} being written"), width=12),
    ),
    row(
        "Disk",
        graph("Filesystems", "How full each filesystem is, as df counts.", "percentunit",
              ("evenkeel_filesystem_used_ratio{HOST}", "{{instance}} {{mountpoint}}"), top=1),
        graph("Disk utilization", "Share of time in which a device had at least one request.", "percentunit",
              ("rate(node_disk_io_time_seconds_total{HOST}[$__rate_interval])", "{{instance}} {{device}}"), top=1),
        graph("Disk saturation", "Requests in flight or waiting, on average.", "short",
              ("rate(node_disk_io_time_weighted_seconds_total{HOST}[$__rate_interval])", "{{instance}} {{device}}")),
        graph("Disk throughput", "Bytes read and written per second (written is drawn below zero).", "Bps",
              ("rate(node_disk_read_bytes_total{HOST}[$__rate_interval])", "{{instance}} {{device}} read"),
              ("rate(node_disk_written_bytes_total{HOST}[$__rate_interval])", "{{instance}} {{device}} written"),
              width=12, mirrored="/written$/"),
        graph("I/O pressure", "Share of time in which some, or all, tasks waited for I/O (PSI).", "percentunit",
              ("rate(node_pressure_io_waiting_seconds_total{HOST}[$__rate_interval])", "{{instance}} some"),
              ("rate(node_pressure_io_stalled_seconds_total{HOST}[$__rate_interval])", "{{instance}} all"),
              width=12, top=1),
    ),
    row(
        "Network",
        graph("Network throughput", "Bytes received and sent per second, without the loopback (sent is drawn below zero).", "Bps",
              ('rate(node_network_receive_bytes_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} received"),
              ('rate(node_network_transmit_bytes_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} sent"),
              width=12, mirrored="/sent$/"),
        graph("Network errors and drops", "Packets per second that were faulty or thrown away.", "pps",
              ('rate(node_network_receive_errs_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} receive errors"),
              ('rate(node_network_transmit_errs_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} send errors"),
              ('rate(node_network_receive_drop_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} receive drops"),
              ('rate(node_network_transmit_drop_total{HOST, device!="lo"}[$__rate_interval])', "{{instance}} {{device}} send drops"),
              width=12),
    ),
    row(
        "What evenkeel did",
        graph("Alerts", "Alerts received, by source and status, per minute of the graph's interval.", "short",
              ("sum by (instance, source, status) (increase(evenkeel_alerts_received_total{HOST}[$__rate_interval]))",
               "{{instance}} {{source}} {{status}}")),
        graph("Decisions", "What the rules decided, and why not where they did nothing.", "short",
              ("sum by (instance, rule, decision) (increase(evenkeel_decisions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{decision}}")),
        graph("Actions", "What was done to processes, by outcome; in dry-run what would have been.", "short",
              ("sum by (instance, rule, action, outcome) (increase(evenkeel_actions_total{HOST}[$__rate_interval]))",
               "{{instance}} {{rule}} {{action}} {{outcome}}")),
        graph("Leases", "What is changed at the moment and will be put back.", "short",
              ("sum by (instance, rule, knob) (evenkeel_leases{HOST})", "{{instance}} {{rule}} {{knob}}"), stacked=True),
        graph("Reaction time", "From an alert's arrival to the step on a process: half of the steps, and 99 of 100, were faster.",
              "s",
              ("histogram_quantile(0.5, sum by (instance, le) (rate(evenkeel_reaction_duration_seconds_bucket{HOST}[$__rate_interval])))",
               "{{instance}} median"),
              ("histogram_quantile(0.99, sum by (instance, le) (rate(evenkeel_reaction_duration_seconds_bucket{HOST}[$__rate_interval])))",
               "{{instance}} 99 %")),
        graph("Cost of evenkeel", "Processor time that evenkeel itself uses, in cores.", "short",
              ('rate(process_cpu_seconds_total{HOST}[$__rate_interval])', "{{instance}}")),
    ),
]

BOARDS = {
    "host.json": lambda: build(
        "evenkeel-host",
        "evenkeel / Host",
        "Utilization, saturation and errors of hosts that evenkeel watches, and what it did there.",
        ["evenkeel", "host"],
        HOST_ROWS,
    ),
}


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, board in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(board()) + "\n"
        file = HERE / name
        if check and (not file.exists() or file.read_text() != text):
            stale.append(name)
        elif not check:
            file.write_text(text)
    if stale:
        sys.exit(f"dashboards: {', '.join(stale)} not as build.py makes it: run `make dashboards` and commit")


if __name__ == "__main__":
    main()
