# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads change their control plane on real kubelets: into the mesh, through ASM's states, there with proof, again, and back.

A client with a sidecar of its own calls the application all the time, and every request of it counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_cluster, _asm_migration
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_run import inject
from lab import mesh_asm, net
from lab.apps import NAMESPACE, VERSIONS
from lab.asm.migrate import MESH_CONFIG, OBJECT, OWN_HOOK_PATH
from lab.demo.stage import Stage
from lab.kube import path_of
from lab.load import Load
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab

pytestmark = pytest.mark.timeout(900)
SYSTEM = path_of("v1", "namespaces", None, "istio-system")
ECHO = {f"echo-{version}" for version in VERSIONS}


class Scene:
    """The modules as Ansible calls them, in the namespace of the sample application."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self._common: dict[str, Any] = {
            "source": {"kubeconfig": stage.env["LAB_ACK_KUBECONFIG"], "cluster_uid": stage.env["LAB_ACK_UID"]},
            "target": {"kubeconfig": stage.env["LAB_ASM_KUBECONFIG"]},
            "migration": "inject",
            "state_dir": str(folder / "state"),
            "wait_timeout": 180.0,
        }

    def asm_options(self) -> dict[str, Any]:
        """What the modules of ASM's API have in common."""
        env = self.stage.env
        keys = {key: env[f"ALIBABA_CLOUD_{key.upper()}"] for key in ("access_key_id", "access_key_secret", "asm_endpoint")}
        alibaba = {"region": "cn-hangzhou", "protocol": "http", "attempts": 8, **keys}
        return {**self._common, "mesh_id": MESH_ID, "alibaba": alibaba}

    def cluster(self, state: str) -> Outcome:
        given = {
            "cluster_id": ACK_ID,
            "state": state,
            "ignore_namespace_check": True,
            "discovery_only": False,
            "kubeconfig_path": "",
            "kubeconfig_private": False,
        }
        return good(_asm_cluster.run_module({**self.asm_options(), **given}, False))

    def state(self, state: str) -> Outcome:
        given = {"state": state, "passed": True, "retry": True, "keep_istio_system_injection": None, "check_workloads": True}
        return good(_asm_migration.run_module({**self._common, **given}, False))

    def run(self, *, check: bool = False, **options: Any) -> Outcome:
        """sidecar_inject."""
        given: dict[str, Any] = {
            "state": "moved",
            "namespaces": [NAMESPACE],
            "label_selector": None,
            "labels": {"sidecar.asm.aliyun.com/inject": "true", "istio.io/rev": None},
            "annotations": {},
            "target_proxy": {"asm_id": mesh_asm.MESH_ID},
            "waves": ["100%"],
            "undo_waves": [],
            "concurrency": 5,
            "hold": 2.0,
            "max_hold": 60.0,
            "on_fail": "previous",
            "restore_failed": True,
            "opt_out": {"sidecar.asm.aliyun.com/inject": "false"},
            "baseline_timeout": 30.0,
            "soak": 0.0,
            "max_pause": 60.0,
            "proof": "proxies",
            "proof_sample": 0,
            "proof_timeout": 60.0,
            "trust": "none",
            "trust_sample": 5,
            "gates": [],
            "allow_without_gates": True,
        }
        return inject({**self._common, **given, **options}, check)

    def templates(self) -> dict[str, str]:
        """The pod templates of the application, byte for byte."""
        found = {}
        for item in self.stage.ack.get(path_of("apps/v1", "deployments", NAMESPACE))["items"]:
            found[item["metadata"]["name"]] = json.dumps([item["spec"]["template"], item["spec"]["strategy"]], sort_keys=True)
        return found


S = TypeVar("S", bound=Scene)


def good(done: Outcome) -> Outcome:
    assert done.failed is None, done.failed.message
    return done


@contextmanager
def joined(lab: Lab, folder: Path, kind: type[S]) -> Iterator[S]:
    """The cluster is in the mesh, and injection is Istio's still. Afterwards it is in no mesh."""
    with net.inside(lab):
        stage = Stage(lab, folder, "inject")
        one = kind(stage, folder)
        assert stage.asm.find(OBJECT) is None, "the cluster is in the mesh already: take it out first"
        before = stage.ack.get(MESH_CONFIG)["data"]["mesh"]
        one.cluster("present")
        try:
            one.state("Init")  # ASM begins it by itself, a moment after the cluster came
            yield one
        finally:
            good(one.run(state="restored"))
            one.cluster("absent")
            stage.ack.patch(MESH_CONFIG, {"data": {"mesh": before}})
            Load(lab).ack.wait("the end of the migration", lambda: stage.asm.find(OBJECT) is None, 30)
            assert stage.ack.find(OWN_HOOK_PATH) is None
            stage.ack.patch(SYSTEM, {"metadata": {"labels": {"istio-injection": None}}})
            stage.forget_mirror()


@pytest.fixture
def scene(lab: Lab, tmp_path: Path) -> Iterator[Scene]:
    with joined(lab, tmp_path, Scene) as one:
        yield one


@pytest.fixture
def migrating(scene: Scene) -> Scene:
    """All sidecars of Istio take the trust of both meshes, and the label chooses."""
    scene.state("SetupIstioForMigrate")
    good(scene.run(state="restarted"))
    scene.state("Migrating")
    return scene


def test_workloads_move_and_come_back_under_strict_mutual_tls(lab: Lab, scene: Scene) -> None:
    """The whole way, and the two meshes trust each other in both directions while it is half done."""
    load = Load(lab)
    with load.running(strict=True):
        scene.state("SetupIstioForMigrate")
        early = scene.run()
        assert early.failed is not None and "would not get a sidecar of the target" in early.failed.message
        good(scene.run(state="restarted"))
        scene.state("Migrating")
        before = scene.templates()
        # held so long that the proxies' counters are read twice
        waves = [{"name": name, "names": [one], "hold": 8} for name, one in (("server", "echo-v1"), ("client", "client"))]
        waves.append({"name": "rest"})
        done = good(scene.run(waves=waves, trust="report"))
        assert scene.templates() != before
        good(scene.run(state="restored"))
        assert scene.templates() == before
        told = load.stop()
    assert (told["failed"], told["errors"]) == (0, {}), told
    assert told["least_rate"] >= 100 and told["pods"] == 4 and told["sent"] > 3000, told
    for row in done.result["workloads"]:
        assert row["result"] == "done"
        for proof in row["proofs"]:
            assert (proof["asm_id"], proof["trouble"]) == (MESH_ID, "")
            assert "-aliyun" in proof["image"] and proof["discovery_address"].startswith("istiod-1-31-0.istio-system.svc")
            assert f"/ns/{NAMESPACE}/sa/" in proof["proxy"]["identity"] and proof["proxy"]["roots"]
    # The client calls old and new servers from both sides: in the first wave from the old one, then from the new one.
    for wave, direction in zip(done.result["waves"], (("source", "target"), ("target", "source")), strict=False):
        matrix = wave["numbers"]["trust both ways"]["numbers"]["matrix"]
        assert direction in {(cell["client"], cell["server"]) for cell in matrix if cell["state"] == "proven"}, matrix
    print(json.dumps(told, indent=1))


@pytest.mark.thorough
def test_there_again_and_back_while_plain_text_is_taken_too(lab: Lab, migrating: Scene) -> None:
    scene = migrating
    with Load(lab).running() as load:
        before = scene.templates()
        planned = scene.run(check=True)
        assert {change.target.rsplit("/", 1)[1] for change in planned.plan.changes} == ECHO | {"client"}
        assert scene.templates() == before
        good(scene.run(waves=[1, "100%"]))
        again = good(scene.run(waves=[1, "100%"]))
        assert not again.plan.changed and again.result["share"] == 100
        good(scene.run(state="restored"))
        assert scene.templates() == before
        told = load.stop()
    assert (told["failed"], told["pods"]) == (0, 3) and told["least_rate"] >= 100, told


@pytest.mark.thorough
def test_a_wave_that_cannot_start_is_put_back_and_the_old_pods_go_on_serving(lab: Lab, migrating: Scene) -> None:
    with Load(lab).running() as load:
        before = migrating.templates()
        # Istio's annotation for another proxy image, which no registry has; it comes and goes with the label.
        broken = {"sidecar.istio.io/proxyImage": "registry.invalid/no/proxy:none"}
        done = migrating.run(annotations=broken, wait_timeout=60.0)
        assert done.failed is not None and done.result["verdict"] == "error"
        assert migrating.templates() == before
        told = load.stop()
    assert told["failed"] == 0, told


@pytest.mark.thorough
def test_a_label_that_nobody_answers_restarts_nothing(migrating: Scene) -> None:
    before = migrating.templates()
    done = migrating.run(labels={"nobody.example.com/inject": "true"})
    assert done.failed is not None and "would not get a sidecar of the target" in done.failed.message
    assert migrating.templates() == before
