# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong, and how: the traps of facts 2.5 and of the observed CCM. The migration must refuse or survive every one."""

from __future__ import annotations

import pytest

from tests.integration.ccm.test_sharing import NEW, TAGS, both, share_safely, start
from tests.integration.ccm.world import PREFIX, World, until


def drop_annotations(world: World, name: str) -> None:
    """As `kubectl replace` or a GitOps tool that does not know them."""
    there = (world.get(name) or {})["metadata"].get("annotations") or {}
    patch = {key: None for key in there if key.startswith(PREFIX)}
    world.api.patch(world.path(name), {"metadata": {"annotations": patch}})


def test_e2_override_takes_listeners_away(world: World) -> None:
    """E2: the new gateway, with override "true", is deleted: no listener is left. "true" on the old one makes new ones, as rr."""
    lb_id, groups = start(world)
    share_safely(world, lb_id, groups)
    world.create("asm", world.reuse(lb_id, groups, 10, override="true"))
    assert {item["Description"] for item in world.listeners(lb_id).values()} == {
        world.listener_text("asm", port) for port in groups
    }
    world.delete("asm")
    until("the Service is gone", lambda: world.get("asm") is None)
    assert world.listeners(lb_id) == {}
    assert both(world, groups[80]) == ([33] * 3, [])
    world.ensured("gw", lambda: world.annotate("gw", force_override_listeners="true"))
    listeners = world.listeners(lb_id)
    assert {port: item["VServerGroupId"] for port, item in listeners.items()} == groups
    assert {(item["Scheduler"], item["Status"]) for item in listeners.values()} == {("rr", "running")}


def test_c2_c3_annotations_dropped(world: World) -> None:
    """C2: found by its name, the load balancer is tagged again, new groups are made, all traffic goes back to the old gateway.

    C3: deleting that Service then deletes the load balancer under the new one."""
    lb_id, groups = start(world)
    share_safely(world, lb_id, groups)
    world.create("asm", world.reuse(lb_id, groups, 50))
    world.ensured("gw", lambda: drop_annotations(world, "gw"))
    assert TAGS[0] in world.tags(lb_id)
    named = world.groups(lb_id)
    moved = {port: item["VServerGroupId"] for port, item in world.listeners(lb_id).items()}
    assert moved == {port: named[world.group_name("gw", port)] for port in groups}
    for group in moved.values():
        assert both(world, group) == ([100] * 3, [])
    assert both(world, groups[80])[1] == [16] * 3
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
    assert not world.exists(lb_id)


def test_f2_f3_port_missing(world: World) -> None:
    """A port that vgroup-port does not name gets a group that nobody listens to; its listener stays with the old gateway."""
    lb_id, groups = start(world)
    share_safely(world, lb_id, groups)
    listeners = world.listeners(lb_id)
    world.create("asm", world.reuse(lb_id, {80: groups[80]}, 50))
    assert both(world, groups[80]) == ([33] * 3, [16] * 3)
    assert both(world, groups[443]) == ([33] * 3, [])
    stray = world.groups(lb_id)[world.group_name("asm", 443)]
    assert both(world, stray) == ([], [16] * 3)
    assert world.listeners(lb_id) == listeners


def test_f5_comma_space(world: World) -> None:
    """`a:80, b:443`, as the documentation writes it: an error before v2.12; since then 443 is lost without a word."""
    lb_id, groups = start(world)
    share_safely(world, lb_id, groups)
    notes = world.reuse(lb_id, groups, 50)
    notes["vgroup-port"] = notes["vgroup-port"].replace(",", ", ")
    last = max(groups)
    reason, text = world.outcome("asm", lambda: world.service("asm", notes))
    if world.version == NEW:
        assert reason == "EnsuredLoadBalancer"
        assert both(world, groups[80]) == ([33] * 3, [16] * 3)
    else:
        assert reason == "SyncLoadBalancerFailed"
        assert f"build vgroup for port {last} error: can not find vgroupId  {groups[last]} in lb {lb_id}" in text
        assert both(world, groups[80]) == ([33] * 3, [])
    assert both(world, groups[last]) == ([33] * 3, [])


def test_f5_on_a_live_service(world: World) -> None:
    """The space comes later: v2.12+ leaves the backends of the lost port in place and never updates them again."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    notes = world.reuse(lb_id, groups, 90)
    world.create("gw", notes)
    spaced = notes["vgroup-port"].replace(",", ", ")
    reason, _ = world.outcome("gw", lambda: world.annotate("gw", vgroup_port=spaced, weight="30"))
    assert reason == ("EnsuredLoadBalancer" if world.version == NEW else "SyncLoadBalancerFailed")
    assert world.weights(groups[80], "gw") == ([10] * 3 if world.version == NEW else [30] * 3)
    assert world.weights(groups[443], "gw") == [30] * 3


@pytest.mark.parametrize("trap", ["weight", "node"])
def test_backends_vanish(world: World, trap: str) -> None:
    """On a live Service: weight 101, or a new node without providerID and then any change of an annotation.

    v2.12+: all its own backends leave the shared groups, and it says Ensured. Before: an error, and nothing changes.
    Mending the value brings them back.
    """
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90))
    world.create("other", world.reuse(lb_id, groups, 9))
    if trap == "weight":
        reason, text = world.outcome("gw", lambda: world.annotate("gw", weight="101"))
        cause = "weight must be integer in range [0,100] , got [101]"
    else:
        reason, text = world.outcome("gw", lambda: world.node("late", provider=None))
        # the node's event alone changes no hash: nothing is cleaned up yet
        assert [world.weights(group, "gw") for group in groups.values()] == [[30] * 3, [30] * 3]
        if world.version == NEW:
            assert reason == "EnsuredLoadBalancer"
            reason, text = world.outcome("gw", lambda: world.touch("gw"))
        cause = "build cluster backends error: normal parse providerid: . expected: ${regionid}.${nodeid}, "
        cause += "alicloud: unable to split instanceid and region from providerID, error unexpected providerID="
    left = [world.weights(group, "gw") for group in groups.values()]
    if world.version == NEW:
        assert reason == "EnsuredLoadBalancer"
        assert left == [[], []]
    else:
        assert reason == "SyncLoadBalancerFailed"
        assert f"build vgroup for port 80 error: {cause}" in text
        assert left == [[30] * 3, [30] * 3]
    assert [world.weights(group, "other") for group in groups.values()] == [[3] * 3, [3] * 3]

    if trap == "weight":
        world.ensured("gw", lambda: world.annotate("gw", weight="90"))
        assert [world.weights(group, "gw") for group in groups.values()] == [[30] * 3, [30] * 3]
    else:
        world.api.patch("/api/v1/nodes/late", {"spec": {"providerID": "cn-hangzhou.i-late"}})
        world.ensured("gw", lambda: world.touch("gw"))
        assert [world.weights(group, "gw") for group in groups.values()] == [[22] * 4, [22] * 4]


def test_preserved_load_balancer(world: World) -> None:
    """preserve-lb-on-delete (v2.10+): the load balancer stays, without protections and tags; v2.14 empties it nevertheless."""
    world.nodes(3)
    lb_id = world.create("gw", {"preserve-lb-on-delete": "true"})
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
    if world.version == "v2.8.0":
        assert not world.exists(lb_id)
        return
    shown = world.load_balancer(lb_id)
    assert (shown["DeleteProtection"], shown["ModificationProtectionStatus"]) == ("off", "NonProtection")
    assert world.tags(lb_id) == {}
    assert sorted(world.listeners(lb_id)) == ([] if world.version == NEW else [80, 443])
    until("the event", lambda: "PreservedOnDelete" in world.reasons("gw"))


def test_load_balancer_is_gone(world: World) -> None:
    """Deleted behind its back: the Service says so and makes no new one; it can still be deleted."""
    world.nodes(3)
    lb_id = world.create("gw")
    world.rpc.call("slb", "SetLoadBalancerDeleteProtection", LoadBalancerId=lb_id, DeleteProtection="off")
    world.rpc.call("slb", "DeleteLoadBalancer", LoadBalancerId=lb_id)
    reason, text = world.outcome("gw", lambda: world.touch("gw"))
    assert reason == "SyncLoadBalancerFailed"
    assert "this may happen when you delete the loadbalancer" in text
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
