# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Kinds and their paths. Known kinds need no discovery call."""

from __future__ import annotations

import dataclasses
import typing as t
import urllib.parse

_PLURALS = {
    "Namespace": "namespaces",
    "Gateway": "gateways",
    "NetworkPolicy": "networkpolicies",
    "AuthorizationPolicy": "authorizationpolicies",
    "ServiceEntry": "serviceentries",
    "WorkloadEntry": "workloadentries",
    "ProxyConfig": "proxyconfigs",
    "Endpoints": "endpoints",
    "Telemetry": "telemetries",
    "PeerAuthentication": "peerauthentications",
    "RequestAuthentication": "requestauthentications",
    "Ingress": "ingresses",
    "IngressClass": "ingressclasses",
    "ReferenceGrant": "referencegrants",
}
_CLUSTER_SCOPED = frozenset(
    {
        "Namespace",
        "Node",
        "PersistentVolume",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "GatewayClass",
    }
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind as an API server serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of one object, of a namespace's list, or (namespace empty) of the list over all namespaces."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{urllib.parse.quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(urllib.parse.quote(name, safe=""))
        return "/".join(parts)


def kind_of(api_version: str, kind: str) -> Kind:
    """The Kind by the usual rules of plurals (exceptions in a table)."""
    plural = _PLURALS.get(kind) or (kind.lower() + ("es" if kind.lower().endswith(("s", "x", "ch")) else "s"))
    return Kind(api_version, kind, plural, kind not in _CLUSTER_SCOPED)


SERVICE = kind_of("v1", "Service")
CONFIG_MAP = kind_of("v1", "ConfigMap")
POD = kind_of("v1", "Pod")
NODE = kind_of("v1", "Node")
EVENT = kind_of("v1", "Event")
DEPLOYMENT = kind_of("apps/v1", "Deployment")
ENDPOINT_SLICE = kind_of("discovery.k8s.io/v1", "EndpointSlice")


def served_as(items: t.Sequence[t.Mapping[str, t.Any]], group: str, name: str, version: str = "") -> Kind | None:
    """How an API server serves a kind: in this version, else in the one that it prefers; None when it does not. Pure.

    :arg items: what ``Cluster.served`` says of the group.
    """
    found = sorted((item for item in items if item["kind"] == name), key=lambda item: bool(item["version"] != version))
    if not found:
        return None
    best = found[0]
    return Kind(f"{group}/{best['version']}" if group else best["version"], name, best["plural"], best["namespaced"])
