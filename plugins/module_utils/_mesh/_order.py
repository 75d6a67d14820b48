# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What must be there before what: the order in which objects are written, the same for a copy and for a restore. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import GROUPS, mesh_kind

# Kinds of a lower number are saved and written first, and deleted last.
_ORDER = {
    "Namespace": 0,
    "CustomResourceDefinition": 1,
    "ServiceAccount": 2,
    "ConfigMap": 3,
    "Secret": 3,
    "Role": 3,
    "RoleBinding": 4,
    "Service": 5,
    "DaemonSet": 70,
    "Deployment": 70,
    "StatefulSet": 70,
    "HorizontalPodAutoscaler": 71,
    "PodDisruptionBudget": 71,
}
_GATEWAY_API = {"GatewayClass": 35, "ReferenceGrant": 36, "Gateway": 52}


def order_of(group: str, kind: str) -> int:
    """The rank of a kind in the order of dependencies."""
    if group in ("", "apps", "autoscaling", "policy", "apiextensions.k8s.io", "rbac.authorization.k8s.io"):
        return _ORDER.get(kind, 60)
    if group == "gateway.networking.k8s.io":
        return _GATEWAY_API.get(kind, 54)
    return mesh_kind(kind).order if group in GROUPS else 60


def rank_of(obj: t.Mapping[str, t.Any]) -> int:
    """The same for an object."""
    return order_of(str(obj["apiVersion"]).rpartition("/")[0], str(obj["kind"]))
