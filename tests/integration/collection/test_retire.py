# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gateway_snapshot and gateway_retire in the lab: a gateway goes with proof, and comes back without traffic."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import evidence
from lab.demo.stage import differences
from lab.kube import path_of
from lab.state import Lab
from tests.integration.collection.gateway_world import NAMESPACE, SOURCE, Gateways, gateways
from tests.integration.collection.scene import killed_at

DEPLOYMENT = path_of("apps/v1", "deployments", NAMESPACE, SOURCE)


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[Gateways]:
    with gateways(lab, tmp_path, "gw-retire") as found:
        yield found


@pytest.fixture(scope="module")
def moved(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """All traffic is at the target: one migration for the tests that retire."""
    with gateways(lab, tmp_path_factory.mktemp("moved"), "gw-moved") as found:
        found.call("snapshot")
        found.call("reuse")
        found.call("config")
        found.call("asm")
        found.call("weight", share=100)
        yield found


@pytest.fixture
def finished(moved: Gateways) -> Iterator[Gateways]:
    """All traffic is at the target, the source gateway is there, and so is the way back; afterwards too."""
    before = moved.stage.world()
    yield moved
    moved.call("retire", state="restored")
    moved.call("weight", share=100)
    moved.call("snapshot", refresh=True)  # what came back is another Service, by its UID
    left = moved.unlike(before)
    assert not left, "\n".join(left)


def test_a_snapshot_is_private_complete_and_made_once(world: Gateways) -> None:
    before = world.stage.world()
    calls = len(world.stage.cloud("calls")["calls"])
    assert world.call("snapshot", check=True).plan.changed
    assert not (world.folder / "state").exists()
    made = world.call("snapshot")
    path = Path(made.result["path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kinds = {key.split("/")[2] for key in made.result["objects"]}
    assert kinds >= {"Service", "Deployment", "ServiceAccount", "Role", "RoleBinding", "Gateway", "VirtualService"}
    document = json.loads(path.read_text())
    (balancer,) = document["content"]["clb"].values()
    assert {listener["port"] for listener in balancer["listeners"]} == {80, 443, 15021}
    assert all(group["backends"] for group in balancer["groups"])
    assert "PRIVATE KEY" not in path.read_text()
    assert document["content"]["secrets"] == [{"namespace": "istio-system", "name": "echo-cert", "exists": True}]
    assert not world.call("snapshot").plan.changed
    assert not differences(before, world.stage.world())
    assert world.writes(calls) == []


def test_it_goes_and_comes_back_under_traffic(finished: Gateways) -> None:
    listeners = finished.listeners()
    uid = (finished.service() or {})["metadata"]["uid"]
    file = finished.stage.traffic(100, 120)
    try:
        gone = finished.call("retire", drain_seconds=15.0)
        assert gone.plan.changes[-1].before == {"uid": uid}
        assert finished.service() is None
        assert finished.ack.find(DEPLOYMENT) is None
        assert finished.listeners() == listeners
        assert finished.stage.shares() == {100.0}
        for module in ("retire", "asm", "config", "reuse", "snapshot"):
            assert not finished.call(module).plan.changed, module
        assert finished.call("preflight").result["summary"]["error"] == 0

        planned = finished.call("retire", check=True, state="restored")
        assert finished.service() is None
        back = finished.call("retire", state="restored")
        assert [change.target for change in back.plan.changes] == [change.target for change in planned.plan.changes]
        assert finished.stage.shares() == {100.0}
        assert finished.listeners() == listeners
        assert not finished.call("retire", state="restored").plan.changed
        finished.call("weight", share=0)
        assert finished.stage.shares() == {0.0}
    finally:
        finished.stage.end_traffic()
    buckets, summary = evidence.read(file)
    assert summary["sent"] > 500
    assert summary["failed"] == 0, [bucket for bucket in buckets if bucket["failed"]]


def test_without_proof_nothing_is_deleted(finished: Gateways, tmp_path: Path) -> None:
    finished.call("weight", share=0)
    other = Gateways(finished.stage, tmp_path, "gw-no-way-back")  # a migration that has taken no snapshot
    error = other.refused("retire")
    assert "still has traffic" in error.what
    whats = {item["what"] for item in error.details["refusals"]}
    assert whats >= {"The source gateway still has traffic", "There is no way back"}
    finished.call("weight", share=99)
    assert "still has traffic" in other.refused("retire").what
    finished.call("weight", share=100)
    assert "no way back" in other.refused("retire").what
    planned = other.call("retire", check=True)
    assert {change.action for change in planned.plan.changes} == {"delete"}
    assert any("no way back" in warning for warning in planned.warnings)


def test_a_gateway_that_serves_another_service_stays(finished: Gateways) -> None:
    path = path_of("v1", "services", NAMESPACE)
    source = finished.service() or {}
    body = {"metadata": {"name": "inside"}, "spec": {"ports": [{"port": 80}], "selector": source["spec"]["selector"]}}
    finished.ack.create(path, body)
    try:
        assert "also serve the Services inside" in finished.refused("retire").why
    finally:
        finished.ack.delete(f"{path}/inside")


@pytest.mark.parametrize("number", [1, 9, 10, 13, 16])
def test_killed_anywhere_it_goes_to_the_end_or_back(finished: Gateways, number: int) -> None:
    with killed_at(number):
        finished.call("retire")
    if number % 2:
        finished.call("retire")
        assert finished.service() is None
        assert finished.ack.find(DEPLOYMENT) is None
    with killed_at(number // 2 + 1):
        finished.call("retire", state="restored")
    finished.call("retire", state="restored")
    assert finished.service() is not None
    assert finished.ack.find(DEPLOYMENT) is not None
    assert finished.stage.shares() == {100.0}


def test_a_fresh_container_brings_it_back_from_the_mirror(finished: Gateways) -> None:
    finished.call("retire")
    shutil.rmtree(finished.folder / "state")
    finished.call("retire", state="restored")
    assert finished.stage.shares() == {100.0}
    finished.call("weight", share=0)
