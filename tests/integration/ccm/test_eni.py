# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ENI mode: pods themselves are backends. Facts: ccm-observed "ENI", alibaba.md 2.8."""

from __future__ import annotations

import time

from tests.integration.ccm.implementation import CLUSTER, VPC
from tests.integration.ccm.world import World, until

NEW = "v2.14.0"
PODS = [("10.64.0.9", "n0"), ("10.64.1.9", "n1")]


def test_backends(world: World) -> None:
    """Pod address, pod port and interface id; groups are named after targetPort; Cluster mode asks ECS nothing."""
    world.nodes(3)
    world.endpoints("gw", PODS)
    mark = world.cloud.mark()
    lb_id = world.create("gw", eni=True)
    calls = world.cloud.calls(mark)
    groups = world.groups(lb_id)
    assert sorted(groups) == [f"k8s/8080/gw/{world.ns}/{CLUSTER}", f"k8s/8443/gw/{world.ns}/{CLUSTER}"]
    shown = sorted(
        (item["ServerIp"], item["ServerId"], item["Port"], item["Type"])
        for item in world.backends(groups[f"k8s/8443/gw/{world.ns}/{CLUSTER}"])
    )
    assert shown == [("10.64.0.9", "eni-n0", 8443, "eni"), ("10.64.1.9", "eni-n1", 8443, "eni")]
    asked = [call for call in calls if call.action == "DescribeNetworkInterfaces"]
    assert len(asked) == (2 if world.version == "v2.8.0" else 1)
    assert asked[0].parameters["VpcId"] == VPC
    assert asked[0].parameters["Status"] == "InUse"
    # the facts give it without a version; the real v2.8.0 does not send it
    assert asked[0].parameters.get("MaxResults") == (None if world.version == "v2.8.0" else "100")
    assert {asked[0].parameters["PrivateIpAddress.1"], asked[0].parameters["PrivateIpAddress.2"]} == {"10.64.0.9", "10.64.1.9"}
    vpc = [call for call in calls if call.action == "DescribeVpcAttribute"]
    assert len(vpc) == (2 if world.version == "v2.8.0" else 0), "only v2.8 always looks at the VPC"

    mark = world.cloud.mark()
    world.create("plain")
    assert not {"DescribeNetworkInterfaces", "DescribeVpcAttribute"} & {call.action for call in world.cloud.calls(mark)}


def test_named_target_port(world: World) -> None:
    """A targetPort with a name: that name is in the group's name, the number comes from the endpoints."""
    world.nodes(3)
    world.endpoints("gw", PODS, ports=(80,))
    lb_id = world.create("gw", ports=(80,), eni=True, target="web")
    group = world.groups(lb_id)[f"k8s/web/gw/{world.ns}/{CLUSTER}"]
    assert {item["Port"] for item in world.backends(group)} == {8080}


def test_pods_come_and_go(world: World) -> None:
    """Endpoint changes add and remove backends; a node's change reconciles ENI Services only before v2.12."""
    world.nodes(3)
    world.endpoints("gw", PODS, ports=(80,))
    lb_id = world.create("gw", ports=(80,), eni=True)
    group = world.groups(lb_id)[f"k8s/8080/gw/{world.ns}/{CLUSTER}"]
    world.ensured("gw", lambda: world.endpoints("gw", [PODS[1], ("10.64.2.7", "n2")], ports=(80,)))
    assert sorted(item["ServerIp"] for item in world.backends(group)) == ["10.64.1.9", "10.64.2.7"]
    world.ensured("gw", lambda: world.endpoints("gw", [], ports=(80,)))
    assert world.backends(group) == []
    until("the event", lambda: "UnAvailableLoadBalancer" in world.reasons("gw"))
    world.quiet()
    mark = world.cloud.mark()
    world.node("late")
    if world.version == NEW:
        time.sleep(world.lag)
        assert world.cloud.calls(mark) == []
    else:
        until("a reconcile", lambda: world.cloud.calls(mark))


def test_unknown_address(world: World) -> None:
    """A pod in the VPC whose interface is not known yet: older ones fail. v2.14 leaves it out, deletes and updates nothing,
    does not say Ensured, and tries again after 5 s."""
    world.nodes(3)
    world.endpoints("gw", PODS[:1], ports=(80,))
    lb_id = world.create("gw", ports=(80,), eni=True)
    group = world.groups(lb_id)[f"k8s/8080/gw/{world.ns}/{CLUSTER}"]
    unknown = [("10.99.0.1", "n0"), PODS[1]]
    if world.version == NEW:
        before = sum(count for reason, _, count in world.events("gw") if reason == "EnsuredLoadBalancer")
        world.endpoints("gw", unknown, ports=(80,))
        until(
            "the event", lambda: "Not sync pods [10.99.0.1] whose eni is invalid" in [text for _, text, _ in world.events("gw")]
        )
        until("the known pod", lambda: len(world.backends(group)) == 2)
        said = f"Skip delete and update backends to vgroup k8s/8080/gw/{world.ns}/{CLUSTER} due to invalid backends: 10.99.0.1"
        until("the second event", lambda: said in [text for _, text, _ in world.events("gw")])
        assert sorted(item["ServerIp"] for item in world.backends(group)) == ["10.64.0.9", "10.64.1.9"]
        time.sleep(0.1)
        assert sum(count for reason, _, count in world.events("gw") if reason == "EnsuredLoadBalancer") == before
    else:
        reason, text = world.outcome("gw", lambda: world.endpoints("gw", unknown, ports=(80,)))
        assert reason == "SyncLoadBalancerFailed"
        assert f"can not find eniid for ip 10.99.0.1 in vpc {VPC}" in text
        assert sorted(item["ServerIp"] for item in world.backends(group)) == ["10.64.0.9"]


def test_address_outside_vpc(world: World) -> None:
    """A pod that is not in the VPC at all (an overlay address) is left out, and the Service is Ensured."""
    world.nodes(3)
    world.endpoints("gw", [*PODS, ("172.30.0.5", "n0")], ports=(80,))
    lb_id = world.create("gw", ports=(80,), eni=True)
    group = world.groups(lb_id)[f"k8s/8080/gw/{world.ns}/{CLUSTER}"]
    assert sorted(item["ServerIp"] for item in world.backends(group)) == ["10.64.0.9", "10.64.1.9"]
    said = ("SkipSyncBackends", "Not sync pods [172.30.0.5] whose ip is not in vpc cidrs")
    assert (said in [(reason, text) for reason, text, _ in world.events("gw")]) == (world.version != "v2.8.0")


def test_switch_to_eni(world: World) -> None:
    """Cluster -> ENI on an own load balancer: new groups, listeners moved to them, old groups deleted."""
    world.nodes(3)
    world.endpoints("gw", PODS)
    lb_id = world.create("gw")
    old = set(world.groups(lb_id).values())
    world.ensured("gw", lambda: world.api.patch(world.path("gw"), _eni("eni")))
    groups = world.groups(lb_id)
    assert sorted(groups) == [f"k8s/8080/gw/{world.ns}/{CLUSTER}", f"k8s/8443/gw/{world.ns}/{CLUSTER}"]
    assert not old & set(groups.values())
    moved = {port: item["VServerGroupId"] for port, item in world.listeners(lb_id).items()}
    assert moved == {port: groups[f"k8s/{8000 + port if port == 80 else 8443}/gw/{world.ns}/{CLUSTER}"] for port in (80, 443)}


def _eni(value: str | None) -> dict[str, object]:
    return {"metadata": {"annotations": {"service.beta.kubernetes.io/backend-type": value}}}
