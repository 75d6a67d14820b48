# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What an installed Istio is made of, and how its objects are told from those of others. Pure.

istioctl writes operator.istio.io/component on all that it makes; the charts of newer versions write it, or part-of, on most of
what helm makes, those of older ones only app and release. A release of helm is known by istiod's own annotations.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP, DEPLOYMENT, SERVICE, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import DAEMON_SET, STATEFUL_SET
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import HPA, PDB, chooses

Object = dict[str, t.Any]
_RBAC, _HOOKS = "rbac.authorization.k8s.io/v1", "admissionregistration.k8s.io/v1"
MUTATING, VALIDATING = (kind_of(_HOOKS, f"{word}WebhookConfiguration") for word in ("Mutating", "Validating"))
SERVICE_ACCOUNT = kind_of("v1", "ServiceAccount")
ENVOY_FILTER = kind_of("networking.istio.io/v1alpha3", "EnvoyFilter")
NETWORK_POLICY = kind_of("networking.k8s.io/v1", "NetworkPolicy")
ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_BINDING = (
    kind_of(_RBAC, kind) for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
)
#: In the order of removal. Webhooks first: one that fails closed and has no istiod behind it lets no pod be made.
KINDS = (
    MUTATING,
    VALIDATING,
    HPA,
    PDB,
    DEPLOYMENT,
    DAEMON_SET,
    SERVICE,
    ENVOY_FILTER,
    NETWORK_POLICY,
    CONFIG_MAP,
    ROLE_BINDING,
    CLUSTER_BINDING,
    ROLE,
    CLUSTER_ROLE,
    SERVICE_ACCOUNT,
)
#: Never removed; listed when they are in the mesh's namespace.
LISTED = (STATEFUL_SET,)
BY_NAME = {kind.kind: kind for kind in (*KINDS, *LISTED)}
WEBHOOKS = (MUTATING.kind, VALIDATING.kind)
WORKLOADS = (DEPLOYMENT.kind, DAEMON_SET.kind)

COMPONENT, OWNER, REVISION = "operator.istio.io/component", "install.operator.istio.io/owning-resource", "istio.io/rev"
PART_OF = "app.kubernetes.io/part-of"
#: With these selectors what is outside of the mesh's namespace is found: gateways, the CNI plugin.
SELECTORS = (COMPONENT, f"{PART_OF}=istio")
_RELEASE = ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace")
_APPS = frozenset({"istiod", "istio-reader", "sidecar-injector"})
BASE, CNI = "Base", "Cni"
_JOURNAL = "servicemesh.migration/journal"
# Made by Kubernetes or istiod in every namespace.
_AUTOMATIC = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}

Key = tuple[str, str, str]


def labels_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def notes_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def key_of(obj: Object) -> Key:
    """(kind, namespace or nothing, name)."""
    meta = obj["metadata"]
    return obj["kind"], meta.get("namespace") or "", meta["name"]


def place(obj: Object) -> str:
    """``source/<ns>/<Kind>/<name>``, as in plans and messages."""
    kind, namespace, name = key_of(obj)
    return "/".join(filter(None, ("source", namespace, kind, name)))


def template(obj: Object) -> Object:
    """The pod template of a workload, in the form of a pod; a CronJob has it one floor deeper."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    found = spec.get("template") or {}
    meta = {"name": obj["metadata"]["name"], "namespace": obj["metadata"].get("namespace", ""), **(found.get("metadata") or {})}
    return {"metadata": meta, "spec": found.get("spec") or {}}


def has_pod(workload: Object, pod: Object) -> bool:
    """Whether a pod is one of a workload, by its namespace and selector."""
    wanted = ((workload.get("spec") or {}).get("selector") or {}).get("matchLabels")
    return workload["metadata"].get("namespace") == pod["metadata"].get("namespace") and chooses(wanted, labels_of(pod))


def is_istiod(obj: Object) -> bool:
    """A Deployment that runs istiod."""
    return any(one.get("name") == "discovery" for one in template(obj)["spec"].get("containers") or [])


def releases(objects: t.Iterable[Object]) -> set[tuple[str, str]]:
    """The releases of helm that istiod is of: (name, namespace)."""
    found = {
        tuple(notes_of(item).get(key, "") for key in _RELEASE)
        for item in objects
        if item["kind"] in WORKLOADS and is_istiod(item)
    }
    return {t.cast("tuple[str, str]", item) for item in found if all(item)}


def origin(obj: Object, namespace: str, of_helm: t.Collection[tuple[str, str]]) -> str:
    """By what an object is known to be of Istio's installation, or nothing. ``namespace``: of the mesh."""
    labels = labels_of(obj)
    if labels.get(COMPONENT):
        return f"component {labels[COMPONENT]}"
    if OWNER in labels:
        return f"installed by {labels[OWNER] or 'istioctl'}"
    if labels.get(PART_OF) == "istio":
        return "part of istio"
    release = tuple(notes_of(obj).get(key, "") for key in _RELEASE)
    if release in of_helm:
        return f"release {release[0]} of helm"
    here = obj["metadata"].get("namespace") or namespace
    if labels.get("app") in _APPS and ("release" in labels or REVISION in labels) and here == namespace:
        return f"app {labels['app']}"
    return ""


def of_target(obj: Object, gateways: t.Collection[str]) -> str:
    """By what an object is known to be ASM's, or nothing. ``gateways``: names of the IstioGateways."""
    meta = obj["metadata"]
    for key in (*labels_of(obj), *notes_of(obj)):
        domain = key.partition("/")[0] if "/" in key else ""
        if "asm." in domain or domain in ("istio.alibabacloud.com", "servicemesh.alibabacloud.com"):
            return f"it is ASM's ({key})"
    if labels_of(obj).get("provider") == "asm":
        return "it is ASM's (label provider)"
    for owner in meta.get("ownerReferences") or []:
        if "alibabacloud.com/" in str(owner.get("apiVersion")):
            return f"it is ASM's (owned by {owner.get('kind')} {owner.get('name')})"
    for gateway in gateways:
        if meta["name"] == f"istio-{gateway}" or meta["name"].startswith(f"istio-{gateway}-"):
            return f"it is of ASM's gateway {gateway}"
    return ""


def is_automatic(obj: Object) -> bool:
    """Not worth a line in a list of what is left."""
    kind, _namespace, name = key_of(obj)
    return (kind, name) in _AUTOMATIC or _JOURNAL in labels_of(obj)


def host_of(address: str) -> str:
    """``name.namespace`` of the Service in an address of the cluster, with or without port and the cluster's domain."""
    return ".".join(address.partition(":")[0].split(".")[:2])


def called(hook: Object) -> str:
    """``name.namespace`` of the Service that a webhook calls, or the host of its URL."""
    config = hook.get("clientConfig") or {}
    service = config.get("service") or {}
    if service:
        return f"{service.get('name')}.{service.get('namespace')}"
    host = str(config.get("url") or "").partition("://")[2].partition("/")[0].partition(":")[0]
    return host_of(host) if ".svc" in host else host


def used_config_maps(pod: Object) -> set[str]:
    """The ConfigMaps that a pod mounts or reads variables from."""
    spec, found = pod.get("spec") or {}, set()
    for volume in spec.get("volumes") or []:
        sources = [volume, *((volume.get("projected") or {}).get("sources") or [])]
        found |= {(item.get("configMap") or {}).get("name") for item in sources}
    for one in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        found |= {(item.get("configMapRef") or {}).get("name") for item in one.get("envFrom") or []}
        found |= {((item.get("valueFrom") or {}).get("configMapKeyRef") or {}).get("name") for item in one.get("env") or []}
    return {str(name) for name in found if name}


def account_of(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("serviceAccountName") or "default")
