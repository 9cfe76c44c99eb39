"""A real Prometheus on a free port, and what the panels of a dashboard ask it."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"dashboards/sheet: no {what} after {seconds} s")
        time.sleep(0.2)


def fetch(url, data=None, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=300) as answer:
        return answer.read().decode()


def answers(url):
    try:
        fetch(url)
        return True
    except (urllib.error.URLError, OSError):
        return False


class Prometheus:
    def __init__(self, program, folder, target=None, interval=2):
        """`target`: the address that it scrapes each `interval` seconds, if any."""
        folder.mkdir(parents=True, exist_ok=True)
        jobs = []
        if target:
            static = [{"targets": [target], "labels": {"instance": "web1"}}]
            jobs = [{"job_name": "evenkeel", "scrape_interval": f"{interval}s", "scrape_timeout": f"{interval}s",
                     "static_configs": static}]
        (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": jobs}))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=10y",
             "--query.max-samples=500000000", "--log.level=error"],
        )
        wait_for("Prometheus", lambda: answers(f"{self.url}/-/ready"))

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def ask(self, path, **parameters):
        data = urllib.parse.urlencode(parameters).encode()
        try:
            found = json.loads(fetch(f"{self.url}/api/v1/{path}", data))
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{parameters['query']}: {error.read().decode()}") from error
        return found["data"]["result"]


class View:
    """What a dashboard shows: a time range of one Prometheus, with a value for each variable."""

    def __init__(self, prometheus, start, end, step, rate_interval):
        self.prometheus, self.start, self.end, self.step = prometheus, start, end, step
        self.variables = {
            "$job": ".+", "$instance": ".+", "$group": ".+", "$top": "10",
            "$__interval": f"{step}s", "$__rate_interval": f"{rate_interval}s", "$__range": f"{round(end - start)}s",
        }

    def filled_in(self, expr):
        for name, value in self.variables.items():
            expr = expr.replace(name, value)
        return expr

    def series(self, target, step=None):
        """The series of a query as (name, labels, [(time, value)])."""
        step = step or self.step
        query = self.filled_in(target["expr"])
        if target.get("instant"):
            found = self.prometheus.ask("query", query=query, time=self.end)
            rows = [(series["metric"], [series["value"]]) for series in found]
        else:
            found = self.prometheus.ask("query_range", query=query, start=-(-self.start // step) * step, end=self.end, step=step)
            rows = [(series["metric"], series["values"]) for series in found]
        legend = target.get("legendFormat", "")
        named = []
        for labels, values in rows:
            name = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)
            named.append((name, labels, [(float(at), float(value)) for at, value in values]))
        return named
