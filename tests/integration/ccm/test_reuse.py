# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A load balancer of the user's, reused by one or two Services. Facts: 2.1, 2.2, 2.8; observed "Order of calls"."""

from __future__ import annotations

import pytest

from tests.integration.ccm.implementation import CLUSTER
from tests.integration.ccm.world import World, until

NEW = "v2.14.0"
WRITES_OF_BACKENDS = {"AddVServerGroupBackendServers", "RemoveVServerGroupBackendServers", "SetVServerGroupAttribute"}


def test_reuse(world: World) -> None:
    """Backends enter the named groups with the weight shared out; listeners are left alone; the load balancer is tagged once."""
    ids = world.nodes(3)
    lb_id, groups = world.user_lb()
    listeners = world.listeners(lb_id)
    mark = world.cloud.mark()
    assert world.create("gw", world.reuse(lb_id, groups, 90)) == lb_id
    calls = world.cloud.calls(mark)
    assert world.tags(lb_id) == {"kubernetes.reused.by.user": "true"}
    assert world.listeners(lb_id) == listeners
    assert sorted(world.groups(lb_id)) == ["shared-443", "shared-80"]
    for port, group in groups.items():
        backends = world.backends(group)
        assert sorted(item["ServerId"] for item in backends) == ids
        assert {(item["Weight"], item["Description"]) for item in backends} == {(30, world.group_name("gw", port))}
    address = world.load_balancer(lb_id)["Address"]
    assert [item["ip"] for item in (world.get("gw") or {})["status"]["loadBalancer"]["ingress"]] == [address]

    actions = [call.action for call in calls]
    # vgroup-port is checked first, once a port
    assert actions[:3] == ["DescribeVServerGroups", "DescribeVServerGroups", "DescribeLoadBalancerAttribute"]
    assert actions.count("ListTagResources") == 1
    assert actions.count("DescribeVServerGroupAttribute") == 2
    assert [call.action for call in calls if call.writes and call.action != "TagResources"] == [
        "AddVServerGroupBackendServers"
    ] * 2
    if world.version == NEW:
        assert "DescribeLoadBalancerListeners" not in actions
    tagged = next(call for call in calls if call.action == "TagResources")
    assert (tagged.parameters["Tag.1.Key"], tagged.parameters["Tag.1.Value"]) == ("kubernetes.reused.by.user", "true")

    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.annotate("gw", weight="30"))
    assert {tuple(world.weights(group, "gw")) for group in groups.values()} == {(10, 10, 10)}
    assert [call.action for call in world.cloud.calls(mark) if call.writes] == ["SetVServerGroupAttribute"] * 2


def test_no_weight_is_hundred(world: World) -> None:
    """Without a weight every backend has 100."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups))
    assert world.weights(groups[80], "gw") == [100, 100, 100]


def test_legacy_prefix(world: World) -> None:
    """The old prefix is read too; the new one wins."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    old = "service.beta.kubernetes.io/alicloud-loadbalancer-"
    raw = {old + key: value for key, value in world.reuse(lb_id, groups, 60).items()}
    assert world.create("gw", raw=raw) == lb_id
    assert world.weights(groups[80], "gw") == [20, 20, 20]
    world.ensured("gw", lambda: world.annotate("gw", weight="30"))
    assert world.weights(groups[80], "gw") == [10, 10, 10]


def test_two_services(world: World) -> None:
    """Each owns its backends by their Description; each one's reconcile writes the same weights again (2.5 B5)."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90))
    world.create("gw2", world.reuse(lb_id, groups, 10))
    for group in groups.values():
        assert (world.weights(group, "gw"), world.weights(group, "gw2")) == ([30, 30, 30], [3, 3, 3])
    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.touch("gw"))
    assert {call.action for call in world.cloud.calls(mark) if call.writes} == {"SetVServerGroupAttribute"}
    for group in groups.values():
        assert (world.weights(group, "gw"), world.weights(group, "gw2")) == ([30, 30, 30], [3, 3, 3])


def test_tagged_by_kubernetes(world: World) -> None:
    """A load balancer made by Kubernetes is refused while one of the two tags is on it; the event has the real text."""
    world.nodes(3)
    for key in ("kubernetes.do.not.delete", "ack.aliyun.com"):
        lb_id, groups = world.user_lb()
        world.rpc.call("slb", "TagResources", ResourceType="instance", ResourceId=[lb_id], Tag=[{"Key": key, "Value": "x"}])
        name = "gw-" + key[:3]
        reason, text = world.outcome(name, lambda: world.service(name, world.reuse(lb_id, groups, 10)))  # noqa: B023
        shown = lb_id if world.version == NEW else ""
        middle = "apply model error: update lb attribute error: " if world.version == NEW else "apply model error: "
        assert reason == "SyncLoadBalancerFailed"
        assert text == (
            f"Error syncing load balancer [{shown}]: {middle}alicloud: the loadbalancer {lb_id} can not be reused, "
            "can not reuse loadbalancer created by kubernetes."
        )
        assert world.backends(groups[80]) == []


def test_bound_to_another_address(world: World) -> None:
    """A Service that has an address may not move to a load balancer with another one."""
    world.nodes(3)
    world.create("gw")
    address = (world.get("gw") or {})["status"]["loadBalancer"]["ingress"][0]["ip"]
    lb_id, groups = world.user_lb()
    notes = {key.replace("-", "_"): value for key, value in world.reuse(lb_id, groups, 10).items()}
    reason, text = world.outcome("gw", lambda: world.annotate("gw", **notes))
    assert reason == "SyncLoadBalancerFailed"
    other = world.load_balancer(lb_id)["Address"]
    assert f"service has been associated with ip [{address}], cannot be bound to ip [{other}]" in text
    assert world.backends(groups[80]) == []


def test_wrong_load_balancer(world: World) -> None:
    """An unknown id fails; deleting that Service succeeds and leaves its backends where they are (ccm-observed)."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90))
    reason, text = world.outcome("gw", lambda: world.annotate("gw", id="lb-wrong"))
    assert reason == "SyncLoadBalancerFailed"
    assert "LoadBalancerId does not exist" in text
    assert "Code" not in text.replace("ErrorCode", "Code") or "InvalidLoadBalancerId" not in text
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
    assert world.weights(groups[80], "gw") == [30, 30, 30]


def test_unknown_group(world: World) -> None:
    """A group that is not there: an error before v2.12; since then the port is passed over and the Service is Ensured (2.2)."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    notes = world.reuse(lb_id, {80: groups[80], 443: "rsp-wrong"}, 90)
    reason, text = world.outcome("gw", lambda: world.service("gw", notes))
    if world.version == NEW:
        assert reason == "EnsuredLoadBalancer"
        assert world.weights(groups[80], "gw") == [30, 30, 30]
    else:
        assert reason == "SyncLoadBalancerFailed"
        wanted = f"build vgroup for port 443 error: can not find vgroupId rsp-wrong in lb {lb_id}"
        assert text == f"Error syncing load balancer []: build lb local model error: build vserver groups error: {wanted}"
        assert world.backends(groups[80]) == []
    assert world.backends(groups[443]) == []


@pytest.mark.parametrize("weight", ["101", "-1", "ten"])
def test_bad_weight(world: World, weight: str) -> None:
    """0..100 only. Before v2.12 an error; since then no backend and Ensured."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    notes = world.reuse(lb_id, groups) | {"weight": weight}
    reason, text = world.outcome("gw", lambda: world.service("gw", notes))
    assert world.backends(groups[80]) == []
    if world.version == NEW:
        assert reason == "EnsuredLoadBalancer"
    else:
        assert reason == "SyncLoadBalancerFailed"
        assert f"build vgroup for port 80 error: weight must be integer in range [0,100] , got [{weight}]" in text


def test_override_takes_listeners(world: World) -> None:
    """override "true" takes existing listeners over: description and group; everything else is read back and written again."""
    world.nodes(3)
    lb_id, groups = world.user_lb(scheduler="wrr")
    mark = world.cloud.mark()
    world.create("gw", world.reuse(lb_id, groups, 90, override="true"))
    for port, listener in world.listeners(lb_id).items():
        assert listener["Description"] == world.listener_text("gw", port)
        assert listener["VServerGroupId"] == groups[port]
        assert listener["Scheduler"] == "wrr"
    sets = [call for call in world.cloud.calls(mark) if call.action == "SetLoadBalancerTCPListenerAttribute"]
    assert len(sets) == 2
    for call in sets:
        assert (call.parameters["VServerGroup"], call.parameters["Scheduler"]) == ("on", "wrr")
        assert call.parameters["VServerGroupId"] == groups[int(call.parameters["ListenerPort"])]
    # and nothing more at the next change
    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.touch("gw"))
    calls = world.cloud.calls(mark)
    assert "DescribeLoadBalancerListeners" in [call.action for call in calls]
    assert [call.action for call in calls if call.writes] == []


def test_scheduler_annotation(world: World) -> None:
    """2.7: does nothing while listeners are not overridden; works with override "true"."""
    world.nodes(3)
    lb_id, groups = world.user_lb(scheduler="rr")
    world.create("gw", world.reuse(lb_id, groups, 90) | {"scheduler": "wrr"})
    assert {item["Scheduler"] for item in world.listeners(lb_id).values()} == {"rr"}
    world.ensured("gw", lambda: world.annotate("gw", force_override_listeners="true"))
    assert {item["Scheduler"] for item in world.listeners(lb_id).values()} == {"wrr"}


def test_reused_without_groups(world: World) -> None:
    """No vgroup-port: groups of its own; no listener unless override says so."""
    world.nodes(3)
    lb_id, _ = world.user_lb(ports=(8080,))
    world.create("gw", {"id": lb_id, "force-override-listeners": "false"})
    assert sorted(world.listeners(lb_id)) == [8080]
    assert {"shared-8080", world.group_name("gw", 80), world.group_name("gw", 443)} == set(world.groups(lb_id))
    world.ensured("gw", lambda: world.annotate("gw", force_override_listeners="true"))
    assert sorted(world.listeners(lb_id)) == [80, 443, 8080]
    assert world.listeners(lb_id)[80]["Scheduler"] == "rr"


def test_delete_reused(world: World) -> None:
    """override "false": only its own backends go (2.5 F1). The load balancer, groups, listeners and the other Service stay."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90))
    world.create("gw2", world.reuse(lb_id, groups, 10))
    listeners = world.listeners(lb_id)
    mark = world.cloud.mark()
    world.delete("gw2")
    until("the Service is gone", lambda: world.get("gw2") is None)
    assert [call.action for call in world.cloud.calls(mark) if call.writes] == ["RemoveVServerGroupBackendServers"] * 2
    assert world.listeners(lb_id) == listeners
    for group in groups.values():
        assert [item["Description"].split("/")[2] for item in world.backends(group)] == ["gw"] * 3
    assert world.load_balancer(lb_id)["LoadBalancerId"] == lb_id
    assert world.tags(lb_id) == {"kubernetes.reused.by.user": "true"}


def test_out_of_band_weights(world: World) -> None:
    """2.5 F6: weights set by hand stay until the next reconcile reverts them, unless ignore-weight-update is on (v2.11)."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    world.create("gw", world.reuse(lb_id, groups, 90))
    backend = world.backends(groups[80])[0]
    world.set_weight(groups[80], backend, 77)
    assert world.weights(groups[80], "gw") == [30, 30, 77]
    world.ensured("gw", lambda: world.touch("gw"))
    assert world.weights(groups[80], "gw") == [30, 30, 30]
    world.ensured("gw", lambda: world.annotate("gw", ignore_weight_update="on"))
    world.set_weight(groups[80], backend, 77)
    world.ensured("gw", lambda: world.touch("gw"))
    assert world.weights(groups[80], "gw") == ([30, 30, 30] if world.version == "v2.8.0" else [30, 30, 77])


def test_foreign_backend_stays(world: World) -> None:
    """A backend put into a shared group by hand is nobody's: it is neither changed nor removed, also at deletion."""
    world.nodes(3)
    lb_id, groups = world.user_lb()
    entry = '[{"ServerId":"i-n0","Port":9,"Weight":5,"Type":"ecs","Description":"by hand"}]'
    world.rpc.call("slb", "AddVServerGroupBackendServers", VServerGroupId=groups[80], BackendServers=entry)
    world.create("gw", world.reuse(lb_id, groups, 90))
    assert len(world.backends(groups[80])) == 4
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
    left = world.backends(groups[80])
    assert [(item["ServerId"], item["Port"], item["Weight"], item["Description"]) for item in left] == [("i-n0", 9, 5, "by hand")]


def test_names_of_owner(world: World) -> None:
    """k8s/<p>/<service>/<namespace>/<cluster>, p = NodePort in Cluster mode."""
    world.nodes(3)
    lb_id, groups = world.user_lb(ports=(80,))
    world.create("gw", world.reuse(lb_id, groups, 90), ports=(80,))
    node_port = (world.get("gw") or {})["spec"]["ports"][0]["nodePort"]
    backend = world.backends(groups[80])[0]
    assert backend["Description"] == f"k8s/{node_port}/gw/{world.ns}/{CLUSTER}"
    assert (backend["Port"], backend["Type"]) == (node_port, "ecs")
