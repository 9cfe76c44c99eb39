#!/usr/bin/env python3
"""Builds the Grafana dashboards beside this file. `make dashboards` runs it, `make lint` checks the result (--check)."""

import sys
from pathlib import Path

from boards import actions, fleet, groups, host
from grafana_foundation_sdk.cog.encoder import JSONEncoder

HERE = Path(__file__).resolve().parent
BOARDS = {"actions.json": actions, "fleet.json": fleet, "groups.json": groups, "host.json": host}


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, module in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(module.board()) + "\n"
        file = HERE / name
        if check and (not file.exists() or file.read_text() != text):
            stale.append(name)
        elif not check:
            file.write_text(text)
    if stale:
        sys.exit(f"dashboards: outdated: {', '.join(stale)}; run `make dashboards` and commit the result")


if __name__ == "__main__":
    main()
