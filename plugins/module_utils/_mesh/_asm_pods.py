# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Whose sidecar a pod has: Istio's, ASM's, or none.

What tells ASM's apart is the variable ASM_ID of its proxy. The annotation sidecar.istio.io/status and the revision say the
same for both. A native sidecar is among the init containers. Gateways are proxies too.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD

Object = dict[str, t.Any]
PROXY = "istio-proxy"
XDS_AGENT = "PROXY_CONFIG_XDS_AGENT"
_OVER = ("Succeeded", "Failed")


@dataclasses.dataclass(frozen=True)
class Proxy:
    """:arg mesh: the id of the ASM instance, empty for Istio's own. :arg ready_for_two: its agent takes the trust of both."""

    namespace: str
    pod: str
    mesh: str
    ready_for_two: bool

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.pod}"


def proxy_of(pod: Object) -> Proxy | None:
    """None for a pod without a sidecar, or one that has ended."""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    if (pod.get("status") or {}).get("phase") in _OVER:
        return None
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        if container.get("name") == PROXY:
            env = {item["name"]: str(item.get("value") or "") for item in container.get("env") or []}
            return Proxy(meta.get("namespace", ""), meta["name"], env.get("ASM_ID", ""), _xds_agent(env))
    return None


def _xds_agent(env: t.Mapping[str, str]) -> bool:
    """The variable itself, or the metadata in the proxy's configuration that becomes it."""
    if env.get(XDS_AGENT, "").lower() == "true":
        return True
    try:
        metadata = json.loads(env.get("PROXY_CONFIG") or "{}").get("proxyMetadata") or {}
        return str(metadata.get(XDS_AGENT, "")).lower() == "true"
    except (ValueError, AttributeError):
        return False


def proxies(cluster: Cluster) -> list[Proxy]:
    """All pods with a sidecar of whatever mesh, in all namespaces."""
    return [found for pod in cluster.list_all(POD) if (found := proxy_of(pod)) is not None]


def listed(found: t.Sequence[Proxy], most: int = 5) -> str:
    """The first few, and how many more."""
    names = sorted(item.place for item in found)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
