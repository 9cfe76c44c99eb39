"""Draws every panel of every dashboard without a Grafana: with one busy host, without data, and with 1,000 hosts.

A real Prometheus answers the queries of the panels. The result is a picture for each dashboard in docs/images, and a larger
one for each dashboard and scene in target/sheet. `make sheet` runs this script: seven minutes, as root. With --again
it draws the series of the last run once more.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from draw import board_svg
from png import with_palette
from scenes import record_busy, record_thousand, views

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOOLS, FOLDER = TARGET / "tools/bin", TARGET / "sheet"
EVENKEEL = os.environ.get("EVENKEEL", TARGET / "release/evenkeel")
BOARDS = ["actions", "fleet", "groups", "host"]
SCALE = 0.62


def svg(width, height, body, scale=1.0):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * scale:.0f}" height="{height * scale:.0f}"'
            f' viewBox="0 0 {width} {height}" font-family="Inter, DejaVu Sans, sans-serif">'
            f'<rect width="100%" height="100%" fill="#111217"/>{body}</svg>')


def picture(text, width, height, path):
    """Renders an SVG as PNG."""
    page = path.with_suffix(".html")
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><style>body{{margin:0;background:#111217}}</style>{text}')
    subprocess.run(
        [TOOLS / "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={FOLDER}/profile", f"--window-size={round(width)},{round(height)}", f"--screenshot={path}",
         f"file://{page}"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page.unlink()


def main():
    boards = {name: json.loads((ROOT / f"dashboards/{name}.json").read_text()) for name in BOARDS}
    if "--again" not in sys.argv:
        shutil.rmtree(FOLDER, ignore_errors=True)
        record_busy(TOOLS, EVENKEEL, FOLDER / "busy")
    if not (FOLDER / "thousand/end").exists():
        names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]+(?=\{)", json.dumps(boards)))
        record_thousand(TOOLS, names, FOLDER / "busy", FOLDER / "thousand")
    scenes = views(TOOLS, FOLDER)
    try:
        for name, board in boards.items():
            if wanted := [argument for argument in sys.argv[1:] if not argument.startswith("-")]:
                if name not in wanted:
                    continue
            draw(name, board, scenes)
    finally:
        for _, view in scenes:
            view.prometheus.stop()


def draw(name, board, scenes):
    body, left, bottom = "", 0, 0
    for heading, view in scenes:
        drawn, width, height = board_svg(board, view)
        title = f'<text x="6" y="30" font-size="24" fill="#ffffff">{board["title"]}: {heading}</text>'
        one = title + f'<g transform="translate(0 44)">{drawn}</g>'
        own = FOLDER / f"{name}-{heading.replace(' ', '-').replace(',', '')}.png"
        picture(svg(width, height + 44, one), width, height + 44, own)
        body += f'<g transform="translate({left} 0)">{one}</g>'
        left, bottom = left + width + 20, max(bottom, height + 44)
    path = ROOT / f"docs/images/dashboard-{name}.png"
    picture(svg(left - 20, bottom, body, SCALE), (left - 20) * SCALE, bottom * SCALE, path)
    path.write_bytes(with_palette(path.read_bytes()))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")


main()
