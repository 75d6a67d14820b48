# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject on real kubelets in the shared lab: there with proof, again, and back; a wave that fails; no request lost.

It needs a lab in which ASM injects (the webhook asm-sidecar-injector); where there is none it says so and is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_run import inject
from lab import mesh_asm, net
from lab.apps import NAMESPACE, VERSIONS
from lab.asm.migrate import OWN_HOOK
from lab.demo import evidence
from lab.demo.stage import Stage
from lab.kube import path_of
from lab.state import Lab

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
HOOKS = path_of("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", None, OWN_HOOK)
NAMES = {f"echo-{version}" for version in VERSIONS}


class Scene:
    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self._folder = folder

    def run(self, *, check: bool = False, **options: Any) -> Outcome:
        """The module as Ansible calls it, in the namespace of the sample application."""
        source = {"kubeconfig": self.stage.env["LAB_ACK_KUBECONFIG"], "cluster_uid": self.stage.env["LAB_ACK_UID"]}
        given: dict[str, Any] = {
            "source": source,
            "migration": "inject",
            "state_dir": str(self._folder / "state"),
            "state": "moved",
            "namespaces": [NAMESPACE],
            "label_selector": None,
            "labels": {"sidecar.asm.aliyun.com/inject": "true", "istio.io/rev": None},
            "annotations": {},
            "target_proxy": {"asm_id": mesh_asm.MESH_ID},
            "waves": [1, "100%"],
            "undo_waves": [],
            "concurrency": 5,
            "hold": 3.0,
            "max_hold": 60.0,
            "on_fail": "previous",
            "restore_failed": True,
            "baseline_timeout": 30.0,
            "soak": 0.0,
            "max_pause": 60.0,
            "proof": "proxies",
            "proof_sample": 0,
            "proof_timeout": 60.0,
            "trust": "report",
            "trust_sample": 5,
            "wait_timeout": 180.0,
            "gates": [],
            "allow_without_gates": True,
        }
        return inject({**given, **options}, check)

    def templates(self) -> dict[str, str]:
        """The pod templates of the application, byte for byte."""
        found = {}
        for name in NAMES:
            item = self.stage.ack.get(path_of("apps/v1", "deployments", NAMESPACE, name))
            found[name] = json.dumps([item["spec"]["template"], item["spec"]["strategy"]], sort_keys=True)
        return found


@pytest.fixture
def scene(lab: Lab, tmp_path: Path) -> Iterator[Scene]:
    """The templates are found as they were, or the test has failed."""
    with net.inside(lab):
        stage = Stage(lab, tmp_path, "inject")
        if stage.ack.find(HOOKS) is None:
            pytest.skip("ASM does not inject sidecars in this lab")
        one = Scene(stage, tmp_path)
        before = one.templates()
        try:
            yield one
        finally:
            one.run(state="restored")
            assert one.templates() == before


def test_there_again_and_back_under_traffic(scene: Scene) -> None:
    before = scene.templates()
    planned = scene.run(check=True)
    assert {change.target.rsplit("/", 1)[1] for change in planned.plan.changes} == NAMES
    assert scene.templates() == before
    file = scene.stage.traffic(100, 400, new_ratio=1.0)
    try:
        done = scene.run()
        assert done.failed is None, done.failed.message
        again = scene.run()
        assert not again.plan.changed and again.result["share"] == 100
        back = scene.run(state="restored")
        assert back.failed is None, back.failed.message
    finally:
        scene.stage.end_traffic()
    _buckets, summary = evidence.read(file)
    assert (summary["failed"], summary["sent"] > 500) == (0, True), summary
    assert scene.templates() == before
    for row in done.result["workloads"]:
        assert row["result"] == "done"
        for proof in row["proofs"]:
            assert proof["asm_id"] == mesh_asm.MESH_ID and proof["trouble"] == ""
            assert proof["proxy"]["connected"] and proof["proxy"]["roots"]
            assert f"/ns/{NAMESPACE}/sa/" in proof["proxy"]["identity"]


def test_a_wave_that_cannot_start_is_put_back_and_the_old_pods_go_on_serving(scene: Scene) -> None:
    before = scene.templates()
    file = scene.stage.traffic(100, 400, new_ratio=1.0)
    try:
        # Istio's annotation for another proxy image, which no registry has; it comes and goes with the label.
        broken = {"sidecar.istio.io/proxyImage": "registry.invalid/no/proxy:none"}
        done = scene.run(annotations=broken, waves=["100%"], wait_timeout=60.0)
    finally:
        scene.stage.end_traffic()
    assert done.failed is not None and done.result["verdict"] == "error"
    assert scene.templates() == before
    _buckets, summary = evidence.read(file)
    assert summary["failed"] == 0, summary


def test_a_label_that_nobody_answers_restarts_nothing(scene: Scene) -> None:
    before = scene.templates()
    done = scene.run(labels={"nobody.example.com/inject": "true"})
    assert done.failed is not None and "would not get a sidecar of the target" in done.failed.message
    assert scene.templates() == before
