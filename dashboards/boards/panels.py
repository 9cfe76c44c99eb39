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


def graph(title, description, unit, *exprs, width=8, stacked=False, top=None, mirrored=None):
    """Lines over time. `mirrored`: pattern of series that are drawn below zero, such as sent beside received."""
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


def figure(title, description, unit, expr, width=3, steps=(), mappings=(), legend="{{instance}}"):
    """One number, coloured by (from, colour) steps."""
    panel = framed(stat.Panel(), title, description, unit, width, 4)
    panel = panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.thresholds(coloured(steps))
    if mappings:
        panel = panel.mappings([named(mappings)])
    return queries(panel, [(expr, legend)], instant=True)


def distribution(title, description, metric, unit="percentunit"):
    """Number of samples per bucket over time, which an average over a scrape hides."""
    panel = framed(heatmap.Panel(), title, description, unit, 12, HEIGHT)
    panel = panel.color(
        heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    )
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit)).show_tooltip().show_legend()
    expr = f"sum by (le) (increase({metric}_bucket{{HOST}}[$__rate_interval]))"
    return queries(panel, [(expr, "{{le}}")], format_val=PromQueryFormat.HEATMAP)


def states(title, description, *exprs, mappings, width=12):
    """State of each series over time, as coloured bars."""
    panel = framed(statetimeline.Panel(), title, description, "none", width, HEIGHT)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
    )
    panel = panel.show_value(common_model.VisibilityMode.NEVER).merge_values(True).row_height(0.8)
    return queries(panel.mappings([named(mappings)]), exprs)


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
    exprs = [(expr, heading) for heading, expr, *_ in columns]
    return queries(panel, exprs, instant=True, format_val=PromQueryFormat.TABLE)


def row(title, *panels):
    return dashboard.Row(title), panels


def values_of(name, label, query):
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE).query(query)
    variable = variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable = variable.sort(model.VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True)
    return variable.all_value(".+")


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
    for variable in more_variables:
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
