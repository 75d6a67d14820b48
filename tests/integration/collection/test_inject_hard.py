# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads that hurt, on real kubelets: all that can move does and comes back byte for byte, all others are named and untouched.

Nobody's last ready pod goes, and a client in the mesh calls four of them all the time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import apps
from lab.images import ECHO
from lab.kube import KubeError, path_of
from lab.load import Load
from lab.mesh_asm import MESH_ID
from lab.mesh_source import namespace
from lab.state import Lab
from tests.integration.collection.test_inject import Scene, good, migrating, scene  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1500)]
HARD = "hard"
KINDS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
SERVED = ("single", "guarded", "data", "stubborn")
CJK = {"note.example.com/owner": "支付团队", "note.example.com/text": "迁移前请先备份；ロールバック可\n두 번째 줄"}
Object = dict[str, Any]


def template(name: str, *, labels: Object | None = None, drain: int = apps.DRAIN, grace: int = 30, **spec: Any) -> Object:
    container = apps.deployment("v1")["spec"]["template"]["spec"]["containers"][0]
    container = {**container, "args": ["-listen=:8080", f"-drain={drain}s"]}
    meta = {"labels": {"app": name, **(labels or {})}, "annotations": CJK}
    return {"metadata": meta, "spec": {"terminationGracePeriodSeconds": grace, "containers": [container], **spec}}


def workload(name: str, kind: str = "Deployment", replicas: int = 1, made: Object | None = None, **spec: Any) -> Object:
    number = {} if kind == "DaemonSet" else {"replicas": replicas}
    if kind == "StatefulSet":
        number["serviceName"] = name
    body = {"selector": {"matchLabels": {"app": name}}, "template": made or template(name), **number, **spec}
    meta = {"name": name, "namespace": HARD, "annotations": CJK}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": body}


def workloads() -> list[Object]:
    """What moves."""
    helper = {"name": "helper", "image": ECHO, "args": ["-listen=:9090"], "restartPolicy": "Always"}
    loose = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    return [
        workload("single"),
        workload("guarded", replicas=2, strategy=loose),
        workload("data", "StatefulSet", 2),
        workload("agent", "DaemonSet", made=template("agent", labels={"tier": "node"})),
        workload("native", made=template("native", initContainers=[helper])),
        workload("revision", made=template("revision", labels={"istio.io/rev": "default"})),
        # It goes on for ten minutes after SIGTERM, so the kubelet kills it at the end of its grace.
        workload("stubborn", replicas=2, made=template("stubborn", drain=600, grace=8)),
    ]


def others() -> list[tuple[str, Object]]:
    """What does not move, and everything else."""
    node = template("host", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    node["spec"]["containers"][0] = {"name": "pause", "image": ECHO, "args": ["-listen=:18099"]}
    out = template("out", labels={"sidecar.istio.io/inject": "false"})
    job = {"name": "job", "image": ECHO, "args": ["-listen=:8080"]}
    batch = {"metadata": {"labels": {"app": "batch"}}, "spec": {"restartPolicy": "Never", "containers": [job]}}
    meta = {"namespace": HARD}
    made: list[tuple[str, Object]] = [
        ("deployments", workload("host", made=node)),
        ("deployments", workload("out", made=out)),
        ("jobs", {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**meta, "name": "batch"}, "spec": {"template": batch}}),
        (
            "pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**meta, "name": "lone", "labels": {"app": "lone"}},
                "spec": {"containers": [job]},
            },
        ),
        (
            "poddisruptionbudgets",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {**meta, "name": "guarded"},
                "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}},
            },
        ),
    ]
    for name in SERVED:
        spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        made.append(("services", {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": name}, "spec": spec}))
    return made


class Calls(Load):
    """A client of all that is served."""

    target = tuple(f"-target={name}=http://{name}.{HARD}/" for name in SERVED)


class World:
    def __init__(self, one: Scene) -> None:
        self.api = one.stage.ack

    def pods(self) -> list[Object]:
        return list(self.api.get(path_of("v1", "pods", HARD))["items"])

    def ready(self) -> dict[str, int]:
        """Ready pods that nobody ends, of each app."""
        found: dict[str, int] = {}
        for pod in self.pods():
            states = {item["type"]: item["status"] for item in pod["status"].get("conditions", [])}
            if states.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp"):
                name = pod["metadata"]["labels"]["app"]
                found[name] = found.get(name, 0) + 1
        return found

    def uids(self, *apps_: str) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.pods() if pod["metadata"]["labels"]["app"] in apps_}

    def templates(self) -> dict[str, str]:
        """Templates and strategies, byte for byte."""
        found = {}
        for kind, plural in KINDS.items():
            for item in self.api.get(path_of("apps/v1", plural, HARD))["items"]:
                spec = {key: item["spec"].get(key) for key in ("template", "strategy", "updateStrategy")}
                found[f"{kind}/{item['metadata']['name']}"] = json.dumps(spec, sort_keys=True, ensure_ascii=False)
        return found

    @contextmanager
    def watched(self) -> Iterator[dict[str, int]]:
        """The lowest number of ready pods of each app that was seen meanwhile."""
        lowest, over = self.ready(), threading.Event()

        def look() -> None:
            while not over.wait(0.3):
                now = self.ready()
                for name in lowest:
                    lowest[name] = min(lowest[name], now.get(name, 0))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield lowest
        finally:
            over.set()
            thread.join(10)


@pytest.fixture
def world(lab: Lab, migrating: Scene) -> Iterator[World]:  # noqa: F811
    one, ack = World(migrating), Load(lab).ack
    ack.apply_object("v1", "namespaces", namespace(HARD, {"istio-injection": "enabled"}))
    try:
        for plural, item in [*((KINDS[item["kind"]], item) for item in workloads()), *others()]:
            ack.apply_object(item["apiVersion"], plural, item)
        wanted = {"single": 1, "guarded": 2, "data": 2, "agent": len(ack.nodes), "native": 1, "revision": 1, "stubborn": 2}
        wanted |= {"host": 1, "out": 1, "batch": 1, "lone": 1}
        ack.wait("the workloads that hurt", lambda: one.ready() == wanted, 240)
        yield one
    finally:
        good(migrating.run(state="restored", namespaces=[]))
        ack.api.delete(path_of("v1", "namespaces", None, HARD))

        def gone() -> bool:
            try:
                return ack.api.find(path_of("v1", "namespaces", None, HARD)) is None
            except KubeError:
                return False

        ack.wait("the end of the namespace", gone, 120)


def test_all_of_them_move_and_come_back(lab: Lab, migrating: Scene, world: World) -> None:  # noqa: F811
    movable = {f"{item['kind']}/{item['metadata']['name']}" for item in workloads()}
    alone = ("host", "out", "batch", "lone")
    with Calls(lab).running(rate=60) as load:
        before, untouched = world.templates(), world.uids(*alone)
        assert len(untouched) == len(alone)
        with world.watched() as lowest:
            done = good(migrating.run(namespaces=[HARD], waves=[{"number": 2}, "100%"], wait_timeout=240.0))
            moved = {f"{row['kind']}/{row['name']}": row for row in done.result["workloads"] if row.get("result") == "done"}
            assert set(moved) == movable, done.result["workloads"]
            for row in moved.values():
                assert row["proofs"] and all((one["asm_id"], one["trouble"]) == (MESH_ID, "") for one in row["proofs"])
            changed = {name for name, text in world.templates().items() if text != before[name]}
            assert changed == movable
            again = migrating.run(namespaces=[HARD], waves=["100%"])
            assert again.failed is None and not again.plan.changed
            good(migrating.run(state="restored", namespaces=[HARD]))
        assert world.templates() == before
        assert world.uids(*alone) == untouched
        told = load.stop()
    # One pod at a time goes where no pod can be made first; elsewhere none of those that a budget wants.
    assert min(lowest.values()) >= 1 and lowest["guarded"] == 2, lowest
    reasons = {f"{row['kind']}/{row['name']}": row["reason"] for row in done.result["listed"] if row["namespace"] == HARD}
    assert set(reasons) == {"Deployment/host", "Deployment/out", "Job/batch", "Pod/lone"}, reasons
    assert "network of the node" in reasons["Deployment/host"] and "opted out" in reasons["Deployment/out"]
    assert "ends with the sidecar it has" in reasons["Job/batch"] and "without controller" in reasons["Pod/lone"]
    assert (told["failed"], told["errors"]) == (0, {}), told
    print(f"{told['sent']} requests, none failed; lowest numbers of ready pods: {lowest}")
