#!/usr/bin/env python3
"""Records which functions a running daemon uses, for the order in which the release is linked (build.rs).

Runs the release build under callgrind with the shipped alerting rules, scrapes it, lets an alert come, repeat and resolve, and
writes packaging/layout/used.ld: a linker script with a line per function, in five parts by how often they run. The hash of
its crate in a name (the v0 scheme, .cargo/config.toml), which every version of the compiler and every set of features makes
anew, is left open where it can be; a line that fits nothing does no harm.

Needs valgrind and nm (binutils). About two minutes: make layout
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
TOKEN = "recorded"
# A name without hashes may fit other functions too, which would lie between those that are used. Where they are more than
# this share of what is used, the hashes stay.
LOOSE = 0.5
# Valgrind of Debian 12 knows no pidfd: a signal is decided on and recorded, and not sent. What SQLite needs to look into the row of
# the process that it ended is named here instead.
VICTIM = re.compile(r"json[A-Z]\w*|sqlite3_[gs]et_auxdata|sqlite3ExprCodeFactorable")


def pattern(name):
    # Hashes are not all of one length, and references back (B) count what lies between.
    name = re.sub(r"Cs[0-9a-zA-Z]+_", "Cs*_", name)
    name = re.sub(r"B[0-9a-zA-Z]*_", "B*_", name)
    return re.sub(r"\.(llvm\.)?\d+$", "*", name)


def sizes(program):
    """Bytes of each function in the program."""
    lines = subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = (line.split() for line in lines)
    return {field[3]: int(field[1], 16) for field in fields if len(field) == 4 and field[2] in "tTW"}


def called(profile):
    names = re.findall(r"^c?fn=\(\d+\) (.*)$", profile.read_text(), re.MULTILINE)
    return {re.sub(r"'\d+$", "", name) for name in names}


def alert(name, status):
    labels = {"alertname": name, "instance": "here"}
    entry = {"status": status, "labels": labels, "annotations": {"summary": "x"}, "fingerprint": ""}
    entry |= {"startsAt": "2026-01-02T03:04:05.678Z", "endsAt": "0001-01-01T00:00:00Z"}
    common = dict.fromkeys(["groupLabels", "commonLabels", "commonAnnotations"], {})
    body = {"version": "4", "groupKey": "g", "status": status, "receiver": "r", "externalURL": "", "alerts": [entry]}
    return json.dumps(body | common).encode()


def record(program, home):
    """What was called in each part: sampling and scrapes, alerts, the start once its pages were given back, the end, the ledger."""
    sleepers = {action: subprocess.Popen(["sleep", "600"]) for action in ["nice: 5", "signal: SIGTERM"]}
    (home / "token").write_text(TOKEN)
    rules = [
        f"{{name: recorded-{number}, matchers: ['alertname=\"Recorded{number}\"'], select: {{pid: '{sleeper.pid}'}}, actions: [{action}]}}"
        for number, (action, sleeper) in enumerate(sleepers.items())
    ]
    (home / "rules.yml").write_text(f"rules: [{', '.join(rules)}]\n")
    (home / "evenkeel.yml").write_text(
        f"mode: enforce\nrule_files: [rules.yml]\nalerting_rule_files: ['{ROOT}/alerting/host.rules.yml']\n"
        "webhook: {token_file: token}\nidentity: {names: [here]}\n"
    )
    log = open(home / "log", "w+")
    command = ["valgrind", "--tool=callgrind", "--demangle=no", "--dump-before=dl_iterate_phdr", f"--callgrind-out-file={home}/calls"]
    command += [program, "run", f"--config.file={home}/evenkeel.yml", f"--storage.path={home}/storage"]
    command += ["--web.listen-address=127.0.0.1:0", "--webhook.listen-address=127.0.0.1:0"]
    daemon = subprocess.Popen(command, stderr=log)
    control = lambda *what: subprocess.run(["callgrind_control", *what, str(daemon.pid)], check=True, stdout=log)
    try:
        found = {}
        while len(found) < 2:
            if daemon.poll() is not None:
                sys.exit((home / "log").read_text())
            time.sleep(1)
            found = dict(re.findall(r"listener=(\w+) addr=(\S+)", (home / "log").read_text()))
        time.sleep(30)

        def scrape():
            request = urllib.request.Request(f"http://{found['metrics']}/metrics", headers=OPENMETRICS)
            urllib.request.urlopen(request).read()

        def send(name, status):
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            request = urllib.request.Request(f"http://{found['webhook']}/webhook", alert(name, status), headers)
            urllib.request.urlopen(request).read()

        control("-d")
        for _ in range(4):
            scrape()
            time.sleep(8)
        control("-d")
        for status in ["firing", "firing", "resolved"]:
            for name in ["Recorded0", "Recorded1"]:
                send(name, status)
                time.sleep(2)
        time.sleep(16)
        control("-d")
        urllib.request.urlopen(f"http://{found['metrics']}/").read()
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        for sleeper in sleepers.values():
            sleeper.kill()
            sleeper.wait()
    # Whoever else calls dl_iterate_phdr by now would shift the parts.
    if len(list(home.glob("calls.*"))) != 4:
        sys.exit("the program called dl_iterate_phdr more or less than once: the parts cannot be told apart")
    # The first is all until the pages were given back (dl_iterate_phdr), which is not among what is used, but for what SQLite and
    # the ledger needed: a part of that is walked again only with a signal.
    before, start, sampling, alerts = [called(home / f"calls.{number}") for number in range(1, 5)]
    ledger = {name for name in before if not name.startswith("_R") or "6ledger" in name}
    return [sampling, alerts, start, called(home / "calls"), ledger]


def main():
    program = Path(sys.argv[1]).resolve()
    size = sizes(program)
    with tempfile.TemporaryDirectory() as home:
        parts = record(program, Path(home))
    parts[-1] |= {name for name in size if VICTIM.match(name)}
    everywhere, used = Counter(), Counter()
    for name, bytes_ in size.items():
        everywhere[pattern(name)] += bytes_
    for name in set().union(*parts) & size.keys():
        used[pattern(name)] += size[name]
    lines = ["/* Made by record.py beside this: functions that a running daemon uses, most often used first. */"]
    lines += ["SECTIONS", "{", "  .text.used :", "  {"]
    seen = set()
    for part in parts:
        is_loose = lambda name: everywhere[pattern(name)] > (1 + LOOSE) * used[pattern(name)]
        fresh = {name if is_loose(name) else pattern(name) for name in part & size.keys()} - seen
        seen |= fresh
        # Those of C stand alone; of others there may be a cold twin (.text.unlikely).
        lines += [f"    *(.text{'*' if line.startswith('_') else '.'}{line})" for line in sorted(fresh)]
    lines += ["  }", "}", "INSERT BEFORE .text;"]
    (ROOT / "packaging/layout/used.ld").write_text("\n".join(lines) + "\n")
    print(f"{len(seen)} functions, {sum(used.values()) // 1024} KiB of {sum(size.values()) // 1024}")


main()
