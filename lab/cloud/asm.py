# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ASM 2020-01-11 (product servicemesh): clusters in and out of a mesh, its kubeconfig, the networks of its clusters.

Source: request and response models and docstrings of alibabacloud_servicemesh20200111 3.4.0; the pages of
DescribeServiceMeshClusters (states of a cluster, ForbiddenFlag), DescribeClustersInServiceMesh and
UpdateMeshMultiClusterNetwork (its error ERR404, the name of a cross-network gateway); the vendor's Terraform provider
(the code ServiceMesh.NotFound; an instance is ``running`` when it is ready).
Parameters come in the form, or in the query as the SDK sends them for some actions; booleans as ``true`` or ``True``.

Assumed, not documented: a cluster that is being added is listed in the mesh at once, as ``starting``, one that is being removed
as ``stopping``, for ``join_seconds``; a join that goes wrong ends as ``failed`` with ErrorMessage; the codes
``InvalidActiveState.ASM``, ``ClusterAlreadyInMesh``, ``ErrorPermitted.ForbiddenCluster`` and ``InvalidParameter``; the networks
given replace those of the clusters that are named and leave the others alone; the networks need clusters that are in the mesh.
Left out: creating and deleting instances, gateways through this API (their objects live in the mesh's API server), versions
and upgrades, certificates of the mesh, injection settings, everything about VMs, several accounts.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from .asm_model import HAS_NAMESPACE, AckCluster, Member, ServiceMesh, stamp
from .call import Call, Context, action
from .errors import ApiError, invalid

_NETWORK_FIELDS = {"Network": str, "EnableGateway": bool, "CustomGatewayAddress": str, "GatewayName": str}
_REASONS = {
    1: "no administrator permissions on the cluster",
    2: "the cluster and the service mesh are in different VPCs that are not connected by CEN",
    3: "the CIDR block of the cluster conflicts with the service mesh",
    4: "the cluster has a namespace named istio-system",
}


def find(ctx: Context, call: Call, code: str = "ServiceMesh.NotFound") -> ServiceMesh:
    mesh = ctx.world.meshes.get(call.need("ServiceMeshId"))
    if mesh is None:
        raise ApiError(code, "The specified service mesh does not exist.", 404)
    mesh.settle(ctx.world.ack_clusters, time.time())
    return mesh


def find_running(ctx: Context, call: Call) -> ServiceMesh:
    mesh = find(ctx, call)
    if mesh.state != "running":
        raise ApiError("InvalidActiveState.ASM", f"The service mesh is {mesh.state}; the operation needs a running one.", 409)
    return mesh


def find_cluster(ctx: Context, call: Call) -> AckCluster:
    cluster = ctx.world.ack_clusters.get(call.need("ClusterId"))
    if cluster is None:
        raise ApiError("ERR404", "The specified cluster does not exist.", 404)
    return cluster


def mesh_of(ctx: Context, cluster_id: str) -> ServiceMesh | None:
    """The mesh that a cluster is in, was tried to be put into, or is leaving."""
    for mesh in ctx.world.meshes.values():
        mesh.settle(ctx.world.ack_clusters, time.time())
    return next((mesh for mesh in ctx.world.meshes.values() if cluster_id in mesh.members), None)


# --- what is there ---------------------------------------------------------------------------------------------------------


def _info(mesh: ServiceMesh) -> dict[str, Any]:
    return {
        "ServiceMeshId": mesh.id,
        "Name": mesh.name,
        "State": mesh.state,
        "Version": mesh.version,
        "Profile": mesh.profile,
        "RegionId": mesh.region_id,
        "ErrorMessage": mesh.error,
        "CreationTime": stamp(mesh.created),
        "UpdateTime": stamp(mesh.created),
    }


def _detail(mesh: ServiceMesh) -> dict[str, Any]:
    edition = {"Name": mesh.profile, "IstiodImageTag": mesh.version, "ProxyImageTag": mesh.version}
    return {
        "ServiceMeshInfo": _info(mesh),
        "ClusterSpec": mesh.cluster_spec,
        "Clusters": list(mesh.members),
        "Endpoints": {"PublicApiServerEndpoint": "", "IntranetApiServerEndpoint": mesh.api_server},
        "OwnerId": "",
        "OwnerType": "",
        "Spec": {
            "MeshConfig": {"Edition": edition},
            "Network": {"VpcId": mesh.vpc_id, "VSwitches": [], "SecurityGroupId": "sg-lab"},
        },
    }


@action("servicemesh", "DescribeServiceMeshDetail")
def detail(ctx: Context, call: Call) -> dict[str, Any]:
    return {"ServiceMesh": _detail(find(ctx, call))}


@action("servicemesh", "DescribeServiceMeshes")
def meshes(ctx: Context, call: Call) -> dict[str, Any]:
    now = time.time()
    for mesh in ctx.world.meshes.values():
        mesh.settle(ctx.world.ack_clusters, now)
    return {"ServiceMeshes": [_detail(mesh) for mesh in ctx.world.meshes.values()]}


def _cluster(cluster: AckCluster) -> dict[str, Any]:
    return {
        "ClusterId": cluster.id,
        "Name": cluster.name,
        "ClusterType": cluster.type,
        "ClusterDomain": cluster.domain,
        "Version": cluster.version,
        "RegionId": cluster.region_id,
        "VpcId": cluster.vpc_id,
        "SgId": cluster.sg_id,
        "State": cluster.state,
        "ErrorMessage": "",
        "CreationTime": stamp(cluster.created),
        "UpdateTime": stamp(cluster.created),
    }


@action("servicemesh", "DescribeServiceMeshClusters")
def available(ctx: Context, call: Call) -> dict[str, Any]:
    """All clusters of the account, with the mesh that each is in and why it may not be added."""
    if call.has("ServiceMeshId"):
        find(ctx, call)
    rows = []
    for cluster in ctx.world.ack_clusters.values():
        mesh = mesh_of(ctx, cluster.id)
        row = {**_cluster(cluster), "ServiceMeshId": mesh.id if mesh else "", "ForbiddenFlag": cluster.forbidden}
        rows.append({**row, "ForbiddenInfo": ""})
    start, size = call.integer("Offset", 0, low=0), call.integer("Limit", len(rows), low=0)
    return {"Clusters": rows[start : start + size], "NumberOfClusters": len(rows)}


@action("servicemesh", "DescribeClustersInServiceMesh")
def members(ctx: Context, call: Call) -> dict[str, Any]:
    rows = []
    for key, member in find(ctx, call).members.items():
        cluster = ctx.world.ack_clusters.get(key) or AckCluster(key)
        times = {"CreationTime": stamp(member.created), "UpdateTime": stamp(member.updated)}
        rows.append({**_cluster(cluster), "State": member.state, "ErrorMessage": member.error, **times})
    return {"Clusters": rows}


@action("servicemesh", "DescribeServiceMeshKubeconfig")
def kubeconfig(ctx: Context, call: Call) -> dict[str, Any]:
    """One kubeconfig for both ways: the lab's API server has one address."""
    mesh = find(ctx, call)
    text = mesh.kubeconfig
    if not text and mesh.kubeconfig_file:
        path = Path(mesh.kubeconfig_file)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text:
        raise ApiError("ERR404", "The kubeconfig of the service mesh does not exist.", 404)
    return {"Kubeconfig": text, "ExpireTime": mesh.kubeconfig_expires}


# --- clusters in and out ---------------------------------------------------------------------------------------------------


@action("servicemesh", "AddClusterIntoServiceMesh", writes=True)
def add(ctx: Context, call: Call) -> dict[str, Any]:
    mesh, cluster = find_running(ctx, call), find_cluster(ctx, call)
    other = mesh_of(ctx, cluster.id)
    if other is not None:
        raise ApiError("ClusterAlreadyInMesh", f"The cluster is in the service mesh {other.id} already.", 409)
    ignored = call.flag("IgnoreNamespaceCheck") and cluster.forbidden == HAS_NAMESPACE
    if cluster.forbidden and not ignored:
        raise ApiError("ErrorPermitted.ForbiddenCluster", f"The cluster cannot be added: {_REASONS[cluster.forbidden]}.", 400)
    if cluster.state != "running":
        raise ApiError("InvalidActiveState.ACK", f"The cluster is {cluster.state}; the operation needs a running one.", 409)
    mesh.members[cluster.id] = Member(
        cluster.id,
        state="starting",
        until=time.time() + mesh.join_seconds,
        ignore_namespace_check=call.flag("IgnoreNamespaceCheck"),
        discovery_only=call.flag("DiscoveryOnly"),
    )
    return {"Code": "200", "Message": "success"}


@action("servicemesh", "RemoveClusterFromServiceMesh", writes=True)
def remove(ctx: Context, call: Call) -> dict[str, Any]:
    mesh, cluster = find_running(ctx, call), find_cluster(ctx, call)
    member = mesh.members.get(cluster.id)
    if member is None:
        raise ApiError("ERR404", "The specified cluster is not in the service mesh.", 404)
    if member.state != "stopping":
        member.state, member.until = "stopping", time.time() + mesh.join_seconds
        member.reserve_namespace = call.flag("ReserveNamespace")
    return {"Code": "200", "Message": "success"}


# --- networks --------------------------------------------------------------------------------------------------------------


def _parse_networks(mesh: ServiceMesh, text: str) -> dict[str, dict[str, Any]]:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise invalid("MultiClusterNetworks") from error
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise invalid("MultiClusterNetworks")
    found = {}
    for key, value in raw.items():
        if key not in mesh.members:
            raise ApiError("ERR404", f"The cluster {key} is not in the service mesh.", 404)
        wrong = [n for n, v in value.items() if n not in _NETWORK_FIELDS or not isinstance(v, _NETWORK_FIELDS[n])]
        if wrong:
            raise invalid("MultiClusterNetworks", f"{key}: {', '.join(wrong)}.")
        address = value.get("CustomGatewayAddress", "")
        if address and not re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}:\d{1,5}", address):
            raise invalid("MultiClusterNetworks", f"{key}: CustomGatewayAddress is not ip:port.")
        found[key] = {n: v for n, v in value.items() if n != "GatewayName"}
    return found


@action("servicemesh", "UpdateMeshMultiClusterNetwork", writes=True)
def update_networks(ctx: Context, call: Call) -> dict[str, Any]:
    find(ctx, call, "ERR404")
    mesh = find_running(ctx, call)
    mesh.networks.update(_parse_networks(mesh, call.need("MultiClusterNetworks")))
    return {}


@action("servicemesh", "DescribeMeshMultiClusterNetwork")
def networks(ctx: Context, call: Call) -> dict[str, Any]:
    mesh = find(ctx, call, "ERR404")
    found = {}
    for key, member in mesh.members.items():
        network = {"Network": "", "EnableGateway": False, "CustomGatewayAddress": "", **mesh.networks.get(key, {})}
        on = network["EnableGateway"] and member.state == "running"
        found[key] = {**network, "GatewayName": f"asm-cross-network-{key}" if on else ""}
    return {"MultiClusterNetworks": found}
