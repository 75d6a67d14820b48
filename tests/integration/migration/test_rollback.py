# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role goes back from the middle and from the end, also when variables and journal say less than what was done."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import apps
from lab.asm.migrate import OBJECT, OWN_HOOK_PATH
from lab.cluster import Cluster
from lab.demo import evidence
from lab.demo.stage import Stage, differences, sequence
from lab.kube import path_of
from lab.load import Load
from lab.mesh_asm import MESH_ID
from lab.state import Lab
from tests.integration.migration.conftest import described
from tests.integration.migration.whole import SHIFT, UNJUDGED, WHOLE, whole_stage

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1800)]
ISTIOD = path_of("apps/v1", "deployments", "istio-system", "istiod")


def templates(stage: Stage) -> dict[str, str]:
    """Pod templates and strategies of the application, byte for byte; without the mark of the restart, which stays."""
    found = {}
    for item in stage.ack.get(path_of("apps/v1", "deployments", apps.NAMESPACE))["items"]:
        spec = json.loads(json.dumps(item["spec"]))
        notes = spec["template"]["metadata"].get("annotations") or {}
        notes.pop("servicemesh.migration/restarted", None)
        spec["template"]["metadata"].pop("annotations", None)
        found[item["metadata"]["name"]] = json.dumps([spec["template"], notes, spec["strategy"]], sort_keys=True)
    return found


@contextlib.contextmanager
def nothing_lost(lab: Lab, stage: Stage) -> Iterator[None]:
    """Traffic through the load balancer, and between workloads that take nothing but mutual TLS; all of it is answered."""
    with Load(lab).running(strict=True, copied=False) as load:
        file = stage.traffic(100, 1500)
        try:
            yield
        finally:
            stage.end_traffic()
        told = load.stop()
    _buckets, summary = evidence.read(file)
    assert (summary["failed"], told["failed"]) == (0, 0), (summary, told)
    assert summary["sent"] > 1000 and told["sent"] > 1000
    print(f"{summary['sent']} and {told['sent']} requests, none failed")


def play(stage: Stage, playbook: str, *arguments: str) -> Any:
    played = stage.play(playbook, *arguments)
    assert played.code == 0, played.text[-6000:]
    return played


def back_again(stage: Stage) -> None:
    """Nothing of a mesh of ASM's is left, and the rollback has nothing more to do."""
    assert stage.sidecars() == {""} and stage.shares() == {0.0}
    gone = lambda: stage.asm.find(OBJECT) is None and not stage.ack.find(OWN_HOOK_PATH)  # noqa: E731
    Cluster(stage.lab, "ack", 1).wait("the end of ASM's part", gone, 30)
    again = play(stage, "ack_to_asm_rollback")
    assert again.changed == 0, again.text[-4000:]


def test_half_way_without_the_disk_and_with_other_variables(lab: Lab, tmp_path: Path) -> None:
    """Half of the workloads and a quarter of the ingress have moved; journal and description are lost, the mirror is there."""
    with whole_stage(lab, tmp_path, ack_to_asm_waves=["50%"], ack_to_asm_steps=[25], **UNJUDGED) as stage:
        before = stage.world()
        with nothing_lost(lab, stage):
            first = templates(stage)
            play(stage, "ack_to_asm", *SHIFT)
            assert stage.sidecars() == {"", MESH_ID} and all(20 <= share <= 30 for share in stage.shares())
            shutil.rmtree(stage.state_dir)
            less: dict[str, Any] = {
                **WHOLE,
                **UNJUDGED,
                "ack_to_asm_waves": [],
                "ack_to_asm_mesh_id": "",
                "ack_to_asm_cluster_id": "",
            }
            other = described(lab, tmp_path / "other", "whole", **less)
            play(other, "ack_to_asm_rollback")
            assert templates(stage) == first
        back_again(other)
        left = differences(before, stage.world())
        # What stays: the mark of the restart, which is made once, and the number of rollouts.
        stays = ("servicemesh.migration/restarted", "deployment.kubernetes.io/revision")
        left = [line for line in left if not any(one in line for one in stays)]
        assert not left, sequence(left)


@pytest.mark.parametrize("finished", [False, True], ids=["after-the-uninstall", "after-finished"])
def test_from_the_very_end(lab: Lab, tmp_path: Path, finished: bool) -> None:
    """Istio is gone and all workloads are ASM's; in the state Finished ASM takes every pod."""
    with whole_stage(lab, tmp_path, **UNJUDGED, ack_to_asm_uninstall=True, ack_to_asm_uninstall_finished=finished) as stage:
        with nothing_lost(lab, stage):
            first = templates(stage)
            play(stage, "ack_to_asm")
            assert stage.ack.find(ISTIOD) is None and stage.sidecars() == {MESH_ID} and stage.shares() == {100.0}
            if finished:
                assert stage.asm.get(OBJECT)["status"]["state"] == "Finished"
            play(stage, "ack_to_asm_rollback")
            assert templates(stage) == first
        back_again(stage)
