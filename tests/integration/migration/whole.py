# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration with workloads in the shared lab: how it is described, what is looked at, and how the lab is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import apps, net
from lab.asm.migrate import MESH_CONFIG, OBJECT, OWN_HOOK_PATH
from lab.cluster import Cluster
from lab.demo.stage import Stage
from lab.kube import Object, path_of
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab
from tests.integration.migration.conftest import described

SYSTEM = path_of("v1", "namespaces", None, "istio-system")
POLICY = path_of("security.istio.io/v1", "peerauthentications", apps.NAMESPACE, "default")
SHIFT = ("--skip-tags", "finish")
WHOLE = {
    "ack_to_asm_mesh_id": MESH_ID,
    "ack_to_asm_cluster_id": ACK_ID,
    "ack_to_asm_waves": [1, "100%"],
    "ack_to_asm_restart_waves": ["100%"],
    "ack_to_asm_shift_order": ["sidecars", "ingress"],
    "ack_to_asm_sidecar_hold": 2,
}


#: Where requests are counted and nothing is judged: a machine that others use too may be late with every answer.
UNJUDGED = {"ack_to_asm_gates": [], "ack_to_asm_without_gates": True}


def labels(stage: Stage) -> dict[str, Object]:
    items = stage.ack.get(path_of("apps/v1", "deployments", apps.NAMESPACE))["items"]
    return {item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"] for item in items}


@contextmanager
def whole_stage(lab: Lab, folder: Path, name: str = "whole", **variables: Any) -> Iterator[Stage]:
    """Everything that is left at the end is taken back, and ASM's part is over."""
    with net.inside(lab):
        stage = described(lab, folder, name, **{**WHOLE, **variables})
        before = stage.ack.get(MESH_CONFIG)["data"]["mesh"]
        try:
            yield stage
        finally:
            played = stage.play("ack_to_asm_rollback")
            stage.ack.patch(MESH_CONFIG, {"data": {"mesh": before}})
            stage.ack.patch(SYSTEM, {"metadata": {"labels": {"istio-injection": None}}})
            stage.forget_mirror()
            assert played.code == 0, played.text[-4000:]
            Cluster(lab, "ack", 1).wait(
                "the end of ASM's part", lambda: stage.asm.find(OBJECT) is None and not stage.ack.find(OWN_HOOK_PATH), 30
            )
