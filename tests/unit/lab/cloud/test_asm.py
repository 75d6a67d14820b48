# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ASM's OpenAPI through the vendor's own Python SDK: a cluster goes in and out, takes its time, and survives a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from alibabacloud_servicemesh20200111 import models
from alibabacloud_servicemesh20200111.client import Client
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.utils_models import Config

from .conftest import SECRET, Endpoint

MESH, CLUSTER = "c0mesh", "c0ack"


def client(cloud: Endpoint, key: str = "full") -> Client:
    endpoint = f"127.0.0.1:{cloud.port}"
    return Client(
        Config(access_key_id=key, access_key_secret=SECRET, region_id="cn-hangzhou", endpoint=endpoint, protocol="http")
    )


def put(cloud: Endpoint, mesh: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> None:
    """One mesh and one cluster with Istio in it, changed by what the case says; joins take no time."""
    meshes = {MESH: {"join_seconds": 0, "kubeconfig": "kind: Config", **(mesh or {})}}
    cloud.lab("PUT", "/_lab/meshes", {"meshes": meshes, "clusters": {CLUSTER: {"forbidden": 4, **(cluster or {})}}})


def add(cloud: Endpoint, ignore: bool = True, **more: Any) -> Any:
    request = models.AddClusterIntoServiceMeshRequest(
        **{"service_mesh_id": MESH, "cluster_id": CLUSTER, "ignore_namespace_check": ignore, **more}
    )
    return client(cloud).add_cluster_into_service_mesh(request).body


def members(cloud: Endpoint) -> dict[str, str]:
    request = models.DescribeClustersInServiceMeshRequest(service_mesh_id=MESH)
    return {one.cluster_id: one.state for one in client(cloud).describe_clusters_in_service_mesh(request).body.clusters}


def remove(cloud: Endpoint) -> Any:
    request = models.RemoveClusterFromServiceMeshRequest(service_mesh_id=MESH, cluster_id=CLUSTER, reserve_namespace=True)
    return client(cloud).remove_cluster_from_service_mesh(request).body


def test_in_and_out(cloud: Endpoint) -> None:
    put(cloud)
    assert members(cloud) == {}
    assert add(cloud).message == "success"
    assert members(cloud) == {CLUSTER: "running"}
    detail = client(cloud).describe_service_mesh_detail(models.DescribeServiceMeshDetailRequest(service_mesh_id=MESH)).body
    info = detail.service_mesh.service_mesh_info
    assert (info.state, info.service_mesh_id, detail.service_mesh.clusters) == ("running", MESH, [CLUSTER])
    assert info.version.startswith("v1.24")
    assert remove(cloud).message == "success"
    assert members(cloud) == {}
    (kept,) = [call for call in cloud.lab("GET", "/_lab/calls")["calls"] if call["action"] == "RemoveClusterFromServiceMesh"]
    assert kept["parameters"]["ReserveNamespace"].lower() == "true"


def test_a_join_takes_its_time_and_goes_on_after_a_restart(start: Callable[[], Endpoint]) -> None:
    cloud = start()
    put(cloud, {"join_seconds": 1.5})
    add(cloud)
    assert members(cloud) == {CLUSTER: "starting"}
    again = start()
    assert members(again) == {CLUSTER: "starting"}
    time.sleep(1.6)
    assert members(again) == {CLUSTER: "running"}


def test_a_join_that_fails_says_why(cloud: Endpoint) -> None:
    put(cloud, cluster={"join_error": "no nodes"})
    add(cloud)
    request = models.DescribeClustersInServiceMeshRequest(service_mesh_id=MESH)
    (row,) = client(cloud).describe_clusters_in_service_mesh(request).body.clusters
    assert (row.state, row.error_message) == ("failed", "no nodes")


@pytest.mark.parametrize(
    ("mesh", "cluster", "asked", "status", "code"),
    [
        ({}, {}, {"service_mesh_id": "other"}, 404, "ServiceMesh.NotFound"),
        ({}, {}, {"cluster_id": "other"}, 404, "ERR404"),
        ({}, {}, {"ignore": False}, 400, "ErrorPermitted.ForbiddenCluster"),
        ({}, {"forbidden": 3}, {}, 400, "ErrorPermitted.ForbiddenCluster"),
        ({}, {"state": "stopped"}, {}, 409, "InvalidActiveState.ACK"),
        ({"state": "initial"}, {}, {}, 409, "InvalidActiveState.ASM"),
        ({"members": {CLUSTER: {"cluster_id": CLUSTER}}}, {}, {}, 409, "ClusterAlreadyInMesh"),
    ],
)
def test_what_is_refused(cloud: Endpoint, mesh: Any, cluster: Any, asked: Any, status: int, code: str) -> None:
    put(cloud, mesh, cluster)
    before = members(cloud)
    with pytest.raises(ClientException) as refused:
        add(cloud, **asked)
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert members(cloud) == before


def test_the_clusters_of_the_account(cloud: Endpoint) -> None:
    put(cloud)
    request = models.DescribeServiceMeshClustersRequest()
    (row,) = client(cloud).describe_service_mesh_clusters(request).body.clusters
    assert (row.cluster_id, row.service_mesh_id, row.forbidden_flag) == (CLUSTER, "", 4)
    add(cloud)
    (row,) = client(cloud).describe_service_mesh_clusters(request).body.clusters
    assert (row.service_mesh_id, row.state) == (MESH, "running")


def test_kubeconfig_is_given_and_never_recorded(cloud: Endpoint) -> None:
    put(cloud, {"kubeconfig_expires": "2030-01-02 03:04:05"})
    request = models.DescribeServiceMeshKubeconfigRequest(service_mesh_id=MESH, private_ip_address=False)
    body = client(cloud).describe_service_mesh_kubeconfig(request).body
    assert (body.kubeconfig, body.expire_time) == ("kind: Config", "2030-01-02 03:04:05")
    add(cloud, kubeconfig="a secret of the caller")
    assert "a secret of the caller" not in json.dumps(cloud.lab("GET", "/_lab/calls"))


def test_networks(cloud: Endpoint) -> None:
    put(cloud)
    add(cloud)
    wanted = models.MultiClusterNetworksValue(network="network-1", enable_gateway=True)

    def update(networks: dict[str, Any]) -> None:
        request = models.UpdateMeshMultiClusterNetworkRequest(service_mesh_id=MESH, multi_cluster_networks=networks)
        client(cloud).update_mesh_multi_cluster_network(request)

    update({CLUSTER: wanted})
    request = models.DescribeMeshMultiClusterNetworkRequest(service_mesh_id=MESH)
    found = client(cloud).describe_mesh_multi_cluster_network(request).body.multi_cluster_networks[CLUSTER]
    assert (found.network, found.enable_gateway, found.gateway_name) == ("network-1", True, f"asm-cross-network-{CLUSTER}")
    with pytest.raises(ClientException) as refused:
        update({"c0other": wanted})
    assert (refused.value.status_code, refused.value.code) == (404, "ERR404")
    with pytest.raises(ClientException, match="CustomGatewayAddress"):
        update({CLUSTER: models.MultiClusterNetworksValue(custom_gateway_address="gateway.example.com")})


def test_faults_and_rights(cloud: Endpoint) -> None:
    put(cloud)
    with pytest.raises(ClientException, match=r"Forbidden\.RAM"):
        client(cloud, "reader").add_cluster_into_service_mesh(
            models.AddClusterIntoServiceMeshRequest(service_mesh_id=MESH, cluster_id=CLUSTER)
        )
    rule = {"target": "servicemesh", "action": "AddCluster*", "effect": {"status": 503, "after": True}}
    cloud.lab("POST", "/_lab/faults", [rule])
    with pytest.raises(Exception, match="ServiceUnavailable"):
        add(cloud)
    assert members(cloud) == {CLUSTER: "running"}  # the answer was lost, not the deed


def test_a_wrong_setting_changes_nothing(cloud: Endpoint) -> None:
    put(cloud)
    before = cloud.lab("GET", "/_lab/meshes")
    with pytest.raises(Exception, match="400"):
        cloud.lab("PUT", "/_lab/meshes", {"meshes": {MESH: {"colour": "red"}}})
    assert cloud.lab("GET", "/_lab/meshes") == before
