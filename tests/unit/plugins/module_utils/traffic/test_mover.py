# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One write of a move: who has to carry the traffic before it, and what it does without."""

from __future__ import annotations

import dataclasses
import math
import time
import types
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Health, Listener
from ansible_collections.servicemesh.migration.plugins.module_utils._core import _journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import NODE
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._move_state import GatewayState, order
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import plan_share
from tests.unit.plugins import clb_world as world


class Balancer:
    """Its health check says the same of all backends of a side."""

    def __init__(self, status: str) -> None:
        self.source, _slash, target = status.partition("/")
        self.target = target or self.source

    def health(self, _lb_id: str, listener: Listener) -> list[Health]:
        sides = [(self.source, world.backends(listener.port, 1, None)), (self.target, world.backends(listener.port, 1, 1)[2:])]
        return [
            Health(listener.port, item.server_id, item.server_ip, item.port, status) for status, some in sides for item in some
        ]


class Weights:
    """What a move asks of an API server."""

    def __init__(self) -> None:
        self.patches: list[str] = []

    def patch(self, _kind: t.Any, name: str, _namespace: str, body: t.Any) -> None:
        self.patches.append(name)


@pytest.fixture(autouse=True)
def _shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mover._One, "_wait", lambda _self, state, _side, _weight: state)


def steps(state: GatewayState, share: float, folder: Path, health: str = "normal") -> list[str]:
    """All writes of a move, each on the state that is given. Returns the names of what was patched."""
    cluster: t.Any = Weights()
    mover = _mover.Mover(cluster, cluster, t.cast(t.Any, Balancer(health)), [world.PAIR], Journal(str(folder), "shop"))
    mover._kind = t.cast(t.Any, "IstioGateway")
    one, plan = _mover._One(mover, world.PAIR, share, math.inf, "a test"), plan_share(state, share)
    for side, weight in order(state, plan):
        one._step(state, plan, side, weight)
    return t.cast("list[str]", cluster.patches)


def with_view(state: GatewayState, **changes: t.Any) -> GatewayState:
    return dataclasses.replace(state, view=dataclasses.replace(state.view, **changes))


def unready(state: GatewayState, service: str) -> GatewayState:
    return with_view(state, slices={**state.view.slices, service: []})


@pytest.mark.parametrize("health", ["unavailable", "normal"])
@pytest.mark.parametrize(("share", "service"), [(100, "istio-gw-asm"), (0, "gw")])
def test_a_side_without_a_ready_pod_carries_nothing_whatever_the_health_check_says(
    tmp_path: Path, health: str, share: float, service: str
) -> None:
    """Pods can fall ill between the plan and the second write; a health check that is off, or late, does not see it."""
    state = world.moving(100, 100)
    # The side that gets all of it has its weight already: what is left is to take the other's.
    assert steps(state, share, tmp_path / "well", health) == ["gw" if share else "gw-asm"]
    ill = unready(state, service)
    with pytest.raises(MigrationError, match=f"no pod of {service} is ready"):
        steps(ill, share, tmp_path / "ill", health)


@pytest.mark.parametrize(("source", "target", "share"), [(100, 0, 0), (0, 100, 100)])
def test_a_node_that_just_came_does_not_ask_for_a_side_that_is_to_have_nothing(
    tmp_path: Path, source: int, target: int, share: float
) -> None:
    """With a third node the same weight 100 has the sum 99: that takes nothing from anybody."""
    state = world.moving(source, target)
    more = with_view(state, nodes=(*state.view.nodes, world.node("c")))
    assert sorted(steps(more, share, tmp_path)) == ["gw", "gw-asm"]


def test_the_way_back_with_a_new_node_and_a_target_that_is_ill(tmp_path: Path) -> None:
    """A run that was killed between the two writes of the way back, on a night on which nodes come and the target fails."""
    state = world.moving(100, 32)
    more = with_view(state, nodes=(*state.view.nodes, world.node("c")))
    assert steps(unready(more, "istio-gw-asm"), 0, tmp_path, "normal/abnormal") == ["gw", "gw-asm"]


def test_a_full_disk_stops_the_way_up_and_not_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_journal.os, "fsync", full)
    with pytest.raises(MigrationError, match="No space left on device"):
        steps(world.moving(96, 32), 50, tmp_path)
    assert steps(world.moving(96, 32), 0, tmp_path) == ["gw", "gw-asm"]


def test_calls_are_not_repeated_beyond_the_piece_of_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that hangs for its whole time limit, eight times over, would keep gates and orders unheard for minutes."""
    options = {"host": "http://127.0.0.1:9", "api_key": "x", "request_timeout": 1}
    clusters = [Cluster(name, options) for name in ("source", "target")]
    balancer: t.Any = types.SimpleNamespace(until=None)
    mover = _mover.Mover(*clusters, balancer, [world.PAIR], Journal(str(tmp_path), "shop"))
    seen: list[float | None] = []

    def move_each(share: float, *, timeout: float, reason: str) -> t.NoReturn:
        seen.extend(one.until for one in (*clusters, balancer))
        list(clusters[0].list_all(NODE))
        raise AssertionError("an answer came from nowhere")

    monkeypatch.setattr(mover, "move_each", move_each)
    before = time.monotonic()
    with pytest.raises(MigrationError, match="no answer to GET") as caught:
        mover.move(25, timeout=0.0, reason="a test")
    assert "attempts" not in caught.value.details and caught.value.transient
    assert all(before <= until <= time.monotonic() for until in seen if until is not None) and len(seen) == 3 and None not in seen
    assert [one.until for one in (*clusters, balancer)] == [None] * 3
