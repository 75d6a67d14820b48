# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's Prometheus scrapes, and how the proxies count: judged by the programs that read it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import prometheus, targets, world
from lab.images.catalog import envoy
from lab.state import Lab, LabError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    return Lab("metrics")


def pod(name: str, phase: str = "Running", address: str = "10.64.0.9", **spec: Any) -> dict[str, Any]:
    """A pod with a native sidecar, as Istio injects it."""
    sidecar = {"name": "istio-proxy", "ports": [{"containerPort": 15090, "name": "http-envoy-prom"}]}
    spec = {
        "initContainers": [{"name": "istio-init"}, sidecar],
        "containers": [{"name": "echo", "ports": [{"containerPort": 1}]}],
    } | spec
    return {"metadata": {"namespace": "demo", "name": name}, "spec": spec, "status": {"phase": phase, "podIP": address}}


def test_running_proxies_are_targets() -> None:
    gateway = {"name": "istio-proxy", "ports": [{"containerPort": 80}, {"containerPort": 15090, "name": "http-envoy-prom"}]}
    pods = [
        pod("b", address="10.64.0.2", initContainers=None, containers=[gateway]),
        pod("a"),
        pod("c", phase="Pending"),
        pod("d", address=""),
        pod("e", initContainers=[]),
    ]
    assert targets.targets(pods) == [
        {"targets": ["10.64.0.9:15090"], "labels": {"namespace": "demo", "pod": "a"}},
        {"targets": ["10.64.0.2:15090"], "labels": {"namespace": "demo", "pod": "b"}},
    ]


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's prometheus is not installed")
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    (tmp_path / "targets.json").write_text(json.dumps(targets.targets([pod("a")])))
    file.write_text(json.dumps(prometheus.configuration(tmp_path / "targets.json", 0.5)))
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_proxy_counts_as_istio_does() -> None:
    patches = prometheus.envoy_filter()["spec"]["configPatches"]
    seen = {}
    for patch in patches:
        (log,) = patch["patch"]["value"]["typed_config"]["access_log"]
        (counter,), (histogram,) = log["typed_config"]["counters"], log["typed_config"]["histograms"]
        names = {tag["name"]: tag["value_format"] for tag in counter["stat"]["tags"]}
        assert counter["stat"]["tags"] == histogram["stat"]["tags"]
        seen[patch["match"]["context"]] = (names["reporter"], {name for name in names if name.endswith("_workload")})
    assert seen == {
        "GATEWAY": ("source", {"source_workload"}),
        "SIDECAR_OUTBOUND": ("source", {"source_workload"}),
        "SIDECAR_INBOUND": ("destination", {"destination_workload"}),
    }


def test_stock_envoy_knows_the_logger(tmp_path: Path) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    manager: dict[str, Any] = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "access_log": [prometheus.access_log("source", "source")],
        "http_filters": [router],
        "route_config": {"virtual_hosts": []},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    argv = [str(envoy()), "--mode", "validate", "-c", str(file), "-l", "warning"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "eprecated" not in done.stderr


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not installed")
@pytest.mark.parametrize(("parts", "interval", "words"), [("cloud", 2, "without its meshes"), ("all", 0.1, "0.5 to 3600")])
def test_what_cannot_be_is_refused(lab: Lab, parts: str, interval: float, words: str) -> None:
    lab.update(options={"parts": parts})
    with pytest.raises(LabError, match=words):
        prometheus.up(lab, *world.clusters(lab), interval)
    assert prometheus.running(lab) == ""
    assert world.environment(lab)["LAB_PROMETHEUS_URL"] == ""
