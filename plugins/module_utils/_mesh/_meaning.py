# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""When two objects mean the same: what the server adds, the order of sets, spellings and defaults aside. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import portable

Object = dict[str, t.Any]

# Written by controllers or by clients about their own writing; a restored object gets its own.
_NOTES = frozenset(
    (
        "kubectl.kubernetes.io/last-applied-configuration",
        "deployment.kubernetes.io/revision",
        "deprecated.daemonset.template.generation",
        "kubernetes.io/metadata.name",
        "servicemesh.migration/managed-by",
        "servicemesh.migration/content",
    )
)
_SERVICE = ("clusterIP", "clusterIPs", "healthCheckNodePort", "ipFamilies", "ipFamilyPolicy")
_SERVICE_DEFAULTS = {
    "type": "ClusterIP",
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "externalTrafficPolicy": "Cluster",
    "allocateLoadBalancerNodePorts": True,
}
# Lists of texts in which the order means nothing.
# fmt: off
_SETS = frozenset((
    "hosts", "gateways", "exportTo", "addresses", "subjectAltNames", "methods", "paths", "principals", "namespaces",
    "ipBlocks", "remoteIpBlocks", "audiences", "requestPrincipals", "notHosts", "notMethods", "notPaths",
    "notPrincipals", "notNamespaces",
))
# fmt: on


_DURATION = re.compile(r"^(\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def normal(value: t.Any) -> t.Any:
    """The value in one spelling: null fields and empty lists left out, durations in seconds, 1.0 as 1, sets in their order.

    Zeros, false and {} stay: for many fields of Istio they mean something else than an absent field
    (outlierDetection.consecutive5xxErrors 0 switches the check off, a match of {} matches everything).
    """
    if isinstance(value, dict):
        made = {key: normal(item) for key, item in value.items() if item is not None and item != []}
        for key in _SETS.intersection(made):
            item = made[key]
            if isinstance(item, list) and all(isinstance(part, str) for part in item):
                item.sort()
        return made
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, str):
        if value[:1].isdigit() and _DURATION.match(value):
            return f"{sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)):g}s"
    elif isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _service(spec: Object) -> Object:
    made = {key: value for key, value in spec.items() if key not in _SERVICE or value == "None"}
    for key, default in _SERVICE_DEFAULTS.items():
        if made.get(key) == default:
            del made[key]
    ports = []
    for port in spec.get("ports") or ():
        fresh = {key: value for key, value in port.items() if key != "nodePort"}
        if fresh.get("protocol") == "TCP":
            del fresh["protocol"]
        if fresh.get("targetPort") in (fresh.get("port"), 0):
            fresh.pop("targetPort", None)
        ports.append(fresh)
    if ports:
        made["ports"] = sorted(ports, key=lambda port: (port.get("port", 0), port.get("protocol", ""), port.get("name", "")))
    return made


def meaning(obj: t.Mapping[str, t.Any]) -> Object:
    """What counts of an object. Never its apiVersion: Istio's kinds have one schema in all versions, so have the others here."""
    meta, kind, group = obj["metadata"], obj["kind"], obj["apiVersion"].rpartition("/")[0]
    payload: Object = {
        key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata", "status") and value is not None
    }
    spec = payload.get("spec")
    if isinstance(spec, dict):
        if kind == "Service" and not group:
            spec = _service(spec)
        elif kind == "Namespace" and not group:
            spec = {key: value for key, value in spec.items() if key != "finalizers"}
        elif kind == "VirtualService" and spec.get("gateways") == ["mesh"]:
            spec = {key: value for key, value in spec.items() if key != "gateways"}
        payload["spec"] = spec
    if kind == "ServiceAccount" and not group:
        payload.pop("secrets", None)
    made: Object = normal(payload)
    if not made.get("spec"):
        made.pop("spec", None)
    for field in ("labels", "annotations"):
        kept = {key: value for key, value in (meta.get(field) or {}).items() if key not in _NOTES}
        if kept:
            made[field] = kept
    if meta.get("finalizers"):
        made["finalizers"] = sorted(meta["finalizers"])
    owners = [{key: owner.get(key) for key in ("kind", "name", "controller")} for owner in meta.get("ownerReferences") or ()]
    if owners:
        made["owners"] = sorted(owners, key=str)
    return made


def fingerprint(obj: t.Mapping[str, t.Any]) -> bytes:
    """16 bytes that are equal for objects that mean the same."""
    text = json.dumps(meaning(obj), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def content(obj: t.Mapping[str, t.Any]) -> Object:
    """What counts when an object is compared with its copy in another place: its meaning, without what ties it to the old one."""
    return meaning(portable(obj))


def digest(obj: t.Mapping[str, t.Any]) -> str:
    """A short hash of the content, to see later whether somebody changed what we wrote."""
    text = json.dumps(content(obj), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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


def differing(wanted: t.Mapping[str, t.Any], present: t.Mapping[str, t.Any], *, secret: bool) -> list[str]:
    """Paths that differ, as ``path: present -> wanted``; at most 20. Of secret objects the paths only."""
    found = differences(meaning(wanted), meaning(present))
    return [f"{line.split(': ', 1)[0]}: {MASK}" for line in found] if secret else found


def lost(wanted: t.Any, stored: t.Any, path: str = "") -> list[str]:
    """Paths of ``wanted`` that the server did not store: unknown fields of a schema are dropped without a word."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        found: list[str] = []
        for key, value in wanted.items():
            if value is None or value == [] or value == {}:
                continue
            place = f"{path}.{key}" if path else str(key)
            found += lost(value, stored[key], place) if key in stored else [place]
        return found[:20]
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        found = []
        for index, value in enumerate(wanted):
            found += lost(value, stored[index], f"{path}[{index}]")
        return found[:20]
    return []
