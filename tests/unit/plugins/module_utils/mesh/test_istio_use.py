# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether something still uses Istio: tables of cases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_use as use
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_use import Look
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import sort
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall_read import read_look
from tests.unit.plugins.module_utils.mesh.istio_world import SYSTEM, container, hook, inventory, obj, of, pod

Object = dict[str, Any]
EGRESS = f"{SYSTEM}/egress-1"


def refusals(seen: Any, looks: Any = None, clients: Any = None) -> list[Refusal]:
    found = sort(seen)
    counted = use.census(seen, found)
    quiet = {use.pod_name(item): [Look(0, 7), Look(0, 7)] for item in counted.gateways}
    return [
        *use.use_refusals(counted),
        *use.steering_refusals(seen, found),
        *use.gateway_refusals(seen, counted, quiet if looks is None else looks),
        *use.client_refusals(counted, {f"{SYSTEM}/istiod-1": ["egress-1.istio-system"]} if clients is None else clients),
    ]


def test_a_cluster_that_has_moved_may_lose_istio() -> None:
    seen = inventory()
    assert refusals(seen) == []
    counted = use.census(seen, sort(seen))
    assert [use.pod_name(item) for item in counted.gateways] == [EGRESS]
    assert [use.pod_name(item) for item in counted.target] == [f"{SYSTEM}/asm-1", "shop/shop-1"]


def native(mesh: str) -> Object:
    return pod("n", "shop", {"name": "app"}, initContainers=[{**container(mesh), "restartPolicy": "Always"}])


USERS: dict[str, tuple[list[Object], str, str]] = {
    "a sidecar": (
        [pod("old-1", "shop", {"name": "app"}, container("istio"))],
        "Pods still have a sidecar of Istio",
        "1 pods: shop/old-1",
    ),
    "a native sidecar": ([native("istio")], "Pods still have a sidecar of Istio", "shop/n"),
    "a sidecar in a pod that is not ready": (
        [{**pod("p", "shop", container("istio")), "status": {"phase": "Pending"}}],
        "Pods still have a sidecar of Istio",
        "shop/p",
    ),
    "so many": (
        [pod(f"p{number}", "shop", container("istio")) for number in range(8)],
        "Pods still have a sidecar of Istio",
        "8 pods: shop/p0, shop/p1, shop/p2, shop/p3, shop/p4, and 3 more",
    ),
    "a gateway that a chart or the Gateway API made": (
        [pod("gw", "shop", container("istio", router=True))],
        "Gateways of Istio run that are not of its installation",
        "shop/gw",
    ),
    "a pod in the ambient mode": (
        [
            {
                **pod("a", "shop", {"name": "app"}),
                "metadata": {**pod("a", "shop")["metadata"], "annotations": {"ambient.istio.io/redirection": "enabled"}},
            }
        ],
        "Pods are in Istio's ambient mode",
        "shop/a",
    ),
}


@pytest.mark.parametrize(("pods", "what", "why"), USERS.values(), ids=USERS.keys())
def test_who_uses_istio_is_named(pods: list[Object], what: str, why: str) -> None:
    (only,) = refusals(inventory(extra_pods=pods))
    assert (only.what, only.order) == (what, True) and why in only.why


NOBODY: dict[str, Object] = {
    "a sidecar of ASM": pod("x", "shop", container("asm")),
    "a native sidecar of ASM": native("asm"),
    "a pod that has ended": {**pod("x", "shop", container("istio")), "status": {"phase": "Succeeded"}},
    "a pod without sidecar": pod("x", "shop", {"name": "app"}),
}


@pytest.mark.parametrize("one", NOBODY.values(), ids=NOBODY.keys())
def test_who_does_not_use_it_is_no_obstacle(one: Object) -> None:
    assert refusals(inventory(extra_pods=[one])) == []


def test_a_pod_on_its_way_out_is_waited_for() -> None:
    one = pod("x", "shop", container("istio"))
    one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen = inventory(extra_pods=[one])
    assert refusals(seen) == [] and use.census(seen, sort(seen)).ending == [one]


def test_a_wrong_id_of_the_target_is_found_out() -> None:
    seen = inventory(proxies=Proxies(asm_id="another"))
    assert "Pods still have a sidecar of Istio" in [item.what for item in refusals(seen)]


def test_with_one_revision_the_proxies_of_others_do_not_count() -> None:
    other = container("istio")
    other["env"] = [{"name": "PROXY_CONFIG", "value": json.dumps({"discoveryAddress": "istiod-canary.istio-system.svc:15012"})}]
    unknown = {**container("istio"), "env": []}
    assert refusals(inventory(extra_pods=[pod("c", "shop", other)], revisions=("default",))) == []
    assert refusals(inventory(extra_pods=[pod("c", "shop", other)]))
    assert refusals(inventory(extra_pods=[pod("u", "shop", unknown)], revisions=("default",))), "who does not say it counts"


def test_a_control_plane_of_the_target_is_never_removed() -> None:
    env = [{"name": "ASM_ID", "value": "c1"}, {"name": "CA_ADDR", "value": "istiod.istio-system.svc:15012"}]
    (only,) = refusals(inventory(extra_pods=[pod("x", "shop", {**container("asm"), "env": env})]))
    assert only.what == "What would be removed steers proxies of the target" and not only.order


LOOKS: dict[str, tuple[list[Look | str], str]] = {
    "connections of clients": ([Look(0, 7, clients=2)], "has 2 connections of clients"),
    "a stream": ([Look(0, 7), Look(1, 7)], "has 1 requests or streams"),
    "requests": ([Look(0, 7), Look(0, 12)], "passed on 5 requests while it was watched"),
    "no answer": (["refused"], "refused"),
    "nothing said": ([], "no answer"),
}


@pytest.mark.parametrize(("looks", "why"), LOOKS.values(), ids=LOOKS.keys())
def test_a_gateway_with_clients_is_kept(looks: list[Look | str], why: str) -> None:
    (only,) = refusals(inventory(), {EGRESS: looks})
    assert why in only.why and EGRESS in only.why


def test_probes_are_no_clients() -> None:
    assert use.busy([Look(0, 7, clients=0, connections=3), Look(0, 7, None, 9)]) == ""


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort"])
def test_a_gateway_that_can_be_reached_is_kept_however_quiet(kind: str) -> None:
    service = obj("Service", "eastwest", labels=of("EgressGateways"), spec={"type": kind, "selector": {"istio": "egressgateway"}})
    (only,) = refusals(inventory(service))
    assert only.what == "A gateway of Istio can still be reached from outside" and only.where.endswith("Service/eastwest")


CLIENTS: dict[str, tuple[list[str] | str, str]] = {
    "a virtual machine": (["vm-1.shop", "egress-1.istio-system"], "1 proxies: vm-1.shop"),
    "unknown": (["a proxy without name (1)"], "without name"),
    "not asked": ("forbidden", "forbidden"),
}


@pytest.mark.parametrize(("said", "why"), CLIENTS.values(), ids=CLIENTS.keys())
def test_who_is_connected_to_istiod_counts(said: list[str] | str, why: str) -> None:
    (only,) = refusals(inventory(), clients={f"{SYSTEM}/istiod-1": said})
    assert why in only.why


# -- webhooks and references --------------------------------------------------------------------------------------


def sleeping(kind: str = "Deployment", **changes: Any) -> Object:
    template = {"metadata": {"labels": changes.pop("labels", {}), "annotations": changes.pop("annotations", {})}}
    if kind == "CronJob":
        return obj(kind, "nightly", "shop", spec={"jobTemplate": {"spec": {"template": template}}})
    return obj(kind, "batch", "shop", spec={"replicas": changes.pop("replicas", 0), "template": template})


LABELLED = {"matchLabels": {"sidecar.asm.aliyun.com/inject": "true"}}
ENABLED = {"istio-injection": "enabled"}
DORMANT: dict[str, tuple[Object, Object, list[str]]] = {
    "scaled to 0": (sleeping(), ENABLED, ["shop/Deployment/batch"]),
    "a CronJob": (sleeping("CronJob"), ENABLED, ["shop/CronJob/nightly"]),
    "it has pods, which are seen": (sleeping(replicas=1), ENABLED, []),
    "it has the target's label": (sleeping(labels={"sidecar.asm.aliyun.com/inject": "true"}), ENABLED, []),
    "it opted out by label": (sleeping(labels={"sidecar.istio.io/inject": "false"}), ENABLED, []),
    "it opted out by annotation": (sleeping(annotations={"sidecar.istio.io/inject": "false"}), ENABLED, []),
    "a namespace without injection": (sleeping(), {}, []),
}


@pytest.mark.parametrize(("one", "labels", "names"), DORMANT.values(), ids=DORMANT.keys())
def test_workloads_that_count_on_istios_injection(one: Object, labels: Object, names: list[str]) -> None:
    theirs = obj("MutatingWebhookConfiguration", "asm-sidecar-injector", "", webhooks=[hook("inject", "asm", objects=LABELLED)])
    seen = inventory(theirs)
    found = sort(seen)
    hooks = [item for item in seen.objects if item["kind"] == "MutatingWebhookConfiguration"]
    assert use.dormant(found, hooks, [obj("Namespace", "shop", "", labels=labels)], [one]) == names
    assert bool(use.dormant_refusals(names, "refuse")) == bool(names) and not use.dormant_refusals(names, "ignore")


def test_namespaces_whose_new_pods_get_no_sidecar_are_told() -> None:
    theirs = obj(
        "MutatingWebhookConfiguration",
        "asm-sidecar-injector",
        "",
        webhooks=[hook("inject", "asm", {"matchLabels": {"mesh": "asm"}})],
    )
    seen = inventory(theirs)
    hooks = [item for item in seen.objects if item["kind"] == "MutatingWebhookConfiguration"]
    names = {"shop": ENABLED, "both": {**ENABLED, "mesh": "asm"}, "plain": {}}
    namespaces = [obj("Namespace", name, "", labels=labels) for name, labels in names.items()]
    (line,) = use.orphaned(sort(seen), hooks, namespaces)
    assert line.endswith("in the namespaces shop")
    assert use.orphaned(sort(seen), hooks, namespaces[1:]) == []


ROUTES: dict[str, tuple[str, Object, bool]] = {
    "by its full name": ("demo", {"destination": {"host": "istio-egressgateway.istio-system.svc.cluster.local"}}, True),
    "by its short name": (SYSTEM, {"destination": {"host": "istio-egressgateway"}, "weight": 99}, True),
    "a short name elsewhere": ("demo", {"destination": {"host": "istio-egressgateway"}}, False),
    "with weight 0": (SYSTEM, {"destination": {"host": "istio-egressgateway"}, "weight": 0}, False),
    "to the new gateway": ("demo", {"destination": {"host": "asm-egressgateway.istio-system.svc.cluster.local"}}, False),
}


@pytest.mark.parametrize(("namespace", "goal", "refused"), ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("part", ["http", "tcp", "tls"])
def test_routes_of_the_target_to_the_old_egress_gateway(namespace: str, goal: Object, refused: bool, part: str) -> None:
    route = obj("VirtualService", "out", namespace, spec={"hosts": ["x"], part: [{"route": [goal]}]})
    made = use.route_refusals(sort(inventory()), [route])
    assert bool(made) is refused
    assert not made or f"{namespace}/out to istio-egressgateway.istio-system" in made[0].why


def test_what_refers_to_istiod_and_is_not_its_own_is_found() -> None:
    alien = obj("ValidatingWebhookConfiguration", "ours", "", webhooks=[hook("a"), hook("b", "other")])
    alias = obj(
        "Service", "pilot", "legacy", spec={"type": "ExternalName", "externalName": "istiod.istio-system.svc.cluster.local"}
    )
    harmless = obj("Service", "db", "legacy", spec={"type": "ExternalName", "externalName": "db.example.com"})
    notes = obj("ConfigMap", "old-mesh", data={"mesh": "discoveryAddress: istiod.istio-system.svc:15012"})
    seen = inventory(alien, notes)
    found = sort(seen)
    made = use.reference_refusals(seen, found, [alias, harmless])
    assert [item.where for item in made] == ["source/ValidatingWebhookConfiguration/ours", "source/legacy/Service/pilot"]
    assert "its webhooks a call" in made[0].why
    # The journal of the migration names istiod too, and is no reference.
    assert use.mentions(seen, found) == [f"source/{SYSTEM}/ConfigMap/old-mesh names istiod.istio-system"]


def test_the_targets_pods_are_compared_by_uid() -> None:
    one, other = pod("a", "shop", container("asm")), pod("b", "shop", container("asm"))
    before = {item["metadata"]["uid"]: use.pod_name(item) for item in (one, other)}
    other["status"]["conditions"][0]["status"] = "False"
    fresh = pod("c", "shop", container("asm"))
    fresh["status"]["conditions"] = []

    def is_ready(item: Object) -> bool:
        return any(condition["status"] == "True" for condition in item["status"]["conditions"])

    assert use.target_trouble(before, [one, other, fresh], is_ready) == ["shop/b"]


# -- answers -----------------------------------------------------------------------------------------------------


def answers(stats: Object, clusters: Object) -> tuple[bytes, bytes]:
    named = [{"name": name, "value": value} for name, value in stats.items()]
    status = [
        {
            "name": name,
            "host_statuses": [{"stats": [{"name": "rq_active", "value": "1"}, {"name": "rq_total", "value": str(total)}]}],
        }
        for name, total in clusters.items()
    ]
    return json.dumps({"stats": [*named, {"histograms": {}}]}).encode(), json.dumps({"cluster_statuses": status}).encode()


def test_a_gateways_answer_leaves_out_its_own_listeners_and_clusters() -> None:
    stats = {
        "listener.0.0.0.0_8080.downstream_cx_active": 3,
        "listener.0.0.0.0_8080.worker_0.downstream_cx_active": 3,
        "listener.[__]_8443.downstream_cx_active": 1,
        "listener.0.0.0.0_15021.downstream_cx_active": 5,
        "listener.0.0.0.0_15090.downstream_cx_active": 5,
        "listener.admin.downstream_cx_active": 5,
        "server.total_connections": 9,
    }
    clusters = {"outbound|80||a.svc": 4, "xds-grpc": 100, "prometheus_stats": 100}
    assert read_look(*answers(stats, clusters)) == Look(1, 4, 4, 9)
    assert read_look(*answers({"server.total_connections": 2}, {})) == Look(0, 0, None, 2)


@pytest.mark.parametrize("wrong", [b"", b"[]", b'{"stats": 1}', b"<html>"])
def test_an_answer_that_is_none_proves_nothing(wrong: bytes) -> None:
    with pytest.raises(MigrationError):
        read_look(wrong, b"{}")
