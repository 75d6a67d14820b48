# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_uninstall against an API server in memory: killed at every write, without its state directory, and surprised."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import parse_selector, selects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _uninstall_read, _uninstall_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session
from tests.unit.plugins.module_utils.mesh import istio_world as world
from tests.unit.plugins.module_utils.mesh.istio_world import SYSTEM, container, obj, pod

Object = dict[str, Any]
OPTIONS: Object = {
    "namespace": SYSTEM,
    "revisions": [],
    "istioctl": None,
    "target_proxy": {},
    "proof": "pods",
    "quiet_seconds": 0.0,
    "dormant": "refuse",
    "wait_timeout": 0.5,
}


class Killed(BaseException):
    """kill -9: nothing in the code may catch it."""


class Api:
    """What the logic asks of a Cluster. Workloads make and lose their pods at once; injection works as the webhooks say."""

    name, host = "source", "memory"

    def __init__(self) -> None:
        self.items: dict[istio.Key, Object] = {}
        self.writes: list[str] = []
        self.on_write: Callable[[int, str], None] = lambda _number, _what: None
        self.forbidden: set[tuple[str, str]] = set()
        big = obj("ConfigMap", "istio-sidecar-injector", labels=world.of("Pilot"), data={"config": "template " * 10_000})
        for item in [*world.istio(), *world.asm(), *world.shared(), big]:
            self.put(item)
        for item in world.pods():
            self.put(item)
        for name in ("shop", SYSTEM):
            self.put(obj("Namespace", name, "", labels={"istio-injection": "enabled"} if name == "shop" else {}))
        self.put(obj("Secret", "cacerts", data={"ca-key.pem": "private"}))
        self.put({**obj("IstioGateway", "ingressgateway-asm")})

    def put(self, item: Object) -> None:
        self.items[istio.key_of(item)] = copy.deepcopy(item)

    def look(self) -> Object:
        """The world without what a run may change: UIDs and the journal's mirror."""
        plain = {}
        for key, item in self.items.items():
            if not istio.is_automatic(item) and key[0] != "Pod":
                meta = {name: value for name, value in item["metadata"].items() if name not in ("uid", "resourceVersion")}
                plain["/".join(key)] = {**item, "metadata": meta, "status": None}
        return plain

    def where(self, *_args: Any) -> str:
        return "source"

    def groups(self) -> list[str]:
        return ["apps", "networking.istio.io"]

    def served(self, group: str) -> list[Object]:
        return [{"version": "v1beta1", "kind": "IstioGateway", "plural": "istiogateways", "namespaced": True}]

    def can(self, verb: str, kind: Kind, namespace: str = "") -> bool:
        return (verb, kind.kind) not in self.forbidden

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return copy.deepcopy(self.items.get((kind.kind, namespace, name)))

    def list_all(self, kind: Kind, namespace: str = "", *, label_selector: str = "") -> Iterator[Object]:
        wanted = parse_selector(label_selector)
        for key, item in sorted(self.items.items()):
            if key[0] == kind.kind and namespace in ("", key[1]) and selects(wanted, istio.labels_of(item)):
                yield copy.deepcopy(item)

    def page(self, kind: Kind, namespace: str, **_query: Any) -> Object:
        found = [{"metadata": item["metadata"]} for item in self.list_all(kind, namespace)]
        return {"items": found, "metadata": {}}

    def _write(self, what: str) -> None:
        self.writes.append(what)
        self.on_write(len(self.writes), what)

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        item = copy.deepcopy({"apiVersion": kind.api_version, "kind": kind.kind, **body})
        if dry_run:
            hooked = any(key[0] == istio.MUTATING.kind for key in self.items) and ("Deployment", SYSTEM, "istiod") in self.items
            if kind.kind == "Pod" and hooked:
                item["spec"]["containers"].append(container("istio"))
            return item
        if istio.key_of(item) in self.items:
            raise MigrationError("it is there", details={"status": 409})
        self._write(f"create {istio.place(item)}")
        item["metadata"].update(uid=f"new-{len(self.writes)}", resourceVersion="1")
        if kind.kind in istio.WORKLOADS:
            number = dict.fromkeys(("updatedReplicas", "replicas", "availableReplicas", "readyReplicas"), 1)
            item["status"] = {"observedGeneration": 0, **number}
            template = istio.template(item)
            self.put(pod(f"{item['metadata']['name']}-new", SYSTEM, labels=template["metadata"]["labels"], **template["spec"]))
        self.put(item)
        return item

    def patch(self, kind: Kind, name: str, namespace: str, body: Object) -> Object:
        item = self.items[kind.kind, namespace, name]
        item["metadata"].update(body.get("metadata") or {})
        item.update({part: value for part, value in body.items() if part != "metadata"})
        return body

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "") -> None:
        item = self.items.get((kind.kind, namespace, name))
        if item is None:
            return
        assert uid, "an object is only ever deleted by its UID"
        if item["metadata"]["uid"] != uid:
            raise MigrationError("another one", details={"status": 409})
        self._write(f"delete {istio.place(item)}")
        if kind.kind in istio.WORKLOADS:
            for key in [key for key, one in self.items.items() if key[0] == "Pod" and istio.has_pod(item, one)]:
                del self.items[key]
        del self.items[kind.kind, namespace, name]


class Scene:
    def __init__(self, folder: Path) -> None:
        self.api, self.folder = Api(), folder

    def run(self, state: str = "absent", *, check: bool = False, **options: Any) -> Outcome:
        mirror = ConfigMapMirror(self.api, "shop")  # type: ignore[arg-type]
        journal = Journal(str(self.folder / "state"), "shop", mirror=mirror, enabled=not check)
        session = Session({**OPTIONS, **options}, self.api, self.api, journal)  # type: ignore[arg-type]
        return (_uninstall_run._absent if state == "absent" else _uninstall_run._restored)(session, check)

    def killed_at(self, number: int, *, before: bool) -> None:
        """kill -9 at a write: before it reaches the server, or after it and before its answer."""

        def die(count: int, _what: str) -> None:
            if count == number + (0 if before else 1):
                raise Killed

        self.api.on_write = die

    def lives(self) -> None:
        self.api.on_write = lambda _number, _what: None


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_there_again_and_back(scene: Scene) -> None:
    before = scene.api.look()
    planned = scene.run(check=True)
    assert scene.api.look() == before and not (scene.folder / "state").exists() and not scene.api.writes
    done = scene.run()
    assert [change.as_dict() for change in done.plan.changes] == [change.as_dict() for change in planned.plan.changes]
    assert scene.api.writes == [str(change) for change in done.plan.changes]
    assert done.result["proof"]["target_pods"] == {"ready_before": 2, "of_them_there": 2, "not_ready": 0}
    gone = scene.api.look()
    assert "Deployment/istio-system/istiod" not in gone and "Secret/istio-system/cacerts" in gone
    assert not scene.run().plan.changed and scene.api.look() == gone
    back = scene.run("restored")
    assert scene.api.look() == before and back.result["proof"] == {"injects": True}
    assert not scene.run("restored").plan.changed
    # Another end, later, is as the first one: the copies of the first are forgotten.
    assert len(scene.run().plan.changes) == len(done.plan.changes) and scene.api.look() == gone


def writes_of(tmp_path: Path) -> tuple[int, Object, Object]:
    one = Scene(tmp_path / "whole")
    before = one.api.look()
    one.run()
    return len(one.api.writes), before, one.api.look()


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_run_that_is_killed_at_any_write_is_continued_or_taken_back(tmp_path: Path, before: bool) -> None:
    total, original, gone = writes_of(tmp_path)
    assert total > 15
    for number in range(1, total + (1 if before else 0)):
        for way in ("absent", "restored"):
            one = Scene(tmp_path / f"{number}-{way}")
            one.killed_at(number, before=before)
            with pytest.raises(Killed):
                one.run()
            one.lives()
            one.run(way)
            assert one.api.look() == (gone if way == "absent" else original), f"{way} after write {number}"


def test_a_return_that_is_killed_at_any_write_is_continued(tmp_path: Path) -> None:
    total, original, _gone = writes_of(tmp_path)
    for number in range(total + 1, 2 * total):
        one = Scene(tmp_path / str(number))
        one.run()
        one.killed_at(number, before=True)
        with pytest.raises(Killed):
            one.run("restored")
        one.lives()
        one.run("restored")
        assert one.api.look() == original, f"after write {number}"


def test_the_way_back_outlives_the_state_directory(scene: Scene) -> None:
    before = scene.api.look()
    scene.run()
    shutil.rmtree(scene.folder / "state")
    scene.run("restored")
    assert scene.api.look() == before


def test_no_secret_is_in_the_journal_and_none_is_read(scene: Scene) -> None:
    scene.run()
    texts = [path.read_text() for path in (scene.folder / "state").rglob("*") if path.is_file()]
    assert texts and not any("private" in text for text in texts)
    mirror = scene.api.items["ConfigMap", SYSTEM, "servicemesh-migration-shop"]
    assert len(json.dumps(mirror)) < 200_000 and "private" not in json.dumps(mirror)


def test_nothing_is_written_when_somebody_uses_istio(scene: Scene) -> None:
    scene.api.put(pod("old-1", "shop", container("istio")))
    before = scene.api.look()
    with pytest.raises(MigrationError) as refused:
        scene.run()
    assert "shop/old-1" in refused.value.message and "Nothing has been changed" in refused.value.message
    assert not scene.api.writes and scene.api.look() == before
    warned = scene.run(check=True)
    assert "shop/old-1" in warned.warnings[0] and warned.plan.changed


def test_a_pod_that_comes_after_the_proof_stops_the_run_while_istiod_is_there(scene: Scene) -> None:
    def inject(count: int, _what: str) -> None:
        if count == 1:
            scene.api.put(pod("late-1", "shop", container("istio")))

    scene.api.on_write = inject
    with pytest.raises(MigrationError) as stopped:
        scene.run()
    assert "came after the proof" in stopped.value.what and "shop/late-1" in stopped.value.why
    assert all("WebhookConfiguration" in line for line in stopped.value.done) and len(stopped.value.done) == 2
    assert ("Deployment", SYSTEM, "istiod") in scene.api.items and stopped.value.not_done
    scene.lives()
    scene.run("restored")
    assert ("MutatingWebhookConfiguration", "", "istio-sidecar-injector") in scene.api.items


@pytest.mark.parametrize("verb", ["delete", "create"])
def test_missing_rights_are_found_before_the_first_write(scene: Scene, verb: str) -> None:
    scene.api.forbidden = {(verb, "ClusterRole")}
    with pytest.raises(MigrationError, match=f"may not {verb} ClusterRole"):
        scene.run()
    assert not scene.api.writes


def test_a_pod_of_the_target_that_is_not_ready_any_more_is_told(scene: Scene) -> None:
    def hurt(count: int, _what: str) -> None:
        scene.api.items["Pod", "shop", "shop-1"]["status"]["conditions"][0]["status"] = "False"

    scene.api.on_write = hurt
    with pytest.raises(MigrationError) as told:
        scene.run()
    assert "shop/shop-1" in told.value.why and "state restored" in told.value.todo and told.value.done


def test_somebody_elses_object_of_the_same_name_is_left_alone(scene: Scene) -> None:
    def replace(count: int, what: str) -> None:
        if count == 1:
            scene.api.items["ConfigMap", SYSTEM, "istio"]["metadata"]["uid"] = "theirs"

    scene.api.on_write = replace
    with pytest.raises(MigrationError):
        scene.run()
    assert ("ConfigMap", SYSTEM, "istio") in scene.api.items


def test_istiod_and_gateways_are_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from istiod's list of connections, and from its metric where it has none."""
    said: dict[int, bytes] = {8080: json.dumps({"clients": [{"connectionId": "vm-1.shop-3"}]}).encode(), 15014: b"pilot_xds 2\n"}

    def ask(_cluster: Any, one: Object, _timeout: float, paths: Any, port: int = 15000) -> list[bytes]:
        if port == 15000:
            return [json.dumps({"stats": []}).encode(), b"{}"]
        if port == 8080 and not said[8080]:
            raise MigrationError("closed", details={})
        return [said[port]]

    monkeypatch.setattr(_uninstall_read, "ask", ask)
    with pytest.raises(MigrationError, match=r"1 proxies: vm-1.shop"):
        scene.run(proof="proxies")
    said[8080] = b""
    with pytest.raises(MigrationError, match=r"2 proxies: a proxy without name \(1\)"):
        scene.run(proof="proxies")
    said[8080] = json.dumps({"clients": [{"connectionId": "egress-1.istio-system-1"}]}).encode()
    done = scene.run(proof="proxies")
    assert done.result["proof"]["istiod_clients"] == {f"{SYSTEM}/istiod-1": ["egress-1.istio-system"]}
    assert done.result["proof"]["gateway_clients"][f"{SYSTEM}/egress-1"]["active"] == 0


def test_a_copy_that_the_journal_may_not_hold_is_told(scene: Scene) -> None:
    place = ("ConfigMap", SYSTEM, "istio")
    scene.api.items[place]["data"]["mesh"] = "tracing: {zipkin: {address: 'https://user:hunter2@zipkin.example.com'}}"
    before = scene.api.look()
    done = scene.run()
    (told,) = [text for text in done.warnings if "looks as if it held a secret" in text]
    assert "ConfigMap" in told and str(scene.folder / "state") in told
    mirror = json.dumps(scene.api.items["ConfigMap", SYSTEM, "servicemesh-migration-shop"])
    assert "hunter2" not in mirror + (scene.folder / "state" / "shop" / "journal.jsonl").read_text()
    scene.run("restored")
    assert scene.api.look() == before
