# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for ASM and the lab's side of ASM together; kills at every line of the journal; the vendor's SDK beside ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from alibabacloud_servicemesh20200111 import models
from alibabacloud_servicemesh20200111.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Asm, Network
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_migration
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_steering import KIND, STATES
from lab.asm.migrate import AGENT, OBJECT, Migrations
from lab.asm.render import Mesh
from lab.kube import Api
from tests.unit.lab.cloud.conftest import SECRET

from .conftest import CLUSTER, MESH, Bench, Memory, kubeconfig, pod

INIT, SETUP, MOVING, DONE = STATES
SERVED = {"version": "v1beta1", "kind": KIND, "plural": "asmmigratefromistios", "namespaced": False}
KINDS = {
    "asmmigratefromistios": KIND,
    "deployments": "Deployment",
    "pods": "Pod",
    "configmaps": "ConfigMap",
    "namespaces": "Namespace",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
}
SOURCE = {"host": "https://memory"}


class AsTheLabSeesIt:
    """The lab's client of an API server, on the objects that the modules see."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def _key(self, path: str) -> tuple[str, str, str]:
        *before, plural, name = path.split("/")
        return KINDS[plural], before[-1] if "namespaces" in before else "", name

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/version"
        return {"gitVersion": self.memory.git_version}

    def find(self, path: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.memory.objects.get(self._key(path)))

    def list(self, path: str, **params: Any) -> dict[str, Any]:
        kind = KINDS[path.rsplit("/", 1)[1]]
        return {"items": [copy.deepcopy(one) for key, one in self.memory.objects.items() if key[0] == kind]}

    def create(self, path: str, body: dict[str, Any]) -> None:
        self.memory.put(body)

    def patch(self, path: str, body: dict[str, Any], kind: str = "merge", **params: Any) -> None:
        key = self._key(path.removesuffix("/status"))
        found = self.memory.objects[key]
        for part, value in body.items():
            found[part] = {**(found.get(part) or {}), **value}


@pytest.fixture
def mesh(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Migrations:
    """A cluster with Istio, joined; the lab's controller works after each write to its resource."""
    monkeypatch.setattr(_asm_migration, "_PATIENCE", 0.3)
    containers = [{"name": "discovery", "image": "istio/pilot:1.18.2"}]
    meta = {"name": "istiod", "namespace": "istio-system", "labels": {"app": "istiod"}}
    bench.source.put({"kind": "Deployment", "metadata": meta, "spec": {"template": {"spec": {"containers": containers}}}})
    bench.source.put({"kind": "Namespace", "metadata": {"name": "istio-system"}})
    config = {"name": "istio", "namespace": "istio-system"}
    bench.source.put({"kind": "ConfigMap", "metadata": config, "data": {"mesh": "trustDomain: cluster.local"}})
    asm, ack = (cast(Api, AsTheLabSeesIt(memory)) for memory in (bench.target, bench.source))
    made = Migrations(asm, ack, Mesh(MESH, CLUSTER, "image"))
    bench.target.kinds = [SERVED]
    bench.target.after = lambda memory: cast(None, made.reconcile("default"))
    made.joined()
    made.reconcile("default")
    return made


def step(bench: Bench, state: str, **options: Any) -> dict[str, Any]:
    return bench.run("asm_migration", state=state, source=SOURCE, **options)


def test_the_whole_way_with_the_labs_own_controller(bench: Bench, mesh: Migrations) -> None:
    assert step(bench, INIT)["changed"] is False
    istiod = bench.source.objects.pop(("Deployment", "istio-system", "istiod"))
    failed = step(bench, SETUP)
    assert failed["failed"] and "no Istio was found" in failed["msg"]
    bench.source.put(istiod)
    assert step(bench, SETUP)["migration_state"]["counter"] == 1
    config = bench.source.objects["ConfigMap", "istio-system", "istio"]["data"]["mesh"]
    assert yaml.safe_load(config)["defaultConfig"]["proxyMetadata"] == {AGENT: "true"}

    bench.source.put(pod("web"))
    assert "knows one trust only: shop/web" in step(bench, MOVING)["msg"]
    asked = step(bench, MOVING, check_workloads=False)
    assert asked["failed"] and f"1 pods lack {AGENT}" in asked["msg"]
    bench.source.put(pod("web", agent=True))
    moving = step(bench, MOVING)
    assert moving["migration_state"]["state"] == MOVING and moving["migration_state"]["counter"] == 2

    assert "Istio is in use still" in step(bench, DONE)["msg"]
    bench.source.put(pod("web", MESH))
    left = step(bench, DONE)
    assert left["failed"] and "Deployment istio-system/istiod" in left["msg"]
    del bench.source.objects["Deployment", "istio-system", "istiod"]
    assert step(bench, DONE)["migration_state"]["state"] == DONE
    assert all(step(bench, state, passed=True)["changed"] is False for state in STATES)
    assert bench.target.objects[KIND, "", "default"]["metadata"]["name"] == OBJECT.rpartition("/")[2]


# --- kills ------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What no code can catch by accident."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, late: bool) -> Callable[[], int]:
    """The process ends just before its nth line in the journal is written, or just after (late). Gives the count of lines."""
    real, lines = Journal.write, [0]

    def write(self: Journal, event: str, **fields: Any) -> dict[str, Any]:
        lines[0] += 1
        if lines[0] == number and not late:
            raise Killed
        entry = real(self, event, **fields)
        if lines[0] == number:
            raise Killed
        return entry

    monkeypatch.setattr(Journal, "write", write)
    return lambda: lines[0]


def everything(bench: Bench, path: Path) -> Any:
    """What a run leaves behind, without times."""
    world = bench.cloud.lab("GET", "/_lab/meshes")["meshes"][MESH]
    for member in world["members"].values():
        for name in ("created", "updated", "until"):
            member.pop(name)
        member["state"] = "in"  # starting or running: that depends on who looked last
    steering = bench.target.objects.get((KIND, "", "default"))
    return world["members"], world["networks"], steering, path.read_text(), path.stat().st_mode


def whole(bench: Bench, path: Path) -> None:
    answers = [
        bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True, kubeconfig_path=str(path)),
        bench.run("asm_network", networks=[{"cluster_id": CLUSTER, "network": "network-1"}]),
        step(bench, SETUP, passed=True),
        step(bench, MOVING, passed=True),
    ]
    assert [answer["msg"] for answer in answers if answer.get("failed")] == []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 16))
def test_a_kill_at_any_line_of_the_journal_is_made_good_by_running_again(
    bench: Bench, mesh: Migrations, number: int, late: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "asm"
    with monkeypatch.context() as patched:
        lines = kill_at(patched, number, late)
        try:
            whole(bench, path)
        except Killed:
            pass
        assert lines() == number, "fewer lines than the test believes"
    whole(bench, path)
    members, networks, steering, text, mode = everything(bench, path)
    assert list(members) == [CLUSTER] and networks[CLUSTER]["Network"] == "network-1"
    assert steering["status"] == {"state": MOVING, "retryCounter": 0, "message": ""}
    assert (text, mode & 0o777) == (kubeconfig(), 0o600)
    assert bench.writes.count("AddClusterIntoServiceMesh") == 1
    assert list(tmp_path.glob(".asm.*")) == []
    changed = [json.loads(line) for line in bench.journal.splitlines() if line]
    assert {line["value"] for line in changed if line.get("key") == f"asm/{MESH}/cluster/{CLUSTER}/member"} == {False}


# --- the vendor's SDK and ours ----------------------------------------------------------------------------------------------


def test_the_driver_sends_what_the_vendors_sdk_sends(bench: Bench) -> None:
    address = f"127.0.0.1:{bench.cloud.port}"
    keys = {"access_key_id": "full", "access_key_secret": SECRET, "protocol": "http"}
    sdk = Client(Config(**keys, region_id="cn-hangzhou", endpoint=address))
    ours = Asm({**keys, "region": "cn-hangzhou", "asm_endpoint": address})
    both = {"service_mesh_id": MESH, "cluster_id": CLUSTER}
    network = models.MultiClusterNetworksValue(network="n", enable_gateway=True, custom_gateway_address="")

    def theirs() -> None:
        sdk.describe_service_mesh_detail(models.DescribeServiceMeshDetailRequest(service_mesh_id=MESH))
        sdk.describe_service_mesh_clusters(models.DescribeServiceMeshClustersRequest(service_mesh_id=MESH))
        join = models.AddClusterIntoServiceMeshRequest(**both, ignore_namespace_check=True, discovery_only=False)
        sdk.add_cluster_into_service_mesh(join)
        sdk.describe_clusters_in_service_mesh(models.DescribeClustersInServiceMeshRequest(service_mesh_id=MESH))
        kube = models.DescribeServiceMeshKubeconfigRequest(service_mesh_id=MESH, private_ip_address=True)
        sdk.describe_service_mesh_kubeconfig(kube)
        update = models.UpdateMeshMultiClusterNetworkRequest(service_mesh_id=MESH, multi_cluster_networks={CLUSTER: network})
        sdk.update_mesh_multi_cluster_network(update)
        sdk.describe_mesh_multi_cluster_network(models.DescribeMeshMultiClusterNetworkRequest(service_mesh_id=MESH))
        sdk.remove_cluster_from_service_mesh(models.RemoveClusterFromServiceMeshRequest(**both, reserve_namespace=True))
        sdk.describe_clusters_in_service_mesh(models.DescribeClustersInServiceMeshRequest(service_mesh_id=MESH))

    def driver() -> None:
        ours.mesh(MESH)
        ours.candidates(MESH)
        ours.add(MESH, CLUSTER, ignore_namespace_check=True, discovery_only=False)
        assert ours.members(MESH)[CLUSTER].state == "running"
        ours.kubeconfig(MESH, private=True)
        ours.set_networks(MESH, {CLUSTER: Network("n", True)})
        assert ours.networks(MESH)[CLUSTER].gateway
        ours.remove(MESH, CLUSTER)
        assert ours.members(MESH) == {}

    def recorded(call: Callable[[], None]) -> list[tuple[str, str, dict[str, Any]]]:
        since = bench.cloud.lab("GET", "/_lab/calls")["next"]
        call()
        rows = bench.cloud.lab("GET", f"/_lab/calls?since={since}")["calls"]
        for row in rows:
            if "MultiClusterNetworks" in row["parameters"]:
                row["parameters"]["MultiClusterNetworks"] = json.loads(row["parameters"]["MultiClusterNetworks"])
        return [(row["service"], row["action"], row["parameters"]) for row in rows]

    assert recorded(driver) == recorded(theirs)
