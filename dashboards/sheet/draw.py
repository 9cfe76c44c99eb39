"""Draws the panels of a dashboard as SVG, close enough to Grafana to judge whether a panel can be read."""

import html
import math
import re

from values import SERIES, colour, mapped, shown, text_of

UNIT_HEIGHT, UNIT_WIDTH, GAP, HEAD = 32, 50, 6, 24
LINE = 16


def text(x, y, words, size=12, fill="#ccccdc", anchor="start", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{extra}>'
            f"{html.escape(str(words))}</text>")


def cut(words, width, size=12):
    room = max(int(width / (size * 0.56)), 1)
    return words if len(words) <= room else words[: room - 1] + "…"


def box(x, y, width, height, fill, extra=""):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{fill}"{extra}/>'


class Area:
    def __init__(self, x, y, width, height):
        self.x, self.y, self.width, self.height = x, y, width, height

    def middle(self, words, size=14):
        return text(self.x + self.width / 2, self.y + self.height / 2 + size / 3, words, size, "#8e8e99", "middle")


def properties_of(panel, name, ref=None):
    """The defaults of a panel's fields with the overrides for a series."""
    field = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"].get("overrides", []):
        by, wanted = override["matcher"]["id"], override["matcher"].get("options", "")
        is_meant = (by == "byName" and wanted in (name, ref)) or (
            by == "byRegexp" and re.search(wanted.strip("/"), name))
        if is_meant:
            field.update({entry["id"]: entry["value"] for entry in override["properties"]})
    return field


def all_series(panel, view):
    found = []
    for target in panel["targets"]:
        found += view.series(target)
    return found


def no_data(panel, area):
    return area.middle(panel["fieldConfig"]["defaults"].get("noValue", "No data"))


def axis_steps(low, high):
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def time_axis(view, area):
    parts = []
    for place in range(5):
        at = view.start + (view.end - view.start) * place / 4
        x = area.x + area.width * place / 4
        clock = f"{int(at // 3600 % 24):02}:{int(at // 60 % 60):02}:{int(at % 60):02}"
        anchor = ("start", "middle", "middle", "middle", "end")[place]
        parts.append(text(x, area.y + area.height + 13, clock, 10, "#8e8e99", anchor))
    return "".join(parts)


def marks(view, area):
    """The annotations as Grafana draws them: a dashed line where each begins, and a region where it lasts."""
    parts = []
    x = lambda at: area.x + (at - view.start) / (view.end - view.start) * area.width
    for begin, end, hue in view.marks:
        if end > begin:
            parts.append(box(x(begin), area.y, x(end) - x(begin), area.height, hue, ' fill-opacity="0.1"'))
        parts.append(f'<path d="M{x(begin):.1f} {area.y:.1f}v{area.height:.1f}" stroke="{hue}" stroke-dasharray="3 3"/>')
        parts.append(box(x(begin) - 3, area.y + area.height, max(x(end) - x(begin), 6), 3, hue))
    return "".join(parts)


def marks_of(board, view):
    """The annotations of a board. Like Grafana, it asks each minute, and joins what follows within a minute."""
    found = []
    for mark in board["annotations"]["list"]:
        times = sorted({at for _, _, points in view.series({"expr": mark["expr"]}, step=60) for at, _ in points})
        for at in times:
            if found and found[-1][2] == colour(mark["iconColor"]) and at - found[-1][1] <= 60:
                found[-1] = (found[-1][0], at, found[-1][2])
            else:
                found.append((at, at, colour(mark["iconColor"])))
    return found


CALCS = {
    "mean": ("Mean", lambda values: sum(values) / len(values)), "max": ("Max", max),
    "lastNotNull": ("Last *", lambda values: values[-1]), "sum": ("Total", sum),
}


def legend_with_figures(rows, area, unit, calcs):
    """A row per series with its figures, in at most a third of the panel; Grafana scrolls the rest."""
    room = max(int(area.height * 0.36 / LINE) - 1, 1)
    height = LINE * (min(len(rows), room) + 1)
    y = area.y + area.height - height + 11
    columns = [area.x + area.width - 65 * place for place in reversed(range(len(calcs)))]
    parts = [text(x, y, CALCS[calc][0], 10, "#6e9fff", "end") for x, calc in zip(columns, calcs)]
    for place, (name, hue, values) in enumerate(rows[:room]):
        line = y + LINE * (place + 1)
        parts.append(box(area.x, line - 7, 10, 3, hue) + text(area.x + 14, line, cut(name, area.width - 20 - 66 * len(calcs), 11), 11))
        parts += [text(x, line, text_of(CALCS[calc][1](values), unit), 11, anchor="end") for x, calc in zip(columns, calcs)]
    if len(rows) > room:
        parts.append(text(area.x, y, f"{len(rows)} series, {room} in view", 10, "#8e8e99"))
    return height, "".join(parts)


def stretches(points, gap):
    """Parts of a line between its gaps."""
    parts = []
    for point in points:
        if not parts or point[0][0] - parts[-1][-1][0][0] > gap:
            parts.append([])
        parts[-1].append(point)
    return parts


def graph(panel, view, area):
    series = all_series(panel, view)
    if not series:
        return no_data(panel, area)
    defaults = panel["fieldConfig"]["defaults"]
    unit, custom = defaults.get("unit", "short"), defaults.get("custom", {})
    is_stacked = custom.get("stacking", {}).get("mode") == "normal"
    rows, lines, floor = [], [], {}
    for place, (name, _, points) in enumerate(series):
        field = properties_of(panel, name)
        hue = colour(field.get("color", {}).get("fixedColor") or SERIES[place % len(SERIES)])
        sign = -1 if field.get("custom.transform") == "negative-Y" else 1
        points = [(at, sign * value) for at, value in points if not math.isnan(value)]
        if not points:
            continue
        rows.append((name, hue, [value for _, value in points]))
        if is_stacked:
            bottoms = [floor.get(at, 0.0) for at, _ in points]
            points = [(at, value + bottom) for (at, value), bottom in zip(points, bottoms)]
            floor.update(points)
        else:
            bottoms = [0.0] * len(points)
        lines.append((hue, points, bottoms))
    if not lines:
        return no_data(panel, area)
    used, legend = legend_with_figures(rows, area, unit, panel["options"]["legend"]["calcs"])
    plot = Area(area.x + 58, area.y + 4, area.width - 66, area.height - used - 26)
    values = [value for _, points, _ in lines for _, value in points]
    low = defaults.get("min", min(values + [0.0]))
    high = defaults.get("max", max(values) * 1.05)
    high = high if high > low else low + 1
    x = lambda at: plot.x + (at - view.start) / (view.end - view.start) * plot.width
    y = lambda value: plot.y + plot.height * (1 - (min(max(value, low), high) - low) / (high - low))
    parts = []
    for value in axis_steps(low, high):
        parts.append(f'<path d="M{plot.x:.1f} {y(value):.1f}h{plot.width:.1f}" stroke="#2c3037"/>')
        parts.append(text(plot.x - 6, y(value) + 4, text_of(value, unit), 10, "#8e8e99", "end"))
    is_bars = custom.get("drawStyle") == "bars"
    opacity = custom.get("fillOpacity", 0) / 100
    for hue, points, bottoms in lines:
        if is_bars:
            width = max(plot.width * view.step / (view.end - view.start) * 0.8, 1)
            for (at, value), bottom in zip(points, bottoms):
                if value != bottom:
                    parts.append(box(x(at) - width / 2, y(value), width, y(bottom) - y(value), hue))
            continue
        for stretch in stretches(list(zip(points, bottoms)), view.step * 1.5):
            edge = "".join(f"L{x(at):.1f} {y(value):.1f}" for (at, value), _ in stretch)
            back = "".join(f"L{x(at):.1f} {y(bottom):.1f}" for (at, _), bottom in reversed(stretch))
            parts.append(f'<path d="M{edge[1:]}{back}z" fill="{hue}" fill-opacity="{opacity}"/>')
            parts.append(f'<path d="M{edge[1:]}" fill="none" stroke="{hue}"/>')
        if custom.get("showPoints") == "always":
            parts += [f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.5" fill="{hue}"/>' for at, value in points]
    return "".join(parts) + time_axis(view, plot) + marks(view, plot) + legend


def figure(panel, view, area):
    series = all_series(panel, view)
    if not series:
        return no_data(panel, area)
    field = panel["fieldConfig"]["defaults"]
    across = math.ceil(math.sqrt(len(series) * area.width / (area.height * 3))) or 1
    down = math.ceil(len(series) / across)
    width, height = area.width / across, area.height / down
    has_name = panel["options"].get("textMode") == "value_and_name" or len(series) > 1
    parts = []
    for place, (name, _, points) in enumerate(series):
        left, top = area.x + place % across * width, area.y + place // across * height
        words, hue = shown(points[-1][1], field.get("unit", "short"), field, view.end)
        size = min(height * (0.42 if has_name else 0.55), width * 1.5 / max(len(words), 4), 34)
        parts.append(text(left + width / 2, top + height * (0.78 if has_name else 0.65), words, round(size, 1), hue, "middle"))
        if has_name:
            small = min(12, height * 0.3)
            parts.append(text(left + width / 2, top + small + 2, cut(name, width, small), small, anchor="middle"))
    return "".join(parts)


def heatmap(panel, view, area):
    series = all_series(panel, view)
    bounds = sorted((float(labels["le"]), dict(points)) for _, labels, points in series)
    counts = {}
    for place, (_, points) in enumerate(bounds):
        below = bounds[place - 1][1] if place else {}
        for at, value in points.items():
            counts[at, place] = max(value - below.get(at, 0.0), 0.0)
    most = max(counts.values(), default=0.0)
    if most <= 0:
        return no_data(panel, area)
    unit = panel["options"]["yAxis"].get("unit", "short")
    plot = Area(area.x + 58, area.y + 4, area.width - 66, area.height - 30)
    width, height = plot.width * view.step / (view.end - view.start), plot.height / len(bounds)
    parts = [box(plot.x, plot.y, plot.width, plot.height, "#1f2229")]
    for (at, place), count in counts.items():
        if count > 0:
            share = 0.15 + 0.85 * math.sqrt(count / most)
            left = plot.x + (at - view.start) / (view.end - view.start) * plot.width - width
            top = plot.y + plot.height - (place + 1) * height
            visible = max(left, plot.x)
            parts.append(box(visible, top, min(width + 0.3, left + width - visible + 0.3), height, "#ff9830", f' fill-opacity="{share:.2f}"'))
    each = max(math.ceil(len(bounds) * 12 / plot.height), 1)
    for place in range(0, len(bounds), each):
        bound = bounds[place][0]
        label = text_of(bound, unit) if math.isfinite(bound) else "+Inf"
        parts.append(text(plot.x - 6, plot.y + plot.height - place * height - height / 2 + 4, label, 10, "#8e8e99", "end"))
    return "".join(parts) + time_axis(view, plot) + marks(view, plot)


def timeline(panel, view, area):
    series = all_series(panel, view)
    if not series:
        return no_data(panel, area)
    field = panel["fieldConfig"]["defaults"]
    names = max(len(name) for name, _, _ in series)
    side = min(names * 6.2 + 12, area.width * 0.3)
    plot = Area(area.x + side, area.y + 4, area.width - side - 8, area.height - 42)
    height = plot.height / len(series)
    fill = panel["options"].get("rowHeight", 0.9)
    parts, kinds = [], {}
    for place, (name, _, points) in enumerate(series):
        top = plot.y + place * height + height * (1 - fill) / 2
        size = min(11, height)
        parts.append(text(plot.x - 6, top + height * fill / 2 + size / 3, cut(name, side - 8, size), round(size, 1), anchor="end"))
        begun = 0
        for index in range(1, len(points) + 1):
            is_same = index < len(points) and points[index][1] == points[begun][1]
            if is_same and points[index][0] - points[index - 1][0] <= view.step * 1.5:
                continue
            words, hue = shown(points[begun][1], field.get("unit", "none"), field)
            has_text = mapped(points[begun][1], field.get("mappings", []))[0] is not None
            if has_text:
                kinds[words] = hue
            left = plot.x + (points[begun][0] - view.start) / (view.end - view.start) * plot.width
            last = points[index][0] if index < len(points) and points[index][0] - points[index - 1][0] <= view.step * 1.5 else points[index - 1][0] + view.step
            right = plot.x + min((last - view.start) / (view.end - view.start), 1) * plot.width
            parts.append(box(left, top, right - left, height * fill, hue, ' fill-opacity="0.75"'))
            if panel["options"].get("showValue") != "never" and right - left > 30 and height > 9:
                parts.append(text((left + right) / 2, top + height * fill / 2 + 4, cut(words, right - left, 11), 11, "#ffffff", "middle"))
            begun = index
    x = area.x
    for words, hue in sorted(kinds.items()):
        if hue != "none":
            parts.append(box(x, area.y + area.height - 13, 10, 10, hue) + text(x + 14, area.y + area.height - 4, words, 11))
            x += 30 + 6.5 * len(words)
    return "".join(parts) + time_axis(view, plot) + marks(view, plot)


def table(panel, view, area):
    rows = {}
    headings = panel["transformations"][1]["options"]["renameByName"]
    columns = [headings[f"Value #{target['refId']}"] for target in panel["targets"]]
    for target, column in zip(panel["targets"], columns):
        for _, labels, points in view.series(target):
            rows.setdefault(labels["instance"], {})[column] = points[-1][1]
    if not rows:
        return no_data(panel, area)
    order = sorted(rows.items())
    for key in reversed(panel["options"].get("sortBy", [])):
        order.sort(key=lambda row: row[1].get(key["displayName"], -math.inf), reverse=key.get("desc", False))
    width = area.width / (len(columns) + 1)
    parts = [text(area.x + width * place, area.y + 14, cut(heading, width, 11), 11, "#6e9fff")
             for place, heading in enumerate(["Host", *columns])]
    room = int((area.height - 22) / 26)
    for place, (instance, values) in enumerate(order[:room]):
        y = area.y + 38 + place * 26
        parts.append(f'<path d="M{area.x:.1f} {y - 17:.1f}h{area.width:.1f}" stroke="#2c3037"/>')
        parts.append(text(area.x, y, cut(instance, width)))
        for number, column in enumerate(columns):
            if column in values:
                field = properties_of(panel, column)
                words, hue = shown(values[column], field.get("unit", "none"), field, view.end)
                hue = hue if "custom.cellOptions" in field else "#ccccdc"
                parts.append(text(area.x + width * (number + 1), y, cut(words, width), fill=hue))
    if len(order) > room:
        rows = f"{len(order)} rows, {room} in view"
        parts.append(text(area.x + area.width, area.y + area.height - 2, rows, 10, "#8e8e99", "end"))
    return "".join(parts)


KINDS = {"timeseries": graph, "stat": figure, "heatmap": heatmap, "state-timeline": timeline, "table": table}


def board_svg(board, view):
    """One dashboard, with all rows open, as wide as 24 units: the SVG and its size."""
    parts, bottom = [], 0
    view.marks = marks_of(board, view)
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * UNIT_WIDTH, place["y"] * UNIT_HEIGHT
        width, height = place["w"] * UNIT_WIDTH - GAP, place["h"] * UNIT_HEIGHT - GAP
        bottom = max(bottom, y + height)
        if panel["type"] == "row":
            parts.append(text(x + 4, y + 19, "⌄ " + panel["title"], 15, extra=' font-weight="600"'))
            continue
        parts.append(box(x, y, width, height, "#181b1f", ' stroke="#2c3037" rx="2"'))
        parts.append(text(x + 8, y + 17, cut(panel["title"], width - 16, 13), 13, extra=' font-weight="600"'))
        area = Area(x + 8, y + HEAD, width - 16, height - HEAD - 4)
        parts.append(KINDS[panel["type"]](panel, view, area))
    return "".join(parts), 24 * UNIT_WIDTH, bottom

