"""Numbers as Grafana writes them, and the texts and colours that mappings and thresholds give them."""

import math

COLOURS = {
    "green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9",
    "yellow": "#fade2a", "text": "#ccccdc", "transparent": "none",
}
# Grafana's classic palette, which series without a colour of their own get in turn.
SERIES = [
    "#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300",
    "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477", "#b7dbab", "#f4d598", "#70dbed", "#f9ba8f",
]


def colour(name):
    return COLOURS.get(name, name)


def short(number, units, base):
    place = 0
    while abs(number) >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    digits = 0 if number == int(number) else 1 if abs(number) >= 10 else 2
    return f"{number:.{digits}f}{units[place]}"


def duration(seconds):
    for length, name in ((86400 * 365, "years"), (86400 * 7, "weeks"), (86400, "days"), (3600, "hours"), (60, "mins")):
        if abs(seconds) >= length:
            return f"{seconds / length:.1f} {name}"
    if seconds and abs(seconds) < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s"


def text_of(number, unit, now=0.0):
    if number is None or math.isnan(number):
        return "-"
    if unit == "percentunit":
        return f"{number * 100:.3g}%"
    if unit in ("bytes", "Bps"):
        units = [" B", " KiB", " MiB", " GiB", " TiB"]
        return short(number, units, 1024) + ("/s" if unit == "Bps" else "")
    if unit in ("pps", "ops", "reqps"):
        return short(number, ["", "K", "M"], 1000) + " " + {"pps": "p/s", "ops": "ops/s", "reqps": "req/s"}[unit]
    if unit == "s":
        return duration(number)
    if unit == "dateTimeFromNow":
        return duration(now - number / 1000) + " ago"
    if unit == "hertz":
        return short(number, [" Hz", " kHz", " MHz", " GHz"], 1000)
    return short(number, ["", " K", " Mil", " Bil"], 1000)


def mapped(number, mappings):
    """Text and colour of a value by the first mapping that has it."""
    for mapping in mappings:
        options = mapping["options"]
        found = None
        if mapping["type"] == "value":
            found = options.get(f"{number:g}")
        elif mapping["type"] == "range":
            below = options["to"] is None or number <= options["to"]
            found = options["result"] if (options["from"] is None or number >= options["from"]) and below else None
        if found:
            return found.get("text"), found.get("color")
    return None, None


def colour_by(number, thresholds):
    found = "text"
    for step in (thresholds or {}).get("steps", []):
        if step["value"] is None or number >= step["value"]:
            found = step["color"]
    return found


def shown(number, unit, field, now=0.0):
    """Text and colour of a value with all that its field says about it."""
    text, name = mapped(number, field.get("mappings", []))
    if name is None:
        name = colour_by(number, field.get("thresholds"))
    return text or text_of(number, unit, now), colour(name)
