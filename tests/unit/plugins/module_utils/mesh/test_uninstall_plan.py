# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which objects the end of Istio takes, in which order, and which stay: tables of cases."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istioctl import parse, same_minor
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import plan_absent, plan_restored, sort
from tests.unit.plugins.module_utils.mesh import istio_world as world
from tests.unit.plugins.module_utils.mesh.istio_world import SYSTEM, container, hook, inventory, obj, of, pod

Object = dict[str, Any]
READER = "istio-reader-service-account"


def removed(seen: Any) -> list[str]:
    return [f"{item['kind']}/{item['metadata']['name']}" for item, _why in sort(seen).removed]


def left(seen: Any) -> dict[str, str]:
    return {item.object.removeprefix("source/").removeprefix(f"{SYSTEM}/"): item.reason for item in sort(seen).left}


def test_all_of_istio_goes_in_a_safe_order_and_nothing_else() -> None:
    names = removed(inventory())
    base = {f"ServiceAccount/{READER}"}
    assert set(names) == {f"{item['kind']}/{item['metadata']['name']}" for item in world.istio()} - base
    kinds = [name.partition("/")[0] for name in names]
    assert [kind for kind, _group in itertools.groupby(kinds)] == [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "Deployment",
        "Service",
        "ConfigMap",
        "RoleBinding",
        "ClusterRoleBinding",
        "Role",
        "ClusterRole",
        "ServiceAccount",
    ]
    assert sort(inventory()).services == {"istiod.istio-system"}


def test_every_object_that_stays_has_its_reason() -> None:
    found = left(inventory())
    assert found == {
        "Deployment/istio-ingressgateway-asm": "it is of ASM's gateway ingressgateway-asm",
        "Service/istio-ingressgateway-asm": "it is of ASM's gateway ingressgateway-asm",
        "ServiceAccount/istio-ingressgateway-asm-service-account": "it is of ASM's gateway ingressgateway-asm",
        "Service/istiod-1-31-0": "it is ASM's (label provider)",
        f"ServiceAccount/{READER}": "shared by all control planes of the cluster",
        "ConfigMap/istio-ca-root-cert": "the pods of both meshes mount it",
        "ConfigMap/grafana": "it is not known as Istio's",
    }


def test_a_gateway_of_the_target_stays_though_nobody_tells_its_name_and_it_has_istios_labels() -> None:
    found = left(inventory(gateways=[]))
    assert found["Deployment/istio-ingressgateway-asm"] == "it is a gateway of the target"
    assert "load balancer" in found["Service/istio-ingressgateway-asm"]


CASES: dict[str, tuple[list[Object], dict[str, Any], str, str]] = {
    "a Service with a load balancer": (
        [
            obj(
                "Service",
                "istio-ingressgateway",
                labels=of("IngressGateways"),
                spec={"type": "LoadBalancer", "selector": {"a": "b"}},
            )
        ],
        {},
        "Service/istio-ingressgateway",
        "gateway_retire removes it",
    ),
    "a Service that also sends to pods that stay": (
        [obj("Service", "both", labels=of("EgressGateways"), spec={"selector": {"app": "istio-ingressgateway-asm"}})],
        {},
        "Service/both",
        "the pod asm-1, which stays",
    ),
    "a Service from which the target's proxies are steered": (
        [obj("Service", "istiod-asm", labels=of("Pilot"), spec={})],
        {
            "extra_pods": [
                pod(
                    "x",
                    "shop",
                    {
                        **container("asm"),
                        "env": [
                            {"name": "ASM_ID", "value": "1"},
                            {"name": "CA_ADDR", "value": "istiod-asm.istio-system.svc:15012"},
                        ],
                    },
                )
            ]
        },
        "Service/istiod-asm",
        "get their configuration from it",
    ),
    "an account that a pod runs under": (
        [],
        {"extra_pods": [pod("kiali-1", SYSTEM, {"name": "kiali"}, serviceAccountName="istiod")]},
        "ServiceAccount/istiod",
        "pods that stay run under it",
    ),
    "the rights of that account": (
        [],
        {"extra_pods": [pod("kiali-1", SYSTEM, {"name": "kiali"}, serviceAccountName="istiod")]},
        "ClusterRole/istiod-clusterrole-istio-system",
        "refers to it, which stays",
    ),
    "the rights of a reader from outside": (
        [],
        {"readers": {(SYSTEM, READER)}},
        "ClusterRoleBinding/istio-reader-clusterrole-istio-system",
        "which is in use",
    ),
    "a role that somebody else's binding refers to": (
        [
            world.binding("ClusterRoleBinding", "theirs", "istiod-gateway", "theirs", {}),
            obj("ClusterRole", "istiod-gateway", "", labels=of("Pilot")),
        ],
        {},
        "ClusterRole/istiod-gateway",
        "ClusterRoleBinding theirs refers to it",
    ),
    "a ConfigMap that a pod mounts": (
        [],
        {
            "extra_pods": [
                pod(
                    "x",
                    SYSTEM,
                    {"name": "x"},
                    volumes=[{"name": "v", "projected": {"sources": [{"configMap": {"name": "istio"}}]}}],
                )
            ]
        },
        "ConfigMap/istio",
        "the pod x uses it, which stays",
    ),
    "a webhook that calls another control plane": (
        [
            obj(
                "MutatingWebhookConfiguration",
                "istio-revision-tag-x",
                "",
                labels=of("Pilot"),
                webhooks=[hook("a"), hook("b", "istiod-1-31-0")],
            )
        ],
        {},
        "MutatingWebhookConfiguration/istio-revision-tag-x",
        "it calls istiod-1-31-0.istio-system, which stays",
    ),
    "a webhook by URL": (
        [
            obj(
                "MutatingWebhookConfiguration",
                "far",
                "",
                labels=of("Pilot"),
                webhooks=[{"name": "a", "clientConfig": {"url": "https://10.1.2.3:15017/inject"}}],
            )
        ],
        {},
        "MutatingWebhookConfiguration/far",
        "it calls 10.1.2.3, which stays",
    ),
    "an autoscaler of what stays": (
        [
            obj(
                "HorizontalPodAutoscaler",
                "x",
                labels=of("IngressGateways"),
                spec={"scaleTargetRef": {"kind": "Deployment", "name": "istio-ingressgateway-asm"}},
            )
        ],
        {},
        "HorizontalPodAutoscaler/x",
        "which stays",
    ),
    "a budget over pods that stay": (
        [
            obj(
                "PodDisruptionBudget",
                "x",
                labels=of("IngressGateways"),
                spec={"selector": {"matchLabels": {"istio": "ingressgateway-asm"}}},
            )
        ],
        {},
        "PodDisruptionBudget/x",
        "it protects the pod asm-1",
    ),
    "the CNI plugin, when pods of the target have no redirection of their own": (
        [world.workload("DaemonSet", "istio-cni-node", of("Cni"), {"k8s-app": "istio-cni-node"}, {"name": "install-cni"})],
        {"extra_pods": [pod("x", "shop", container("asm"), initContainers=[{"name": "istio-validation"}])]},
        "DaemonSet/istio-cni-node",
        "need a CNI plugin",
    ),
    "what has a mark of ASM": (
        [obj("ConfigMap", "istio-asm", labels={**of("Pilot"), "asm.alibabacloud.com/x": "1"})],
        {},
        "ConfigMap/istio-asm",
        "it is ASM's (asm.alibabacloud.com/x)",
    ),
}


@pytest.mark.parametrize(("objects", "fields", "name", "why"), CASES.values(), ids=CASES.keys())
def test_what_stays_and_why(objects: list[Object], fields: dict[str, Any], name: str, why: str) -> None:
    seen = inventory(*objects, **fields)
    assert why in left(seen)[name]
    assert name not in removed(seen)


def test_the_cni_plugin_goes_when_all_pods_redirect_themselves() -> None:
    cni = world.workload("DaemonSet", "istio-cni-node", of("Cni"), {"k8s-app": "istio-cni-node"}, {"name": "install-cni"})
    assert "DaemonSet/istio-cni-node" in removed(inventory(cni))


def test_a_load_balancers_annotations_of_alibaba_are_no_mark_of_asm() -> None:
    notes = {"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-id": "lb-1"}
    assert istio.of_target(obj("Service", "istio-ingressgateway", annotations=notes), ["ingressgateway-asm"]) == ""


SIGNS: dict[str, tuple[Object, str]] = {
    "istioctl": (obj("ConfigMap", "x", labels={"operator.istio.io/component": "Pilot"}), "component Pilot"),
    "an operator": (obj("ConfigMap", "x", labels={"install.operator.istio.io/owning-resource": "mine"}), "installed by mine"),
    "new charts": (obj("ConfigMap", "x", "other", labels={"app.kubernetes.io/part-of": "istio"}), "part of istio"),
    "old charts": (obj("ClusterRole", "x", "", labels={"app": "istiod", "release": "istio"}), "app istiod"),
    "a release": (
        obj("ConfigMap", "x", annotations={"meta.helm.sh/release-name": "istiod", "meta.helm.sh/release-namespace": SYSTEM}),
        "release istiod of helm",
    ),
    "another release": (
        obj("ConfigMap", "x", annotations={"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": SYSTEM}),
        "",
    ),
    "somebody's istiod elsewhere": (obj("ConfigMap", "x", "other", labels={"app": "istiod", "release": "istio"}), ""),
    "a workload that names its revision": (obj("Deployment", "shop", "shop", labels={"istio.io/rev": "default"}), ""),
}


@pytest.mark.parametrize(("item", "why"), SIGNS.values(), ids=SIGNS.keys())
def test_by_what_an_object_is_known(item: Object, why: str) -> None:
    assert istio.origin(item, SYSTEM, {("istiod", SYSTEM)}) == why


def test_one_revision_of_two_goes_and_what_they_share_stays() -> None:
    canary = [
        obj("ConfigMap", "istio-canary", labels=of("Pilot", "canary")),
        obj("ClusterRole", "shared", "", labels={"app": "istiod", "release": "istio"}),
    ]
    seen = inventory(*canary, revisions=("default",))
    assert left(seen)["ConfigMap/istio-canary"] == "it is of the revision canary"
    assert left(seen)["ClusterRole/shared"] == "it may be of another revision, too"
    assert "Deployment/istiod" in removed(seen)
    other = removed(inventory(*canary, revisions=("canary",)))
    assert other == ["ConfigMap/istio-canary"]


def test_what_istioctl_does_not_name_stays() -> None:
    named = [
        ("Deployment", SYSTEM, "istiod"),
        ("ClusterRole", "", "istiod-clusterrole-istio-system"),
        ("Secret", SYSTEM, "cacerts"),
    ]
    seen = inventory(named=named)
    # Its binding is not named, so it stays, and keeps the role.
    assert removed(seen) == ["Deployment/istiod"]
    assert left(seen)["ConfigMap/istio"] == "it is not known as Istio's"
    assert "istiod-clusterrole-istio-system refers to it" in left(seen)["ClusterRole/istiod-clusterrole-istio-system"]


def test_a_run_that_was_killed_goes_on_with_what_it_had_begun() -> None:
    """Without istiod neither its release nor istioctl says any more what was Istio's; the copies do."""
    whole = world.istio()
    seen = inventory(named=[], kept=whole)
    seen.objects = [item for item in seen.objects if item["kind"] not in ("Deployment", "Service", *istio.WEBHOOKS)]
    rest = removed(seen)
    assert "ConfigMap/istio" in rest and "ServiceAccount/istiod" in rest and "ConfigMap/grafana" not in rest
    assert sort(seen).services == {"istiod.istio-system"}
    again = inventory(named=[], kept=[{**item, "metadata": {**item["metadata"], "uid": "older"}} for item in whole])
    assert removed(again) == [], "an object of the same name that came since is not ours"


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    seen = inventory()
    for item in seen.objects:
        item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not plan_absent(sort(seen)).changed


def test_the_plan_names_each_by_uid_and_shows_no_content() -> None:
    made = plan_absent(sort(inventory()))
    first = made.changes[0]
    assert (first.action, first.target) == ("delete", "source/MutatingWebhookConfiguration/istio-sidecar-injector")
    assert all(
        change.before == {"uid": change.before["uid"]} and change.after is None and change.reason for change in made.changes
    )


def test_the_way_back_is_the_way_there_reversed_and_complete() -> None:
    there = sort(inventory())
    kept = [item for item, _why in there.removed]
    made, bodies = plan_restored(kept, {})
    kinds = [body["kind"] for body in bodies]
    assert [kind for kind, _g in itertools.groupby(kinds)] == [
        kind for kind, _g in itertools.groupby(item["kind"] for item in reversed(kept))
    ]
    assert len(made.changes) == len(kept) and kinds[-1] in istio.WEBHOOKS
    for body in bodies:
        assert not {"uid", "resourceVersion", "creationTimestamp"} & set(body["metadata"])
    present = {istio.key_of(item): item for item in kept[3:]}
    half, some = plan_restored(kept, present)
    assert {istio.key_of(item) for item in some} == {istio.key_of(item) for item in kept[:3]} and not half.notes
    alien = {istio.key_of(kept[0]): {**kept[0], "metadata": {**kept[0]["metadata"], "uid": "new"}}}
    noted, _bodies = plan_restored(kept, alien)
    assert "is there again already" in noted.notes[0] and len(noted.changes) == len(kept) - 1


def test_nothing_was_removed_nothing_comes_back() -> None:
    made, bodies = plan_restored([], {})
    assert not made.changed and not bodies and made.notes == ["this migration has not removed Istio"]


ANSWER = """\
There are still 6 proxies pointing to the control plane revision default
Not pruning object apps/v1, Kind=Deployment/istiod.istio-system because of dry run.
Not pruning object /v1, Kind=Service/istiod-revision-tag-default.istio-system because of dry run.
Not pruning object rbac.authorization.k8s.io/v1, Kind=ClusterRole/a.b.c. because of dry run.
Not pruning object HorizontalPodAutoscaler:istio-system:istiod because of dry run.
✔ Uninstall complete
"""


def test_istioctls_answer_is_read_in_its_old_and_new_form() -> None:
    assert parse(ANSWER) == [
        ("Deployment", SYSTEM, "istiod"),
        ("Service", SYSTEM, "istiod-revision-tag-default"),
        ("ClusterRole", "", "a.b.c"),
        ("HorizontalPodAutoscaler", SYSTEM, "istiod"),
    ]
    with pytest.raises(ValueError, match="something else"):
        parse("Not pruning object something else because of dry run.")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1.20.8", "1.20.3", True), ("1.20.8", "1.21.0", False), ("1.20.8", "v1.20.8-distroless", True), ("1.20.8", "latest", True)],
)
def test_versions_are_compared_by_release(one: str, other: str, same: bool) -> None:
    assert same_minor(one, other) is same


def test_whose_proxies_are_the_targets_decides() -> None:
    seen = inventory(gateways=[], proxies=Proxies(asm_id="another"))
    # With a wrong id ASM's own gateway would be taken for Istio's: the proof refuses then (test_istio_use.py).
    assert "Deployment/istio-ingressgateway-asm" in removed(seen)
