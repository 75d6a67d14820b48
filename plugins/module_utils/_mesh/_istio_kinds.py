# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The kinds of mesh configuration: groups, order, how they choose workloads, and how two objects are compared.

Istio's CRDs have one schema for all their versions (no conversion webhook), so an object may be read in one version and
written in another. Pure functions, but for ``kind_at``, which asks discovery.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
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


def key_of(obj: Object) -> str:
    """``Kind/namespace/name``."""
    meta = obj["metadata"]
    return f"{obj['kind']}/{meta.get('namespace', '')}/{meta['name']}"


def kind_at(cluster: Cluster, kind: MeshKind) -> Kind | None:
    """The kind in the version that this API server prefers, or None when it is not served."""
    for item in cluster.served(kind.group):
        if item["kind"] == kind.kind:
            return Kind(f"{kind.group}/{item['version']}", kind.kind, item["plural"], item["namespaced"])
    return None


def selector_of(obj: Object) -> dict[str, str] | None:
    """The labels with which the object chooses workloads; {} = all of its reach; None = this kind chooses none."""
    path = KINDS[obj["kind"]].selector
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
    *way, last = KINDS[obj["kind"]].selector
    for part in way:
        place = place.setdefault(part, {})
    place[last] = dict(labels)
    return fresh


def foreign_marks(values: t.Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations of tools that manage an object where it is; ours are not among them."""
    return {key: value for key, value in (values or {}).items() if key.startswith(_FOREIGN) and key not in (MANAGED_BY, CONTENT)}


def portable(obj: Object) -> Object:
    """The object without what belongs to its old place: server fields, status, marks of other tools."""
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
            fresh[key] = copy.deepcopy(value)
    return fresh


_DURATION = re.compile(r"^(\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def normal(value: t.Any) -> t.Any:
    """The value in one spelling: null fields and empty lists left out, durations in seconds, 1.0 as 1.

    Zeros, false and {} stay: for many fields of Istio they mean something else than an absent field
    (outlierDetection.consecutive5xxErrors 0 switches the check off, a match of {} matches everything).
    """
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items() if item is not None and item != []}
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, str) and _DURATION.match(value):
        return f"{sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)):g}s"
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def content(obj: Object) -> Object:
    """What counts in a comparison: spec (and other payload), labels and annotations of the user; never the API version."""
    clean = portable(obj)
    meta = clean.pop("metadata")
    clean.pop("apiVersion")
    clean.pop("kind")
    payload: Object = t.cast(Object, normal(clean))
    for field in ("labels", "annotations"):
        if meta.get(field):
            payload[field] = dict(meta[field])
    return payload


def digest(obj: Object) -> str:
    """A short hash of the content, to see later whether somebody changed what we wrote."""
    text = json.dumps(content(obj), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(wanted: t.Any, present: t.Any, path: str = "") -> list[str]:
    """Paths that differ, each as ``path: present -> wanted``; at most a screenful."""
    if isinstance(wanted, dict) and isinstance(present, dict):
        found: list[str] = []
        for key in sorted({*wanted, *present}):
            found += differences(wanted.get(key), present.get(key), f"{path}.{key}" if path else str(key))
        return found[:20]
    if isinstance(wanted, list) and isinstance(present, list) and len(wanted) == len(present):
        found = []
        for index, left in enumerate(wanted):
            found += differences(left, present[index], f"{path}[{index}]")
        return found[:20]
    return [] if wanted == present else [f"{path}: {_short(present)} -> {_short(wanted)}"]


def _short(value: t.Any) -> str:
    text = "(absent)" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
