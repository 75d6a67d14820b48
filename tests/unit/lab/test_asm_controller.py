# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway controller against an API server in memory: status, ownership, propagation, deletion."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest

from lab.asm.controller import FINALIZER, GROUP, Gateways
from lab.asm.render import OVERRIDE, OWNER, Mesh, Object
from lab.kube import Api, KubeError, path_of

MESH = Mesh("c0asm", "c0ack", "image")
NAME = "istio-ingressgateway-asm"
GATEWAY = path_of(GROUP, "istiogateways", "istio-system", "ingressgateway-asm")
SERVICE = path_of("v1", "services", "istio-system", NAME)
DEPLOYMENT = path_of("apps/v1", "deployments", "istio-system", NAME)
SCALER = path_of("autoscaling/v2", "horizontalpodautoscalers", "istio-system", NAME)
KEY = "istio-system/ingressgateway-asm"


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    base = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merged(base.get(key), value)
    return base


class Memory:
    """As much of an API server as the controller uses."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], None] = lambda verb, path: None

    def find(self, path: str) -> Object | None:
        return copy.deepcopy(self.objects.get(path))

    def patch(self, path: str, patch: Object, kind: str = "merge", **params: Any) -> Object:
        self.fail("PATCH", path)
        status = path.endswith("/status")
        target = path.removesuffix("/status")
        if kind == "apply":
            assert params == {"fieldManager": "asm-controller", "force": "true"}
        old = self.objects.get(target)
        if old is None and kind != "apply":
            raise KubeError(404, "NotFound", path)
        new = merged(old or {}, {"status": patch["status"]} if status else patch)
        if new != old:
            self.objects[target] = new
            self.writes.append(("PATCH", path))
        meta = new["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            del self.objects[target]
        return copy.deepcopy(new)

    def delete(self, path: str, **params: Any) -> Object:
        self.fail("DELETE", path)
        self.writes.append(("DELETE", path))
        found = self.objects[path]
        if found["metadata"].get("finalizers"):
            found["metadata"]["deletionTimestamp"] = "now"
        else:
            del self.objects[path]
        return {}


class World:
    def __init__(self) -> None:
        self.asm, self.ack = Memory(), Memory()
        self.gateways = Gateways(cast(Api, self.asm), cast(Api, self.ack), MESH)

    def make(self, **spec: Any) -> None:
        ports = [{"name": "http2", "port": 80, "targetPort": 8080}]
        self.asm.objects[GATEWAY] = {
            "apiVersion": GROUP,
            "kind": "IstioGateway",
            "metadata": {"name": "ingressgateway-asm", "namespace": "istio-system", "resourceVersion": "1"},
            "spec": {"gatewayType": "ingress", "clusterIds": ["c0ack"], "ports": ports, **spec},
        }

    def reconcile(self) -> float | None:
        return self.gateways.reconcile(KEY)

    @property
    def status(self) -> Object:
        return cast(Object, self.asm.objects[GATEWAY]["status"])

    def run_pods(self) -> None:
        deployment = self.ack.objects[DEPLOYMENT]
        count = deployment["spec"]["replicas"]
        deployment["metadata"]["generation"] = 1
        deployment["status"] = {"observedGeneration": 1, "updatedReplicas": count, "readyReplicas": count}

    def give_address(self, address: str) -> None:
        self.ack.objects[SERVICE]["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}


@pytest.fixture
def world() -> World:
    world = World()
    world.make()
    return world


def test_pending_until_pods_are_ready_and_an_address_is_there(world: World) -> None:
    assert world.reconcile() is None
    assert world.status["Status"] == "Pending"
    world.run_pods()
    world.reconcile()
    assert world.status["Status"] == "Pending"
    world.give_address("198.51.100.9")
    world.reconcile()
    assert world.status == {
        "Status": "Running",
        "GatewayAddress": ["198.51.100.9"],
        "ClusterIdGatewayAddressMap": [{"ipAddress": "198.51.100.9", "clusterId": "c0ack"}],
    }


def test_an_old_generation_is_not_ready(world: World) -> None:
    world.reconcile()
    world.run_pods()
    world.give_address("198.51.100.9")
    world.ack.objects[DEPLOYMENT]["metadata"]["generation"] = 2
    world.reconcile()
    assert world.status["Status"] == "Pending"


def test_a_second_reconcile_writes_nothing(world: World) -> None:
    world.reconcile()
    world.run_pods()
    world.reconcile()
    world.asm.writes.clear()
    world.ack.writes.clear()
    world.reconcile()
    assert world.asm.writes + world.ack.writes == []


def test_changes_reach_the_service(world: World) -> None:
    world.reconcile()
    assert world.ack.objects[SERVICE]["metadata"]["annotations"][OVERRIDE] == "true"
    world.asm.objects[GATEWAY]["spec"]["serviceAnnotations"] = {OVERRIDE: "false", "weight": "10"}
    world.reconcile()
    notes = world.ack.objects[SERVICE]["metadata"]["annotations"]
    assert (notes[OVERRIDE], notes["weight"]) == ("false", "10")


@pytest.mark.parametrize("path", [SERVICE, DEPLOYMENT])
def test_what_somebody_else_made_is_not_adopted(world: World, path: str) -> None:
    kind, version = ("Service", "v1") if path == SERVICE else ("Deployment", "apps/v1")
    theirs = {"apiVersion": version, "kind": kind, "metadata": {"name": NAME, "namespace": "istio-system"}, "spec": {"x": 1}}
    world.ack.objects[path] = copy.deepcopy(theirs)
    assert world.reconcile() == 5.0
    assert world.status["Status"] == "Failed"
    assert f"{kind} istio-system/{NAME} exists in the cluster and was not made for this gateway" in world.status["ErrorMessage"]
    assert world.ack.objects == {path: theirs}
    del world.ack.objects[path]
    world.reconcile()
    assert world.status["Status"] == "Pending"
    assert "ErrorMessage" not in world.status


def test_the_gateway_of_another_mesh_is_not_adopted(world: World) -> None:
    world.reconcile()
    world.ack.objects[SERVICE]["metadata"]["annotations"][OWNER] = "c0other/istio-system/ingressgateway-asm"
    world.reconcile()
    assert world.status["Status"] == "Failed"


def test_a_wrong_gateway_makes_nothing(world: World) -> None:
    world.make(clusterIds=["else"])
    assert world.reconcile() == 5.0
    assert world.status["Status"] == "Failed"
    assert "else" in world.status["ErrorMessage"]
    assert world.ack.objects == {}


def test_what_the_api_server_refuses_is_in_the_status_and_tried_again(world: World) -> None:
    def refuse(verb: str, path: str) -> None:
        if path == SERVICE:
            raise KubeError(422, "Invalid", "spec.ports: Invalid value")

    world.ack.fail = refuse
    assert world.reconcile() == 5.0
    assert world.status == {"Status": "Failed", "ErrorMessage": "spec.ports: Invalid value"}
    world.ack.fail = lambda verb, path: None
    assert world.reconcile() is None
    assert world.status["Status"] == "Pending"


def test_an_unreachable_api_server_is_left_to_the_runtime(world: World) -> None:
    def refuse(verb: str, path: str) -> None:
        raise KubeError(503, "ServiceUnavailable", "down")

    world.ack.fail = refuse
    with pytest.raises(KubeError):
        world.reconcile()


def test_autoscaler_comes_and_goes(world: World) -> None:
    world.make(autoscaleEnabled=True, minReplicas=2)
    world.reconcile()
    assert SCALER in world.ack.objects
    world.ack.objects[DEPLOYMENT]["spec"]["replicas"] = 4  # the HPA
    world.reconcile()
    assert world.ack.objects[DEPLOYMENT]["spec"]["replicas"] == 4
    world.asm.objects[GATEWAY]["spec"]["autoscaleEnabled"] = False
    world.reconcile()
    assert SCALER not in world.ack.objects


def test_deletion_takes_the_service_first_and_leaves_nothing(world: World) -> None:
    world.reconcile()
    world.ack.objects["other"] = {"metadata": {"name": "other"}}
    world.ack.objects[SERVICE]["metadata"]["finalizers"] = ["service.k8s.alibaba/resources"]
    world.asm.objects[GATEWAY]["metadata"]["deletionTimestamp"] = "now"
    world.ack.writes.clear()
    assert world.reconcile() == 0.2
    assert world.ack.writes == [("DELETE", SERVICE)]
    assert DEPLOYMENT in world.ack.objects  # as long as the load balancer may still send requests
    assert GATEWAY in world.asm.objects
    del world.ack.objects[SERVICE]  # the CCM is done
    assert world.reconcile() is None
    assert set(world.ack.objects) == {"other"}
    assert GATEWAY not in world.asm.objects


def test_deletion_leaves_what_is_not_ours(world: World) -> None:
    world.reconcile()
    del world.ack.objects[SERVICE]["metadata"]["annotations"][OWNER]
    world.asm.objects[GATEWAY]["metadata"]["deletionTimestamp"] = "now"
    world.reconcile()
    assert set(world.ack.objects) == {SERVICE}
    assert GATEWAY not in world.asm.objects


def test_finalizer_is_there_before_anything_is_made(world: World) -> None:
    def refuse(verb: str, path: str) -> None:
        assert FINALIZER in world.asm.objects[GATEWAY]["metadata"]["finalizers"]

    world.ack.fail = refuse
    world.reconcile()
    assert SERVICE in world.ack.objects


def test_objects_lead_to_their_gateway(world: World) -> None:
    world.reconcile()
    service = world.ack.objects[SERVICE]
    assert world.gateways._keys_of_made("MODIFIED", None, service) == [KEY]
    assert world.gateways._keys_of_made("DELETED", service, None) == [KEY]
    service["metadata"]["annotations"][OWNER] = "c0other/a/b"
    assert world.gateways._keys_of_made("MODIFIED", None, service) == []
