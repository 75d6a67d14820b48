# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role moves workloads, what leaves the mesh, and the ingress, in that order, and takes all of it back; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import egress
from lab.demo import evidence
from lab.mesh_asm import MESH_ID
from lab.state import Lab
from tests.integration.migration.outward import Caller, out
from tests.integration.migration.whole import SHIFT, whole_stage

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1500)]


def test_egress_moves_with_the_rest_and_comes_back(lab: Lab, tmp_path: Path) -> None:
    route = egress.path(egress.inside())
    with whole_stage(lab, tmp_path, "egress", **out()) as stage, egress.running(lab):
        with Caller(lab).running(strict=True, copied=False) as load:
            before = stage.ack.get(route)["spec"]
            file = stage.traffic(100, 1500)
            try:
                played = stage.play("ack_to_asm", *SHIFT)
                assert played.code == 0, played.text[-6000:]
                assert stage.sidecars() == {MESH_ID} and stage.shares() == {100.0}
                first = load.by_gateway()
                load.wait_for(300)
                second = load.by_gateway()
                assert second[egress.ASM_GATEWAY] > first[egress.ASM_GATEWAY]
                assert second.get(egress.GATEWAY, 0) - first.get(egress.GATEWAY, 0) <= 5
                again = stage.play("ack_to_asm", *SHIFT)
                assert (again.code, again.changed) == (0, 0), again.text[-4000:]
                # Who takes it back does not say that egress was moved.
                for name in ("ack_to_asm_egress", "ack_to_asm_egress_objects"):
                    stage.variables[name] = []
                stage.describe()
                back = stage.play("ack_to_asm_rollback")
                assert back.code == 0, back.text[-6000:]
            finally:
                stage.end_traffic()
            assert stage.ack.get(route)["spec"] == before and stage.asm.find(route) is None
            assert stage.sidecars() == {""} and stage.shares() == {0.0}
            told = load.stop()
        _buckets, summary = evidence.read(file)
        assert (summary["failed"], told["failed"], told["errors"]) == (0, 0, {}), (summary, told)
