# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Alibaba Cloud Service Mesh (ASM, product servicemesh, API version 2020-01-11) as plain data. Knows no Kubernetes.

Adding and removing a cluster cannot be repeated blindly: when an answer was lost the list of members says what came of it.
"""

from __future__ import annotations

import dataclasses
import json
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._sdk import Answer, Api
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

# The actions whose parameters the vendor's SDK sends in the query; those of all others go into the form.
_IN_QUERY = frozenset({"DescribeClustersInServiceMesh", "DescribeServiceMeshKubeconfig"})
# A cluster that is in no mesh, or is on its way in, in, on its way out, or could not get in.
RUNNING, STARTING, STOPPING, FAILED = "running", "starting", "stopping", "failed"


@dataclasses.dataclass(frozen=True)
class Mesh:
    """:arg state: ``running`` when it can be used. :arg version: like v1.24.6.64-g5c8f1f4b-aliyun."""

    id: str
    name: str
    state: str
    version: str
    error: str = ""
    proxy_tag: str = ""


@dataclasses.dataclass(frozen=True)
class Member:
    """A cluster in a mesh. :arg state: running, starting, stopping, stopped, failed."""

    id: str
    name: str
    state: str
    version: str
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A cluster of the account. :arg mesh: the mesh it is in, or empty. :arg forbidden: ForbiddenFlag, 0 when it may join."""

    id: str
    name: str
    state: str
    version: str
    mesh: str = ""
    forbidden: int = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """:arg gateway: the cross-cluster mesh proxy is on. :arg address: an east-west gateway of its own, as ip:port."""

    network: str = ""
    gateway: bool = False
    address: str = ""
    gateway_name: str = ""


class _AsmApi(Api):
    PRODUCT, VERSION, PACKAGE, ENDPOINT = "servicemesh", "2020-01-11", "alibabacloud_servicemesh20200111", "asm_endpoint"
    THINGS = "the service mesh"

    def _request(self, params: dict[str, t.Any]) -> t.Any:
        from alibabacloud_tea_openapi.utils import Utils  # pylint: disable=import-outside-toplevel

        if params.pop("_in_query", False):
            return self._models.OpenApiRequest(query=Utils.query(params))
        return self._models.OpenApiRequest(body=Utils.parse_to_map(params))


class Asm:
    """One region's service meshes. All calls raise MigrationError."""

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self._api = _AsmApi(options)
        self._attempts = int(options.get("attempts") or 8)

    # -- reading -------------------------------------------------------------------------------------------------

    def mesh(self, mesh_id: str) -> Mesh:
        """The mesh; ``details["not_found"]`` of the error when there is none of that id."""
        answer = self._call("DescribeServiceMeshDetail", mesh_id)
        found: Answer = answer.get("ServiceMesh") or {}
        info: Answer = found.get("ServiceMeshInfo") or {}
        edition: Answer = ((found.get("Spec") or {}).get("MeshConfig") or {}).get("Edition") or {}
        return Mesh(
            id=str(info.get("ServiceMeshId") or mesh_id),
            name=str(info.get("Name") or ""),
            state=str(info.get("State") or "").lower(),
            version=str(info.get("Version") or ""),
            error=str(info.get("ErrorMessage") or ""),
            proxy_tag=str(edition.get("ProxyImageTag") or ""),
        )

    def members(self, mesh_id: str) -> dict[str, Member]:
        """The clusters in a mesh, by id."""
        rows = self._call("DescribeClustersInServiceMesh", mesh_id).get("Clusters") or []
        found = [Member(error=str(row.get("ErrorMessage") or "").strip(" ,"), **_cluster(row)) for row in rows]
        return {member.id: member for member in found}

    def candidates(self, mesh_id: str) -> dict[str, Candidate]:
        """The clusters of the account that ASM sees, by id, with what forbids each to join."""
        rows = self._call("DescribeServiceMeshClusters", mesh_id).get("Clusters") or []
        found = [
            Candidate(mesh=str(row.get("ServiceMeshId") or ""), forbidden=int(row.get("ForbiddenFlag") or 0), **_cluster(row))
            for row in rows
        ]
        return {candidate.id: candidate for candidate in found}

    def kubeconfig(self, mesh_id: str, private: bool) -> tuple[str, str]:
        """The kubeconfig of the mesh's API server (a secret), and when its certificate expires as ASM writes it."""
        answer = self._call("DescribeServiceMeshKubeconfig", mesh_id, PrivateIpAddress=private)
        return str(answer.get("Kubeconfig") or ""), str(answer.get("ExpireTime") or "")

    def networks(self, mesh_id: str) -> dict[str, Network]:
        """The network of each cluster of a mesh, by the cluster's id."""
        found = self._call("DescribeMeshMultiClusterNetwork", mesh_id).get("MultiClusterNetworks") or {}
        return {
            str(key): Network(
                network=str(row.get("Network") or ""),
                gateway=bool(row.get("EnableGateway")),
                address=str(row.get("CustomGatewayAddress") or ""),
                gateway_name=str(row.get("GatewayName") or ""),
            )
            for key, row in found.items()
        }

    # -- writing -------------------------------------------------------------------------------------------------

    def add(self, mesh_id: str, cluster_id: str, *, ignore_namespace_check: bool, discovery_only: bool) -> None:
        """Ask for a cluster to be added. A lost answer makes no second request when the cluster is there already."""
        self._until_listed(
            lambda: self._call(
                "AddClusterIntoServiceMesh",
                mesh_id,
                cluster_id,
                idempotent=False,
                IgnoreNamespaceCheck=ignore_namespace_check,
                DiscoveryOnly=discovery_only,
            ),
            lambda: cluster_id in self.members(mesh_id),
        )

    def remove(self, mesh_id: str, cluster_id: str) -> None:
        """Ask for a cluster to be removed. Its namespace istio-system always stays: self-managed Istio lives there too."""

        def leaving() -> bool:
            member = self.members(mesh_id).get(cluster_id)
            return member is None or member.state == STOPPING

        self._until_listed(
            lambda: self._call("RemoveClusterFromServiceMesh", mesh_id, cluster_id, idempotent=False, ReserveNamespace=True),
            leaving,
        )

    def set_networks(self, mesh_id: str, networks: t.Mapping[str, Network]) -> None:
        """Set the networks of these clusters. The same call again says the same."""
        body = {
            key: {"Network": item.network, "EnableGateway": item.gateway, "CustomGatewayAddress": item.address}
            for key, item in sorted(networks.items())
        }
        self._call("UpdateMeshMultiClusterNetwork", mesh_id, MultiClusterNetworks=json.dumps(body))

    # -- below ---------------------------------------------------------------------------------------------------

    def _call(
        self, action: str, mesh_id: str, cluster_id: str | None = None, *, idempotent: bool = True, **more: t.Any
    ) -> Answer:
        where = f"asm/{mesh_id}" + (f"/cluster/{cluster_id}" if cluster_id else "")
        place = {"_in_query": True} if action in _IN_QUERY else {}
        return self._api.call(
            action, where=where, idempotent=idempotent, ServiceMeshId=mesh_id, ClusterId=cluster_id, **more, **place
        )

    def _until_listed(self, ask: t.Callable[[], Answer], listed: t.Callable[[], bool]) -> None:
        pause = 0.2
        for attempt in range(1, self._attempts + 1):
            try:
                ask()
                return
            except MigrationError as error:
                # Also after a refusal: an earlier try whose answer was lost makes this one refused.
                if (error.transient or attempt > 1) and listed():
                    return
                if not error.transient or attempt == self._attempts:
                    raise
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def _cluster(row: Answer) -> dict[str, str]:
    return {
        "id": str(row.get("ClusterId") or ""),
        "name": str(row.get("Name") or ""),
        "state": str(row.get("State") or "").lower(),
        "version": str(row.get("Version") or ""),
    }
