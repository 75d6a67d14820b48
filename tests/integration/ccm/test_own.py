# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Service's own load balancer: creation, rest, changes, deletion. Facts: ccm-observed "Order of calls", alibaba.md 2.7, 2.8."""

from __future__ import annotations

import time

from tests.integration.ccm.cloud import Call
from tests.integration.ccm.implementation import CLUSTER
from tests.integration.ccm.world import World, until

NEW = "v2.14.0"


def _positions(calls: list[Call], action: str) -> list[int]:
    return [index for index, call in enumerate(calls) if call.action == action]


def test_create(world: World) -> None:
    """Everything that a new Service gets, and the order of the calls that make it."""
    ids = world.nodes(3)
    mark = world.cloud.mark()
    lb_id = world.create("gw")
    calls = world.cloud.calls(mark)
    svc = world.get("gw") or {}
    name = ("a" + svc["metadata"]["uid"].replace("-", ""))[:32]

    assert svc["metadata"]["finalizers"] == ["service.k8s.alibaba/resources"]
    assert svc["metadata"]["labels"]["service.beta.kubernetes.io/hash"]
    assert [item["ip"] for item in svc["status"]["loadBalancer"]["ingress"]] == [world.load_balancer(lb_id)["Address"]]
    assert world.tags(lb_id) == {"kubernetes.do.not.delete": name, "ack.aliyun.com": CLUSTER}
    shown = world.load_balancer(lb_id)
    assert (shown["LoadBalancerName"], shown["AddressType"], shown["DeleteProtection"]) == (name, "internet", "on")
    assert (shown["ModificationProtectionStatus"], shown["ModificationProtectionReason"]) == (
        "ConsoleProtection",
        "managed.by.ack",
    )

    groups = world.groups(lb_id)
    listeners = world.listeners(lb_id)
    assert sorted(listeners) == [80, 443]
    assert sorted(groups) == sorted(world.group_name("gw", port) for port in (80, 443))
    for port, listener in listeners.items():
        group = groups[world.group_name("gw", port)]
        assert listener["VServerGroupId"] == group
        assert (listener["Scheduler"], listener["Status"], listener["ListenerProtocol"]) == ("rr", "running", "tcp")
        assert listener["Description"] == world.listener_text("gw", port)
        backends = world.backends(group)
        assert sorted(item["ServerId"] for item in backends) == ids
        assert {(item["Weight"], item["Type"], item["Description"]) for item in backends} == {
            (100, "ecs", world.group_name("gw", port))
        }

    actions = [call.action for call in calls]
    first = ["DescribeLoadBalancers", "DescribeLoadBalancers", "CreateLoadBalancer"]
    first += ["TagResources"] if world.version == "v2.8.0" else []
    first += ["DescribeLoadBalancerAttribute"]
    assert actions[: len(first)] == first
    assert "Tags" in calls[0].parameters
    assert calls[1].parameters["LoadBalancerName"] == name
    made = calls[2].parameters
    assert made["ClientToken"]
    assert made["InstanceChargeType" if world.version == NEW else "LoadBalancerSpec"] == (
        "PayByCLCU" if world.version == NEW else "slb.s1.small"
    )
    assert ("Tag.1.Key" in made) == (world.version != "v2.8.0")
    for action in (
        "CreateVServerGroup",
        "AddVServerGroupBackendServers",
        "CreateLoadBalancerTCPListener",
        "StartLoadBalancerListener",
    ):
        assert actions.count(action) == 2, actions
    created, added = _positions(calls, "CreateVServerGroup"), _positions(calls, "AddVServerGroupBackendServers")
    opened, started = _positions(calls, "CreateLoadBalancerTCPListener"), _positions(calls, "StartLoadBalancerListener")
    assert created[0] < added[0] < opened[0] < started[0]
    if world.version != NEW:
        assert max(added) < min(opened), "listeners come after all groups"
        assert [calls[index].parameters["ListenerPort"] for index in opened] == ["80", "443"]
    if world.version == "v2.8.0":
        assert created[0] < added[0] < created[1] < added[1], "one group after the other"
    assert calls[opened[0]].parameters["Bandwidth"] == "-1"


def test_rest_and_restart(world: World) -> None:
    """At rest there is no call; out-of-band changes stay; a restart reads everything again and writes nothing."""
    world.nodes(3)
    lb_id = world.create("gw")
    group = world.groups(lb_id)[world.group_name("gw", 80)]
    world.quiet()
    world.set_weight(group, world.backends(group)[0], 77)
    mark = world.cloud.mark()
    time.sleep(0.5)
    assert world.cloud.calls(mark) == []
    world.set_weight(group, world.backends(group)[0], 100)

    before = (
        world.tags(lb_id),
        world.listeners(lb_id),
        world.backends(group),
        (world.get("gw") or {})["metadata"]["resourceVersion"],
    )
    world.ccm.stop()
    mark = world.cloud.mark()
    world.ensured("gw", world.ccm.start)
    calls = world.cloud.calls(mark)
    assert calls
    assert [call.action for call in calls if call.writes] == []
    after = (
        world.tags(lb_id),
        world.listeners(lb_id),
        world.backends(group),
        (world.get("gw") or {})["metadata"]["resourceVersion"],
    )
    assert after == before


def test_delete(world: World) -> None:
    """The load balancer goes with the Service; the CCM takes the deletion protection off by itself."""
    world.nodes(3)
    lb_id = world.create("gw")
    mark = world.cloud.mark()
    world.delete("gw")
    until("the Service is gone", lambda: world.get("gw") is None)
    assert not world.exists(lb_id)
    writes = [call for call in world.cloud.calls(mark) if call.writes]
    assert [call.action for call in writes] == ["SetLoadBalancerDeleteProtection", "DeleteLoadBalancer"]
    assert writes[0].parameters["DeleteProtection"] == "off"
    until("the event", lambda: {"DeleteTimestampChanged", "CleanLoadBalancer"} <= world.reasons("gw"))


def test_to_node_port(world: World) -> None:
    """A Service that is no LoadBalancer any more loses its load balancer, labels, status and finalizer."""
    world.nodes(3)
    lb_id = world.create("gw")
    world.api.patch(world.path("gw"), {"spec": {"type": "NodePort"}})
    until("the finalizer is gone", lambda: not (world.get("gw") or {})["metadata"].get("finalizers"))
    svc = world.get("gw") or {}
    assert not svc["status"]["loadBalancer"].get("ingress")
    assert not {"service.beta.kubernetes.io/hash", "service.k8s.alibaba/loadbalancer-id"} & set(
        svc["metadata"].get("labels") or {}
    )
    assert not world.exists(lb_id)


def test_hash(world: World) -> None:
    """Any annotation changes the hash (listeners are read again); endpoints, labels and nodes do not. Facts 2.2."""
    world.nodes(3)
    world.endpoints("gw", [("10.64.0.5", "n0")])
    world.create("gw")
    label = "service.beta.kubernetes.io/hash"
    first = (world.get("gw") or {})["metadata"]["labels"][label]

    def hash_now() -> str:
        return str((world.get("gw") or {})["metadata"]["labels"][label])

    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.endpoints("gw", [("10.64.0.5", "n0"), ("10.64.1.5", "n1")]))
    actions = [call.action for call in world.cloud.calls(mark)]
    assert "DescribeVServerGroups" in actions
    assert "DescribeLoadBalancerListeners" not in actions
    assert hash_now() == first

    world.quiet()
    mark = world.cloud.mark()
    world.api.patch(world.path("gw"), {"metadata": {"labels": {"team": "a"}}})
    time.sleep(0.3)
    assert world.cloud.calls(mark) == []

    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.touch("gw"))
    calls = world.cloud.calls(mark)
    actions = [call.action for call in calls]
    assert actions[0] == "DescribeLoadBalancers"
    assert {"ListTagResources", "DescribeVServerGroups", "DescribeVServerGroupAttribute", "DescribeLoadBalancerListeners"} <= set(
        actions
    )
    assert not [call for call in calls if call.writes]
    second = hash_now()
    assert second != first

    # an annotation without a value does not enter the hash, but starts a reconcile
    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.api.patch(world.path("gw"), {"metadata": {"annotations": {"blank": ""}}}))
    assert "DescribeLoadBalancerListeners" not in [call.action for call in world.cloud.calls(mark)]
    assert hash_now() == second

    spec = {"spec": {"externalTrafficPolicy": "Local"}}
    world.ensured("gw", lambda: world.api.patch(world.path("gw"), spec))
    assert hash_now() not in (first, second)


def test_ports(world: World) -> None:
    """A new port gets a group and a listener; a port that is gone loses both."""
    world.nodes(3)
    lb_id = world.create("gw", ports=(80,))
    assert sorted(world.listeners(lb_id)) == [80]

    def ports(*numbers: int) -> None:
        listed = [{"name": f"p{port}", "port": port, "targetPort": 8000 + port, "protocol": "TCP"} for port in numbers]
        svc = world.get("gw") or {}
        svc["spec"]["ports"] = listed
        world.api.replace(world.path("gw"), svc)

    world.ensured("gw", lambda: ports(80, 443))
    assert sorted(world.listeners(lb_id)) == [80, 443]
    assert len(world.groups(lb_id)) == 2
    world.ensured("gw", lambda: ports(443))
    assert sorted(world.listeners(lb_id)) == [443]
    assert list(world.groups(lb_id)) == [world.group_name("gw", 443)]


def test_settings_by_annotation(world: World) -> None:
    """scheduler, connection-drain and the protections of an own load balancer follow their annotations."""
    world.nodes(3)
    lb_id = world.create("gw")
    notes = {"scheduler": "wrr", "connection_drain": "on", "connection_drain_timeout": "30"}
    mark = world.cloud.mark()
    world.ensured("gw", lambda: world.annotate("gw", delete_protection="off", modification_protection="NonProtection", **notes))
    for listener in world.listeners(lb_id).values():
        assert listener["Scheduler"] == "wrr"
        assert listener["TCPListenerConfig"]["ConnectionDrain"] == "on"
        assert int(listener["TCPListenerConfig"]["ConnectionDrainTimeout"]) == 30
    shown = world.load_balancer(lb_id)
    assert (shown["DeleteProtection"], shown["ModificationProtectionStatus"]) == ("off", "NonProtection")
    sets = [call for call in world.cloud.calls(mark) if call.action == "SetLoadBalancerTCPListenerAttribute"]
    assert len(sets) == 2
    assert {call.parameters["VServerGroup"] for call in sets} == {"on"}
    # gone from the annotations is not gone from the listener
    world.ensured("gw", lambda: world.annotate("gw", scheduler=None))
    assert {listener["Scheduler"] for listener in world.listeners(lb_id).values()} == {"wrr"}


def test_nodes(world: World) -> None:
    """Which nodes are backends. The old master label excludes, the control-plane label does not. Facts: ccm-observed, Nodes."""
    world.nodes(3)
    world.node("master", labels={"node-role.kubernetes.io/master": ""})
    world.node("control", labels={"node-role.kubernetes.io/control-plane": ""})
    world.node("excluded", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    world.node("notready", ready=False)
    time.sleep(world.lag)
    lb_id = world.create("gw", ports=(80,))
    world.quiet()
    group = world.groups(lb_id)[world.group_name("gw", 80)]

    def ids() -> list[str]:
        return sorted(item["ServerId"] for item in world.backends(group))

    assert ids() == ["i-control", "i-n0", "i-n1", "i-n2"]
    world.ensured("gw", lambda: world.node("late"))
    assert ids() == ["i-control", "i-late", "i-n0", "i-n1", "i-n2"]
    condition = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    world.ensured("gw", lambda: world.api.patch("/api/v1/nodes/late/status", condition))
    assert ids() == ["i-control", "i-n0", "i-n1", "i-n2"]
    world.quiet()
    # the autoscaler's taint alone starts nothing; it counts at the next reconcile
    mark = world.cloud.mark()
    taint = {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}
    world.api.patch("/api/v1/nodes/control", taint)
    time.sleep(world.lag)
    assert world.cloud.calls(mark) == []
    world.ensured("gw", lambda: world.touch("gw"))
    assert ids() == ["i-n0", "i-n1", "i-n2"]


def test_errors_and_retry(world: World) -> None:
    """The event keeps only the Message; the first retry comes after 5 s, at once when an annotation is touched."""
    world.nodes(3)
    world.cloud.fault("CreateLoadBalancer", 400, "Throttling", "Request was denied due to request throttling.")
    begun = time.monotonic()
    reason, text = world.outcome("gw", lambda: world.service("gw"))
    assert reason == "SyncLoadBalancerFailed"
    assert text == "Error syncing load balancer []: Message: Request was denied due to request throttling."
    world.cloud.clear_faults()
    time.sleep(0.3)
    assert (world.get("gw") or {})["metadata"]["finalizers"] == ["service.k8s.alibaba/resources"]
    if world.version == NEW or world.ccm.real:  # slow; ours retries in the same way whatever its version
        until("the retry", lambda: "EnsuredLoadBalancer" in world.reasons("gw"), 30.0)
        assert time.monotonic() - begun > 4.5
    else:
        world.ensured("gw", lambda: world.touch("gw"))

    world.cloud.fault("DescribeVServerGroups", 503, "ServiceUnavailable", "The request has failed due to a temporary failure.")
    for _pause in (5, 10, 20, 40):
        assert world.outcome("gw", lambda: world.touch("gw"))[0] == "SyncLoadBalancerFailed"
    world.cloud.clear_faults()
    world.ensured("gw", lambda: world.touch("gw"))  # waits for 10 s, the pause is one of 40 s
