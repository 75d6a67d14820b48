# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller of ASMMigrateFromIstio against API servers in memory: states, checks, and what each does to the cluster."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import yaml

from lab.asm import __main__ as program
from lab.asm.migrate import (
    AGENT,
    HOOKS,
    INJECTION,
    LABEL,
    MESH_CONFIG,
    OBJECT,
    OWN_HOOK_PATH,
    ROOT,
    STATES,
    Injector,
    Migrations,
    follow,
)
from lab.asm.render import Mesh, Object
from lab.kube import Api, KubeError, path_of
from lab.mesh_asm import own_crds

INIT, SETUP, MOVING, DONE = STATES
MESH = Mesh("c0asm", "c0ack", "image")
NS = path_of("v1", "namespaces", None, "istio-system")
HOOK = path_of(HOOKS, "mutatingwebhookconfigurations", None, "istio-sidecar-injector")
ISTIOD = path_of("apps/v1", "deployments", "istio-system", "istiod")


class Memory:
    """As much of an API server as the controller uses: objects by path, merge patches, no watches."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {"/version": {"gitVersion": "v1.30.1-aliyun.1"}}
        self.writes: list[tuple[str, str]] = []

    def find(self, path: str) -> Object | None:
        return copy.deepcopy(self.objects.get(path))

    def get(self, path: str) -> Object:
        return copy.deepcopy(self.objects[path])

    def list(self, path: str, **params: Any) -> Object:
        wanted = params.get("labelSelector", "")
        plural = path.rsplit("/", 1)[1]
        found = [one for key, one in self.objects.items() if f"/{plural}/" in key]
        key, _separator, value = wanted.partition("=")
        items = [one for one in found if not wanted or (one["metadata"].get("labels") or {}).get(key) == value]
        return {"items": copy.deepcopy(items)}

    def create(self, path: str, obj: Object) -> None:
        self.writes.append(("POST", path))
        meta = {**obj["metadata"], "uid": f"u{len(self.writes)}"}
        self.objects[f"{path}/{meta['name']}"] = copy.deepcopy({**obj, "metadata": meta})

    def patch(self, path: str, patch: Object, kind: str = "merge", **params: Any) -> None:
        target = path.removesuffix("/status")
        if target not in self.objects and kind != "apply":
            raise KubeError(404, "NotFound", path)
        self.writes.append(("PATCH", path))
        if kind == "strategic":  # containers by their names
            (new,) = patch["spec"]["template"]["spec"]["containers"]
            (old,) = (c for c in self.objects[target]["spec"]["template"]["spec"]["containers"] if c["name"] == new["name"])
            old["env"] = [*old.get("env", []), *new["env"]]
            return
        self.objects[target] = merged(self.objects.get(target) or {}, patch)

    def delete(self, path: str, **params: Any) -> None:
        self.writes.append(("DELETE", path))
        del self.objects[path]


def merged(old: Any, new: Any) -> Any:
    if not isinstance(new, dict):
        return copy.deepcopy(new)
    base = dict(old) if isinstance(old, dict) else {}
    return {**base, **{key: merged(base.get(key), value) for key, value in new.items()}}


def pod(name: str, *env: str, namespace: str = "shop") -> tuple[str, Object]:
    variables = [{"name": one, "value": "true"} for one in env]
    spec = {"containers": [{"name": "istio-proxy", "env": variables}]}
    meta = {"name": name, "namespace": namespace}
    return path_of("v1", "pods", namespace, name), {"metadata": meta, "spec": spec, "status": {"phase": "Running"}}


class World:
    """A cluster with Istio, added to the mesh."""

    def __init__(self, root: str = "", injector: Injector | None = None) -> None:
        self.asm, self.ack = Memory(), Memory()
        self.ack.objects[NS] = {"metadata": {"name": "istio-system"}}
        self.ack.objects[MESH_CONFIG] = {
            "data": {"mesh": "trustDomain: cluster.local\ndefaultConfig:\n  proxyMetadata: {A: b}\n"}
        }
        self.asm.objects[MESH_CONFIG] = {"data": {"mesh": '{"trustDomain": "cluster.local"}'}}
        self.ack.objects[ROOT] = {"data": {"root-cert.pem": "ISTIO\n"}}
        container = {"name": "discovery", "image": "istio/pilot:1.18.2"}
        meta = {"name": "istiod", "labels": {"app": "istiod"}}
        self.ack.objects[ISTIOD] = {"metadata": meta, "spec": {"template": {"spec": {"containers": [container]}}}}
        webhook = {"name": "rev.namespace.sidecar-injector.istio.io", "objectSelector": {"matchLabels": {"a": "b"}}}
        hook_meta = {"name": "istio-sidecar-injector", "labels": {"app": "sidecar-injector"}}
        self.ack.objects[HOOK] = {"metadata": hook_meta, "webhooks": [webhook]}
        self.migrations = Migrations(cast(Api, self.asm), cast(Api, self.ack), MESH, root, injector)
        self.migrations.joined()
        self.reconcile()

    def reconcile(self) -> None:
        assert self.migrations.reconcile("default") is None

    def ask(self, **spec: Any) -> Object:
        """Change the spec, let the controller work, and give the status."""
        self.asm.objects[OBJECT]["spec"].update({"desiredState" if key == "state" else key: value for key, value in spec.items()})
        self.reconcile()
        return self.status

    @property
    def status(self) -> Object:
        return cast(Object, self.asm.objects[OBJECT]["status"])

    @property
    def mesh(self) -> Object:
        return cast(Object, yaml.safe_load(self.ack.objects[MESH_CONFIG]["data"]["mesh"]))


@pytest.fixture
def world() -> World:
    return World()


def reached(state: str, counter: int = 0) -> Object:
    return {"state": state, "retryCounter": counter, "message": ""}


def test_the_object_is_as_the_vendor_shows_it(world: World) -> None:
    spec = {"desiredState": "Init", "retryCounter": 0, "advancedOptions": {"stopIstioSystemInjectionDisabling": False}}
    assert world.asm.objects[OBJECT]["spec"] == spec
    assert world.status == reached(INIT)
    world.migrations.joined()
    assert [verb for verb, _path in world.asm.writes].count("POST") == 1


def test_the_whole_way(world: World) -> None:
    assert world.ask(state=SETUP) == reached(SETUP)
    assert world.mesh == {"trustDomain": "cluster.local", "defaultConfig": {"proxyMetadata": {"A": "b", AGENT: "true"}}}
    assert world.ask(state=MOVING) == reached(MOVING)
    for path in (ISTIOD, HOOK):
        del world.ack.objects[path]
    assert world.ask(state=DONE) == reached(DONE)
    world.asm.writes.clear()
    world.ack.writes.clear()
    world.reconcile()
    assert world.asm.writes + world.ack.writes == []


@pytest.mark.parametrize("state", [MOVING, DONE])
def test_a_jump_is_told_and_changes_nothing(world: World, state: str) -> None:
    before = copy.deepcopy(world.ack.objects)
    status = world.ask(state=state)
    assert status["state"] == INIT and "the order is Init -> SetupIstioForMigrate" in status["message"]
    assert world.ack.objects == before
    assert world.ask(state=SETUP) == reached(SETUP)
    assert "cannot change from SetupIstioForMigrate to Init" in world.ask(state=INIT)["message"]


def test_a_failed_check_is_made_again_only_when_the_counter_changes(world: World) -> None:
    istiod = world.ack.objects.pop(ISTIOD)
    status = world.ask(state=SETUP)
    assert status["state"] == INIT and "no Istio was found" in status["message"]
    world.ack.objects[ISTIOD] = istiod
    world.reconcile()
    assert "no Istio was found" in world.status["message"]
    assert world.ask(retryCounter=1) == reached(SETUP, 1)


@pytest.mark.parametrize(
    ("kubernetes", "image", "words"),
    [
        ("v1.20.11-aliyun.1", "istio/pilot:1.18.2", "Kubernetes v1.20.11-aliyun.1 is older than 1.21"),
        ("v1.30.1", "istio/pilot:1.9.9", "Istio 1.9.9 is older than 1.10"),
        ("v1.30.1", "registry:5000/pilot:1.10.0@sha256:00", ""),
        ("v1.30.1", "pilot:our-build", ""),
    ],
)
def test_versions(world: World, kubernetes: str, image: str, words: str) -> None:
    world.ack.objects["/version"]["gitVersion"] = kubernetes
    world.ack.objects[ISTIOD]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    assert world.ask(state=SETUP)["message"] == words


def test_a_mesh_configuration_that_cannot_be_read(world: World) -> None:
    world.ack.objects[MESH_CONFIG]["data"]["mesh"] = "a: {"
    assert "cannot be read" in world.ask(state=SETUP)["message"]


def test_moving_needs_restarted_workloads(world: World) -> None:
    world.ask(state=SETUP)
    world.ack.objects.update([pod("old"), pod("new", AGENT), pod("asm", "ASM_ID")])
    status = world.ask(state=MOVING)
    assert "1 pods lack PROXY_CONFIG_XDS_AGENT" in status["message"] and "shop/old" in status["message"]
    world.ack.objects.update([pod("old", AGENT)])
    assert world.ask(retryCounter=1) == reached(MOVING, 1)


def test_finished_names_what_is_left(world: World) -> None:
    for state in (SETUP, MOVING):
        world.ask(state=state)
    world.ack.objects.update([pod("web", AGENT), pod("gateway", "ASM_ID")])
    message = world.ask(state=DONE)["message"]
    assert "Deployment istio-system/istiod" in message and "MutatingWebhookConfiguration istio-sidecar-injector" in message
    assert "1 pods with a proxy of Istio (shop/web)" in message


def test_the_label_of_istio_system(world: World) -> None:
    labels = world.ack.objects[NS]["metadata"]["labels"]
    assert labels == {INJECTION: "disabled"}
    world.ask(advancedOptions={"stopIstioSystemInjectionDisabling": True})
    del world.ack.objects[NS]["metadata"]["labels"][INJECTION]
    world.reconcile()
    assert world.ack.objects[NS]["metadata"]["labels"] == {}
    world.ask(advancedOptions={"stopIstioSystemInjectionDisabling": False})
    assert world.ack.objects[NS]["metadata"]["labels"] == {INJECTION: "disabled"}


def test_two_roots_are_told_to_both_sides() -> None:
    world = World(root="ASM\n")
    assert world.ask(state=SETUP) == reached(SETUP)
    assert world.mesh["caCertificates"] == [{"pem": "ASM"}]
    assert yaml.safe_load(world.asm.objects[MESH_CONFIG]["data"]["mesh"])["caCertificates"] == [{"pem": "ISTIO"}]
    container = world.ack.objects[ISTIOD]["spec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [{"name": "ISTIO_MULTIROOT_MESH", "value": "true"}]


def test_one_root_needs_nothing() -> None:
    world = World(root="ISTIO")
    world.ask(state=SETUP)
    assert "caCertificates" not in world.mesh
    assert "env" not in world.ack.objects[ISTIOD]["spec"]["template"]["spec"]["containers"][0]


def test_without_an_injector_the_webhooks_are_left_alone(world: World) -> None:
    before = copy.deepcopy(world.ack.objects[HOOK])
    world.ask(state=SETUP)
    world.ask(state=MOVING)
    assert world.ack.objects[HOOK] == before


def test_with_an_injector_the_label_chooses_the_mesh() -> None:
    world = World(injector=Injector("https://192.0.2.1/inject", "Q0E="))
    world.ask(state=SETUP)
    world.ask(state=MOVING)
    (webhook,) = world.ack.objects[HOOK]["webhooks"]
    rule = {"key": LABEL, "operator": "NotIn", "values": ["true"]}
    assert webhook["objectSelector"] == {"matchLabels": {"a": "b"}, "matchExpressions": [rule]}
    (own,) = world.ack.objects[OWN_HOOK_PATH]["webhooks"]
    assert {**rule, "operator": "In"} in own["objectSelector"]["matchExpressions"]
    for path in (ISTIOD, HOOK):
        del world.ack.objects[path]
    assert world.ask(state=DONE) == reached(DONE)  # ASM's own webhook is no remnant of Istio
    (own,) = world.ack.objects[OWN_HOOK_PATH]["webhooks"]
    assert {**rule, "operator": "In"} not in own["objectSelector"]["matchExpressions"]


def test_a_cluster_that_leaves_has_the_webhooks_of_before() -> None:
    world = World(injector=Injector("https://192.0.2.1/inject", "Q0E="))
    before = copy.deepcopy(world.ack.objects[HOOK]["webhooks"])
    world.migrations.left()
    assert world.ack.writes == [("PATCH", NS)]  # the label of the beginning, and nothing since
    world.migrations.joined()
    world.ask(state=SETUP)
    world.ask(state=MOVING)
    assert world.ack.objects[HOOK]["webhooks"] != before
    world.migrations.left()
    assert world.ack.objects[HOOK]["webhooks"] == before and OWN_HOOK_PATH not in world.ack.objects


def test_a_gateway_is_no_sidecar_that_has_to_be_restarted(world: World) -> None:
    path, one = pod("istio-ingressgateway-1", namespace="istio-system")
    one["spec"]["containers"][0]["args"] = ["proxy", "router"]
    world.ack.objects[path] = one
    world.ask(state=SETUP)
    assert world.ask(state=MOVING) == reached(MOVING)


def test_who_is_in_the_mesh_is_followed(world: World) -> None:
    follow(world.migrations, lambda: None)
    assert OBJECT in world.asm.objects
    follow(world.migrations, lambda: False)
    assert OBJECT not in world.asm.objects
    follow(world.migrations, lambda: True)
    assert OBJECT in world.asm.objects

    def nobody() -> bool:
        raise OSError("connection refused")

    follow(world.migrations, nobody)
    assert program.member("", "c0asm", "c0ack") is None


def test_the_type_has_the_published_fields_and_prunes_others() -> None:
    (crd,) = (one for one in own_crds() if one["spec"]["names"]["kind"] == "ASMMigrateFromIstio")
    assert crd["spec"]["scope"] == "Cluster"
    for version in crd["spec"]["versions"]:
        properties = version["schema"]["openAPIV3Schema"]["properties"]
        assert set(properties["spec"]["properties"]) == {"retryCounter", "desiredState", "advancedOptions"}
        assert set(properties["spec"]["properties"]["advancedOptions"]["properties"]) == {"stopIstioSystemInjectionDisabling"}
        assert properties["spec"]["properties"]["desiredState"]["enum"] == list(STATES)
        assert set(properties["status"]["properties"]) == {"retryCounter", "state", "message"}
        assert "x-kubernetes-preserve-unknown-fields" not in str(version) and version["subresources"] == {"status": {}}
