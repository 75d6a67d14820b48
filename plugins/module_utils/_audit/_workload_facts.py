# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a move of workloads meets in the source cluster: istiod, namespaces, quotas, EnvoyFilters, and who rolls under a quota."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP, DEPLOYMENT, POD, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import NAMESPACE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import pods_of

Object = dict[str, t.Any]
QUOTA = kind_of("v1", "ResourceQuota")
_SYSTEM = "istio-system"
_ROOT = "istio-ca-root-cert"
_INJECTOR, _NETWORK = "istio-sidecar-injector", "topology.istio.io/network"


@dataclasses.dataclass
class WorkloadFacts:
    """:arg istiods: their images. :arg surging: (Deployment, one of its pods with a sidecar), where a quota may refuse more pods.
    :arg root: the root certificate that Istio tells its workloads, PEM. :arg network: the cluster's, as Istio knows it."""

    istiods: list[str] = dataclasses.field(default_factory=list)
    namespaces: list[Object] = dataclasses.field(default_factory=list)
    quotas: list[Object] = dataclasses.field(default_factory=list)
    surging: list[tuple[Object, Object]] = dataclasses.field(default_factory=list)
    filters: list[Object] = dataclasses.field(default_factory=list)
    root: str = ""
    network: str = ""


def network_of(namespaces: t.Sequence[Object], injector: Object | None) -> str:
    """What Istio tells its sidecars, or else what it takes their addresses for. Pure."""
    try:
        told = json.loads(((injector or {}).get("data") or {}).get("values") or "{}")["global"]["network"]
    except (ValueError, KeyError, TypeError):
        told = ""
    labels = [item["metadata"].get("labels") or {} for item in namespaces if item["metadata"]["name"] == _SYSTEM]
    return str(told or next((found[_NETWORK] for found in labels if _NETWORK in found), ""))


def read_workloads(source: Cluster) -> WorkloadFacts:
    """A few lists; pods and Deployments only of namespaces with a quota."""
    kind = kind_of(f"{KINDS['EnvoyFilter'].group}/v1alpha3", "EnvoyFilter")
    jobs: list[t.Callable[[], list[Object]]] = [
        lambda: list(source.list_all(DEPLOYMENT, _SYSTEM, label_selector="app=istiod")),
        lambda: list(source.list_all(NAMESPACE)),
        lambda: list(source.list_all(QUOTA)),
        lambda: list(source.list_all(kind)),
    ]
    istiods, namespaces, quotas, found = values(each(jobs, lambda job: job()))
    root = (source.get(CONFIG_MAP, _ROOT, _SYSTEM) or {}).get("data") or {}
    images = [str(one["image"]) for item in istiods for one in item["spec"]["template"]["spec"]["containers"][:1]]
    facts = WorkloadFacts(images, namespaces, quotas, filters=found, root=str(root.get("root-cert.pem") or "").strip())
    facts.network = network_of(namespaces, source.get(CONFIG_MAP, _INJECTOR, _SYSTEM))
    for place in sorted({item["metadata"]["namespace"] for item in quotas}):
        deployments = list(source.list_all(DEPLOYMENT, place))
        names = {(place, item["metadata"]["name"]) for item in deployments}
        pods = pods_of(list(source.list_all(POD, place)), names)
        for item in deployments:
            mine = pods.get(("Deployment", place, item["metadata"]["name"]), [])
            # What has moved already needs no more room.
            example = next((pod for pod in mine if (proxy := sidecar_of(pod)) is not None and not proxy.asm_id), None)
            if example is not None:
                facts.surging.append((item, example))
    return facts
