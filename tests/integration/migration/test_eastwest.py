# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role moves workloads of a cluster whose neighbour is in another network: told of the networks it loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import eastwest
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab
from tests.integration.migration.whole import SHIFT, whole_stage

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1500)]
NETWORKS = [
    {"cluster_id": ACK_ID, "network": eastwest.NETWORK},
    {"cluster_id": eastwest.B_ID, "network": eastwest.OTHER, "custom_gateway_address": eastwest.ADDRESS},
]


def test_networks_are_told_before_anything_moves_and_taken_back(lab: Lab, tmp_path: Path) -> None:
    load = eastwest.Caller(lab)
    with eastwest.running(lab), whole_stage(lab, tmp_path, "eastwest") as stage, load.running(strict=True, copied=False):
        refused = stage.play("ack_to_asm", *SHIFT)
        assert refused.code and "network network-1, ASM in none" in refused.text, refused.text[-6000:]
        assert refused.changed == 0
        stage.variables["ack_to_asm_networks"] = NETWORKS
        stage.describe()
        played = stage.play("ack_to_asm", *SHIFT)
        assert played.code == 0, played.text[-6000:]
        assert stage.sidecars() == {MESH_ID}
        told = {key: one["Network"] for key, one in stage.cloud("meshes")["meshes"][MESH_ID]["networks"].items()}
        assert told == {ACK_ID: eastwest.NETWORK, eastwest.B_ID: eastwest.OTHER}
        load.wait_for(300)
        again = stage.play("ack_to_asm", *SHIFT)
        assert (again.code, again.changed) == (0, 0), again.text[-4000:]
        # Who takes it back need not say what was told.
        stage.variables |= {"ack_to_asm_networks": [], "ack_to_asm_mesh_id": "", "ack_to_asm_cluster_id": ""}
        stage.describe()
        back = stage.play("ack_to_asm_rollback")
        assert back.code == 0, back.text[-6000:]
        assert stage.sidecars() == {""}
        left = stage.cloud("meshes")["meshes"][MESH_ID]["networks"]
        assert not any(one["Network"] or one["EnableGateway"] for one in left.values()), left
        summary = load.stop()
    assert (summary["failed"], summary["errors"]) == (0, {}), summary
    assert load.answered()[eastwest.NAME] > 1000
