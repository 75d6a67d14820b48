# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as the same, what belongs to a backup, what a restore would do: tables of cases for the pure parts."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _restore, _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore import Choice, RestorePlan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _meaning, _planner

Object = dict[str, Any]


def obj(kind: str = "VirtualService", api: str = "networking.istio.io/v1", name: str = "a", **more: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop", **more.pop("meta", {})}, **more}


def service(**spec: Any) -> Object:
    return obj("Service", "v1", spec={"selector": {"app": "a"}, "ports": [{"port": 80, "name": "http"}], **spec})


# --- the same -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (obj(spec={"hosts": ["a", "b"]}), obj(spec={"hosts": ["b", "a"]})),
        (obj(spec={"http": [{"timeout": "60s"}]}), obj(spec={"http": [{"timeout": "1m"}]})),
        (obj(spec={"gateways": ["mesh"]}), obj(spec={})),
        (obj(spec={}), obj()),
        (obj(spec={"a": 1.0, "b": None, "c": []}), obj(spec={"a": 1})),
        (obj(), obj(api="networking.istio.io/v1beta1")),
        (obj(), obj(status={"x": 1}, meta={"uid": "u", "resourceVersion": "1", "managedFields": [], "generation": 3})),
        (obj(), obj(meta={"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}})),
        (obj(meta={"finalizers": ["a", "b"]}), obj(meta={"finalizers": ["b", "a"]})),
        (
            obj(meta={"ownerReferences": [{"kind": "X", "name": "x", "uid": "1"}]}),
            obj(meta={"ownerReferences": [{"kind": "X", "name": "x", "uid": "2"}]}),
        ),
        (
            service(),
            service(clusterIP="10.0.0.1", clusterIPs=["10.0.0.1"], type="ClusterIP", sessionAffinity="None", ipFamilies=["IPv4"]),
        ),
        (service(), service(ports=[{"port": 80, "name": "http", "nodePort": 30080, "protocol": "TCP", "targetPort": 80}])),
        (obj("Namespace", "v1", spec={"finalizers": ["kubernetes"]}), obj("Namespace", "v1")),
        (obj("ServiceAccount", "v1", secrets=[{"name": "token"}]), obj("ServiceAccount", "v1")),
    ],
)
def test_these_mean_the_same(left: Object, right: Object) -> None:
    assert _meaning.fingerprint(left) == _meaning.fingerprint(right)
    assert _meaning.differing(left, right, secret=False) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (obj(spec={"http": [{"name": "a"}, {"name": "b"}]}), obj(spec={"http": [{"name": "b"}, {"name": "a"}]})),
        (obj(spec={"x": 0}), obj(spec={})),
        (obj(spec={"x": False}), obj(spec={})),
        (obj(spec={"x": {}}), obj(spec={})),
        (obj(meta={"labels": {"a": "b"}}), obj()),
        (obj(meta={"annotations": {"a": "b"}}), obj()),
        (obj(meta={"finalizers": ["a"]}), obj()),
        (service(), service(clusterIP="None")),
        (service(), service(type="LoadBalancer")),
        (service(), service(ports=[{"port": 80, "name": "http", "targetPort": 8080}])),
        (obj("Secret", "v1", data={"a": "eA=="}), obj("Secret", "v1", data={"a": "eQ=="})),
    ],
)
def test_these_do_not(left: Object, right: Object) -> None:
    assert _meaning.fingerprint(left) != _meaning.fingerprint(right)
    assert _meaning.differing(left, right, secret=False)


def test_of_secrets_only_the_path_is_shown() -> None:
    (line,) = _meaning.differing(obj(data={"k": "planted"}), obj(data={"k": "other"}), secret=True)
    assert line.startswith("data.k: ") and "planted" not in line and "other" not in line


def test_the_hash_of_an_object_is_the_same_in_every_release() -> None:
    """It is written into the target's objects: another one would make all of them look as if somebody had changed them."""
    http = {
        "timeout": "1m30s",
        "retries": {"attempts": 3.0, "perTryTimeout": "1500ms"},
        "match": [{"uri": {"prefix": "/"}, "methods": ["POST", {"exact": "GET"}]}, {}],
        "headers": None,
        "route": [{"weight": 100, "destination": {"host": "9lives", "port": {"number": 80}}}],
    }
    spec = {"hosts": ["b.example", "a.example"], "gateways": ["mesh", "demo/gw"], "exportTo": [], "http": [http]}
    meta = {"name": "a", "namespace": "b", "labels": {"team": "x"}, "finalizers": ["z", "y"]}
    route = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": spec}
    before = copy.deepcopy(route)
    assert _meaning.digest(route) == "246dbc0c5a24ca99"
    assert _meaning.fingerprint(route).hex() == "ea83536feac4b6ee3b1073e865deb718"
    assert route == before, "the object is not touched: its lists keep their order when it is written"


def test_fields_that_the_server_would_drop_are_named() -> None:
    wanted = {"spec": {"a": 1, "known": {"b": [{"c": 1, "gone": 2}]}, "empty": {}, "none": None}}
    assert _meaning.lost(wanted, {"spec": {"a": 1, "known": {"b": [{"c": 1}]}, "default": 3}}) == ["spec.known.b[0].gone"]
    assert _meaning.lost(wanted, copy.deepcopy(wanted)) == []


# --- what belongs to a backup -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (obj("Service", "v1", name="kubernetes", meta={"namespace": "default"}), "API server makes it"),
        (obj("Secret", "v1", type="kubernetes.io/service-account-token"), "ServiceAccount"),
        (obj("Secret", "v1", type="helm.sh/release.v1"), "Helm"),
        (obj("ConfigMap", "v1", name="istio-ca-root-cert"), "every namespace"),
        (obj("ConfigMap", "v1", meta={"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}), "leader"),
        (obj(meta={"deletionTimestamp": "now"}), "being deleted"),
        (obj("Service", "v1", meta={"ownerReferences": [{"kind": "IstioGateway", "controller": True}]}), "owner"),
    ],
)
def test_what_is_left_out_and_why(found: Object, why: str) -> None:
    assert why in _scope.left_out(found)


@pytest.mark.parametrize(
    "found",
    [
        obj("Service", "v1", name="kubernetes"),
        obj("Secret", "v1", type="kubernetes.io/tls"),
        obj("ConfigMap", "v1", name="istio"),
        obj(meta={"ownerReferences": [{"kind": "VirtualService", "controller": True}]}),
    ],
)
def test_what_is_saved(found: Object) -> None:
    assert _scope.left_out(found) == ""


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("web", ("shop", "web")),
        ("web.other", ("other", "web")),
        ("web.other.svc", ("other", "web")),
        ("web.other.svc.cluster.local", ("other", "web")),
    ],
)
def test_a_host_names_a_service(host: str, wanted: tuple[str, str]) -> None:
    for spec in (
        {"http": [{"route": [{"destination": {"host": host}}]}]},
        {"tcp": [{"route": [{"destination": {"host": host}}]}]},
        {"http": [{"route": [], "mirror": {"host": host}}]},
        {"http": [{"mirrors": [{"destination": {"host": host}}]}]},
        {"hosts": [host]},
    ):
        references = _scope.References()
        references.see(obj(spec=spec))
        assert wanted in references.services


def test_an_outside_host_names_no_service() -> None:
    references = _scope.References()
    references.see(obj(spec={"hosts": ["www.example.com"]}))
    assert references.services == set()


def test_a_gateway_leads_to_its_service_its_pods_their_account_and_its_secret() -> None:
    references = _scope.References()
    tls = {"mode": "SIMPLE", "credentialName": "cert"}
    references.see(obj("Gateway", spec={"selector": {"istio": "gw"}, "servers": [{"tls": tls}]}))
    gateway = obj("Service", "v1", name="gw", spec={"selector": {"istio": "gw", "app": "gw"}})
    assert references.wants(kind_of("v1", "Service"), gateway)
    assert not references.wants(kind_of("v1", "Service"), obj("Service", "v1", name="x", spec={"selector": {"app": "x"}}))
    template = {"metadata": {"labels": {"istio": "gw", "app": "gw", "x": "y"}}, "spec": {"serviceAccountName": "gw-account"}}
    assert references.wants(kind_of("apps/v1", "Deployment"), obj("Deployment", "apps/v1", spec={"template": template}))
    assert references.wants(kind_of("v1", "ServiceAccount"), obj("ServiceAccount", "v1", name="gw-account"))
    assert references.wants(kind_of("v1", "Secret"), obj("Secret", "v1", name="cert"))
    assert not references.wants(kind_of("v1", "Secret"), obj("Secret", "v1", name="other"))


def test_a_route_of_the_gateway_api_leads_to_its_backends() -> None:
    references = _scope.References()
    rules = [
        {"backendRefs": [{"name": "web", "port": 80}, {"name": "far", "namespace": "other"}, {"kind": "Bucket", "name": "b"}]}
    ]
    references.see(obj("HTTPRoute", "gateway.networking.k8s.io/v1", spec={"rules": rules}))
    assert references.services == {("shop", "web"), ("other", "far")}


def test_a_selector_of_one_namespace_or_of_all_chooses_by_all_its_labels() -> None:
    references = _scope.References()
    references.see(obj("AuthorizationPolicy", spec={"selector": {"matchLabels": {"app": "web", "tier": "front"}}}))
    references.see(obj("Gateway", spec={"selector": {"istio": "ingress"}}))

    def wanted(namespace: str, **labels: str) -> bool:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": namespace}}
        return references.wants(_scope.SERVICE, {**service, "spec": {"selector": labels}})

    assert wanted("shop", app="web", tier="front", more="x")
    assert not wanted("other", app="web", tier="front")
    assert not wanted("shop", app="web")
    assert not wanted("shop", tier="front")
    assert not wanted("shop")
    assert wanted("other", istio="ingress")


@pytest.mark.parametrize(
    "text",
    [
        'password: "x"', "API_KEY: x", "accessKeyId: x", 'Authorization: "Basic x"', "-----BEGIN RSA PRIVATE KEY-----",
        "note: eyJhbGciOiJIUzI1NiJ9.e30.x", "url: https://user:pw@example.com/",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret(text: str) -> None:
    assert _scope.may_hold_secret("VirtualService", text)


@pytest.mark.parametrize("text", ["host: web", "email: a@example.com", "keys: x", "url: https://example.com:443/a@b"])
def test_what_does_not(text: str) -> None:
    assert not _scope.may_hold_secret("VirtualService", text)
    assert _scope.may_hold_secret("EnvoyFilter", text), "a kind that holds whatever somebody writes"


def test_those_that_are_named_come_before_those_that_name_them() -> None:
    order = _scope.order_of
    assert order("", "Namespace") < order("", "Secret") < order("", "Service") < order("networking.istio.io", "DestinationRule")
    assert order("networking.istio.io", "DestinationRule") < order("networking.istio.io", "VirtualService")
    assert order("networking.istio.io", "VirtualService") < order("networking.istio.io", "Gateway") < order("apps", "Deployment")
    assert order("gateway.networking.k8s.io", "GatewayClass") < order("gateway.networking.k8s.io", "Gateway")


# --- what a restore would do --------------------------------------------------------------------------------------------------


def entry(kind: str = "VirtualService", api: str = "networking.istio.io/v1", name: str = "a", namespace: str = "shop") -> Entry:
    return Entry(api, kind, name, "", 0, namespace)


def test_namespaces_and_names_choose() -> None:
    choice = Choice(("shop",), ("networking.istio.io/*/shop/a*",), {})
    assert choice.wants(entry()) and not choice.wants(entry(name="b")) and not choice.wants(entry(namespace="other"))
    assert Choice(("shop",), (), {}).wants(entry("Namespace", "v1", "shop", ""))
    assert not Choice(("shop",), (), {}).wants(entry("Namespace", "v1", "other", ""))


def test_a_namespace_gets_its_new_name_everywhere() -> None:
    choice = Choice((), (), {"shop": "rehearsal"})
    assert choice.key(entry()) == "networking.istio.io/VirtualService/rehearsal/a"
    assert choice.key(entry("Namespace", "v1", "shop", "")) == "/Namespace//rehearsal"
    body = _restore.body_of(entry(), obj(spec={}), "networking.istio.io/v1beta1", choice, same_cluster=False)
    assert body["metadata"]["namespace"] == "rehearsal" and body["apiVersion"] == "networking.istio.io/v1beta1"


def test_two_namespaces_do_not_become_one() -> None:
    with pytest.raises(InputError, match="cannot become one"):
        _restore.choice_of({"namespaces": [], "only": [], "namespace_map": {"a": "c", "b": "c"}})


@pytest.mark.parametrize(("same", "kept"), [(True, True), (False, False)])
def test_addresses_stay_in_the_same_cluster_only(same: bool, kept: bool) -> None:
    live = service(clusterIP="10.0.0.9", clusterIPs=["10.0.0.9"], ports=[{"port": 80, "nodePort": 30080}])
    body = _restore.body_of(entry("Service", "v1"), live, "v1", Choice((), (), {}), same_cluster=same)
    assert ("clusterIP" in body["spec"], "nodePort" in body["spec"]["ports"][0]) == (kept, kept)


def test_a_headless_service_stays_headless_anywhere() -> None:
    body = _restore.body_of(entry("Service", "v1"), service(clusterIP="None"), "v1", Choice((), (), {}), same_cluster=False)
    assert body["spec"]["clusterIP"] == "None"


def test_an_update_keeps_what_is_the_live_objects_own() -> None:
    live = service(clusterIP="10.0.0.9", ports=[{"port": 80, "nodePort": 30080}])
    live["metadata"] |= {"resourceVersion": "7", "finalizers": ["f"], "ownerReferences": [{"uid": "u"}]}
    body = _restore.over(service(), live)
    assert body["metadata"]["resourceVersion"] == "7" and body["metadata"]["finalizers"] == ["f"]
    assert body["metadata"]["ownerReferences"] == [{"uid": "u"}]
    assert body["spec"]["clusterIP"] == "10.0.0.9" and body["spec"]["ports"][0]["nodePort"] == 30080


def test_the_plan_names_every_write_or_counts_many_creates() -> None:
    few, many = RestorePlan(), RestorePlan()
    for i in range(3):
        few.add(entry(name=str(i)), f"g/K/n/{i}", _planner.CREATE)
    for i in range(600):
        many.add(entry(name=str(i)), f"g/K/n/{i}", _planner.CREATE)
    many.deletes.append(("g/K/n/x", "uid"))
    assert [change.target for change in few.as_plan().changes] == ["target/g/K/n/0", "target/g/K/n/1", "target/g/K/n/2"]
    assert [(change.action, change.after) for change in many.as_plan().changes] == [
        ("create", "600 objects as in the archive"),
        ("delete", None),
    ]
    assert many.writes == 601


def test_an_object_that_the_server_refuses_is_no_write_any_more() -> None:
    plan = RestorePlan()
    number = plan.add(entry(), "g/K/n/a", _planner.CREATE)
    plan.refuse(number, "g/K/n/a", _planner.REFUSED, "no")
    assert plan.writes == 0 and plan.as_plan().changes == []
    assert plan.counts[_planner.REFUSED] == 1 and plan.counts[_planner.CREATE] == 0
    assert plan.items[0].as_dict()["reason"] == "no"


def test_only_what_the_archive_holds_as_a_whole_is_pruned() -> None:
    lists = [{"kind": "networking.istio.io/VirtualService", "mode": "all"}, {"kind": "Service", "mode": "referred"}]
    everywhere = _restore.prunable(lists, {"namespaces": []}, Choice((), (), {}))
    assert everywhere == ({"networking.istio.io/VirtualService"}, None)
    assert _restore.prunable(lists, {"namespaces": ["a", "b"]}, Choice(("b", "c"), (), {}))[1] == {"b"}
    assert _restore.prunable(lists, {"namespaces": ["a", "b"]}, Choice(("c",), (), {}))[1] == set(), "it prunes everything"
    assert _restore.prunable(lists, {"namespaces": ["a"]}, Choice((), (), {"a": "z"}))[1] == {"z"}


ODD = [{"a": 1}, "text", 7, [["x"]], [7], [{"tls": "x"}], [None], {"route": {}}, True]


@pytest.mark.parametrize("kind", ["VirtualService", "Gateway", "DestinationRule", "Sidecar", "HTTPRoute"])
def test_an_object_of_any_shape_can_be_looked_at_for_references(kind: str) -> None:
    """Another vendor's kind of the same name, or one that no schema checks."""
    for value in ODD:
        for field in ("hosts", "http", "tcp", "servers", "listeners", "selector", "workloadSelector", "rules"):
            seen = _scope.References()
            other = {"deep": [{"host": "web.shop"}]}
            meta = {"name": "a", "namespace": "shop"}
            seen.see({"apiVersion": "x/v1", "kind": kind, "metadata": meta, "spec": {field: value, "more": other}})
            if kind in ("DestinationRule", "Sidecar", "HTTPRoute"):
                assert ("shop", "web") in seen.services
