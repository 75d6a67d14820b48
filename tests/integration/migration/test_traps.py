# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What other people and other tools do in the middle of a migration: refused, or seen and survived. Under traffic."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from lab.demo import evidence
from lab.demo.stage import Played, Stage, differences
from lab.kube import path_of
from tests.integration.collection.gateway_world import no_routes


@contextlib.contextmanager
def without_loss(stage: Stage) -> Iterator[None]:
    """Traffic all the while, and not one lost request."""
    file = stage.traffic(200, 400)
    try:
        yield
    finally:
        stage.end_traffic()
        _, summary = evidence.read(file)
    assert summary["failed"] == 0, (summary["errors"], summary["status"])
    assert summary["sent"] > 500


def node(stage: Stage, name: str) -> None:
    """A node that is Ready and has no spec.providerID, as they are for a while after they joined."""
    stage.ack.create(
        path_of("v1", "nodes"), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"lab": "trap"}}}
    )
    ready = {"type": "Ready", "status": "True", "reason": "Trap", "message": "", "lastHeartbeatTime": None}
    stage.ack.patch(path_of("v1", "nodes", None, name, "status"), {"status": {"conditions": [ready]}})


@pytest.mark.thorough
def test_a_node_without_provider_id_joins_in_the_middle(stage: Stage) -> None:
    """CCM v2.14 would take all backends away with the next change of an annotation, and say that all is well."""

    def join() -> None:
        until = time.monotonic() + 120
        while 5 not in stage.holding() and time.monotonic() < until:
            time.sleep(0.05)
        node(stage, "trap")

    with without_loss(stage):
        assert stage.play("ack_to_asm_prepare").code == 0
        thread = threading.Thread(target=join)
        thread.start()
        try:
            played = stage.play("ack_to_asm_shift")
            assert played.code != 0
            assert "trap" in played.text
            assert "providerID" in played.text
            assert stage.shares() == {5.0}, "nothing may be written while such a node is there"
        finally:
            thread.join()
            stage.ack.delete(path_of("v1", "nodes", None, "trap"))
        again = stage.play("ack_to_asm_shift")
        assert again.code == 0, again.text[-3000:]
        assert stage.shares() == {100.0}


def test_preflight_refuses_a_node_without_provider_id(stage: Stage) -> None:
    node(stage, "trap")
    try:
        played = stage.play("ack_to_asm_preflight")
    finally:
        stage.ack.delete(path_of("v1", "nodes", None, "trap"))
    assert played.code != 0
    assert "trap" in played.text


_ASKS = "Ask the target about every object that will be copied"


def asked_by(played: Played) -> set[str]:
    """Those of the preflight's question and the copy's that were asked, and not skipped."""
    parts = [part.split("\n", 2) for part in played.text.split("TASK [")[1:]]
    tasks = {head.split(" : ")[-1].split("]")[0]: first for head, first, *_more in parts if not first.startswith("skipping")}
    return {name for name in tasks if name.startswith((_ASKS, "Copy the gateway"))}


def test_a_run_asks_the_target_about_everything_before_it_writes_anything(stage: Stage) -> None:
    """A route that ASM does not take is told by the preflight of a run; a check of the whole role asks once, where it copies."""
    before = stage.world()
    with no_routes(stage.asm):
        played = stage.play("ack_to_asm")
        assert played.code != 0 and "no routes today" in played.text and asked_by(played) == {_ASKS}
        assert not differences(before, stage.world())
        checked = stage.play("ack_to_asm", "--check")
        assert checked.code != 0 and "no routes today" in checked.text
        assert len(asked_by(checked)) == 1 and _ASKS not in asked_by(checked)
        tagged = stage.play("ack_to_asm", "--check", "--tags", "preflight")
        assert tagged.code != 0 and asked_by(tagged) == {_ASKS}
    assert not differences(before, stage.world())
