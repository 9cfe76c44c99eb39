#!/usr/bin/env python3
"""Records which functions a running daemon uses, for the link order of the dist build (build.rs).

The script runs the dist build under callgrind twice. The first run has no rules: it records seconds without
requests, scrapes, and the collectors of the timer. The second run has the shipped alerting rules: it records scrapes and an
alert that fires, repeats and resolves.

The result is packaging/layout/used.ld, a linker script with a line per function. Its parts are in the order of how
often the functions run, so that the functions of each second are on a few pages. A function name contains the hash of
its crate (the v0 scheme, .cargo/config.toml), which changes with each compiler version and set of features. The script
replaces the hash with a wildcard where possible. A line that matches nothing has no effect.

It needs valgrind and nm (binutils), and about four minutes: make layout
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
# A name without hashes may also match unused functions, which would then be between the used ones. If their size exceeds
# this share of the used size, the hashes stay.
LOOSE = 0.5
# Valgrind of Debian 12 does not support pidfd: evenkeel decides on a signal and records it, but does not send it. This
# pattern names the SQLite functions that the following steps would use.
VICTIM = re.compile(r"json[A-Z]\w*|sqlite3_[gs]et_auxdata|sqlite3ExprCodeFactorable")
# The recorded daemon has no frontend, because callgrind cannot write from within its sandbox. These are the functions
# of the channel and of its two ends, without TLS and HTTP/2.
FRONTEND = re.compile(r"(?!\w*(tokio_rustls|2h2|5http2))\w*(8frontend|5tokio3net4unix)\w*")


def pattern(name):
    # Hashes have different lengths, and back references (B) contain offsets that depend on them.
    name = re.sub(r"Cs[0-9a-zA-Z]+_", "Cs*_", name)
    name = re.sub(r"B[0-9a-zA-Z]*_", "B*_", name)
    return re.sub(r"\.(llvm\.)?\d+$", "*", name)


def sizes(program):
    """The size in bytes of each function in the program."""
    lines = subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = (line.split() for line in lines)
    return {field[3]: int(field[1], 16) for field in fields if len(field) == 4 and field[2] in "tTW"}


def called(profile):
    names = re.findall(r"^c?fn=\(\d+\) (.*)$", profile.read_text(), re.MULTILINE)
    return {re.sub(r"'\d+$", "", name) for name in names}


def ran(profile):
    """The functions with a cost line, without those that only wait for a function they called."""
    names, running, is_call = {}, set(), False
    for line in profile.read_text().splitlines():
        found = re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line)
        if found:
            if found[2]:
                names[found[1]] = re.sub(r"'\d+$", "", found[2])
            if line.startswith("fn="):
                current = names[found[1]]
        elif re.match(r"[-+*\d]", line) and not is_call:
            running.add(current)
        # The next line is the cost of the call.
        is_call = line.startswith("calls=")
    return running


def alert(name, status):
    labels = {"alertname": name, "instance": "here"}
    entry = {"status": status, "labels": labels, "annotations": {"summary": "x"}, "fingerprint": ""}
    entry |= {"startsAt": "2026-01-02T03:04:05.678Z", "endsAt": "0001-01-01T00:00:00Z"}
    common = dict.fromkeys(["groupLabels", "commonLabels", "commonAnnotations"], {})
    body = {"version": "4", "groupKey": "g", "status": status, "receiver": "r", "externalURL": "", "alerts": [entry]}
    return json.dumps(body | common).encode()


class Daemon:
    """evenkeel under callgrind. It accepts connections when the constructor returns."""

    def __init__(self, program, home, *valgrind):
        self.log = open(home / "log", "w+")
        command = ["valgrind", "--tool=callgrind", "--demangle=no", *valgrind, f"--callgrind-out-file={home}/calls"]
        command += [program, "run", f"--config.file={home}/evenkeel.yml", f"--storage.path={home}/storage"]
        command += ["--web.listen-address=127.0.0.1:0", "--webhook.listen-address=127.0.0.1:0"]
        # Callgrind writes the code that it runs.
        command += ["--no-sandbox"]
        self.process = subprocess.Popen(command, stderr=self.log)
        self.address = {}
        while len(self.address) < 2:
            if self.process.poll() is not None:
                sys.exit((home / "log").read_text())
            time.sleep(1)
            self.address = dict(re.findall(r"listener=(\w+) addr=(\S+)", (home / "log").read_text()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def dump(self):
        """Ends a part of the profile."""
        subprocess.run(["callgrind_control", "-d", str(self.process.pid)], check=True, stdout=self.log)

    def get(self, path):
        request = urllib.request.Request(f"http://{self.address['metrics']}{path}", headers=OPENMETRICS)
        urllib.request.urlopen(request).read()

    def send(self, name, status):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address['webhook']}/webhook", alert(name, status), headers)
        urllib.request.urlopen(request).read()


def record_sampling(program, home):
    """Functions called without rules: in seconds without requests, by scrapes, by the collectors of the timer."""
    (home / "evenkeel.yml").write_text("rule_files: []\nsampling: {slow_interval: 80s}\n")
    with Daemon(program, home) as daemon:
        time.sleep(10)
        daemon.dump()
        # Functions of each second are in all of these dumps.
        for _ in range(4):
            time.sleep(2.5)
            daemon.dump()
        for _ in range(4):
            daemon.get("/metrics")
            time.sleep(0.7)
        daemon.dump()
        time.sleep(80)
        daemon.dump()
    seconds = [ran(home / f"calls.{number}") for number in range(2, 6)]
    return [set.intersection(*seconds), called(home / "calls.6"), called(home / "calls.7")]


def record_rules(program, home):
    """Functions called in each part: rules and scrapes, alerts, the start after its pages were released, the exit, the ledger."""
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
    try:
        with Daemon(program, home, "--dump-before=dl_iterate_phdr") as daemon:
            time.sleep(30)
            daemon.dump()
            for _ in range(4):
                daemon.get("/metrics")
                time.sleep(8)
            daemon.dump()
            for status in ["firing", "firing", "resolved"]:
                for name in ["Recorded0", "Recorded1"]:
                    daemon.send(name, status)
                    time.sleep(2)
            time.sleep(16)
            daemon.dump()
            daemon.get("/")
    finally:
        for sleeper in sleepers.values():
            sleeper.kill()
            sleeper.wait()
    # Another caller of dl_iterate_phdr would shift the parts.
    if len(list(home.glob("calls.*"))) != 4:
        sys.exit("the program did not call dl_iterate_phdr exactly once: the parts are ambiguous")
    # The first part ends when the daemon releases its pages (dl_iterate_phdr), and does not count as used. The exception
    # are functions of SQLite and the ledger, because some of them run again only with a signal.
    before, start, sampling, alerts = [called(home / f"calls.{number}") for number in range(1, 5)]
    ledger = {name for name in before if not name.startswith("_R") or "6ledger" in name}
    return [sampling, alerts, start, called(home / "calls"), ledger]


def main():
    program = Path(sys.argv[1]).resolve()
    size = sizes(program)
    parts = []
    for record in [record_sampling, record_rules]:
        with tempfile.TemporaryDirectory() as home:
            parts += record(program, Path(home))
    parts[-1] |= {name for name in size if VICTIM.match(name)}
    parts.append({name for name in size if FRONTEND.match(name)})
    everywhere, used = Counter(), Counter()
    for name, bytes_ in size.items():
        everywhere[pattern(name)] += bytes_
    for name in set().union(*parts) & size.keys():
        used[pattern(name)] += size[name]
    lines = ["/* Built by record.py: functions that a running daemon uses, most frequent first. */"]
    lines += ["SECTIONS", "{", "  .text.used :", "  {"]
    seen = set()
    for part in parts:
        is_loose = lambda name: everywhere[pattern(name)] > (1 + LOOSE) * used[pattern(name)]
        fresh = {name if is_loose(name) else pattern(name) for name in part & size.keys()} - seen
        seen |= fresh
        # A C function has one section; others may also have a cold one (.text.unlikely).
        lines += [f"    *(.text{'*' if line.startswith('_') else '.'}{line})" for line in sorted(fresh)]
    lines += ["  }", "}", "INSERT BEFORE .text;"]
    (ROOT / "packaging/layout/used.ld").write_text("\n".join(lines) + "\n")
    print(f"{len(seen)} functions, {sum(used.values()) // 1024} KiB of {sum(size.values()) // 1024}")


main()
