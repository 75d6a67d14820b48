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
from lab.demo.stage import Stage
from lab.kube import path_of


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
