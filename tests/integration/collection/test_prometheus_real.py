# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of docs/gates.md against a real Prometheus that scrapes two real Envoys, without a cluster."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, INCONCLUSIVE, PASS, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._prometheus import (
    PROMETHEUS_SPEC,
    Prometheus,
)
from lab import prometheus
from lab.images.catalog import envoy
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not installed")
Object = dict[str, Any]
SIDES = {"old": "istio-ingressgateway", "new": "istio-ingressgateway-asm"}  # the workloads that the documented queries name


def documented() -> dict[str, Object]:
    """The gates of the section on Prometheus in docs/gates.md, by name."""
    section = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8").partition("\n## Prometheus\n")[2].partition("\n## ")[0]
    found = [gate for block in re.findall(r"^```yaml\n(.*?)^```", section, re.M | re.S) for gate in yaml.safe_load(block)]
    return {gate["name"]: gate["prometheus"] for gate in found}


def filled(options: Object, spec: Object | None = None) -> Object:
    """The options as AnsibleModule hands them on: defaults in the place of what is not set."""
    found: Object = {}
    for key, one in (spec or PROMETHEUS_SPEC).items():
        value = options.get(key, one.get("default"))
        found[key] = filled(value, one["options"]) if one.get("options") and value else value
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Gateway:
    """An Envoy that counts as the lab's do. It gets `rate` requests a second, and answers `bad` (0 to 1) of them with 503."""

    def __init__(self, folder: Path, workload: str) -> None:
        self.port, self.admin = free_port(), free_port()
        self.rate, self.bad, self.sent = 0, 0.0, 0
        self._ended = threading.Event()
        file = folder / f"{workload}.json"
        file.write_text(json.dumps(self._config()))
        argv = [str(envoy()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        with (folder / f"{workload}.log").open("wb") as log:
            env = {**os.environ, "ISTIO_META_WORKLOAD_NAME": workload}
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _config(self) -> Object:
        kind = "type.googleapis.com/envoy.extensions.filters"
        asked = {"prefix": "/", "headers": [{"name": "x-bad", "present_match": True}]}
        routes = [{"match": asked, "direct_response": {"status": 503}}]
        routes += [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
        router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
        manager = {
            "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x",
            "access_log": [prometheus.access_log("source", "source")],
            "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        }
        name = "envoy.filters.network.http_connection_manager"

        def address(port: int) -> Object:
            return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}

        listener = {**address(self.port), "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}]}
        return {"admin": address(self.admin), "static_resources": {"listeners": [listener]}}

    def start(self) -> None:
        until_answers(f"http://127.0.0.1:{self.admin}/ready")
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(5)
        self.process.kill()
        self.process.wait()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        number, due = 0, time.monotonic()
        while not self._ended.is_set():
            rate, share = self.rate, self.bad  # the test may set them at any moment
            if not rate:
                due = time.monotonic()
                self._ended.wait(0.02)
                continue
            number += 1
            bad = int(number * share) != int((number - 1) * share)  # evenly, not by chance
            connection.request("GET", "/", headers={"x-bad": "1"} if bad else {})
            connection.getresponse().read()
            self.sent += 1
            due += 1 / rate
            self._ended.wait(max(0.0, due - time.monotonic()))
        connection.close()


def until_answers(url: str) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert time.monotonic() < until, f"{url} does not answer"
            time.sleep(0.1)


class World:
    def __init__(self, url: str, old: Gateway, new: Gateway) -> None:
        self.url, self.old, self.new = url, old, new

    def gate(self, number: int, **rule: Any) -> Prometheus:
        """A documented gate, for figures that come twice a second; `rule` over its own."""
        name, options = list(documented().items())[number]
        (kind,) = {"success", "value"} & set(options)
        options[kind].update({"max_ratio": 50, "max": 5000} if kind == "value" else {}, **rule)
        options.update(url=self.url, token=None, interval=0.5, window=6, min_window=2)
        return Prometheus(name, filled(options))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        sides = []
        for workload in SIDES.values():
            sides.append(Gateway(folder, workload))
            stack.callback(sides[-1].stop)
        targets = folder / "targets.json"
        targets.write_text(json.dumps([{"targets": [f"127.0.0.1:{side.admin}" for side in sides]}]))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus.configuration(targets, 0.5)))
        port = free_port()
        argv = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "prometheus.log").open("wb") as log:
            argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        for side in sides:
            side.start()
        until_answers(f"http://127.0.0.1:{port}/-/ready")
        yield World(f"http://127.0.0.1:{port}", *sides)


def said(gate: Prometheus, state: str, words: str = "", number: str = "", seconds: float = 20) -> Verdict:
    """The verdict, once it is this one and has this number: a side that has just begun is not compared at first."""
    until = time.monotonic() + seconds
    while (verdict := gate.verdict()).state != state or words not in verdict.reason or not {number} <= {"", *verdict.numbers}:
        assert time.monotonic() < until, verdict
        time.sleep(0.05)
    return verdict


def test_success_and_its_comparison_over_a_whole_migration(world: World) -> None:
    old, new = world.old, world.new
    gate = world.gate(0)
    try:
        old.rate = new.rate = 0
        gate.start()
        said(gate, INCONCLUSIVE, "there is no such series (yet)")
        # A target that never gave a good answer has no series of them.
        old.rate, new.rate, new.bad = 100, 100, 1.0
        gate.start()
        assert said(gate, FAIL, "0 % of").numbers["good"] == 0
        new.rate, new.bad = 10, 0.0
        gate.start()
        said(gate, INCONCLUSIVE, "requests, 200 are needed")
        new.rate = 100
        gate.start()
        verdict = said(gate, PASS, number="baseline")
        assert verdict.numbers["success"] == verdict.numbers["baseline"] == 100
        # Both sides equally bad: the move is not to blame, but min is.
        old.bad = new.bad = 0.2
        assert "99 % are needed" in said(gate, FAIL).reason
        old.bad = new.bad = 0.0
        gate.start()
        said(gate, PASS)
        # The last step: nobody asks the old side any more.
        old.rate = 0
        time.sleep(1)
        gate.start()
        assert said(gate, PASS).numbers["baseline_age_s"] > 1
        new.bad = 1.0
        said(gate, FAIL)
    finally:
        old.bad = new.bad = 0.0
        gate.stop()


def test_only_the_new_side_is_bad(world: World) -> None:
    world.old.rate = world.new.rate = 100
    gate = world.gate(0, min=50)
    try:
        gate.start()
        said(gate, PASS)
        world.new.bad = 0.1
        assert "points less are allowed" in said(gate, FAIL).reason
    finally:
        world.new.bad = 0.0
        gate.stop()


def test_a_quantile_against_the_other_side(world: World) -> None:
    world.old.rate = world.new.rate = 100
    gate, strict = world.gate(1), world.gate(1, max=0.0001)
    try:
        gate.start()
        strict.start()
        verdict = said(gate, PASS, number="baseline")
        assert verdict.numbers["query"] > 0
        assert verdict.numbers["baseline"] > 0
        said(strict, FAIL, "more than 0.0001")
        world.old.rate = 0
        time.sleep(1)
        gate.start()
        assert said(gate, PASS).numbers["baseline_age_s"] > 1
        fresh = world.gate(1)  # of a run that begins on the last step
        fresh.start()
        said(fresh, PASS, "the other side has too few requests to compare")
        fresh.stop()
        world.new.rate = 0
        time.sleep(1)
        gate.start()
        said(gate, INCONCLUSIVE, "the query gives NaN")
    finally:
        gate.stop()
        strict.stop()


def test_what_prometheus_counts_is_what_was_sent(world: World) -> None:
    """increase() over the whole run, of both sides and all statuses, against the requests that were answered."""
    world.old.rate = world.new.rate = 0
    time.sleep(1.5)
    for side, workload in ((world.old, SIDES["old"]), (world.new, SIDES["new"])):
        query = f'sum(istio_requests_total{{reporter="source",source_workload="{workload}"}})'
        options = {"url": world.url, "min_window": 1, "interval": 0.5, "value": {"query": query, "min": 0}}
        gate = Prometheus("count", filled(options))
        gate.start()
        said(gate, PASS)
        assert gate.verdict().numbers["query"] == side.sent > 500
        gate.stop()
