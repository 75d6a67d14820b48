# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh configuration: what a gateway needs, what is copied, what is the same, what is in the way."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import (
    Workload,
    closure,
    covers,
    credentials_of,
    fqdn,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import (
    Filters,
    fill,
    marked,
    only_in_target,
    plan_absent,
    plan_present,
    select,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS, key_of, portable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import content, differences, digest, normal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._misfit import misfit
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import in_the_way

Object = dict[str, Any]
SOURCE = Workload("istio-system", {"app": "istio-ingressgateway", "istio": "ingressgateway"}, {"istio": "ingressgateway-asm"})
SERVED = {name: kind_of(f"{kind.group}/v1beta1", name) for name, kind in KINDS.items()}


def obj(kind: str, name: str, spec: Object, namespace: str = "demo", **meta: Any) -> Object:
    version = "v1alpha3" if kind == "EnvoyFilter" else "v1"
    return {
        "apiVersion": f"{KINDS[kind].group}/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "uid": f"u-{name}", "resourceVersion": "5", "generation": 2, **meta},
        "spec": copy.deepcopy(spec),
    }


GATEWAY = obj(
    "Gateway",
    "echo",
    {
        "selector": {"istio": "ingressgateway"},
        "servers": [{"port": {"number": 443}, "hosts": ["echo"], "tls": {"mode": "SIMPLE", "credentialName": "echo-cert"}}],
    },
)
ROUTE = obj(
    "VirtualService",
    "echo",
    {
        "gateways": ["echo", "mesh"],
        "hosts": ["echo.lab.test"],
        "http": [
            {
                "route": [{"destination": {"host": "echo"}}],
                "mirror": {"host": "shadow.other.svc.cluster.local"},
                "timeout": "1m30s",
            },
            {"delegate": {"name": "part", "namespace": "deep"}},
        ],
    },
)
PART = obj("VirtualService", "part", {"http": [{"route": [{"destination": {"host": "api.example.com"}}]}]}, "deep")
OTHER_ROUTE = obj("VirtualService", "inside", {"hosts": ["echo"], "http": [{"route": [{"destination": {"host": "inside"}}]}]})
RULES = [
    obj("DestinationRule", "echo", {"host": "echo.demo.svc.cluster.local", "subsets": [{"name": "v1"}]}),
    obj("DestinationRule", "shadow", {"host": "*.other.svc.cluster.local"}),
    obj("DestinationRule", "inside", {"host": "inside"}),
]
ENTRIES = [
    obj("ServiceEntry", "api", {"hosts": ["*.example.com"]}, "deep"),
    obj("ServiceEntry", "far", {"hosts": ["far.example.org"]}, "deep"),
]
POLICIES = [
    obj("EnvoyFilter", "mine", {"workloadSelector": {"labels": {"istio": "ingressgateway"}}}, "istio-system"),
    obj("EnvoyFilter", "everywhere", {"configPatches": []}, "istio-system"),
    obj("EnvoyFilter", "apps", {"configPatches": []}, "demo"),
    obj("AuthorizationPolicy", "edge", {"selector": {"matchLabels": {"app": "istio-ingressgateway"}}}, "istio-system"),
    obj("AuthorizationPolicy", "egress", {"selector": {"matchLabels": {"istio": "egressgateway"}}}, "istio-system"),
    obj("PeerAuthentication", "strict", {"mtls": {"mode": "STRICT"}}, "istio-system"),
    obj("Sidecar", "default", {}, "istio-system"),
]
OTHER_GATEWAY = obj("Gateway", "egress", {"selector": {"istio": "egressgateway"}})
WORLD = [GATEWAY, ROUTE, PART, OTHER_ROUTE, *RULES, *ENTRIES, *POLICIES, OTHER_GATEWAY]


def names(items: Any) -> list[str]:
    return [f"{item.obj['kind']}/{item.obj['metadata']['name']}" for item in items]


def plan(selected: Any = None, present: list[Object] | None = None, **more: Any) -> Any:
    chosen = closure([GATEWAY, ROUTE], [SOURCE]) if selected is None else selected
    options = {"migration": "shop", "target_namespaces": ["demo", "istio-system"], **more}
    made = plan_present(chosen, {key_of(item): item for item in present or []}, SERVED, **options)
    fill(made.writes, SERVED, options["migration"])
    return made


def in_target(original: Object, **meta: Any) -> Object:
    """As the target holds what this migration wrote."""
    (chosen,) = select([original], [SOURCE], scope="all")
    found = marked(chosen.rewritten, SERVED[original["kind"]], "shop")
    found["metadata"].update(uid="u-t", resourceVersion="8", managedFields=[{"manager": "x"}], **meta)
    return found


# -- what a gateway needs


def test_the_closure_has_what_the_gateway_needs_and_nothing_else() -> None:
    assert names(closure(WORLD, [SOURCE])) == [
        "ServiceEntry/api",
        "DestinationRule/echo",
        "DestinationRule/shadow",
        "AuthorizationPolicy/edge",
        "EnvoyFilter/everywhere",
        "EnvoyFilter/mine",
        "VirtualService/part",
        "VirtualService/echo",
        "Gateway/echo",
    ]


def test_the_closure_does_not_depend_on_the_order_of_reading() -> None:
    world = list(WORLD)
    for seed in range(5):
        random.Random(seed).shuffle(world)
        assert names(closure(world, [SOURCE])) == names(closure(WORLD, [SOURCE]))


def test_selectors_choose_the_targets_pods_and_the_source_object_stays_as_it_is() -> None:
    before = copy.deepcopy(WORLD)
    found = {item.key: item for item in closure(WORLD, [SOURCE])}
    assert before == WORLD
    assert found["Gateway/demo/echo"].rewritten["spec"]["selector"] == {"istio": "ingressgateway-asm"}
    assert found["EnvoyFilter/istio-system/mine"].rewritten["spec"]["workloadSelector"]["labels"] == {
        "istio": "ingressgateway-asm"
    }
    edge = found["AuthorizationPolicy/istio-system/edge"].rewritten["spec"]["selector"]["matchLabels"]
    assert edge == {"istio": "ingressgateway-asm"}
    assert found["VirtualService/demo/echo"].rewritten == ROUTE


def test_one_selector_for_two_gateways_with_different_targets_is_a_problem() -> None:
    second = Workload("istio-system", {"app": "istio-ingressgateway", "istio": "second"}, {"istio": "second-asm"})
    both = obj("Gateway", "both", {"selector": {"app": "istio-ingressgateway"}})
    (item,) = closure([both], [SOURCE, second])
    assert "no single selector" in item.problem
    assert plan([item]).items[0].action == "refused"


def test_delegates_that_point_to_each_other_end() -> None:
    one = obj("VirtualService", "one", {"gateways": ["echo"], "http": [{"delegate": {"name": "two"}}]})
    two = obj("VirtualService", "two", {"http": [{"delegate": {"name": "one"}}]})
    assert names(closure([GATEWAY, one, two], [SOURCE])) == ["VirtualService/one", "VirtualService/two", "Gateway/echo"]


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("echo", "echo.demo.svc.cluster.local"),
        ("echo.other.svc", "echo.other.svc.cluster.local"),
        ("echo.other.svc.cluster.local", "echo.other.svc.cluster.local"),
        ("api.example.com", "api.example.com"),
        ("*", "*"),
    ],
)
def test_short_names_are_services_of_the_rules_namespace(host: str, full: str) -> None:
    assert fqdn(host, "demo") == full


@pytest.mark.parametrize(
    ("pattern", "host", "hit"),
    [
        ("*.b.c", "a.b.c", True),
        ("*.b.c", "b.c", False),
        ("a.b.c", "*.b.c", True),
        ("*", "x", True),
        ("a.b", "a.c", False),
        ("x.a.b", "a.b", False),
    ],
)
def test_host_patterns(pattern: str, host: str, hit: bool) -> None:
    assert covers(pattern, host) is hit


def test_secrets_are_named_not_copied() -> None:
    assert credentials_of(GATEWAY) == {"echo-cert"}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"scope": "all", "kinds": ["Sidecar"]}, ["Sidecar/default"]),
        ({"scope": "all", "namespaces": ["deep"], "kinds": ["ServiceEntry"]}, ["ServiceEntry/api", "ServiceEntry/far"]),
        ({"scope": "gateway", "namespaces": ["deep"]}, ["ServiceEntry/api", "VirtualService/part"]),
        ({"scope": "gateway", "names": ["ec*"], "kinds": ["Gateway", "VirtualService"]}, ["VirtualService/echo", "Gateway/echo"]),
    ],
)
def test_filters(filters: Object, found: list[str]) -> None:
    scope = filters.pop("scope")
    assert names(select(WORLD, [SOURCE], scope=scope, filters=Filters(**filters))) == found


# -- three ways


def test_what_is_only_in_the_source_is_created_in_the_version_of_the_target() -> None:
    made = plan(target_namespaces=["istio-system"])
    assert [item.action for item in made.items] == ["create", "create"]
    assert made.namespaces == ["demo"]
    body = made.items[1].body
    assert body["apiVersion"] == "networking.istio.io/v1beta1"
    assert body["metadata"]["labels"] == {"servicemesh.migration/managed-by": "shop"}
    assert set(body["metadata"]) == {"name", "namespace", "labels", "annotations"}
    assert made.as_plan().changes[0].target == "target/Namespace/demo"


def test_the_second_run_plans_nothing() -> None:
    made = plan(present=[in_target(GATEWAY), in_target(ROUTE)])
    assert [item.action for item in made.items] == ["same", "same"]
    assert not made.as_plan().changed


def test_the_same_object_of_somebody_else_is_left_alone() -> None:
    theirs = in_target(GATEWAY)
    theirs["metadata"].update(labels={"argocd.argoproj.io/instance": "x"}, annotations={})
    assert plan(present=[theirs, in_target(ROUTE)]).items[1].action == "same"


def test_a_change_of_the_source_reaches_what_was_copied_before() -> None:
    changed = copy.deepcopy(GATEWAY)
    changed["spec"]["servers"][0]["hosts"] = ["new"]
    item = plan(closure([changed, ROUTE], [SOURCE]), [in_target(GATEWAY), in_target(ROUTE)]).items[1]
    assert (item.action, item.overwrites) == ("update", False)
    assert item.differences == ['spec.servers[0].hosts[0]: "echo" -> "new"']
    assert item.body["metadata"]["resourceVersion"] == "8"


def theirs(change: str) -> Object:
    found = in_target(GATEWAY)
    if change == "foreign":
        found["metadata"]["labels"] = {"team": "b"}
        found["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": "t"}
    elif change == "other migration":
        found["metadata"]["labels"]["servicemesh.migration/managed-by"] = "other"
    found["spec"]["servers"][0]["port"]["number"] = 8443
    return found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("foreign", "the target has its own, and it differs"),
        ("touched", "somebody changed it in the target"),
        ("other migration", "it belongs to the migration other"),
    ],
)
def test_a_conflict_is_listed_and_never_overwritten_unless_told(change: str, reason: str) -> None:
    item = plan(present=[theirs(change), in_target(ROUTE)]).items[1]
    assert item.action == "conflict"
    assert reason in item.reason
    assert "spec.servers[0].port.number: 8443 -> 443" in item.differences
    told = plan(present=[theirs(change), in_target(ROUTE)], on_conflict="update").items[1]
    assert (told.action, told.overwrites) == ("update", True)


def test_an_update_keeps_the_marks_of_the_tools_of_the_target() -> None:
    item = plan(present=[theirs("foreign"), in_target(ROUTE)], on_conflict="update").items[1]
    assert item.body["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] == "t"
    assert item.body["metadata"]["labels"] == {"servicemesh.migration/managed-by": "shop"}


def test_what_the_target_cannot_take_is_refused_with_the_reason() -> None:
    made = plan_present(
        closure([GATEWAY], [SOURCE]), {}, {**SERVED, "Gateway": None}, migration="shop", target_namespaces=["demo"]
    )
    assert (made.items[0].action, "does not serve the kind Gateway" in made.items[0].reason) == ("refused", True)
    made = plan(target_namespaces=[], create_namespaces=False)
    assert {item.reason for item in made.items} == {"the target has no namespace demo"}


def test_every_state_has_its_comparison() -> None:
    changed = copy.deepcopy(ROUTE)
    changed["spec"]["hosts"] = ["new"]
    made = plan(closure([GATEWAY, changed, PART], [SOURCE]), [in_target(GATEWAY), in_target(ROUTE)], target_namespaces=["demo"])
    assert {item.key: item.comparison for item in made.items} == {
        "VirtualService/deep/part": "only_in_source",
        "VirtualService/demo/echo": "differs",
        "Gateway/demo/echo": "same",
    }
    assert made.counts() == {"only_in_source": 1, "same": 1, "differs": 1, "only_in_target": 0}


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"deletionTimestamp": "now"}, "is being deleted"),
        ({"ownerReferences": [{"kind": "IstioGateway", "name": "x", "controller": True}]}, "would undo the change"),
    ],
)
@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
def test_what_cannot_be_written_to_stays_a_conflict_whatever_is_told(meta: Object, why: str, on_conflict: str) -> None:
    present = theirs("foreign")
    present["metadata"].update(meta)
    item = plan(present=[present, in_target(ROUTE)], on_conflict=on_conflict).items[1]
    assert item.action == "conflict" and why in item.reason


def extras(target: list[Object], **filters: Any) -> list[str]:
    scope = filters.pop("scope", "all")
    found = only_in_target(
        [GATEWAY, ROUTE],
        {key_of(item): item for item in target},
        [SOURCE],
        scope=scope,
        filters=Filters(**filters),
        migration="shop",
    )
    assert all((item.action, item.comparison, item.body) == ("extra", "only_in_target", None) for item in found)
    return [f"{item.key}: {item.reason}" for item in found]


def test_what_only_the_target_has_is_told() -> None:
    own = obj("Gateway", "own", {"selector": {"istio": "ingressgateway-asm"}, "servers": []}, labels={"team": "b"})
    copied = in_target(PART)
    not_there = "the source does not have it"
    assert extras([GATEWAY, own, copied, OTHER_GATEWAY]) == [
        "VirtualService/deep/part: this migration copied it, and the source has it no more",
        f"Gateway/demo/egress: {not_there}",
        f"Gateway/demo/own: {not_there}",
    ]
    assert extras([own, copied, OTHER_GATEWAY], scope="gateway") == [f"Gateway/demo/own: {not_there}"]
    assert extras([own, copied, OTHER_GATEWAY], label_selector="team=b") == [f"Gateway/demo/own: {not_there}"]
    assert extras([own, copied], kinds=["VirtualService"], namespaces=["demo"]) == []


def envoy_filter(*versions: str) -> Object:
    patches = [{"match": {"proxy": {"proxyVersion": version}} if version else {}} for version in versions]
    return obj("EnvoyFilter", "f", {"configPatches": patches})


@pytest.mark.parametrize(
    ("versions", "target", "refused", "noted"),
    [
        (["^1\\.20.*"], "1.24.6", "none of its patches is for a proxy of the version 1.24.6, but for ^1\\.20.*", ""),
        (["^1\\.24.*"], "1.24.6", "", ""),
        (["^1\\.24.*", "^1\\.20.*"], "1.24.6", "", "1 of its 2 patches are not for"),
        (["", "^1\\.20.*"], "1.24.6", "", "1 of its 2 patches are not for"),
        ([""], "1.24.6", "", ""),
        ([], "1.24.6", "", ""),
        (["^1\\.20.*"], "", "", "set target_version"),
        (["^(1"], "1.24.6", "its proxyVersion ^(1 is no regular expression", ""),
    ],
)
def test_filters_for_other_versions_of_the_proxy(versions: list[str], target: str, refused: str, noted: str) -> None:
    why, note = misfit(envoy_filter(*versions), target)
    assert why.startswith(refused) and bool(why) == bool(refused)
    assert noted in note and bool(note) == bool(noted)
    (item,) = plan(select([envoy_filter(*versions)], [], scope="all"), target_version=target).items
    assert item.action == ("refused" if refused else "create")
    assert misfit({**envoy_filter(*versions), "kind": "WasmPlugin"}, target) == ("", "")


def test_a_kind_that_is_newer_than_the_table_is_copied_before_the_routes() -> None:
    new = {**obj("Telemetry", "new", {"selector": {"matchLabels": {"istio": "ingressgateway"}}}), "kind": "Newest"}
    found = select([GATEWAY, ROUTE, new], [SOURCE], scope="all")
    assert names(found) == ["Newest/new", "VirtualService/echo", "Gateway/echo"]
    assert found[0].rewritten["spec"]["selector"]["matchLabels"] == {"istio": "ingressgateway-asm"}
    served = {**SERVED, "Newest": kind_of("telemetry.istio.io/v1", "Newest")}
    made = plan_present(found, {}, served, migration="shop", target_namespaces=["demo"])
    assert [item.action for item in made.items] == ["create"] * 3
    assert "telemetry.istio.io" in plan(found).items[0].reason


def test_a_plan_of_many_writes_can_be_read() -> None:
    many = [obj("ServiceEntry", f"e{number}", {"hosts": [f"h{number}"]}) for number in range(600)]
    made = plan(select([*many, GATEWAY], [SOURCE], scope="all"), [theirs("touched")], on_conflict="update")
    changes = made.as_plan().changes
    assert [(change.action, change.target) for change in changes] == [
        ("create", "target/demo/ServiceEntry"),
        ("update", "target/demo/Gateway/echo"),
    ]
    assert changes[0].after == "600 objects as in the source"
    assert changes[1].after == ["spec.servers[0].port.number: 8443 -> 443"]


# -- absent


def absent(present: list[Object], originals: dict[str, Object] | None = None) -> list[tuple[str, str]]:
    made = plan_absent({key_of(item): item for item in present}, originals or {}, migration="shop")
    return [(item.action, item.key) for item in made.items]


def test_absent_takes_away_what_was_made_and_nobody_changed_gateways_first() -> None:
    foreign = obj("VirtualService", "theirs", {"hosts": ["x"]})
    touched = in_target(RULES[0])
    touched["spec"]["host"] = "changed"
    found = absent([foreign, in_target(ROUTE), touched, in_target(GATEWAY)])
    assert found == [
        ("delete", "Gateway/demo/echo"),
        ("delete", "VirtualService/demo/echo"),
        ("kept", "DestinationRule/demo/echo"),
    ]


def test_absent_puts_back_what_was_overwritten() -> None:
    original = obj("Gateway", "echo", {"selector": {"a": "b"}}, labels={"app.kubernetes.io/managed-by": "Helm"})
    made = plan_absent({"Gateway/demo/echo": in_target(GATEWAY)}, {"Gateway/demo/echo": original}, migration="shop")
    (item,) = made.items
    assert item.action == "restore"
    assert item.body["spec"] == {"selector": {"a": "b"}}
    assert item.body["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "Helm"}
    assert item.body["metadata"]["resourceVersion"] == "8"


@pytest.mark.parametrize(
    ("labels", "inside", "reason"),
    [
        ({}, [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt"), ("Event", "x"), ("Gateway", "echo")], ""),
        ({}, [("ConfigMap", "mine")], "there is ConfigMap/mine in it"),
        ({}, [("Gateway", "other")], "there is Gateway/other in it"),
        ({"team": "b"}, [], "somebody gave it the labels team"),
    ],
)
def test_a_namespace_goes_only_when_nothing_of_anybody_is_in_it(labels: Object, inside: list[Any], reason: str) -> None:
    mine = {"servicemesh.migration/managed-by": "shop", "kubernetes.io/metadata.name": "demo", **labels}
    assert in_the_way({"metadata": {"name": "demo", "labels": mine}}, inside, {("Gateway", "echo")}) == reason


# -- comparison


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"timeout": "90s"}, {"timeout": "1m30s"}, True),
        ({"timeout": "1.5s"}, {"timeout": "1500ms"}, True),
        ({"a": None, "b": []}, {}, True),
        ({"a": 1.0}, {"a": 1}, True),
        ({"consecutive5xxErrors": 0}, {}, False),
        ({"match": [{}]}, {}, False),
        ({"exact": ""}, {}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"host": "5s.example"}, {"host": "5s.example"}, True),
    ],
)
def test_only_what_means_the_same_is_the_same(left: Object, right: Object, same: bool) -> None:
    assert (normal(left) == normal(right)) is same


def test_the_hash_sees_content_and_not_where_it_lies() -> None:
    there = in_target(GATEWAY)
    there["apiVersion"] = "networking.istio.io/v1alpha3"
    there["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
    there["status"] = {"x": 1}
    assert there["metadata"]["annotations"]["servicemesh.migration/content"] == digest(there)
    there["metadata"]["labels"]["team"] = "b"
    assert there["metadata"]["annotations"]["servicemesh.migration/content"] != digest(there)


def test_marks_of_other_tools_do_not_travel() -> None:
    item = obj("Gateway", "a", {}, labels={"istio.io/rev": "1-20", "team": "x", "argocd.argoproj.io/instance": "y"})
    assert portable(item)["metadata"] == {"name": "a", "namespace": "demo", "labels": {"team": "x"}}
    assert content(item) == {"labels": {"team": "x"}}


def test_differences_are_at_most_a_screenful() -> None:
    wanted = {str(number): number for number in range(100)}
    assert len(differences(wanted, {})) == 20
