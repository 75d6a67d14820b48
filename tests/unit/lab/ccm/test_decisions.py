# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure functions of lab.ccm: names, hash, annotations, weights, diffs of groups, listeners."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.ccm import backends, listeners, names, plan
from lab.ccm.backends import CLUSTER, ENI, LOCAL, Backend, Endpoint, Group
from lab.ccm.listeners import Listener
from lab.ccm.names import CcmError
from lab.ccm.versions import VERSIONS

NEW = VERSIONS["v2.14.0"]
PREFIX = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"


def service(notes: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"}]
    meta: dict[str, Any] = {
        "name": "gw",
        "namespace": "istio-system",
        "uid": "2a85bed1-d802-423b-a25d-d59afc7b8591",
        "labels": {},
    }
    meta["annotations"] = {PREFIX + key: value for key, value in (notes or {}).items()}
    return {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": ports, **spec}}


def node(name: str, provider: str | None = None, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {key.replace("__", "/"): value for key, value in labels.items()}},
        "spec": {"providerID": f"cn-hangzhou.i-{name}" if provider is None else provider},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def ecs(name: str, weight: int = 0, port: int = 30080, foreign: bool = False, text: str = "d") -> Backend:
    return Backend(name, "", port, "ecs", weight, text, foreign)


# --- names --------------------------------------------------------------------------------------------------------------------


def test_default_name_is_cut_to_32() -> None:
    assert names.lb_name(service()) == "a2a85bed1d802423ba25dd59afc7b859"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("k8s/30080/gw/istio-system/c1", True),
        ("k8s/30080/gw/istio-system", False),
        ("shared-80", False),
        ("x/1/a/b/c", False),
        ("", False),
    ],
)
def test_owner_text(text: str, known: bool) -> None:
    owner = names.Owner.parse(text)
    assert (owner is not None) == known
    if owner:
        assert str(owner) == text
        assert owner.same_service(service(), "c1")
        assert not owner.same_service(service(), "c2")


def test_listener_owner_needs_a_number() -> None:
    assert names.Owner.parse("k8s/http/gw/ns/c") is not None
    assert names.Owner.parse("k8s/http/gw/ns/c", numeric=True) is None


def test_vgroup_port_is_not_trimmed() -> None:
    """`a:80, b:443` gives the id ` b` for 443: nobody's id (F5)."""
    assert names.group_for_port("a:80,b:443", 443) == "b"
    assert names.group_for_port("a:80, b:443", 443) == " b"
    assert names.group_for_port("a:80", 443) == ""
    assert names.named_groups("a:80, b:443") == ["a", " b"]
    assert names.group_for_port("a:80,broken", 80) == "a"
    with pytest.raises(CcmError, match=r"got=\[\[broken\]\]"):
        names.group_for_port("a:80,broken", 443)
    with pytest.raises(CcmError):
        names.named_groups("a:80,broken")


@pytest.mark.parametrize("text", ["101", "-1", "ten", "1.5", ""])
def test_bad_weight(text: str) -> None:
    with pytest.raises(CcmError, match=rf"in range \[0,100\] , got \[{text}\]"):
        names.weight_of(text)


def test_new_prefix_wins() -> None:
    svc = service({"weight": "1"})
    svc["metadata"]["annotations"]["service.beta.kubernetes.io/alicloud-loadbalancer-weight"] = "2"
    svc["metadata"]["annotations"]["service.beta.kubernetes.io/alicloud-loadbalancer-id"] = "lb"
    assert (names.annotation(svc, "weight"), names.annotation(svc, "id")) == ("1", "lb")


def test_hash_inputs() -> None:
    def of(**change: Any) -> str:
        svc = service()
        for key, value in change.items():
            svc["metadata" if key in ("annotations", "deletionTimestamp", "labels") else "spec"][key] = value
        return names.service_hash(svc, NEW)

    same = of()
    assert of(labels={"a": "b"}) == same
    assert of(selector={"a": "b"}) == same
    assert of(annotations={"a": ""}) == same, "an empty annotation is no annotation"
    changed = [of(annotations={"a": "b"}), of(ports=[]), of(type="NodePort"), of(externalTrafficPolicy="Local")]
    changed += [
        of(loadBalancerClass="x"),
        of(deletionTimestamp="2026-01-01T00:00:00Z"),
        of(loadBalancerSourceRanges=["10.0.0.0/8"]),
    ]
    assert same not in changed
    assert len(set(changed)) == len(changed)
    old = VERSIONS["v2.8.0"]
    assert names.service_hash(service(), old) == names.service_hash(service(loadBalancerSourceRanges=["10.0.0.0/8"]), old)


def test_event_keeps_the_message_only() -> None:
    text = "apply model error: [SDKError] API: X, ErrorCode: RspoolVipExist, RequestId: r, Message: in use."
    assert names.event_text(text) == "Message: in use."
    assert names.event_text("plain") == "plain"


def test_joined_errors() -> None:
    assert names.joined([None, None]) is None
    assert str(names.joined([None, CcmError("a")])) == "a"
    assert str(names.joined([CcmError("a"), CcmError("b"), CcmError("a")])) == "[a, b]"


def test_extra_tags() -> None:
    assert names.extra_tags(service({"additional-resource-tags": "A=1, B=,C"})) == {"A": "1", "B": "", "C": ""}


def test_wants_clb() -> None:
    assert names.wants_clb(service())
    assert not names.wants_clb(service(type="NodePort"))
    assert not names.wants_clb(service(loadBalancerClass="alibabacloud.com/nlb"))


# --- weights ------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(1, 60), st.sampled_from([ENI, CLUSTER]))
def test_even_weights(weight: int, count: int, mode: str) -> None:
    """All equal, 0 only for 0, the sum never above `weight` unless every one has the least, 1."""
    shared = [item.weight for item in backends.weighted(mode, [ecs(f"i-{n}") for n in range(count)], weight)]
    assert len(set(shared)) == 1
    assert (shared[0] == 0) == (weight == 0)
    assert sum(shared) <= weight or set(shared) == {1}


@given(st.integers(0, 100), st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_local_weights(weight: int, pods: list[int]) -> None:
    """In proportion to the pods on a node, rounded down, at least 1."""
    items = [ecs(f"i-{n}") for n, count in enumerate(pods) for _ in range(count)]
    for item in backends.weighted(LOCAL, items, weight):
        exact = weight * pods[int(item.server_id[2:])] / sum(pods)
        assert item.weight == (0 if weight == 0 else max(1, int(exact)))


def test_local_pod_on_virtual_node_may_get_nothing() -> None:
    items = [ecs("i-0"), Backend("", "10.0.0.1", 8080, "eni", 0, "d"), ecs("i-1"), ecs("i-1")]
    assert [item.weight for item in backends.weighted(LOCAL, items, 3)] == [1, 0, 1, 1]
    assert [item.weight for item in backends.weighted(LOCAL, items, None)] == [1, 1, 2, 2]


# --- backends -----------------------------------------------------------------------------------------------------------------


def test_candidates_and_takers() -> None:
    tainted, cold, blank = node("t"), node("c"), node("b")
    tainted["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler"}]
    cold["status"]["conditions"][0]["status"] = "Unknown"
    blank["status"]["conditions"] = []
    masters = [node("m", **{"node-role.kubernetes.io__master": ""}), node("p", **{"node-role.kubernetes.io__control-plane": ""})]
    found = backends.candidates([node("a"), tainted, cold, blank, *masters], service())
    assert [item["metadata"]["name"] for item in found] == ["a", "p"]
    assert not backends.takes_traffic(node("x", **{"node.kubernetes.io__exclude-from-external-load-balancers": ""}))


def test_provider_id() -> None:
    assert backends.instance_id(node("a")) == "i-a"
    assert backends.instance_id(node("a", "alicloud://cn-hangzhou.i-b")) == "i-b"
    with pytest.raises(CcmError, match="parse providerid: kind://x"):
        backends.instance_id(node("a", "kind://x"))


def test_wanted_group_of_each_mode() -> None:
    nodes = [node("a"), node("b")]
    pods = [Endpoint("10.0.0.1", 8080, "a"), Endpoint("10.0.0.2", 8080, "a")]
    port = service()["spec"]["ports"][0]

    def ids(svc: dict[str, Any]) -> list[tuple[str, str, int, int]]:
        group = backends.wanted_group(svc, port, "c1", NEW, nodes, pods, lambda: [Group("shared", "rsp-1", foreign=True)])
        return [(item.server_id, item.server_ip, item.port, item.weight) for item in group.backends]

    reuse = {"id": "lb", "vgroup-port": "rsp-1:80", "weight": "50"}
    assert ids(service(reuse)) == [("i-a", "", 30080, 25), ("i-b", "", 30080, 25)]
    assert ids(service(reuse, externalTrafficPolicy="Local")) == [("i-a", "", 30080, 50)]
    eni = service(reuse)
    eni["metadata"]["annotations"]["service.beta.kubernetes.io/backend-type"] = "eni"
    assert ids(eni) == [("", "10.0.0.1", 8080, 25), ("", "10.0.0.2", 8080, 25)]


def test_group_made_by_a_ccm_is_refused_from_v29_on() -> None:
    svc = service({"id": "lb", "vgroup-port": "rsp-1:80"})
    port = svc["spec"]["ports"][0]
    made = [Group("k8s/30080/gw/istio-system/c1", "rsp-1")]
    group = backends.wanted_group(svc, port, "c1", VERSIONS["v2.8.0"], [node("a")], [], lambda: made)
    assert group.id == "rsp-1"
    with pytest.raises(CcmError, match="cannot reuse a ccm created vgroup rsp-1 for slb lb"):
        backends.wanted_group(svc, port, "c1", VERSIONS["v2.11.2"], [node("a")], [], lambda: made)


def test_slices() -> None:
    def piece(**entry: Any) -> dict[str, Any]:
        return {"addressType": "IPv4", "ports": [{"name": "http", "port": 9090}], "endpoints": [{"nodeName": "a", **entry}]}

    slices = [
        piece(addresses=["10.0.0.1"], conditions={"ready": True}),
        piece(addresses=["10.0.0.1"], conditions={"ready": True}),
        piece(addresses=["10.0.0.2"], conditions={"ready": False}),
        piece(addresses=["10.0.0.3"], conditions={"ready": True, "terminating": True}),
        {**piece(addresses=["fd00::1"], conditions={"ready": True}), "addressType": "IPv6"},
    ]
    assert backends.from_slices(slices, {"name": "http", "port": 80, "targetPort": 8080}) == [Endpoint("10.0.0.1", 8080, "a")]
    assert backends.from_slices(slices, {"name": "http", "port": 80, "targetPort": "web"}) == [Endpoint("10.0.0.1", 9090, "a")]
    assert backends.from_slices(slices, {"name": "other", "port": 80, "targetPort": "web"}) == []


def test_unknown_and_outside_addresses() -> None:
    group = Group("g", backends=[Backend("", ip, 8080, "eni", 1, "d") for ip in ("10.0.0.1", "10.0.0.2", "172.16.0.1")])
    outside = backends.resolve_interfaces(group, {"10.0.0.1": "eni-1"}, lambda ip: ip.startswith("10."))
    assert outside == ["172.16.0.1"]
    assert group.unknown == ["10.0.0.2"]
    assert [item.server_id for item in group.backends] == ["eni-1"]


# --- plan ---------------------------------------------------------------------------------------------------------------------


def test_diff() -> None:
    there = Group("g", "1", backends=[ecs("a", 5), ecs("b", 5), ecs("b", 9, port=1, foreign=True)])
    wanted = Group("g", "1", backends=[ecs("a", 7), ecs("c", 5)])
    change = plan.diff(wanted, there)
    assert [item.server_id for item in change.add] == ["c"]
    assert [item.server_id for item in change.remove] == ["b"]
    assert [(item.server_id, item.weight) for item in change.update] == [("a", 7)]
    assert not plan.diff(Group("g", backends=[ecs("a", 7)], keep_weights=True), Group("g", backends=[ecs("a", 5)]))


def test_two_services_on_one_node_always_update() -> None:
    """B5: the other Service's backend on the same node differs in its port, and counts as a change."""
    there = Group("g", backends=[ecs("a", 5, port=2, foreign=True), ecs("a", 5)])
    assert plan.diff(Group("g", backends=[ecs("a", 5)]), there).update == [ecs("a", 5)]


def test_actions_and_leftovers() -> None:
    mine = "k8s/30080/gw/istio-system/c1"
    there = [Group(mine, "1"), Group("shared", "2", foreign=True, backends=[ecs("a"), ecs("b", foreign=True)])]
    wanted = [Group("k8s/30081/gw/istio-system/c1")]
    assert [action.kind for action in plan.group_actions(wanted, there)] == ["create"]
    delete, empty = plan.leftovers(wanted, there, service(), "c1")
    assert [group.id for group in delete] == ["1"]
    assert [(group.id, [item.server_id for item in items]) for group, items in empty] == [("2", ["a"])]
    assert plan.leftovers([Group(mine, "1"), Group("x", "2")], there, service(), "c1") == ([], [])


# --- listeners ----------------------------------------------------------------------------------------------------------------


def test_listener_actions() -> None:
    mine, other = "k8s/{}/gw/istio-system/c1", "by hand"
    old = [Listener(80, "tcp", mine.format(80)), Listener(81, "tcp", mine.format(81)), Listener(82, "tcp", other)]
    new = [Listener(80, "tcp", mine.format(80)), Listener(443, "tcp", mine.format(443))]
    found = {(action.kind, action.new.port) for action in listeners.actions(new, old, service(), "c1")}
    assert found == {("update", 80), ("delete", 81), ("create", 443)}


def test_update_reads_everything_back() -> None:
    old = Listener(
        80, "tcp", "by hand", "rsp-1", status="running", settings={"Scheduler": "rr", "PersistenceTimeout": 0, "Bandwidth": 5}
    )
    new = listeners.wanted(service({"scheduler": "wrr", "connection-drain-timeout": "30"}), "c1")[0]
    change = listeners.updated(new, old)
    assert change is not None
    # the timeout counts only with connection-drain on
    assert change.settings == {"Scheduler": "wrr", "PersistenceTimeout": 0, "Bandwidth": 5}
    assert change.description == "k8s/80/gw/istio-system/c1"
    assert listeners.updated(change, change) is None


def test_new_listener_gets_rr() -> None:
    assert listeners.with_defaults(Listener(80, "tcp", "d")).settings == {"Scheduler": "rr", "Bandwidth": -1}


def test_numbers_in_annotations() -> None:
    with pytest.raises(CcmError, match="Annotation IdleTimeout must be integer, but got"):
        listeners.wanted(service({"idle-timeout": "soon"}), "c1")
