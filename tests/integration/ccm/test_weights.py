# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that a Service's backends really get: the table of alibaba.md 2.6 ([RUN TestZZ_W_Table]).

Columns W = 1 | 5 | 10 | 50 | 90 | 100 of annotation weight; S = sum over the backends of one gateway in one group.
"""

from __future__ import annotations

import pytest

from tests.integration.ccm.world import World

ASKED = (1, 5, 10, 50, 90, 100)
EVEN = {
    1: (1, 5, 10, 50, 90, 100),
    3: (3, 3, 9, 48, 90, 99),
    7: (7, 7, 7, 49, 84, 98),
    30: (30, 30, 30, 30, 90, 90),
}
LOCAL = {
    3: (2, 4, 9, 49, 90, 99),
    7: (4, 4, 7, 49, 87, 98),
    30: (15, 15, 15, 45, 90, 90),
}


def _sums(world: World, group: str) -> tuple[int, ...]:
    found = []
    for weight in ASKED:
        world.ensured("gw", lambda: world.annotate("gw", weight=str(weight)))  # noqa: B023
        found.append(sum(world.weights(group, "gw")))
    return tuple(found)


@pytest.mark.parametrize("count", [1, 7, 30, 3])  # the last leaves the nodes as most other cases want them
def test_cluster(world: World, count: int) -> None:
    """By eligible nodes, wherever the pods are. 90:10 over 30 nodes is 90:30."""
    world.nodes(count)
    world.endpoints("gw", [("10.64.0.5", "n0")], ports=(80,))
    lb_id, groups = world.user_lb(ports=(80,))
    world.create("gw", world.reuse(lb_id, groups, 0), ports=(80,))
    assert world.weights(groups[80], "gw") == [0] * count
    assert _sums(world, groups[80]) == EVEN[count]
    world.ensured("gw", lambda: world.annotate("gw", weight=None))
    assert world.weights(groups[80], "gw") == [100] * count


@pytest.mark.parametrize("count", sorted(EVEN))
def test_eni(world: World, count: int) -> None:
    """By ready pods."""
    world.nodes(3)
    world.endpoints("gw", [(f"10.64.{index % 3}.{index + 1}", f"n{index % 3}") for index in range(count)], ports=(80,))
    lb_id, groups = world.user_lb(ports=(80,))
    world.create("gw", world.reuse(lb_id, groups, 0), ports=(80,), eni=True)
    assert world.weights(groups[80], "gw") == [0] * count
    assert _sums(world, groups[80]) == EVEN[count]


@pytest.mark.parametrize("pods", sorted(LOCAL))
def test_local(world: World, pods: int) -> None:
    """By pods on a node; two pods a node, the last node perhaps one. Without a weight: the number of its pods."""
    nodes = (pods + 1) // 2
    world.nodes(3 if nodes < 3 else nodes)
    world.endpoints("gw", [(f"10.64.{index // 2}.{index + 1}", f"n{index // 2}") for index in range(pods)], ports=(80,))
    lb_id, groups = world.user_lb(ports=(80,))
    world.create("gw", world.reuse(lb_id, groups, 0), ports=(80,), local=True)
    assert world.weights(groups[80], "gw") == [0] * nodes
    assert _sums(world, groups[80]) == LOCAL[pods]
    world.ensured("gw", lambda: world.annotate("gw", weight=None))
    assert world.weights(groups[80], "gw") == sorted([2] * (pods // 2) + [1] * (pods % 2))


def test_local_moves_with_pods(world: World) -> None:
    """Local mode: only nodes with ready pods are backends, and they change with the endpoints."""
    world.nodes(3)
    world.endpoints("gw", [("10.64.0.1", "n0"), ("10.64.0.2", "n0"), ("10.64.1.1", "n1")])
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90), local=True)
    assert {item["ServerId"]: item["Weight"] for item in world.backends(groups[80])} == {"i-n0": 60, "i-n1": 30}
    world.ensured("gw", lambda: world.endpoints("gw", [("10.64.2.1", "n2")]))
    assert {item["ServerId"]: item["Weight"] for item in world.backends(groups[80])} == {"i-n2": 90}


def test_default_weight(world: World) -> None:
    """Annotation default-weight: v2.14; older ones do not know it."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups) | {"default-weight": "50"})
    assert world.weights(groups[80], "gw") == ([50, 50, 50] if world.version == "v2.14.0" else [100, 100, 100])


def test_weight_needs_groups(world: World) -> None:
    """weight counts only together with loadbalancer-id and vgroup-port (2.1)."""
    world.nodes(3)
    lb_id = world.create("gw", {"weight": "30"})
    group = world.groups(lb_id)[world.group_name("gw", 80)]
    assert world.weights(group, "gw") == [100, 100, 100]
