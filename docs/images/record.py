#!/usr/bin/env python3
"""Records a command on a terminal as an animated SVG of twenty seconds: record.py OUTPUT COMMAND...

Pauses are shortened, and the output keeps its order and colours. Where a viewer prefers no motion, the SVG shows the
end.
"""

import html
import os
import pty
import re
import sys
import time

SECONDS, HOLD = 20.0, 3.0
LONGEST_PAUSE = 3.0
ROWS, COLUMNS = 26, 92
LINE, ADVANCE, MARGIN = 19, 7.83, 14
CLASSES = {"1": "h", "2": "d", "31": "r", "32": "g", "33": "y"}


def record(command):
    """The lines of a command with the seconds at which they were complete, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS))
        os.execvp(command[0], command)
    lines, rest, began = [], b"", time.monotonic()
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the terminal is closed once the command has ended
            break
        if not data:
            break
        rest += data
        *complete, rest = rest.split(b"\n")
        at = time.monotonic() - began
        lines += [(at, line.decode(errors="replace").replace("\r", "")) for line in complete]
    return lines, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def cut(line, columns):
    """The line without what does not fit, with its escape sequences."""
    out, used = "", 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            out += part
            continue
        room = columns - used
        out += part if len(part) <= room else part[: max(room - 1, 0)] + ("…" if room > 0 else "")
        used += min(len(part), max(room, 0))
    return out


def coloured(line):
    out, is_open = "", False
    for text, codes in re.findall(r"([^\x1b]*)(?:\x1b\[([0-9;]*)m)?", line):
        out += html.escape(text, quote=False)
        if codes and is_open:
            out, is_open = out + "</tspan>", False
        names = [CLASSES[code] for code in codes.split(";") if code in CLASSES]
        if names:
            out, is_open = out + f'<tspan class="{" ".join(names)}">', True
    return out + ("</tspan>" if is_open else "")


def shortened(lines):
    """The lines with their seconds in the recording."""
    at, before, placed = 0.0, 0.0, []
    for moment, line in lines:
        at += min(moment - before, LONGEST_PAUSE)
        before = moment
        placed.append((at, line))
    scale = (SECONDS - HOLD) / max(at, 1e-9)
    return [(at * scale, line) for at, line in placed]


def svg(lines):
    width, height = round(COLUMNS * ADVANCE + 2 * MARGIN), ROWS * LINE + 2 * MARGIN
    styles, texts, scroll = [], [], []
    for place, (at, line) in enumerate(lines):
        share = at / SECONDS * 100
        styles.append(f"@keyframes a{place}{{0%,{share:.2f}%{{opacity:0}}{share + 0.01:.2f}%,100%{{opacity:1}}}}#a{place}{{animation-name:a{place}}}")
        y = MARGIN + LINE * (place + 1) - 5
        texts.append(f'<text id="a{place}" x="{MARGIN}" y="{y}" xml:space="preserve">{coloured(cut(line, COLUMNS))}</text>')
        if place >= ROWS:
            scroll.append((share, LINE * (place + 1 - ROWS)))
    steps, before = "0%{transform:none}", 0
    for share, offset in scroll:
        steps += f"{share:.2f}%{{transform:translateY(-{before}px)}}{share + 0.01:.2f}%{{transform:translateY(-{offset}px)}}"
        before = offset
    steps += f"100%{{transform:translateY(-{before}px)}}"
    whole = LINE * len(lines) + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="A recording of make demo: an alert fires, evenkeel lowers the priority of a job, and'
        f' restores it">\n<style>text{{font:13px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d6dde6;white-space:pre}}'
        f".h{{font-weight:700;fill:#fff}}.g{{fill:#7ee787}}.y{{fill:#e3b341}}.r{{fill:#ff7b72}}.d{{fill:#8b98a8}}"
        f"text,#all{{animation:{SECONDS:.0f}s linear infinite}}#all{{animation-name:all;transform:translateY(-{before}px)}}@keyframes all{{{steps}}}{''.join(styles)}"
        f"@media(prefers-reduced-motion:reduce){{text,#all{{animation:none!important}}}}</style>\n"
        f'<rect width="100%" height="{whole}" fill="#141a22"/>\n<g id="all">\n' + "\n".join(texts) + "\n</g>\n</svg>\n"
    )


def main():
    output, *command = sys.argv[1:]
    lines, code = record(command)
    if code != 0:
        sys.exit(f"record: {command[0]} exited with {code}:\n" + "\n".join(line for _, line in lines[-20:]))
    while lines and not lines[0][1].strip():
        lines.pop(0)
    with open(output, "w", encoding="utf-8") as out:
        out.write(svg(shortened(lines)))


if __name__ == "__main__":
    main()
