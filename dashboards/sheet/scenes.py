"""What the sheet shows each dashboard with: a busy host with a real evenkeel, no host, and 1,000 hosts.

The series of the 1,000 hosts are those of the busy one, each host with its own load, faults and events.
"""

import json
import random
import re
import secrets
import signal
import subprocess
import time

from server import Prometheus, View, answers, fetch, free_port, wait_for

SECONDS, EVERY = 240, 2
HOSTS, MINUTES = 1000, 30

RULES = """rules:
  - {name: calm-batch-jobs, matchers: ['alertname="HostCpuSaturated"'], select: {name: "batch-.*"},
     actions: [{nice: 10}, {ionice: idle}]}
  - {name: end-expendable, matchers: ['alertname="HostMemoryCritical"'], select: {name: spare-cache},
     actions: [{signal: SIGTERM}]}
  - {name: freeze-backup, matchers: ['alertname="HostMemoryCritical"'], select: {name: nightly-backup},
     actions: [{freeze: true}]}
  - {name: only-said, mode: dry-run, matchers: ['alertname="HostCpuSaturated"'], select: {name: "batch-.*"},
     actions: [{oom_score_adj: 500}]}
"""
CONFIG = """rule_files: [rules.yml]
webhook: {token_file: webhook.token}
sampling: {slow_interval: 2s}
process_groups:
  - {name: batch, select: {name: "batch-.*"}, metrics: [swap, context_switches, io, open_fds]}
  - {name: backup, select: {name: nightly-backup}, metrics: [swap, context_switches, io, open_fds]}
"""
# Works while it has had an odd number of SIGUSR1, so that load begins and ends by hand.
JOB = """
import signal, sys, time
works = False
def switch(*_):
    global works
    works = not works
signal.signal(signal.SIGUSR1, switch)
open("/proc/self/comm", "w").write(sys.argv[1])
while True:
    if works: sum(range(10000))
    else: time.sleep(0.2)
"""


class Busy:
    """A real evenkeel in enforce on this host, with jobs that it acts on."""

    def __init__(self, evenkeel, folder):
        self.folder = folder
        folder.mkdir(parents=True)
        self.token = secrets.token_hex(16)
        (folder / "rules.yml").write_text(RULES)
        (folder / "evenkeel.yml").write_text(CONFIG)
        (folder / "webhook.token").touch(0o600)
        (folder / "webhook.token").write_text(self.token)
        self.metrics, self.webhook = (f"127.0.0.1:{free_port()}" for _ in range(2))
        names = ["batch-1", "batch-2", "spare-cache", "nightly-backup"]
        self.jobs = [subprocess.Popen(["python3", "-S", "-c", JOB, name]) for name in names]
        self.evenkeel = subprocess.Popen(
            [evenkeel, "run", "--enforce", f"--config.file={folder}/evenkeel.yml", f"--storage.path={folder}/storage",
             f"--web.listen-address={self.metrics}", f"--webhook.listen-address={self.webhook}"],
            stderr=(folder / "log").open("w"))
        wait_for("evenkeel", lambda: answers(f"http://{self.metrics}/metrics"))

    def post(self, alertname, status, token=None):
        node = re.search(r'nodename="([^"]*)"', fetch(f"http://{self.metrics}/metrics"))[1]
        alert = {"status": status, "labels": {"alertname": alertname, "instance": node, "severity": "warning"},
                 "annotations": {}, "startsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                 "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        body = {"version": "4", "groupKey": "g", "status": status, "receiver": "evenkeel", "groupLabels": {},
                "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "truncatedAlerts": 0, "alerts": [alert]}
        try:
            fetch(f"http://{self.webhook}/webhook", json.dumps(body).encode(),
                  {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"})
        except OSError:
            if token is None:
                raise

    def switch(self):
        for job in self.jobs[:2]:
            job.send_signal(signal.SIGUSR1)

    def live(self):
        """Load, alerts, resolves, and an alert that still fires at the end."""
        first, started = fetch(f"http://{self.metrics}/metrics"), time.monotonic()
        for at, event in [
            (45, self.switch),
            (60, lambda: self.post("HostCpuSaturated", "firing")),
            (75, lambda: self.post("HostCpuSaturated", "firing", token="wrong")),
            (100, lambda: self.post("HostMemoryCritical", "firing")),
            (135, self.switch),
            (145, lambda: self.post("HostCpuSaturated", "resolved")),
            (165, lambda: self.post("HostMemoryCritical", "resolved")),
            (180, self.switch),
            (190, lambda: self.post("HostCpuSaturated", "firing")),
            (SECONDS, lambda: None),
        ]:
            time.sleep(max(started + at - time.monotonic(), 0))
            event()
        return first, fetch(f"http://{self.metrics}/metrics")

    def stop(self):
        self.evenkeel.terminate()
        self.evenkeel.wait()
        for job in self.jobs:
            job.kill()
            job.wait()


def record_busy(tools, evenkeel, folder):
    busy = Busy(evenkeel, folder / "evenkeel")
    prometheus = Prometheus(f"{tools}/prometheus", folder, busy.metrics, EVERY)
    try:
        first, last = busy.live()
        (folder / "first.txt").write_text(first)
        (folder / "last.txt").write_text(last)
        (folder / "end").write_text(str(time.time()))
    finally:
        busy.stop()
        prometheus.stop()


def sample_lines(text):
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            yield name, labels.rstrip("}"), float(value)


# Faults that a few of many hosts have: the share of hosts with the other value.
FLAGS = {"evenkeel_paused": 0.02, "evenkeel_ledger_writable": 0.004, "evenkeel_config_last_reload_successful": 0.01,
         "evenkeel_breaker_open": 0.01, "evenkeel_budget_remaining": 0.01}


def rate_of(name, labels, rate, host):
    """Events per second of a counter, near those of the busy host; shares of time by the load of this host."""
    level = host["level"]
    if name == "node_cpu_seconds_total":
        return {"idle": 1 - level, "user": 0.7 * level, "system": 0.3 * level}.get(re.search('mode="(.*?)"', labels)[1], 0)
    if "pressure" in name:
        return level / 2 if "cpu" in name else level**3 / 2
    if name == "node_disk_io_time_seconds_total":
        return level**2
    return rate * (0.2 + 1.6 * level)


def history_of(name, labels, value, rate, host, dice, times):
    """The values of one series on one of the hosts."""
    level, phase, places = host["level"], dice.random(), range(len(times))
    begin, end = host["episode"]
    swing = [1 + 0.3 * ((place * 0.07 + phase) % 1.0) for place in places]
    if name in FLAGS:
        odd = 0 if name == "evenkeel_budget_remaining" else 1 - value
        is_odd = host["faults"][name] < FLAGS[name]
        return [odd if is_odd and place > len(times) * phase / 2 else value for place in places]
    if name == "evenkeel_mode":
        return [float(("dry-run" in labels) == host["dry_run"])] * len(times)
    if name in ("evenkeel_leases", "evenkeel_alerts_firing"):
        return [max(value, 1.0) if host["is_hit"] and begin <= place < end else 0.0 for place in places]
    if name in ("evenkeel_actions_total", "evenkeel_decisions_total", "evenkeel_alerts_received_total"):
        reached = end if re.search("restored|resolved", labels) else begin
        return [float(host["is_hit"] and place >= reached) for place in places]
    if name.endswith("_ratio_distribution_bucket"):
        bound = float(re.search('le="(.*?)"', labels)[1].replace("+Inf", "inf"))
        counted, histories = 0.0, []
        for factor in swing:
            counted += 60.0 if min(level * factor, 1.0) <= bound else 0.0
            histories.append(counted)
        return histories
    if rate is not None:
        own = rate_of(name, labels, rate, host)
        return [value + own * (at - times[0]) for at in times]
    if re.search("build_info|uname|time_seconds|timestamp|Total|max|evenkeel_rules", name):
        return [value] * len(times)
    if "ratio" in name:
        return [min(level * factor, 1.0) for factor in swing]
    return [value * (0.5 + level) * factor for factor in swing]


def record_thousand(tools, names, busy, folder):
    """Blocks with the series of the busy host that the dashboards ask for, for each of many hosts."""
    text = (busy / "last.txt").read_text()
    first = {(name, labels): value for name, labels, value in sample_lines((busy / "first.txt").read_text())}
    is_counter = re.compile("(_total|_bucket|_count|_sum)$")
    template = [("up", "", 1.0, None)]
    for name, labels, value in sample_lines(text):
        if name in names:
            rate = (value - first.get((name, labels), 0.0)) / SECONDS if is_counter.search(name) else None
            template.append((name, labels, value, rate))
    end = int(float((busy / "end").read_text())) // 60 * 60
    times = [end - 60 * (MINUTES - place) for place in range(MINUTES + 1)]
    dice = random.Random(1)
    hosts = []
    for number in range(HOSTS):
        begin = dice.randrange(2, MINUTES - 8)
        hosts.append({
            "name": f"web{number + 1}", "level": min(dice.betavariate(2, 4), 0.95), "dry_run": dice.random() < 0.2,
            "faults": {name: dice.random() for name in FLAGS}, "is_hit": dice.random() < 0.06,
            "episode": (begin, begin + dice.randrange(3, 20))})
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "series.txt"
    template.sort(key=lambda sample: sample[0])
    with source.open("w") as out:
        for name, labels, value, rate in template:
            for host in hosts:
                own = f'instance="{host["name"]}",job="evenkeel"' + (f",{labels}" if labels else "")
                values = history_of(name, labels, value, rate, host, dice, times)
                if name == "up":
                    values = [float(host["faults"]["evenkeel_paused"] > 0.005)] * len(times)
                out.write("".join(f"{name}{{{own}}} {value:.10g} {at}\n" for at, value in zip(times, values)))
        out.write("# EOF\n")
    subprocess.run([f"{tools}/promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", source, folder / "data"], check=True)
    source.unlink()
    (folder / "end").write_text(str(end))


def views(tools, folder):
    """(heading, view) of each scene. The caller stops their servers."""
    end = float((folder / "busy/end").read_text())
    busy, empty, many = (Prometheus(f"{tools}/prometheus", folder / name) for name in ("busy", "empty", "thousand"))
    last = float((folder / "thousand/end").read_text())
    return [
        ("one busy host", View(busy, end - SECONDS, end, EVERY, 4 * EVERY)),
        ("no host", View(empty, end - SECONDS, end, EVERY, 4 * EVERY)),
        ("1,000 hosts", View(many, last - 60 * MINUTES, last, 60, 240)),
    ]
