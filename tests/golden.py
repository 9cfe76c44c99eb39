"""The parts of tests/golden.sh: unpack the files of a host, list the flags, compare two expositions."""

import math
import os
import re
import shutil
import sys
from pathlib import Path

FIXTURES = "collector/fixtures"
SCRIPT = "end-to-end-test.sh"
SECTION = "## node_exporter's own test"


def unpack_archive(archive, directory):
    """Unpacks a ttar archive: directories, links, and files with their number of lines."""
    lines = iter(archive.read_bytes().split(b"\n"))
    path = None
    for line in lines:
        key, _, value = line.partition(b": ")
        if key == b"Directory":
            os.makedirs(os.path.join(os.fsencode(directory), value), exist_ok=True)
        elif key == b"Path":
            path = os.path.join(os.fsencode(directory), value)
            os.makedirs(os.path.dirname(path), exist_ok=True)
        elif key == b"SymlinkTo":
            os.symlink(value, path)
        elif key == b"Lines":
            text = b"".join(next(lines) + b"\n" for _ in range(int(value)))
            text = re.sub(rb"(?<!\\)NULLBYTE", b"\0", text).replace(b"\\NULLBYTE", b"NULLBYTE")
            # The mark of a last line without an end.
            text = re.sub(rb"(?<!\\)EOF\n$", b"", text).replace(b"\\EOF", b"EOF")
            Path(os.fsdecode(path)).write_bytes(text)


def unpack(checkout, home):
    target = home / FIXTURES
    shutil.copytree(checkout / FIXTURES, target, symlinks=True)
    for archive in target.glob("*.ttar"):
        unpack_archive(archive, target)


def document(script, start, end):
    """The lines of a here-document."""
    _, rest = script.split(start, 1)
    return rest.split(f"\n{end}\n", 1)[0].split()


def flags(checkout):
    """The flags that the test gives on x86_64."""
    script = (checkout / SCRIPT).read_text(encoding="utf-8")
    variables = {}
    for name, value in re.findall(r"^ +(cpu_info_\w+)='(.+)'$", script, re.MULTILINE):
        # The first branch is that of x86_64.
        variables.setdefault(name, value)
    found = [f"--collector.{name}" for name in document(script, "enabled_collectors=$(cat << COLLECTORS\n", "COLLECTORS")]
    found += [
        f"--no-collector.{name}"
        for name in document(script, "disabled_collectors=$(cat << COLLECTORS\n", "COLLECTORS")
    ]
    for flag in document(script, "collector_flags=$(cat << FLAGS\n", "FLAGS"):
        flag = re.sub(r"\$\{(\w+)\}", lambda name: variables.get(name[1], ""), flag)
        found += [flag] if flag else []
    print("\n".join(found))


def number(text):
    return float(text.replace("Inf", "inf"))


SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)",?')


def parse(text):
    """Types by name, and values by name and sorted labels."""
    types, series = {}, {}
    for line in text.split("\n"):
        if line.startswith("# TYPE "):
            name, kind = line.split(" ")[2:4]
            types[name] = kind
        elif line and not line.startswith("#"):
            name, labels, value = SAMPLE.match(line).groups()
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(LABEL.findall(labels or "")))
            series[f"{name}{{{labels}}}" if labels else name] = number(value)
    return types, series


def exceptions(page):
    """The rows of the table: pattern, what may differ."""
    section = page.read_text(encoding="utf-8").split(SECTION, 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(.+?)` \| ([\w, ]+) \|", section, re.MULTILINE)
    return [(re.compile(pattern.replace("\\|", "|")), differs) for pattern, differs in rows]


def kind_of(types, series):
    name = series.split("{", 1)[0]
    base = re.sub(r"_(sum|count|bucket)$", "", name)
    return types.get(name) or types.get(base)


def compare(checkout, metrics, page):
    script = (checkout / SCRIPT).read_text(encoding="utf-8")
    skipped = re.compile(re.search(r'^skip_re="(.+)"$', script, re.MULTILINE)[1])
    their_types, theirs = parse((checkout / FIXTURES / "e2e-output.txt").read_text(encoding="utf-8"))
    our_types, ours = parse(metrics.read_text(encoding="utf-8"))
    may = exceptions(page)
    used = set()
    problems, permitted, compared = [], 0, 0

    for series, value in sorted(theirs.items()):
        if skipped.match(series) or series.startswith("promhttp_"):
            continue
        compared += 1
        if series not in ours:
            difference, text = "presence", "is missing"
        elif kind_of(our_types, series) != kind_of(their_types, series):
            difference = "type"
            text = f"is a {kind_of(our_types, series)} instead of a {kind_of(their_types, series)}"
        elif not math.isclose(ours[series], value, rel_tol=1e-9) and not (math.isnan(ours[series]) and math.isnan(value)):
            difference, text = "value", f"is {ours[series]} instead of {value}"
        else:
            continue
        row = next((row for row in may if row[0].fullmatch(series) and difference in row[1]), None)
        if row:
            permitted += 1
            used.add(row[0].pattern)
        else:
            problems.append(f"{series} {text}")
    print("\n".join(problems))
    unused = [row[0].pattern for row in may if row[0].pattern not in used]
    for pattern in unused:
        print(f"an exception without need: {pattern}")
    equal = compared - permitted - len(problems)
    print(
        f"{equal} of {compared} series are equal, {permitted} differ as docs/compatibility.md says "
        f"({permitted / compared:.2%}), {len(problems)} differ otherwise"
    )
    sys.exit(bool(problems or unused))


def main():
    command, *arguments = sys.argv[1:]
    {"unpack": unpack, "flags": flags, "compare": compare}[command](*map(Path, arguments))


main()
