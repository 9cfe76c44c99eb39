"""Shared parts of the dashboards: panels, variables, and annotations for actions of evenkeel.

HOST in a query selects the hosts of the variables.
"""

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
HOST = 'job=~"$job", instance=~"$instance"'
HEIGHT = 8

# Applied steps: increased counters, and new counters, because changes() does not see the first value.
ACTED = (
    'sum by (instance, rule, action) (changes(evenkeel_actions_total{HOST, outcome="applied"}[1m])) > 0'
    ' or sum by (instance, rule, action) (evenkeel_actions_total{HOST, outcome="applied"}'
    ' unless evenkeel_actions_total{HOST, outcome="applied"} offset 1m) > 0'
)
REVERTED = ACTED.replace('outcome="applied"', 'outcome=~"restored|expired|released"')


def busiest(expr, lowest=False):
    """The series with the highest values of the time range, or the lowest ones, so that a panel stays readable with
    1,000 hosts."""
    choose, over = ("bottomk", "min") if lowest else ("topk", "max")
    expr = f"({expr})" if " or " in expr else expr
    return f"{expr} and {choose}($top, {over}_over_time(({expr})[$__range:$__rate_interval] @ end()))"


def events(counter, by):
    """The events of each interval, over all selected hosts. Unlike increase(), it counts the first event, which creates
    its series, where the host was scraped before."""
    before = "evenkeel_build_info{HOST} offset $__interval"
    counted = f"{counter} - ({counter} offset $__interval or {counter} * 0 and on (job, instance) {before})"
    return f"sum by ({by}) (clamp_min({counted}, 0)) > 0"


def queries(panel, exprs, instant=False, format_val=None):
    for ref, (expr, legend) in zip("ABCDEFGHIJKLMN", exprs):
        query = prometheus.Dataquery().ref_id(ref).expr(expr.replace("HOST", HOST)).legend_format(legend)
        query = query.datasource(DATASOURCE)
        query = query.instant() if instant else query.range()
        panel = panel.with_target(query.format(format_val) if format_val else query)
    return panel


def framed(panel, title, description, unit, width, height):
    panel = panel.title(title).description(description).datasource(DATASOURCE)
    return panel.unit(unit).span(width).height(height)


def coloured(steps):
    """Green, and another colour from each value on."""
    thresholds = [model.Threshold(value=None, color="green")] + [model.Threshold(value=v, color=c) for v, c in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)


def named(mappings):
    """Words and colours for values."""
    return model.ValueMap(options={value: model.ValueMappingResult(text=text, color=color) for value, text, color in mappings})


def ranged(*results):
    """Words and colours for ranges of values; a range without words shows its value."""
    return [
        model.RangeMap(options=model.DashboardRangeMapOptions(
            from_val=low, to=high, result=model.ValueMappingResult(text=text, color=color)))
        for low, high, text, color in results
    ]


def fixed(hue):
    return {"mode": "fixed", "fixedColor": hue}


def legend_with(*calcs):
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.TABLE)
    return legend.placement(common_model.LegendPlacement.BOTTOM).calcs(list(calcs))


def tooltip():
    options = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    return options.sort(common_model.SortOrder.DESCENDING)


def quiet(panel, empty):
    """Says why a panel has no data, where that is normal."""
    return panel.no_value(empty) if empty else panel


def graph(title, description, unit, *exprs, width=8, stacked=False, top=None, mirrored=None, all_hosts=False, lowest=False,
          points=False, empty=None):
    """Lines over time of the busiest series. `all_hosts`: the queries sum over the hosts themselves. `lowest`: the
    series with the lowest values instead. `mirrored`: pattern of series that are drawn below zero, such as sent beside received. `empty`: what stands there where nothing happened."""
    panel = framed(timeseries.Panel(), title, description, unit, width, HEIGHT)
    panel = panel.legend(legend_with("mean", "max", "lastNotNull")).tooltip(tooltip())
    panel = panel.line_width(1).fill_opacity(25 if stacked else 0).show_points(
        common_model.VisibilityMode.ALWAYS if points else common_model.VisibilityMode.NEVER
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if mirrored:
        below_zero = model.DynamicConfigValue(id_val="custom.transform", value="negative-Y")
        panel = panel.override_by_regexp(mirrored, [below_zero])
    else:
        panel = panel.min(0)
    if top is not None:
        panel = panel.max(top)
    if not all_hosts:
        exprs = [(busiest(expr, lowest), legend) for expr, legend in exprs]
    return queries(quiet(panel, empty), exprs)


OUTCOMES = {
    "applied": "blue", "restored": "green", "expired": "green", "released": "green", "dry_run": "purple",
    "failed": "red", "denied": "red", "no_effect": "red", "superseded": "orange",
}


def bars(title, description, counter, by, width=8, empty="Nothing happened"):
    """Events of each interval, over all hosts, as stacked bars."""
    panel = framed(timeseries.Panel(), title, description, "short", width, HEIGHT)
    panel = panel.legend(legend_with("sum")).tooltip(tooltip()).min(0).decimals(0)
    panel = panel.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
    panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    for outcome, hue in OUTCOMES.items():
        panel = panel.override_by_regexp(f"/(^| ){outcome}$/", [model.DynamicConfigValue(id_val="color", value=fixed(hue))])
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return queries(quiet(panel, empty), [(events(counter, by), legend)])


def figure(title, description, unit, expr, width=3, steps=(), mappings=(), ranges=(), legend="", empty=None):
    """One number over all hosts, coloured by (from, colour) steps. With a legend the number has the name of its host."""
    panel = framed(stat.Panel(), title, description, unit, width, 4)
    panel = panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.thresholds(coloured(steps))
    panel = panel.text_mode(common_model.BigValueTextMode.VALUE_AND_NAME if legend else common_model.BigValueTextMode.VALUE)
    if mappings or ranges:
        panel = panel.mappings(([named(mappings)] if mappings else []) + ranged(*ranges))
    return queries(quiet(panel, empty), [(expr, legend or title)], instant=True)


def worst(title, description, unit, expr, choose="topk", **options):
    """The figure of the host that has the highest."""
    return figure(title, description, unit, f"{choose}(1, {expr})", legend="{{instance}}", **options)


def distribution(title, description, metric, unit="percentunit", empty=None):
    """Number of samples per bucket over time, which an average over a scrape hides."""
    panel = framed(heatmap.Panel(), title, description, unit, 12, HEIGHT)
    panel = panel.color(
        heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    )
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit)).show_legend()
    expr = f"sum by (le) (increase({metric}_bucket{{HOST}}[$__rate_interval]))"
    return queries(quiet(panel, empty), [(expr, "{{le}}")], format_val=PromQueryFormat.HEATMAP)


def states(title, description, *exprs, mappings=(), ranges=(), width=12, height=HEIGHT, show=False, empty=None):
    """State of each series over time, as coloured bars. `show`: values without words stand in their bars."""
    panel = framed(statetimeline.Panel(), title, description, "none", width, height)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
    )
    panel = panel.show_value(common_model.VisibilityMode.AUTO if show else common_model.VisibilityMode.NEVER)
    panel = panel.merge_values(True).row_height(0.8).tooltip(tooltip())
    panel = panel.mappings(([named(mappings)] if mappings else []) + ranged(*ranges))
    return queries(quiet(panel, empty), [(busiest(expr), legend) for expr, legend in exprs])


def story():
    """What fired, what was done, and whether it helped, below each other on one time axis, as on the status page."""
    return row(
        "What fired, what was done, did it help",
        graph("Host", "Mean of the selected hosts, second by second: before and after each action, which the lines mark.",
              "percentunit",
              ("avg(evenkeel_cpu_busy_ratio{HOST})", "CPU busy"),
              ("avg(evenkeel_memory_used_ratio{HOST})", "memory used"),
              ("avg(rate(node_pressure_cpu_waiting_seconds_total{HOST}[$__rate_interval]))", "waiting for CPU"),
              ("avg(rate(node_pressure_memory_waiting_seconds_total{HOST}[$__rate_interval]))", "waiting for memory"),
              ("avg(rate(node_pressure_io_waiting_seconds_total{HOST}[$__rate_interval]))", "waiting for I/O"),
              width=24, top=1, all_hosts=True),
        states("Alerts", "Alerts that match a rule and are known to fire, by source.",
               ("sum by (instance, source) (evenkeel_alerts_firing{HOST}) > 0", "{{instance}} {{source}}"),
               ranges=[(1, 1e9, None, "orange")], width=24, height=5, show=True, empty="No alert of a rule fires"),
        states("Leases", "Changes that evenkeel will revert, from applied to reverted, by rule and knob.",
               ("sum by (instance, rule, knob) (evenkeel_leases{HOST}) > 0", "{{instance}} {{rule}} {{knob}}"),
               ranges=[(1, 1e9, None, "blue")], width=24, height=6, show=True, empty="Nothing is held"),
        bars("Actions", "Outcomes of the steps, over all selected hosts, including simulated ones (dry_run).",
             "evenkeel_actions_total{HOST}", "outcome", width=12, empty="No step was taken"),
        bars("Not done", "Decisions against a step, and their reasons, over all selected hosts.",
             'evenkeel_decisions_total{HOST, decision!~"planned|dry_run"}', "decision", width=12, empty="Nothing was refused"),
    )


def listing(title, description, *columns, height=12):
    """A table with a row per host. A column is (heading, expression, unit, mappings, steps), with an expression by instance."""
    panel = framed(table.Panel(), title, description, "none", 24, height)
    headings = {}
    for ref, (heading, _, unit, mappings, steps) in zip("ABCDEFGHIJKLMN", columns):
        headings[f"Value #{ref}"] = heading
        properties = [model.DynamicConfigValue(id_val="unit", value=unit)]
        if mappings:
            properties.append(model.DynamicConfigValue(id_val="mappings", value=[named(mappings)]))
        if mappings or steps:
            properties.append(model.DynamicConfigValue(id_val="thresholds", value=coloured(steps).build()))
            properties.append(model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
        panel = panel.override_by_name(heading, properties)
    # One frame per query becomes one table with a row per host.
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {"instance": "Host", **headings}},
        )
    )
    panel = panel.sort_by([common.TableSortByFieldState().display_name(columns[0][0]).desc(True)])
    exprs = [(expr, heading) for heading, expr, *_ in columns]
    return queries(panel, exprs, instant=True, format_val=PromQueryFormat.TABLE)


def row(title, *panels):
    return dashboard.Row(title), panels


def values_of(name, label, query):
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
    variable = variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable = variable.sort(model.VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True)
    return variable.all_value(".+")


def most_series():
    """The variable for the number of series in a panel."""
    options = [model.VariableOption(text=value, value=value, selected=value == "10") for value in ("5", "10", "20", "50")]
    variable = dashboard.CustomVariable("top").label("Series").values("5, 10, 20, 50").current(options[1]).options(options)
    return variable.description("How many series a panel shows: those with the highest values of the time range.")


def mark(name, colour, expr):
    return (
        dashboard.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).icon_color(colour)
        .expr(expr.replace("HOST", HOST))
    )


def build(uid, title, description, rows, of="evenkeel_build_info", more_variables=(), every="15s"):
    """`of`: the metric that provides the jobs and hosts of the variables."""
    board = dashboard.Dashboard(title).uid(uid).description(description).tags(["evenkeel"])
    board = board.time("now-1h", "now").refresh(every).timezone("browser").readonly()
    board = board.tooltip(model.DashboardCursorSync.CROSSHAIR)
    board = board.link(
        dashboard.DashboardLink("evenkeel")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["evenkeel"])
        .include_vars(True)
        .keep_time(True)
    )
    board = board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board = board.with_variable(values_of("job", "Job", f"label_values({of}, job)"))
    board = board.with_variable(values_of("instance", "Instance", f'label_values({of}{{job=~"$job"}}, instance)'))
    for variable in [*more_variables, most_series()]:
        board = board.with_variable(variable)
    board = board.annotation(mark("evenkeel acted", "orange", ACTED))
    board = board.annotation(mark("evenkeel reverted", "blue", REVERTED))
    # Numbered, so that a link to a panel stays valid after the next build.
    number = 0
    for heading, panels in rows:
        board = board.with_row(heading.id(number := number + 1))
        for panel in panels:
            board = board.with_panel(panel.id(number := number + 1))
    return board.build()
