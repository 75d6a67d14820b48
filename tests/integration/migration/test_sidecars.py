# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role moves ingress and workloads, sidecars first, and takes all of it back, while both kinds of traffic are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import evidence
from lab.demo.stage import Stage
from lab.load import Load
from lab.mesh_asm import MESH_ID
from lab.state import Lab
from tests.integration.migration.whole import POLICY, SHIFT, labels, whole_stage

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]


@pytest.fixture
def whole(lab: Lab, tmp_path: Path) -> Iterator[Stage]:
    with whole_stage(lab, tmp_path) as stage:
        yield stage


def test_workloads_and_ingress_move_and_come_back(lab: Lab, whole: Stage) -> None:
    with Load(lab).running(strict=True, copied=False) as load:
        before = labels(whole)
        file = whole.traffic(100, 900)
        try:
            played = whole.play("ack_to_asm", *SHIFT)
            assert played.code == 0, played.text[-6000:]
            assert whole.sidecars() == {MESH_ID}
            assert whole.asm.get(POLICY)["spec"] == {"mtls": {"mode": "STRICT"}}
            again = whole.play("ack_to_asm", *SHIFT)
            assert (again.code, again.changed) == (0, 0), again.text[-4000:]
            back = whole.play("ack_to_asm_rollback")
            assert back.code == 0, back.text[-6000:]
        finally:
            whole.end_traffic()
        assert whole.sidecars() == {""} and labels(whole) == before
        told = load.stop()
    _buckets, summary = evidence.read(file)
    assert summary["failed"] == 0, summary
    assert told["failed"] == 0 and told["least_rate"] >= 100, told
