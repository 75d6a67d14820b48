# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several gateways at once: an answer for each, and what was done is kept when another one fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.kube import path_of
from tests.integration.ccm.world import until
from tests.integration.collection.scene import Scene

VERSIONS = ("v2.14.0",)


@pytest.fixture
def second(scene: Scene, tmp_path: Path) -> Iterator[Scene]:
    """Another gateway in the same cluster, with a load balancer of its own."""
    used = Scene(scene.world, Path(scene._kubeconfig), scene.controller, tmp_path)
    yield used
    used.close()


def both(scene: Scene, second: Scene, **more: Any) -> dict[str, Any]:
    gateways = [{**item.params()["gateways"][0], **more.get(item.target, {})} for item in (scene, second)]
    return {"gateways": gateways}


def test_two_gateways(scene: Scene, second: Scene) -> None:
    scene.up()
    second.up()
    first = [scene.snapshot(), second.snapshot()]
    outcome = scene.reuse(**both(scene, second))
    assert [item["load_balancer_id"] for item in outcome.result["gateways"]] == [scene.lb, second.lb]
    for item in (scene, second):
        assert item.one_weight(item.source) == [50, 50]
        item.gateway()
    answers = scene.weight(25, **both(scene, second, **{second.target: {"share": 50}})).result["gateways"]
    assert [(item["asked"], item["planned"], item["observed"]) for item in answers] == [(25, 25, 25), (50, 50, 50)]

    # One of them cannot be moved: refused before anything is written to the other.
    second.controller.paused = True
    second.world.ensured(
        f"istio-{second.target}", lambda: second.world.annotate(f"istio-{second.target}", force_override_listeners="true")
    )
    second.rest()
    error = scene.refused(lambda: scene.weight(0, **both(scene, second)))
    assert second.target in error.what
    second.world.ensured(
        f"istio-{second.target}", lambda: second.world.annotate(f"istio-{second.target}", force_override_listeners="false")
    )
    second.controller.paused = False

    scene.weight(0, **both(scene, second))
    for item in (scene, second):
        item.remove_gateway()
    scene.reuse("absent", **both(scene, second))
    assert [scene.snapshot(), second.snapshot()] == first


def test_the_same_load_balancer_twice_is_refused(scene: Scene) -> None:
    scene.up()
    scene.reuse()
    scene.gateway()
    # The Service of the target is named as a source of another gateway: both are behind one load balancer.
    gateways = [
        scene.params()["gateways"][0],
        {**scene.params()["gateways"][0], "source_service": f"istio-{scene.target}", "target_gateway": "other"},
    ]
    error = scene.refused(lambda: scene.reuse(gateways=gateways))
    assert "named twice" in error.what or "same load balancer" in error.what


def test_a_retired_source(scene: Scene) -> None:
    """After the end of a migration: everything is at the target, and a run of the whole playbook again changes nothing."""
    scene.up()
    scene.reuse()
    scene.gateway()
    scene.weight(100)
    scene.world.delete(scene.source)
    scene.rest()
    outcome = scene.reuse()
    assert not outcome.plan.changed
    assert "retired" in outcome.plan.notes[0]
    assert not scene.weight(100).plan.changed
    with pytest.raises(Exception, match="retired"):
        scene.weight(50)
    with pytest.raises(Exception, match="bring it back first"):
        scene.reuse("absent")
    assert {tuple(item) for item in scene.weights(f"istio-{scene.target}").values()} == {(50, 50)}


def test_a_service_that_was_made_anew_is_given_its_load_balancer_back(scene: Scene) -> None:
    """Retired and brought back: another UID, so the CCM looks for another tag and, perhaps, other names of groups."""
    scene.up()
    scene.reuse()
    notes = (scene.world.get(scene.source) or {})["metadata"]["annotations"]
    scene.world.delete(scene.source)
    path = path_of("v1", "services", scene.world.ns, scene.source)
    scene.rest()
    assert scene.world.api.find(path) is None
    scene.world.service(scene.source, ports=scene.PORTS, raw=notes)
    until("its backends are back", lambda: all(item == [50, 50] for item in scene.weights(scene.source).values()))
    scene.rest()
    scene.reuse("absent")
    now = scene.snapshot()
    uid = str((scene.world.get(scene.source) or {})["metadata"]["uid"])
    assert now["tags"]["kubernetes.do.not.delete"] == ("a" + uid).replace("-", "")[:32]
    assert scene.one_weight(scene.source) == [100, 100]
    assert len(now["groups"]) == 3
    # The CCM really works on it as its own again.
    scene.world.ensured(scene.source, lambda: scene.world.touch(scene.source))
    assert scene.snapshot()["groups"] == now["groups"]
