# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clb_reuse: there, back byte by byte, and from wherever it was killed."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.integration.ccm.world import PREFIX
from tests.integration.collection.scene import Scene, killed_at, newest


def test_there_and_back(scene: Scene) -> None:
    scene.up()
    first = scene.snapshot()
    mark = scene.world.cloud.mark()
    check = scene.reuse(check=True)
    assert scene.snapshot() == first
    done = scene.reuse()
    assert [str(item) for item in done.plan.changes] == [str(item) for item in check.plan.changes]
    now = scene.snapshot()
    assert now["tags"] == {"kubernetes.reused.by.user": "true"}
    assert sorted(now["groups"]) == ["shared-15021", "shared-443", "shared-80"]
    assert sorted(now["groups"].values()) == sorted(first["groups"].values())
    assert {item["Scheduler"] for item in now["listeners"].values()} == {"wrr"}
    assert scene.one_weight(scene.source) == [50, 50]
    notes = now["annotations"]
    groups = {port: item["VServerGroupId"] for port, item in first["listeners"].items()}
    assert notes[f"{PREFIX}vgroup-port"] == ",".join(f"{groups[port]}:{port}" for port in scene.PORTS)
    assert (notes[f"{PREFIX}weight"], notes[f"{PREFIX}force-override-listeners"]) == ("100", "false")
    assert set(scene.writes(mark)) <= {"TagResources", "SetVServerGroupAttribute"}, scene.writes(mark)
    again = scene.reuse()
    assert not again.plan.changed, again.plan.as_list()
    assert again.result["gateways"][0]["reusable"]

    mark = scene.world.cloud.mark()
    scene.reuse("absent")
    assert scene.snapshot() == first
    assert set(scene.writes(mark)) <= {"TagResources", "SetVServerGroupAttribute"}, scene.writes(mark)
    again = scene.reuse("absent")
    assert not again.plan.changed


# Killed at every fifth line; in a thorough run with this version at each. Odd, so that it is now after a line, now before one.
FULL = "v2.14.0"
HARMLESS = {"TagResources", "SetVServerGroupAttribute", "AddVServerGroupBackendServers", "RemoveVServerGroupBackendServers"}


def is_reused(scene: Scene, first: dict[str, Any]) -> None:
    """The end state of present, whatever happened on the way."""
    now = scene.snapshot()
    assert now["tags"] == {"kubernetes.reused.by.user": "true"}
    assert sorted(now["groups"]) == ["shared-15021", "shared-443", "shared-80"]
    assert sorted(now["groups"].values()) == sorted(first["groups"].values())
    assert {port: item["VServerGroupId"] for port, item in now["listeners"].items()} == {
        port: item["VServerGroupId"] for port, item in first["listeners"].items()
    }
    assert scene.one_weight(scene.source) == [50, 50]


def lines_of(call: Any) -> int:
    """How many lines of the journal a run writes."""
    with killed_at(10_000) as lines:
        call()
    return len(lines)


@pytest.mark.timeout(900)
def test_killed_at_lines_of_the_journal(scene: Scene) -> None:
    """present and absent, killed at every fifth line (LAB_THOROUGH=1: at each), then run again, or taken back.

    Endpoints change in the middle, too.
    """
    scene.up()
    first = scene.snapshot()
    mark = scene.world.cloud.mark()
    there = lines_of(scene.reuse)
    back = lines_of(lambda: scene.reuse("absent"))
    assert there > 20
    assert back > 12
    assert scene.snapshot() == first
    every = 1 if os.environ.get("LAB_THOROUGH") == "1" and scene.world.version == FULL else 5
    for number in range(1, there + 1, every):
        with killed_at(number) as lines:
            scene.reuse()
        assert len(lines) == number
        scene.endpoints(scene.source, 3 if number % 2 else 2)
        scene.rest()
        if number % 3:
            scene.reuse()
            is_reused(scene, first)
        scene.reuse("absent")
        assert scene.snapshot() == first, f"killed at line {number} of present: {lines[-1]}"
    for number in range(1, back + 1, every):
        scene.reuse()
        with killed_at(number) as lines:
            scene.reuse("absent")
        scene.endpoints(scene.source, 3 if number % 2 else 2)
        scene.rest()
        if number % 3 == 0:
            scene.reuse()
            is_reused(scene, first)
        scene.reuse("absent")
        assert scene.snapshot() == first, f"killed at line {number} of absent: {lines[-1]}"
    assert set(scene.writes(mark)) <= HARMLESS


@newest
def test_undo_without_the_journal(scene: Scene) -> None:
    """What the journal kept is derived from the Service and from what the CCM wrote; only the scheduler cannot be known."""
    scene.up()
    first = scene.snapshot()
    scene.reuse()
    scene.migration = "another"
    outcome = scene.reuse("absent")
    assert any("derived" in note for note in outcome.plan.notes)
    now = scene.snapshot()
    for listener in now["listeners"].values():
        assert listener["Scheduler"] == "wrr"
        listener["Scheduler"] = "rr"
    assert now == first


def test_mends_the_vendors_own_procedure(scene: Scene) -> None:
    """The tags were taken off and the Service annotated by hand, without renaming: the broken state of facts 2.3 is mended."""
    scene.up()
    first = scene.snapshot()
    groups = {port: item["VServerGroupId"] for port, item in first["listeners"].items()}
    scene.world.untag(scene.lb, "kubernetes.do.not.delete", "ack.aliyun.com")
    named = ",".join(f"{groups[port]}:{port}" for port in scene.PORTS)
    scene.world.annotate(scene.source, id=scene.lb, vgroup_port=named, weight="100", force_override_listeners="false")
    scene.rest()
    scene.reuse()
    is_reused(scene, first)


@newest
def test_original_annotations_and_protection_come_back(scene: Scene) -> None:
    scene.up(notes={"force-override-listeners": "false", "delete-protection": "off"}, raw={"team": "edge"})
    first = scene.snapshot()
    assert first["balancer"]["DeleteProtection"] == "off"
    scene.reuse()
    assert scene.snapshot()["balancer"]["DeleteProtection"] == "on"
    scene.reuse("absent")
    assert scene.snapshot() == first


@newest
def test_a_weight_in_use_stays(scene: Scene) -> None:
    scene.up()
    scene.reuse()
    scene.world.ensured(scene.source, lambda: scene.world.annotate(scene.source, weight="60"))
    assert not scene.reuse().plan.changed
    assert scene.one_weight(scene.source) == [30, 30]


@newest
@pytest.mark.parametrize("mode", [{"local": True}, {"eni": True}], ids=["local", "eni"])
def test_there_and_back_in_other_modes(scene: Scene, mode: dict[str, bool]) -> None:
    """Local: weights by pods on a node; eni: pods are the backends, and groups are named after the targetPort."""
    scene.up(pods=3, **mode)
    scene.world.ensured(scene.source, lambda: scene.world.touch(scene.source))
    scene.rest()
    first = scene.snapshot()
    scene.reuse()
    assert scene.one_weight(scene.source) == ([33, 33, 33] if "eni" in mode else [33, 66])
    assert not scene.reuse().plan.changed
    scene.gateway(pods=2, **mode)
    answer = scene.weight(30).result["gateways"][0]
    assert answer["mode"] == next(iter(mode))
    assert abs(answer["planned"] - 30) < 2
    assert answer["observed"] == pytest.approx(answer["planned"], abs=0.01)
    scene.weight(0)
    scene.remove_gateway()
    scene.reuse("absent")
    assert scene.snapshot() == first


@newest
def test_without_a_single_event(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes drops the events of a Service that has had many: the undo must come to its end all the same, and say so."""
    from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _reuse_run

    scene.up()
    first = scene.snapshot()
    monkeypatch.setattr(_reuse_run, "events_of", lambda *_: [])
    monkeypatch.setattr(_reuse_run, "_SILENT", 2.0)
    monkeypatch.setattr(_reuse_run, "_AGAIN", 0.5)
    outcome = scene.reuse()
    assert any("no event said" in note for note in outcome.plan.notes)
    is_reused(scene, first)
    scene.reuse("absent")
    assert scene.snapshot() == first


def test_annotations_dropped_by_gitops(scene: Scene) -> None:
    """C2: the CCM takes the load balancer back as its own, with new groups. No weight is written then, and both ways out work."""
    scene.up()
    first = scene.snapshot()
    scene.reuse()
    scene.gateway()
    names = ("id", "vgroup_port", "weight", "force_override_listeners")
    scene.world.ensured(scene.source, lambda: scene.world.annotate(scene.source, **dict.fromkeys(names)))
    scene.rest()
    error = scene.refused(lambda: scene.weight(5))
    assert "it is not reusable" in error.why
    scene.remove_gateway()
    scene.reuse("absent")
    now = scene.snapshot()
    assert now["tags"] == first["tags"]
    assert now["annotations"] == first["annotations"]
    assert set(first["groups"]) <= set(now["groups"])
    scene.reuse()
    assert scene.one_weight(scene.source) == [50, 50]
