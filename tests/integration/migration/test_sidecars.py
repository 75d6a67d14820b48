# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role moves ingress and workloads, sidecars first, and takes all of it back, while both kinds of traffic are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import apps, net
from lab.asm.migrate import MESH_CONFIG, OBJECT, OWN_HOOK_PATH
from lab.demo import evidence
from lab.demo.stage import Stage
from lab.kube import Object, path_of
from lab.load import Load
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab
from tests.integration.migration.conftest import QUICK

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]
SYSTEM = path_of("v1", "namespaces", None, "istio-system")
POLICY = path_of("security.istio.io/v1", "peerauthentications", apps.NAMESPACE, "default")
SHIFT = ("--skip-tags", "finish")
WHOLE = {
    **QUICK,
    "ack_to_asm_mesh_id": MESH_ID,
    "ack_to_asm_cluster_id": ACK_ID,
    "ack_to_asm_waves": [1, "100%"],
    "ack_to_asm_restart_waves": ["100%"],
    "ack_to_asm_shift_order": ["sidecars", "ingress"],
    "ack_to_asm_sidecar_hold": 2,
}


def proxies(stage: Stage) -> set[str]:
    """The meshes of the application's sidecars; Istio's have no id."""
    found = set()
    for pod in stage.ack.get(path_of("v1", "pods", apps.NAMESPACE))["items"]:
        if pod["metadata"].get("deletionTimestamp"):
            continue
        for one in pod["spec"].get("initContainers") or []:
            if one["name"] == "istio-proxy":
                found.add(next((item["value"] for item in one["env"] if item["name"] == "ASM_ID"), ""))
    return found


def labels(stage: Stage) -> dict[str, Object]:
    items = stage.ack.get(path_of("apps/v1", "deployments", apps.NAMESPACE))["items"]
    return {item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"] for item in items}


@pytest.fixture
def whole(lab: Lab, tmp_path: Path) -> Iterator[Stage]:
    with net.inside(lab):
        stage = Stage(lab, tmp_path, "whole", **WHOLE)
        # Rollouts on a machine that others use too make answers late; none of them may be missing, which is counted.
        (gate,) = stage.variables["ack_to_asm_gates"]
        gate["probe"] |= {"timeout": 10, "min_requests": 20}
        stage = Stage(lab, tmp_path, "whole", **{**WHOLE, "ack_to_asm_gates": [gate]})
        before = stage.ack.get(MESH_CONFIG)["data"]["mesh"]
        try:
            yield stage
        finally:
            played = stage.play("ack_to_asm_rollback")
            stage.ack.patch(MESH_CONFIG, {"data": {"mesh": before}})
            stage.ack.patch(SYSTEM, {"metadata": {"labels": {"istio-injection": None}}})
            stage.forget_mirror()
            assert played.code == 0, played.text[-4000:]


def test_workloads_and_ingress_move_and_come_back(lab: Lab, whole: Stage) -> None:
    with Load(lab).running(strict=True, copied=False) as load:
        before = labels(whole)
        file = whole.traffic(100, 900)
        try:
            played = whole.play("ack_to_asm", *SHIFT)
            assert played.code == 0, played.text[-6000:]
            assert proxies(whole) == {MESH_ID}
            assert whole.asm.get(POLICY)["spec"] == {"mtls": {"mode": "STRICT"}}
            again = whole.play("ack_to_asm", *SHIFT)
            assert (again.code, again.changed) == (0, 0), again.text[-4000:]
            back = whole.play("ack_to_asm_rollback")
            assert back.code == 0, back.text[-6000:]
        finally:
            whole.end_traffic()
        assert proxies(whole) == {""} and labels(whole) == before
        load.ack.wait("the end of ASM's part", lambda: whole.asm.find(OBJECT) is None and not whole.ack.find(OWN_HOOK_PATH), 30)
        told = load.stop()
    _buckets, summary = evidence.read(file)
    assert summary["failed"] == 0, summary
    assert told["failed"] == 0 and told["least_rate"] >= 100, told
