# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two gateways behind one load balancer: the vendor's procedure taken literally (facts 2.3), the safe order (2.4), wrong orders.

`gw` is Istio's gateway with a load balancer of its own, `asm` the new one."""

from __future__ import annotations

import time

import pytest

from tests.integration.ccm.world import World, until

TAGS = ("kubernetes.do.not.delete", "ack.aliyun.com")
NEW = "v2.14.0"


def start(world: World, **more: object) -> tuple[str, dict[int, str]]:
    """Istio's gateway with a load balancer made by the CCM; its id, port -> group id."""
    world.nodes(3)
    lb_id = world.create("gw", **more)  # type: ignore[arg-type]
    return lb_id, {port: str(item["VServerGroupId"]) for port, item in world.listeners(lb_id).items()}


def notes_of(world: World, lb_id: str, groups: dict[int, str], weight: int, override: str = "false") -> dict[str, str]:
    """The same as keywords for World.annotate."""
    return {key.replace("-", "_"): value for key, value in world.reuse(lb_id, groups, weight, override).items()}


def share_safely(world: World, lb_id: str, groups: dict[int, str]) -> None:
    """Steps 1 to 4 of the safe order; a touch instead of the wait for the retry."""
    reason, text = world.outcome("gw", lambda: world.annotate("gw", **notes_of(world, lb_id, groups, 100)))
    assert reason == "SyncLoadBalancerFailed"
    refused = "cannot reuse a ccm created vgroup rsp-" if world.version == "v2.11.2" else "can not be reused"
    assert refused in text
    assert world.tags(lb_id).keys() == set(TAGS)
    for port, group in groups.items():
        world.rename(group, f"shared-{port}")
    world.untag(lb_id, *TAGS)
    world.ensured("gw", lambda: world.touch("gw"))


def both(world: World, group: str) -> tuple[list[int], list[int]]:
    return world.weights(group, "gw"), world.weights(group, "asm")


def test_literal_procedure(world: World) -> None:
    """2.3: tags off, annotations on, groups not renamed; the new gateway with override "true" and weight 0."""
    lb_id, groups = start(world)
    live = {group: [item["ServerId"] for item in world.backends(group)] for group in groups.values()}
    world.untag(lb_id, *TAGS)
    first, first_text = world.outcome("gw", lambda: world.annotate("gw", **notes_of(world, lb_id, groups, 100)))
    second, second_text = world.outcome("asm", lambda: world.service("asm", world.reuse(lb_id, groups, 0, override="true")))
    described = {port: item["Description"] for port, item in world.listeners(lb_id).items()}

    if world.version == "v2.8.0":  # works
        assert (first, second) == ("EnsuredLoadBalancer", "EnsuredLoadBalancer")
        assert {group: both(world, group) for group in groups.values()} == dict.fromkeys(groups.values(), ([33] * 3, [0] * 3))
        assert described == {port: world.listener_text("asm", port) for port in groups}
        world.delete("gw")
        until("the Service is gone", lambda: world.get("gw") is None)
        assert {group: both(world, group) for group in groups.values()} == dict.fromkeys(groups.values(), ([], [0] * 3))
        assert sorted(world.listeners(lb_id)) == [80, 443]
        return

    assert first == "SyncLoadBalancerFailed"
    if world.version == "v2.11.2":  # both fail, nothing changed
        refused = "build vgroup for port 80 error: cannot reuse a ccm created vgroup"
        assert second == "SyncLoadBalancerFailed"
        assert refused in first_text
        assert refused in second_text
        assert world.tags(lb_id) == {}
        assert described == {port: world.listener_text("gw", port) for port in groups}
    else:  # the old one is cleaned up while it is live; the new one is Ensured without a backend, and has taken the listeners
        # the event keeps the message only; RspoolVipExist is in the log
        assert first_text.startswith(f"Error syncing load balancer [{lb_id}]: Message: ")
        assert "associating" in first_text
        assert world.tags(lb_id) == {"kubernetes.reused.by.user": "true"}
        assert second == "EnsuredLoadBalancer"
        assert described == {port: world.listener_text("asm", port) for port in groups}
    for group, before in live.items():
        assert [item["ServerId"] for item in world.backends(group)] == before
        assert both(world, group) == ([100] * 3, [])
    if world.version == "v2.11.2":  # and the old Service cannot be deleted any more
        reason, text = world.outcome("gw", lambda: world.delete("gw"))
        assert reason == "CleanLoadBalancerFailed"
        assert "associating" in text
        assert (world.get("gw") or {})["metadata"]["finalizers"] == ["service.k8s.alibaba/resources"]


@pytest.mark.parametrize("mode", ["cluster", "local", "eni"])
def test_safe_order(world: World, mode: str) -> None:
    """2.4, to the end: share, shift in steps, remove the first gateway, then the second; the listeners stay all the time."""
    pods = [(f"10.64.{index}.9", f"n{index}") for index in range(3)]
    world.endpoints("gw", pods)
    world.endpoints("asm", [(ip.replace(".9", ".8"), node) for ip, node in pods])
    more = {"local": mode == "local", "eni": mode == "eni"}
    lb_id, groups = start(world, **more)
    listeners = world.listeners(lb_id)
    share_safely(world, lb_id, groups)
    assert world.tags(lb_id) == {"kubernetes.reused.by.user": "true"}
    assert sorted(world.groups(lb_id)) == ["shared-443", "shared-80"]
    assert both(world, groups[80]) == ([33] * 3, [])
    assert world.create("asm", world.reuse(lb_id, groups, 0), **more) == lb_id
    for old, new, shown in ((90, 10, (30, 3)), (50, 50, (16, 16)), (0, 100, (0, 33))):
        world.ensured("asm", lambda: world.annotate("asm", weight=str(new)))  # noqa: B023
        world.ensured("gw", lambda: world.annotate("gw", weight=str(old)))  # noqa: B023
        for group in groups.values():
            assert both(world, group) == ([shown[0]] * 3, [shown[1]] * 3)
    mark = world.cloud.mark()
    for name in ("gw", "asm"):
        world.delete(name)
        until("the Service is gone", lambda: world.get(name) is None)  # noqa: B023
    assert {call.action for call in world.cloud.calls(mark) if call.writes} == {"RemoveVServerGroupBackendServers"}
    assert world.listeners(lb_id) == listeners
    assert [world.backends(group) for group in groups.values()] == [[], []]


def test_untag_first(world: World) -> None:
    """Wrong order: without reuse annotations the next change puts one tag back, and only that one."""
    lb_id, _ = start(world)
    before = world.tags(lb_id)
    world.untag(lb_id, *TAGS)
    world.ensured("gw", lambda: world.touch("gw"))
    assert world.tags(lb_id) == {TAGS[0]: before[TAGS[0]]}


def test_rename_first(world: World) -> None:
    """Wrong order: an endpoint event makes new groups, the next change of the hash moves the listeners to them."""
    world.endpoints("gw", [("10.64.0.9", "n0")])
    lb_id, groups = start(world)
    for port, group in groups.items():
        world.rename(group, f"shared-{port}")
    world.ensured("gw", lambda: world.endpoints("gw", [("10.64.1.9", "n1")]))
    named = world.groups(lb_id)
    assert len(named) == 4
    assert {port: item["VServerGroupId"] for port, item in world.listeners(lb_id).items()} == groups
    world.ensured("gw", lambda: world.touch("gw"))
    moved = {port: item["VServerGroupId"] for port, item in world.listeners(lb_id).items()}
    assert moved == {port: named[world.group_name("gw", port)] for port in groups}
    assert not set(moved.values()) & set(groups.values())


def test_retry_ends_the_safe_order(world: World) -> None:
    """Step 4 without a touch: the first retry after the refusal, 5 s later, does it."""
    if world.version != NEW:
        pytest.skip("slow, and the retry itself is tested in test_own for every version")
    lb_id, groups = start(world)
    begun = time.monotonic()
    world.outcome("gw", lambda: world.annotate("gw", **notes_of(world, lb_id, groups, 100)))
    for port, group in groups.items():
        world.rename(group, f"shared-{port}")
    world.untag(lb_id, *TAGS)
    until("the retry", lambda: world.weights(groups[80], "gw") == [33, 33, 33], 30.0)
    assert time.monotonic() - begun > 4.5
