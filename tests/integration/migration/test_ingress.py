# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole role in the lab, under traffic: there, again, back; and never a lost request."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

import pytest

from lab import proc
from lab.cluster import Cluster
from lab.demo import evidence
from lab.demo.stage import Stage, differences, sequence
from lab.state import Lab
from lab.world_cloud import start_ccm

SHIFT = ("--skip-tags", "finish")


def lost(stage: Stage, file: Any) -> tuple[list[dict[str, Any]], int, int]:
    stage.end_traffic()
    buckets, summary = evidence.read(file)
    return buckets, summary["sent"], summary["failed"]


def test_check_mode_shows_the_plan_and_changes_nothing(stage: Stage) -> None:
    before = stage.world()
    calls = stage.cloud("calls")["calls"]
    played = stage.play("ack_to_asm", "--check", "--diff")
    assert played.code == 0, played.text[-3000:]
    assert played.changed
    assert played.changed > 0
    assert "alibaba-cloud-loadbalancer-vgroup-port" in played.text
    assert not differences(before, stage.world())
    writes = [call for call in stage.cloud("calls")["calls"][len(calls) :] if not call["action"].startswith(("Describe", "List"))]
    assert not writes, writes[:3]
    assert not stage.journal.exists()


def no_secret_is_written_down(stage: Stage, text: str) -> None:
    secret = stage.env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
    assert secret
    assert secret not in text
    for file in stage.state_dir.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert secret not in str(stage.ack.get("/api/v1/namespaces/istio-system/configmaps/servicemesh-migration-it"))


def test_there_again_and_back_under_traffic(stage: Stage) -> None:
    before = stage.world()
    file = stage.traffic(100, 400)
    try:
        played = stage.play("ack_to_asm", *SHIFT, "-vvv")
        assert played.code == 0, played.text[-4000:]
        no_secret_is_written_down(stage, played.text)
        again = stage.play("ack_to_asm", *SHIFT)
        assert (again.code, again.changed) == (0, 0), again.text[-4000:]
        back = stage.play("ack_to_asm_rollback")
        assert back.code == 0, back.text[-4000:]
    finally:
        buckets, sent, failed = lost(stage, file)
    assert failed == 0
    assert sent > 1000
    left = differences(before, stage.world())
    assert not left, sequence(left)
    # At the top of the staircase every new connection went to ASM's gateway; afterwards none did.
    assert evidence.share(buckets[-10:], "new")["share"] == 0.0
    assert max(evidence.share([b], "new")["share"] or 0 for b in buckets) == 100.0
    assert stat.S_IMODE(stage.journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(stage.journal.parent.stat().st_mode) == 0o700
    again = stage.play("ack_to_asm_rollback")
    assert (again.code, again.changed) == (0, 0), again.text[-3000:]


@pytest.fixture
def older(lab: Lab, stage: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The same migration with an older cloud-controller-manager in the cluster."""
    version, ack = request.param, Cluster(lab, "ack", 1)
    try:
        proc.stop(lab, "ccm")
        start_ccm(lab, ack, version)
        yield Stage(lab, stage.folder, stage.name, **{**stage.variables, "ack_to_asm_ccm_version": version})
    finally:
        proc.stop(lab, "ccm")
        start_ccm(lab, ack, stage.env["LAB_CCM_VERSION"])


@pytest.mark.thorough
@pytest.mark.parametrize("older", ["v2.8.0", "v2.11.2"], indirect=True)
def test_with_older_controllers_too(older: Stage) -> None:
    before = older.world()
    file = older.traffic(200, 300)
    try:
        played = older.play("ack_to_asm", *SHIFT)
        assert played.code == 0, played.text[-4000:]
        assert older.shares() == {100.0}
        assert older.play("ack_to_asm", *SHIFT).changed == 0
        assert older.play("ack_to_asm_rollback").code == 0
    finally:
        _, sent, failed = lost(older, file)
    assert failed == 0
    assert sent > 1000
    left = differences(before, older.world())
    assert not left, sequence(left)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "rules",
    [
        [{"target": "slb", "action": "*", "rate": 0.1, "seed": 7, "effect": {"status": 503, "code": "ServiceUnavailable"}}],
        [{"target": "slb", "action": "Set*", "rate": 0.3, "seed": 3, "effect": {"status": 400, "code": "Throttling.User"}}],
        [{"target": "slb", "action": "*", "rate": 0.1, "seed": 5, "effect": {"reset": True}}],
    ],
    ids=["503-on-a-tenth", "throttled-writes", "reset-on-a-tenth"],
)
def test_cloud_faults_change_nothing_in_the_end(stage: Stage, rules: list[dict[str, Any]]) -> None:
    before = stage.world()
    file = stage.traffic(200, 400)
    try:
        stage.set_faults(rules)
        played = stage.play("ack_to_asm", *SHIFT)
        stage.lift_faults()
        assert played.code == 0, played.text[-4000:]
        assert stage.shares() == {100.0}
        assert stage.play("ack_to_asm_rollback").code == 0
    finally:
        stage.lift_faults()
        _, _, failed = lost(stage, file)
    assert failed == 0
    assert not differences(before, stage.world())


@pytest.mark.thorough
def test_api_server_faults_change_nothing_in_the_end(stage: Stage) -> None:
    faulty = stage.with_faulty_api_servers()
    faulty.set_faults(
        [
            {"target": name, "action": "*", "rate": 0.1, "seed": 11, "effect": {"status": status}}
            for name in ("ack", "asm")
            for status in (429, 500)
        ]
    )
    file = stage.traffic(200, 400)
    try:
        played = faulty.play("ack_to_asm", *SHIFT)
        stage.lift_faults()
        assert played.code == 0, played.text[-4000:]
        assert stage.shares() == {100.0}
    finally:
        stage.lift_faults()
        _, _, failed = lost(stage, file)
    assert failed == 0
