# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What leaves the mesh moves from Istio's egress gateway to ASM's under load, and back; every request counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_run import route_weight
from lab import egress, net
from lab.demo.stage import Stage
from lab.kube import path_of
from lab.mesh_asm import ACK_ID
from lab.state import Lab

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
ISTIO, ASM = egress.service(egress.GATEWAY), egress.service(f"istio-{egress.ASM_GATEWAY}")
NAMESPACES = path_of("v1", "namespaces", None, egress.NAMESPACE)


class Scene:
    """route_weight as Ansible calls it."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self._common: dict[str, Any] = {
            "source": {"kubeconfig": stage.env["LAB_ACK_KUBECONFIG"], "cluster_uid": stage.env["LAB_ACK_UID"]},
            "target": {"kubeconfig": stage.env["LAB_ASM_KUBECONFIG"]},
            "migration": "routes",
            "state_dir": str(folder / "state"),
        }

    def run(self, *, check: bool = False, **options: Any) -> Outcome:
        moved = egress.inside()
        ours = [egress.asm_gateway(ACK_ID), egress.service_entry(), *egress.outside(egress.ASM_GATEWAY, egress.ASM_GATEWAY)]
        # The clients are Istio's still: the way out of ASM's gateway is in ASM, the weights are in both.
        objects = [{"mesh": "target", "definition": one} for one in [*ours, moved]]
        given: dict[str, Any] = {
            "state": "moved",
            "routes": [
                {
                    "namespace": egress.NAMESPACE,
                    "name": moved["metadata"]["name"],
                    "source": {"host": ISTIO},
                    "target": {"host": ASM},
                }
            ],
            "objects": objects,
            "steps": [1, 50, 100],
            "hold": 5.0,
            "max_hold": 30.0,
            "allow_down": False,
            "on_fail": "zero",
            "on_interrupt": "hold",
            "baseline_timeout": 30.0,
            "soak": 0.0,
            "max_pause": 60.0,
            "proof": "proxies",
            "proof_sample": 5,
            "drain_seconds": 5.0,
            "wait_timeout": 120.0,
            "gates": [],
            "allow_without_gates": True,
        }
        return route_weight({**self._common, **given, **options}, check)

    def spec(self) -> str:
        return json.dumps(self.stage.ack.get(egress.path(egress.inside()))["spec"])


def good(done: Outcome) -> Outcome:
    assert done.failed is None, done.failed.message
    return done


@pytest.fixture
def scene(lab: Lab, tmp_path: Path) -> Iterator[Scene]:
    with net.inside(lab):
        stage = Stage(lab, tmp_path, "routes")
        caller = egress.Caller(lab)
        mine = stage.asm.find(NAMESPACES) is None
        caller.asm.apply_object(
            "v1", "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": egress.NAMESPACE}}
        )
        with egress.running(lab):
            one = Scene(stage, tmp_path)
            try:
                yield one
            finally:
                good(one.run(state="restored"))
                stage.forget_mirror()
                if mine:
                    stage.asm.delete(NAMESPACES)


def test_egress_moves_under_load_and_back_without_a_lost_request(lab: Lab, scene: Scene) -> None:
    caller = egress.Caller(lab)
    with caller.running(rate=120):
        before = scene.spec()
        planned = good(scene.run(check=True))
        assert [step["planned"] for step in planned.result["steps"]] == [1, 50, 100] and scene.spec() == before
        assert set(caller.by_gateway()) == {egress.GATEWAY}
        good(scene.run(steps=[{"share": 1, "hold": 10}]))
        early = caller.by_gateway()
        assert early.get(egress.ASM_GATEWAY, 0) < early[egress.GATEWAY] / 10
        done = good(scene.run(steps=[1, 50, 100]))
        assert [(step["planned"], step["observed"]) for step in done.result["steps"]][-1] == (100, 100)
        first = caller.by_gateway()
        caller.wait_for(300)
        second = caller.by_gateway()
        assert (
            second[egress.GATEWAY] - first[egress.GATEWAY] <= 5 and second[egress.ASM_GATEWAY] - first[egress.ASM_GATEWAY] >= 290
        )
        assert not good(scene.run()).plan.changed
        good(scene.run(state="restored"))
        assert scene.spec() == before
        third = caller.by_gateway()
        caller.wait_for(300)
        assert caller.by_gateway()[egress.ASM_GATEWAY] == third[egress.ASM_GATEWAY]
        told = caller.stop()
    assert (told["failed"], told["errors"]) == (0, {}), told
    assert told["sent"] > 3000 and told["least_rate"] >= 100, told
    assert (
        scene.stage.asm.find(path_of("istio.alibabacloud.com/v1beta1", "istiogateways", "istio-system", egress.ASM_GATEWAY))
        is None
    )
    print(json.dumps({**told, "gateways": caller.by_gateway()}, indent=1))
