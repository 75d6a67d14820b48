# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The kinds of mesh configuration: groups, order, how they choose workloads, what of an object belongs to its old place.

Istio's CRDs have one schema for all their versions (no conversion webhook), so an object may be read in one version and
written in another. Pure functions, but for ``kinds_at``, which asks discovery.
"""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class MeshKind:
    """A kind of configuration.

    :arg selector: path to the labels with which it chooses workloads; empty when it chooses none.
    :arg order: objects of a lower number are written first (and removed last), so that nothing refers to what is not there yet.
    """

    kind: str
    group: str
    selector: tuple[str, ...] = ()
    order: int = 50


NETWORKING, SECURITY = "networking.istio.io", "security.istio.io"
TELEMETRY, EXTENSIONS = "telemetry.istio.io", "extensions.istio.io"

KINDS: dict[str, MeshKind] = {
    kind.kind: kind
    for kind in (
        MeshKind("ServiceEntry", NETWORKING, ("workloadSelector", "labels"), 10),
        MeshKind("WorkloadGroup", NETWORKING, (), 10),
        MeshKind("WorkloadEntry", NETWORKING, (), 11),
        MeshKind("DestinationRule", NETWORKING, ("workloadSelector", "matchLabels"), 20),
        MeshKind("PeerAuthentication", SECURITY, ("selector", "matchLabels"), 25),
        MeshKind("RequestAuthentication", SECURITY, ("selector", "matchLabels"), 26),
        MeshKind("AuthorizationPolicy", SECURITY, ("selector", "matchLabels"), 27),
        MeshKind("Telemetry", TELEMETRY, ("selector", "matchLabels"), 30),
        MeshKind("WasmPlugin", EXTENSIONS, ("selector", "matchLabels"), 31),
        MeshKind("TrafficExtension", EXTENSIONS, ("selector", "matchLabels"), 31),
        MeshKind("ProxyConfig", NETWORKING, ("selector", "matchLabels"), 31),
        MeshKind("EnvoyFilter", NETWORKING, ("workloadSelector", "labels"), 32),
        MeshKind("Sidecar", NETWORKING, ("workloadSelector", "labels"), 33),
        # Routes before the gateways that open the ports: a port is never open with nothing behind it.
        MeshKind("VirtualService", NETWORKING, (), 40),
        MeshKind("Gateway", NETWORKING, ("selector",), 50),
    )
}

MANAGED_BY = "servicemesh.migration/managed-by"
CONTENT = "servicemesh.migration/content"
# Marks of tools that own the object in its old place; in the new place they would make those tools remove it.
_FOREIGN = (
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "kubectl.kubernetes.io/last-applied-configuration",
    "app.kubernetes.io/managed-by",
    "install.operator.istio.io/",
    "operator.istio.io/",
    "servicemesh.migration/",
    # A revision of the source's istiod: the target's would ignore the object.
    "istio.io/rev",
)


GROUPS = tuple(dict.fromkeys(kind.group for kind in KINDS.values()))


def mesh_kind(kind: str, group: str = "") -> MeshKind:
    """Also of a kind that is newer than this table: it is written before the routes, and chooses workloads as policies do."""
    return KINDS.get(kind) or MeshKind(kind, group, ("selector", "matchLabels"), 34)


def kinds_at(cluster: Cluster) -> dict[str, Kind]:
    """All kinds of Istio's groups that this API server serves, each in the version that it prefers."""
    found: dict[str, Kind] = {}
    for group in GROUPS:
        for item in cluster.served(group):
            version = f"{group}/{item['version']}"
            found.setdefault(item["kind"], Kind(version, item["kind"], item["plural"], item["namespaced"]))
    return found


def key_of(obj: Object) -> str:
    """``Kind/namespace/name``."""
    meta = obj["metadata"]
    return f"{obj['kind']}/{meta.get('namespace', '')}/{meta['name']}"


def selector_of(obj: Object) -> dict[str, str] | None:
    """The labels with which the object chooses workloads; {} = all of its reach; None = this kind chooses none."""
    path = mesh_kind(obj["kind"]).selector
    if not path:
        return None
    value: t.Any = obj.get("spec") or {}
    for part in path:
        value = (value or {}).get(part)
    return dict(value or {})


def with_selector(obj: Object, labels: t.Mapping[str, str]) -> Object:
    """A copy that chooses other workloads."""
    fresh = copy.deepcopy(obj)
    place = fresh.setdefault("spec", {})
    *way, last = mesh_kind(obj["kind"]).selector
    for part in way:
        place = place.setdefault(part, {})
    place[last] = dict(labels)
    return fresh


def foreign_marks(values: t.Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations of tools that manage an object where it is; ours are not among them."""
    return {key: value for key, value in (values or {}).items() if key.startswith(_FOREIGN) and key not in (MANAGED_BY, CONTENT)}


def portable(obj: t.Mapping[str, t.Any]) -> Object:
    """The object without what belongs to its old place: server fields, status, marks of other tools. Shares its payload."""
    meta = obj["metadata"]
    fresh_meta: Object = {"name": meta["name"]}
    if meta.get("namespace"):
        fresh_meta["namespace"] = meta["namespace"]
    for field in ("labels", "annotations"):
        kept = {key: value for key, value in (meta.get(field) or {}).items() if not key.startswith(_FOREIGN)}
        if kept:
            fresh_meta[field] = kept
    fresh = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": fresh_meta}
    for key, value in obj.items():
        if key not in ("apiVersion", "kind", "metadata", "status"):
            fresh[key] = value
    return fresh
