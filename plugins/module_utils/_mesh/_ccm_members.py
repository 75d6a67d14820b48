# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Nodes and pods counted exactly as the CCM counts them (backend.go GetNodes, vgroups.go build*Backends). Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    BACKEND_TYPE,
    PREFIX,
    Member,
    Object,
    annotation,
    annotations_of,
)

_MASTER = "node-role.kubernetes.io/master"
_EXCLUDE = (
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "alpha.service-controller.kubernetes.io/exclude-balancer",
    "service.beta.kubernetes.io/exclude-node",
    "service.alibabacloud.com/exclude-node",
)
_LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclasses.dataclass(frozen=True)
class Counted:
    """What the CCM would make of a Service's port now.

    :arg bad_nodes: eligible nodes without a usable spec.providerID. With one of them the CCM fails (before v2.12), or takes all
      backends of the Service away in silence at its next change (since).
    """

    mode: str
    members: tuple[Member, ...]
    bad_nodes: tuple[str, ...]
    ready_pods: int


def mode_of(service: Object, seen_types: t.Collection[str] = ()) -> str:
    """``eni``, ``local`` or ``cluster``. The CCM's own default may be eni; ``seen_types`` of its backends tell."""
    wanted = annotations_of(service).get(BACKEND_TYPE, "")
    if wanted == "eni" or (not wanted and seen_types and set(seen_types) == {"eni"}):
        return "eni"
    return "local" if (service.get("spec") or {}).get("externalTrafficPolicy") == "Local" else "cluster"


def instance_id(provider_id: str) -> str:
    """``i-xxx`` of ``cn-hangzhou.i-xxx`` or ``alicloud://cn-hangzhou.i-xxx``; empty when it cannot be read."""
    parts = provider_id.removeprefix("alicloud://").split(".")
    return parts[1] if len(parts) >= 2 else ""


def _labels(node: Object) -> dict[str, str]:
    return (node.get("metadata") or {}).get("labels") or {}


def virtual(node: Object) -> bool:
    return _labels(node).get("type") == "virtual-kubelet"


def _candidate(node: Object, annotations: t.Mapping[str, str]) -> bool:
    """backend.go GetNodes: label filter, masters, nodes that leave, nodes not ready."""
    labels, spec = _labels(node), node.get("spec") or {}
    wanted = annotation(annotations, f"{PREFIX}backend-label")
    for pair in filter(None, wanted.split(",")):
        key, _sep, value = pair.partition("=")
        if labels.get(key) != value:
            return False
    if _MASTER in labels or any(taint.get("key") == _LEAVING_TAINT for taint in spec.get("taints") or []):
        return False
    if spec.get("unschedulable") and annotation(annotations, f"{PREFIX}remove-unscheduled-backend") == "on":
        return False
    if virtual(node):
        return True
    conditions = (node.get("status") or {}).get("conditions") or []
    return bool(conditions) and all(item.get("status") == "True" for item in conditions if item.get("type") == "Ready")


def _excluded(node: Object) -> bool:
    return any(label in _labels(node) for label in _EXCLUDE)


def endpoints_of(slices: t.Sequence[Object], port: Object) -> list[tuple[str, str]]:
    """``[(pod address, node name)]`` of ready endpoints that do not terminate (vgroups.go setBackendsFromEndpointSlices)."""
    found: dict[str, str] = {}
    for item in slices:
        if item.get("addressType", "IPv4") != "IPv4":
            continue
        if not str(port.get("targetPort", port["port"])).isdigit() and not any(
            (entry.get("name") or "") == (port.get("name") or "") and entry.get("port") for entry in item.get("ports") or []
        ):
            continue
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            if conditions.get("terminating") or not conditions.get("ready"):
                continue
            for address in endpoint.get("addresses") or []:
                found.setdefault(address, endpoint.get("nodeName") or "")
    return sorted(found.items())


def count(service: Object, port: Object, nodes: t.Sequence[Object], slices: t.Sequence[Object], mode: str) -> Counted:
    """The members of one port of a Service; ``slices`` are the EndpointSlices of this Service."""
    annotations = annotations_of(service)
    endpoints = endpoints_of(slices, port)
    if mode == "eni":
        return Counted(mode, tuple(Member(address, "eni") for address, _node in endpoints), (), len(endpoints))
    known = {str(node["metadata"]["name"]): node for node in nodes if _candidate(node, annotations)}
    pods: dict[str, int] = {}
    members: list[Member] = []
    for address, name in endpoints:
        if name in known and virtual(known[name]):
            members.append(Member(address, "eci"))
        elif name in known:
            pods[name] = pods.get(name, 0) + 1
    bad: list[str] = []
    for name, node in sorted(known.items()):
        if (virtual(node) and mode == "local") or _excluded(node) or (mode == "local" and name not in pods):
            continue
        server = instance_id(str((node.get("spec") or {}).get("providerID") or ""))
        if not server:
            bad.append(name)
            continue
        members.append(Member(server, "ecs", pods.get(name, 0) if mode == "local" else 1))
    return Counted(mode, tuple(sorted(members, key=lambda item: (item.kind, item.server))), tuple(bad), len(endpoints))
