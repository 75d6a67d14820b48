# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever would break is refused before the first write, with a reason that can be acted on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from lab.kube import path_of
from tests.integration.ccm.world import PREFIX
from tests.integration.collection.scene import Scene

VERSIONS = ("v2.14.0",)


def call(scene: Scene, action: str, **params: Any) -> dict[str, Any]:
    return scene.world.rpc.call("slb", action, **params)


def group(scene: Scene, port: int) -> str:
    return str(scene.world.listeners(scene.lb)[port]["VServerGroupId"])


def foreign_backend(scene: Scene) -> None:
    entry = {"ServerId": "i-late", "Port": 31234, "Weight": 10, "Type": "ecs", "Description": "by hand"}
    call(scene, "AddVServerGroupBackendServers", VServerGroupId=group(scene, 80), BackendServers=json.dumps([entry]))


def foreign_listener(scene: Scene) -> None:
    where = {"LoadBalancerId": scene.lb, "ListenerPort": 9000}
    call(scene, "CreateLoadBalancerTCPListener", **where, Bandwidth=-1, VServerGroupId=group(scene, 80), Description="mine")


def persistence(scene: Scene) -> None:
    where = {"LoadBalancerId": scene.lb, "ListenerPort": 443}
    call(scene, "SetLoadBalancerTCPListenerAttribute", **where, PersistenceTimeout=600)


def stopped(scene: Scene) -> None:
    call(scene, "StopLoadBalancerListener", LoadBalancerId=scene.lb, ListenerPort=443, ListenerProtocol="tcp")


def listener_gone(scene: Scene) -> None:
    call(scene, "DeleteLoadBalancerListener", LoadBalancerId=scene.lb, ListenerPort=443, ListenerProtocol="tcp")


def foreign_tag(scene: Scene) -> None:
    tag = [{"Key": "kubernetes.do.not.delete", "Value": "a" + "0" * 31}]
    call(scene, "TagResources", ResourceType="instance", ResourceId=[scene.lb], Tag=tag)


def twin(scene: Scene) -> None:
    made = call(scene, "CreateLoadBalancer", AddressType="internet", LoadBalancerName="twin")
    value = scene.world.tags(scene.lb)["kubernetes.do.not.delete"]
    tag = [{"Key": "kubernetes.do.not.delete", "Value": value}]
    call(scene, "TagResources", ResourceType="instance", ResourceId=[made["LoadBalancerId"]], Tag=tag)


def renamed(scene: Scene) -> None:
    scene.world.rename(group(scene, 80), "k8s/1/other/other/c1")


def override(scene: Scene) -> None:
    scene.world.ensured(scene.source, lambda: scene.world.annotate(scene.source, force_override_listeners="true"))
    scene.rest()


def bad_node(scene: Scene) -> None:
    scene.world.node("fresh", provider=None)
    scene.rest()


CASES: list[tuple[Callable[[Scene], None], str]] = [
    (foreign_backend, "has backends of others: (not by a cloud-controller-manager)"),
    (foreign_listener, "is shared: listener 9000 belongs to somebody else"),
    (persistence, "listener 443 has session persistence (PersistenceTimeout 600 s)"),
    (stopped, "listener 443 is stopped"),
    (listener_gone, "port 443 has no listener"),
    (foreign_tag, "belongs to somebody else"),
    (twin, "has another load balancer too: lb-"),
    (renamed, "is named k8s/1/other/other/c1, the CCM would look for k8s/"),
    (override, 'force-override-listeners is "true"'),
    (bad_node, "node fresh has no usable spec.providerID"),
]


@pytest.mark.parametrize(("spoil", "reason"), CASES, ids=[case[0].__name__ for case in CASES])
def test_refused_before_the_first_write(scene: Scene, spoil: Callable[[Scene], None], reason: str) -> None:
    scene.up()
    spoil(scene)
    error = scene.refused(scene.reuse)
    assert reason in error.why, error.why
    assert error.todo


def test_udp(scene: Scene) -> None:
    scene.up()
    ports = (scene.world.get(scene.source) or {})["spec"]["ports"]
    udp = {"name": "quic", "port": 8443, "targetPort": 8443, "protocol": "UDP"}
    path = path_of("v1", "services", scene.world.ns, scene.source)
    scene.world.ensured(scene.source, lambda: scene.world.api.patch(path, {"spec": {"ports": [*ports, udp]}}))
    scene.rest()
    assert "port 8443 is UDP" in scene.refused(scene.reuse).why


def test_a_load_balancer_of_the_users_own(scene: Scene) -> None:
    """Reused from the start, but not by name of groups: not this module's work."""
    scene.nodes = scene.world.nodes(2)
    scene.lb, groups = scene.world.user_lb(scene.PORTS)
    scene.world.create(scene.source, scene.world.reuse(scene.lb, groups), ports=scene.PORTS)
    scene.rest()
    error = scene.refused(scene.reuse)
    assert "was not made by the CCM for this Service" in error.why


def test_a_ccm_that_fails_already(scene: Scene) -> None:
    scene.up()
    scene.world.cloud.fault("DescribeVServerGroups", 400, "InvalidParameter", "broken")
    reason, _text = scene.world.outcome(scene.source, lambda: scene.world.touch(scene.source))
    assert reason == "SyncLoadBalancerFailed"
    scene.world.cloud.clear_faults()
    assert "the CCM cannot reconcile the Service as it is" in scene.refused(scene.reuse).why


def test_a_ccm_that_is_too_old(scene: Scene) -> None:
    scene.up()
    assert "too old" in scene.refused(lambda: scene.reuse(ccm_version="v2.3.0")).why


def test_a_target_that_is_still_there_keeps_the_load_balancer(scene: Scene) -> None:
    scene.up()
    scene.reuse()
    scene.gateway()
    error = scene.refused(lambda: scene.reuse("absent"))
    assert "remove the target gateway first" in error.why


def test_a_right_that_is_missing_is_found_before_the_first_write(scene: Scene) -> None:
    scene.up()
    for action in ("SetVServerGroupAttribute", "UntagResources", "TagResources", "SetLoadBalancerTCPListenerAttribute"):
        scene.world.cloud.fault(action, 403, "Forbidden.RAM", "User not authorized to operate on the specified resource.")
        error = scene.refused(scene.reuse)
        assert "Forbidden.RAM" in error.why
        assert f"slb:{action}" in error.todo
        scene.world.cloud.clear_faults()


def alibaba(scene: Scene, **over: Any) -> dict[str, Any]:
    return {"alibaba": {**scene.params()["alibaba"], **over}}


BAD_INPUT: list[tuple[str, Callable[[Scene], dict[str, Any]], str]] = [
    ("region", lambda scene: alibaba(scene, region=None), "region of the load balancers is not known"),
    ("half a key", lambda scene: alibaba(scene, access_key_secret=None), "Half of an access key"),
    ("wrong key", lambda scene: alibaba(scene, access_key_id="nobody"), "InvalidAccessKeyId"),
    ("wrong secret", lambda scene: alibaba(scene, access_key_secret="wrong"), "SignatureDoesNotMatch"),
    ("nobody there", lambda scene: alibaba(scene, slb_endpoint="127.0.0.1:1", attempts=2), "gave no answer"),
    ("kubeconfig", lambda scene: {"source": {"kubeconfig": "/nowhere"}}, "kubeconfig of source cannot be used"),
    ("no cluster", lambda scene: {"source": {}}, "not said which cluster source is"),
    ("other cluster", lambda scene: {"source": {**scene.params()["source"], "cluster_uid": "u"}}, "not the one that was named"),
    ("no gateways", lambda scene: {"gateways": []}, "No gateway is named"),
    ("twice", lambda scene: {"gateways": scene.params()["gateways"] * 2}, "named twice"),
    ("migration", lambda scene: {"migration": "Not/a name"}, "cannot be used"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT])
def test_bad_input(scene: Scene, change: Callable[[Scene], dict[str, Any]], message: str) -> None:
    scene.up()
    error = scene.refused(lambda: scene.reuse(**change(scene)))
    assert message in error.message
    assert "Traceback" not in error.message


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ({"source_service": "nowhere"}, "The gateway is not there"),
        ({"load_balancer_id": "lb-other"}, "not clear which load balancer is meant"),
    ],
)
def test_wrong_ids(scene: Scene, gateway: dict[str, Any], message: str) -> None:
    scene.up()
    gateways = [{**scene.params()["gateways"][0], **gateway}]
    error = scene.refused(lambda: scene.reuse(gateways=gateways))
    assert message in error.message


def test_a_load_balancer_that_does_not_exist(scene: Scene) -> None:
    scene.up()
    path = path_of("v1", "services", scene.world.ns, scene.source)
    scene.world.api.patch(path, {"metadata": {"labels": {"service.k8s.alibaba/loadbalancer-id": "lb-gone"}}})
    with pytest.raises(MigrationError, match="refused") as caught:
        scene.reuse()
    assert caught.value.details.get("not_found")
    assert "cn-hangzhou" in caught.value.todo


def test_untag_without_a_key_is_impossible(scene: Scene) -> None:
    from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb

    clb = Clb(scene.params()["alibaba"])
    for keys in ([], [""]):
        with pytest.raises(InputError, match="only ever removed by their keys"):
            clb.untag("lb-1", keys)


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.thorough)])
def test_with_one_call_in_ten_failing_the_end_is_the_same(scene: Scene, seed: int) -> None:
    scene.up()
    first = scene.snapshot()
    for number, effect in enumerate(
        ({"status": 503, "code": "ServiceUnavailable"}, {"status": 429, "code": "Throttling"}, {"reset": True})
    ):
        rule = {
            "target": "slb",
            "action": "*",
            "rate": 0.04,
            "seed": seed * 10 + number,
            "effect": {"message": "later", **effect},
        }
        scene.world.cloud._admin("POST", "faults", rule)
    with contextlib.suppress(MigrationError):
        scene.reuse(wait_timeout=40.0)
    scene.world.cloud.clear_faults()
    # At the latest the plain re-run, without faults, comes to the end.
    scene.reuse()
    assert not scene.reuse().plan.changed
    assert scene.one_weight(scene.source) == [50, 50]
    assert scene.world.tags(scene.lb) == {"kubernetes.reused.by.user": "true"}
    scene.reuse("absent")
    assert scene.snapshot() == first
    assert f"{PREFIX}id" not in (first["annotations"] or {})
