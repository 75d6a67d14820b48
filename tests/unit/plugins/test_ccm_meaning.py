# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud-controller-manager means by its annotations, names, nodes and pods."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm as ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm_members import count, instance_id, mode_of

CLUSTER = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"


def node(name: str, **over: Any) -> dict[str, Any]:
    labels = over.get("labels", {})
    spec: dict[str, Any] = {"providerID": over.get("provider", f"cn-hangzhou.i-{name}")}
    spec.update(over.get("spec", {}))
    conditions = over.get("conditions", [{"type": "Ready", "status": "True"}])
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"conditions": conditions}}


def slices(*pods: tuple[str, str], ready: bool = True, **conditions: Any) -> dict[str, Any]:
    return {
        "addressType": "IPv4",
        "ports": [{"name": "http2", "port": 8080}],
        "endpoints": [
            {"addresses": [address], "nodeName": where, "conditions": {"ready": ready, **conditions}} for address, where in pods
        ],
    }


PORT = {"name": "http2", "port": 80, "targetPort": 8080, "nodePort": 30080}


def service(**over: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "gw", "namespace": "istio-system", "uid": "u-1", "annotations": over.pop("annotations", {})},
        "spec": {"type": "LoadBalancer", "ports": [PORT], **over},
    }


def servers(counted: Any) -> list[tuple[str, int]]:
    return [(member.server, member.pods) for member in counted.members]


def test_cluster_mode_counts_all_eligible_nodes_and_no_pods() -> None:
    nodes = [
        node("a"),
        node("b"),
        node("no-label", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""}),
        node("old-label", labels={"service.beta.kubernetes.io/exclude-node": "true"}),
        node("control", labels={"node-role.kubernetes.io/control-plane": ""}),
        node("master", labels={"node-role.kubernetes.io/master": ""}),
        node("tainted", spec={"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}),
        node("not-ready", conditions=[{"type": "Ready", "status": "Unknown"}]),
        node("new", conditions=[]),
        node("cordoned", spec={"unschedulable": True}),
    ]
    counted = count(service(), PORT, nodes, [slices(("10.1.0.1", "a"))], "cluster")
    assert [server for server, _weight in servers(counted)] == ["i-a", "i-b", "i-control", "i-cordoned"]
    assert counted.bad_nodes == ()
    annotated = service(annotations={f"{ccm.LEGACY_PREFIX}remove-unscheduled-backend": "on"})
    assert "i-cordoned" not in dict(servers(count(annotated, PORT, nodes, [], "cluster")))


def test_nodes_without_provider_id_are_named_unless_they_are_excluded() -> None:
    nodes = [
        node("a"),
        node("fresh", provider=""),
        node("odd", provider="i-odd"),
        node("off", provider="", labels={"service.alibabacloud.com/exclude-node": ""}),
    ]
    assert count(service(), PORT, nodes, [], "cluster").bad_nodes == ("fresh", "odd")
    # In Local mode only nodes with pods are asked; with pods as backends none is.
    assert count(service(), PORT, nodes, [slices(("10.1.0.1", "a"))], "local").bad_nodes == ()
    assert count(service(), PORT, nodes, [slices(("10.1.0.1", "fresh"))], "local").bad_nodes == ("fresh",)
    assert count(service(), PORT, nodes, [slices(("10.1.0.1", "fresh"))], "eni").bad_nodes == ()


def test_local_mode_counts_ready_pods_per_node_and_pods_on_virtual_nodes_apart() -> None:
    nodes = [node("a"), node("b"), node("v", labels={"type": "virtual-kubelet"}, conditions=[])]
    pods = slices(("10.1.0.1", "a"), ("10.1.0.2", "a"), ("10.1.0.3", "b"), ("10.9.0.1", "v"))
    gone = slices(("10.1.0.9", "b"), terminating=True)
    waits = slices(("10.1.0.8", "b"), ready=False)
    counted = count(service(), PORT, nodes, [pods, gone, waits, pods], "local")
    assert servers(counted) == [("10.9.0.1", 1), ("i-a", 2), ("i-b", 1)]
    assert counted.ready_pods == 4


def test_pods_as_backends_and_named_target_ports() -> None:
    named = {**PORT, "targetPort": "http2"}
    other = {**PORT, "targetPort": "nope", "name": "nope"}
    six = {**slices(("fd00::1", "a")), "addressType": "IPv6"}
    found = count(service(), named, [], [slices(("10.1.0.2", "a"), ("10.1.0.1", "a")), six], "eni")
    assert [server for server, _weight in servers(found)] == ["10.1.0.1", "10.1.0.2"]
    assert count(service(), other, [], [slices(("10.1.0.1", "a"))], "eni").members == ()


@pytest.mark.parametrize(
    ("over", "seen", "mode"),
    [
        ({}, (), "cluster"),
        ({"externalTrafficPolicy": "Local"}, (), "local"),
        ({"annotations": {ccm.BACKEND_TYPE: "eni"}, "externalTrafficPolicy": "Local"}, (), "eni"),
        ({}, ("eni",), "eni"),
        ({"annotations": {ccm.BACKEND_TYPE: "ecs"}}, ("eni",), "cluster"),
        ({}, ("ecs", "eni"), "cluster"),
    ],
)
def test_mode(over: dict[str, Any], seen: tuple[str, ...], mode: str) -> None:
    assert mode_of(service(**over), seen) == mode


@pytest.mark.parametrize(
    ("text", "found"),
    [("cn-hangzhou.i-1", "i-1"), ("alicloud://cn-hangzhou.i-1", "i-1"), ("i-1", ""), ("", ""), ("kwok://n", "")],
)
def test_instance_id(text: str, found: str) -> None:
    assert instance_id(text) == found


def test_owners() -> None:
    owner = ccm.parse_owner(f"k8s/30080/gw/istio-system/{CLUSTER}")
    assert owner is not None
    assert (owner.port, owner.key, owner.cluster_id, str(owner)) == (
        "30080",
        "istio-system/gw",
        CLUSTER,
        f"k8s/30080/gw/istio-system/{CLUSTER}",
    )
    for text in ("", "shared-80", "k8s/80/gw/istio-system", "k8s/80/gw/istio-system/c/more"):
        assert ccm.parse_owner(text) is None


def test_the_newer_prefix_wins_also_when_it_is_empty() -> None:
    legacy, new = f"{ccm.LEGACY_PREFIX}weight", ccm.WEIGHT
    assert ccm.annotation({legacy: "5"}, ccm.WEIGHT) == "5"
    assert ccm.annotation({legacy: "5", new: "7"}, ccm.WEIGHT) == "7"
    assert ccm.annotation({legacy: "5", new: ""}, ccm.WEIGHT) == ""
    assert ccm.annotation({}, ccm.WEIGHT) == ""


def test_weight_counts_only_on_a_reused_load_balancer_with_groups() -> None:
    base = {ccm.ID: "lb-1", ccm.VGROUP_PORT: "rsp-1:80"}
    assert ccm.weight_of({ccm.WEIGHT: "10"}) is None
    assert ccm.weight_of({ccm.ID: "lb-1", ccm.WEIGHT: "10"}) is None
    assert ccm.weight_of(base) is None
    assert ccm.weight_of({**base, ccm.WEIGHT: "10"}) == 10
    for bad in ("101", "-1", "ten", "1.5", " 5"):
        with pytest.raises(ValueError, match="no integer in"):
            ccm.weight_of({**base, ccm.WEIGHT: bad})


def test_vgroup_port_is_written_complete_and_without_spaces_and_read_as_the_ccm_reads_it() -> None:
    ports = [{"port": 15021}, {"port": 80}, {"port": 443}]
    text = ccm.vgroup_port({80: "rsp-b", 443: "rsp-c", 15021: "rsp-a"}, {"spec": {"ports": ports}})
    assert text == "rsp-a:15021,rsp-b:80,rsp-c:443"
    assert ccm.parse_vgroup_port(text) == {15021: "rsp-a", 80: "rsp-b", 443: "rsp-c"}
    # The form in the vendor's documentation: with ', ' only the first port is found.
    assert ccm.parse_vgroup_port(text.replace(",", ", ")) == {15021: "rsp-a"}
    assert ccm.parse_vgroup_port("rsp-a, nonsense,:80,rsp-b:http") == {}


def test_names() -> None:
    assert ccm.owner_tag("3f2504e0-4f89-11d3-9a0c-0305e82c3301") == "a3f2504e04f8911d39a0c0305e82c330"
    assert len(ccm.owner_tag("3f2504e0-4f89-11d3-9a0c-0305e82c3301")) == 32
    assert ccm.group_name(service(), PORT, "cluster", CLUSTER) == f"k8s/30080/gw/istio-system/{CLUSTER}"
    assert ccm.group_name(service(), PORT, "eni", CLUSTER) == f"k8s/8080/gw/istio-system/{CLUSTER}"


@pytest.mark.parametrize(
    ("version", "refuses", "skips", "old"),
    [
        ("v2.8.0", False, False, False),
        ("v2.9.1", True, False, False),
        ("v2.11.2.26-abc-aliyun", True, False, False),
        ("v2.12.1", True, True, False),
        ("2.14.0", True, True, False),
        ("v2.3.9", False, False, True),
        ("", True, True, False),
        ("latest", True, True, False),
    ],
)
def test_rules_of_versions(version: str, refuses: bool, skips: bool, old: bool) -> None:
    found = ccm.rules(version)
    assert (found.refuses_made_groups, found.skips_bad_ports, bool(found.too_old)) == (refuses, skips, old)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("registry.cn/acs/cloud-controller-manager-amd64:v2.11.2", "v2.11.2"),
        ("registry:5000/acs/cloud-controller-manager", ""),
        ("ccm:v2.14.0@sha256:abc", "v2.14.0"),
        ("ccm:latest", ""),
    ],
)
def test_version_of_image(image: str, version: str) -> None:
    assert ccm.version_of_image(image) == version


def test_a_port_without_a_group_is_an_error_for_people() -> None:
    service = {"metadata": {"namespace": "n", "name": "s"}, "spec": {"ports": [{"port": 80}, {"port": 443}]}}
    assert ccm.vgroup_port({80: "rsp-a", 443: "rsp-b"}, service) == "rsp-a:80,rsp-b:443"
    with pytest.raises(MigrationError, match="ports 443 have no vServer group"):
        ccm.vgroup_port({80: "rsp-a"}, service)
