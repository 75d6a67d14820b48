# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order weights are written, what forbids it, and which share is observed: hand-written states."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Backend
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm as ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import describe, shares
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._move_state import (
    GatewayState,
    order,
    refusals,
    unhealthy,
    worst,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import plan_share
from tests.unit.plugins import clb_world as world


def planned(state: GatewayState, share: float) -> list[tuple[str, int]]:
    return order(state, plan_share(state, share))


@pytest.mark.parametrize(
    ("source", "target", "share", "writes"),
    [
        (100, 0, 25, [("target", 32), ("source", 96)]),
        (96, 32, 50, [("target", 100), ("source", 100)]),
        (100, 100, 25, [("source", 96), ("target", 32)]),
        (96, 32, 0, [("source", 100), ("target", 0)]),
        (96, 32, 100, [("target", 100), ("source", 0)]),
        (0, 100, 0, [("source", 100), ("target", 0)]),
        (100, 0, 0, []),
        (0, 100, 100, []),
        (100, 2, 1, []),
    ],
)
def test_the_side_that_gets_more_is_written_first(source: int, target: int, share: float, writes: list[tuple[str, int]]) -> None:
    state = world.moving(source, target)
    assert planned(state, share) == writes
    assert state.settled(plan_share(state, share)) == (writes == [])
    assert refusals(state, share) == []


def test_an_annotation_that_the_load_balancer_does_not_show_is_written_again() -> None:
    state = world.moving(96, 32)
    stale = dataclasses.replace(state, view=dataclasses.replace(state.view, groups=world.moving(100, 0).view.groups))
    assert planned(stale, 25) == [("target", 32), ("source", 96)]
    gateway = copy.deepcopy(state.gateway)
    assert gateway is not None
    gateway["spec"]["serviceAnnotations"][ccm.WEIGHT] = "7"
    assert planned(dataclasses.replace(state, gateway=gateway), 25) == [("target", 32)]


def test_shares() -> None:
    state = world.moving(96, 32)
    assert state.shares == {80: 25.0, 443: 25.0}
    assert state.share == 25.0
    group, listener = state.view.groups[0], state.view.listeners[0]
    assert shares(listener, group) == {"istio-system/gw": 75.0, "istio-system/istio-gw-asm": 25.0}
    # A scheduler that does not look at weights counts backends with a weight over 0.
    assert shares(dataclasses.replace(listener, scheduler="rr"), group) == {
        "istio-system/gw": 50.0,
        "istio-system/istio-gw-asm": 50.0,
    }
    assert shares(dataclasses.replace(listener, scheduler="rr"), world.moving(100, 0).view.groups[0])["istio-system/gw"] == 100.0
    assert shares(listener, None) == {}
    empty = dataclasses.replace(group, backends=tuple(dataclasses.replace(item, weight=0) for item in group.backends))
    assert set(shares(listener, empty).values()) == {0.0}
    assert worst({80: 25.0, 443: 20.0}, 24.0) == 20.0
    assert worst({}, 24.0) == 24.0


def test_the_view_for_people_warns() -> None:
    view = world.fresh()
    stuck = dataclasses.replace(view.listeners[0], persistence="PersistenceTimeout 600 s")
    nothing = dataclasses.replace(view.groups[1], backends=())
    shown, warnings = describe(view.balancer, (stuck, view.listeners[1]), (view.groups[0], nothing), {})
    assert shown["listeners"][0]["owner"] == "istio-system/gw"
    assert shown["groups"][0]["backends"][0]["health"] == "unknown"
    for text in ("the scheduler rr does not look at weights", "PersistenceTimeout 600 s keeps clients", "it serves nobody"):
        assert any(text in warning for warning in warnings), text


def spoiled(side: str, **values: str | None) -> GatewayState:
    state = world.moving(96, 32)
    return dataclasses.replace(state, view=world.annotated(state.view, side, **values))


def listeners(**values: Any) -> GatewayState:
    state = world.moving(96, 32)
    changed = tuple(dataclasses.replace(item, **values) for item in state.view.listeners)
    return dataclasses.replace(state, view=dataclasses.replace(state.view, listeners=changed))


def view(**values: Any) -> GatewayState:
    state = world.moving(96, 32)
    return dataclasses.replace(state, view=dataclasses.replace(state.view, **values))


BASE = world.moving(96, 32)
STRANGER = Backend("i-x", 1, 5, "ecs", "", "by hand")
CASES = [
    (spoiled("source", id=None), 5, "names nothing as its load balancer"),
    (spoiled("target", id="lb-2"), 5, "names lb-2 as its load balancer"),
    (spoiled("target", force_override_listeners="true"), 5, "force-override-listeners is true"),
    (spoiled("source", force_override_listeners=None), 0, "force-override-listeners is not set"),
    (spoiled("source", ignore_weight_update="on"), 5, "ignore-weight-update is on"),
    (spoiled("target", vgroup_port="rsp-80:80, rsp-443:443"), 5, "vgroup-port names nothing for port 443"),
    (listeners(scheduler="rr"), 5, "has the scheduler rr"),
    (listeners(persistence="StickySession on"), 5, "keeps clients at their backend"),
    (view(listeners=BASE.view.listeners[:1]), 5, "port 443 has no listener with a vServer group"),
    (view(nodes=(*BASE.view.nodes, world.node("c", ""))), 5, "node c has no usable spec.providerID"),
    (view(slices={"gw": world.slices(), "istio-gw-asm": []}), 5, "no pod of istio-gw-asm is ready"),
    (view(slices={"gw": [], "istio-gw-asm": world.slices()}), 0, "no pod of gw is ready"),
    (view(source=None), 50, "is not there (retired?)"),
    (dataclasses.replace(BASE, gateway=None), 5, "IstioGateway gw-asm or its Service"),
    (
        view(
            groups=(
                dataclasses.replace(BASE.view.groups[0], backends=(*BASE.view.groups[0].backends, STRANGER)),
                BASE.view.groups[1],
            )
        ),
        5,
        "has a backend of somebody else",
    ),
    (
        view(balancer=dataclasses.replace(BASE.view.balancer, tags={ccm.TAG_OWNER: "a"})),
        5,
        "it is not reusable (module clb_reuse)",
    ),
]


@pytest.mark.parametrize(("state", "share", "reason"), CASES, ids=[case[2][:40] for case in CASES])
def test_refusals(state: GatewayState, share: float, reason: str) -> None:
    assert any(reason in found for found in refusals(state, share)), refusals(state, share)


def test_backends_that_are_missing_are_written_for_and_do_not_forbid_it() -> None:
    state = view(groups=world.reused().groups)
    assert refusals(state, 5) == []
    assert {side for side, _weight in order(state, plan_share(state, 5))} >= {"target"}


def test_a_target_that_is_not_ready_does_not_hold_up_the_way_back() -> None:
    assert refusals(view(slices={"gw": world.slices(), "istio-gw-asm": []}), 0) == []
    assert refusals(view(source=None), 100) == []


def test_healthy_means_a_weight_and_no_failed_check_in_every_group() -> None:
    state = world.moving(96, 32)
    good = {port: [(item.server_id, "", item.port, "normal") for item in world.backends(port, 48, 16)] for port in world.PORTS}
    assert unhealthy(state.view, "target", good) == []
    assert unhealthy(state.view, "target", {}) == []  # no result: the pods' readiness has to do
    bad = {**good, 443: [(*item[:3], "abnormal") for item in good[443]]}
    assert unhealthy(state.view, "target", bad) == [
        "port 443: the load balancer's health check fails for all backends of istio-gw-asm"
    ]
    none = world.moving(100, 0)
    assert len(unhealthy(none.view, "target", good)) == 2


def test_without_a_target_share_zero_is_settled() -> None:
    state = GatewayState(world.reused(), None)
    assert state.target_absent
    assert state.settled(plan_share(state, 0))
    assert state.as_dict()["observed"] == 0.0
