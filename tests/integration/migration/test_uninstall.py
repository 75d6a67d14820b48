# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of the real Istio in the shared lab: refused while something uses it, planned as its own istioctl plans it, gone
without a lost request, and back again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istioctl import parse
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall_run import run_module
from lab import binaries, net
from lab.apps import NAMESPACE, VERSIONS
from lab.demo import evidence
from lab.demo.stage import Stage, differences, sequence
from lab.kube import path_of
from lab.state import Lab
from tests.integration.migration.conftest import QUICK

SYSTEM = "istio-system"
ISTIOD = path_of("apps/v1", "deployments", SYSTEM, "istiod")
INJECTOR = path_of("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", None, "istio-sidecar-injector")
Object = dict[str, Any]


def run(stage: Stage, folder: Path, *, check: bool = False, **options: Any) -> Outcome:
    """The module as Ansible calls it."""
    given: Object = {
        "source": {"kubeconfig": stage.env["LAB_ACK_KUBECONFIG"], "cluster_uid": stage.env["LAB_ACK_UID"]},
        "target": {"kubeconfig": stage.env["LAB_ASM_KUBECONFIG"], "cluster_uid": stage.env["LAB_ASM_UID"]},
        "migration": "uninstall",
        "state_dir": str(folder / "state"),
        "state": "absent",
        "namespace": SYSTEM,
        "revisions": [],
        "istioctl": None,
        "target_proxy": {},
        "proof": "proxies",
        "quiet_seconds": 1.0,
        "dormant": "refuse",
        "wait_timeout": 120.0,
    }
    return run_module({**given, **options}, check)


def dry_run(stage: Stage) -> set[str]:
    """What the real istioctl would remove, as places in a plan; nothing where it does not find Istio."""
    argv = [str(binaries.path("istioctl")), "uninstall", "--revision=default", "--dry-run", "--skip-confirmation"]
    argv.append(f"--kubeconfig={stage.env['LAB_ACK_KUBECONFIG']}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=stage.env)
    if "could not find target revision" in done.stderr:
        return set()
    assert done.returncode == 0, done.stderr
    return {"/".join(filter(None, ("source", namespace, kind, name))) for kind, namespace, name in parse(done.stdout)}


def rollout(stage: Stage, words: Sequence[str], name: str, namespace: str) -> None:
    argv = [str(binaries.path("kubectl")), f"--kubeconfig={stage.env['LAB_ACK_KUBECONFIG']}", "rollout", *words]
    subprocess.run([*argv, f"deployment/{name}", f"--namespace={namespace}"], check=True, stdin=subprocess.DEVNULL, env=stage.env)


def test_while_it_is_used_nothing_is_removed_and_the_plan_is_istioctls(stage: Stage, tmp_path: Path) -> None:
    before = stage.world()
    with pytest.raises(MigrationError) as refused:
        run(stage, tmp_path)
    found = {item["what"]: item["why"] for item in refused.value.details["refusals"]}
    assert f"4 pods: {NAMESPACE}/echo-v1-" in found["Pods still have a sidecar of Istio"]
    assert "type LoadBalancer" in found["A gateway of Istio can still be reached from outside"]
    assert "4 proxies: echo-v1-" in found["Proxies are connected to istiod"]
    assert not refused.value.done and stage.world() == before and stage.ack.find(INJECTOR) is not None

    named = dry_run(stage)
    load_balancer = f"source/{SYSTEM}/Service/istio-ingressgateway"
    for istioctl in (None, str(binaries.path("istioctl"))):
        made = run(stage, tmp_path, check=True, istioctl=istioctl)
        assert {change.target for change in made.plan.changes} == named - {load_balancer}
        left = {item["object"]: item["reason"] for item in made.result["left"]}
        assert "load balancer" in left[load_balancer]
        assert left[f"source/{SYSTEM}/Secret/cacerts"] == "no Secret is ever removed"
        assert (
            f"source/{SYSTEM}/Service/istiod-1-31-0" in left and "source/CustomResourceDefinition/*.networking.istio.io" in left
        )
        assert len(made.warnings) == 3 and len(made.result["proof"]["istiod_clients"]) == 1
    assert stage.world() == before and not (tmp_path / "state" / "uninstall").exists()


@pytest.fixture
def plain(lab: Lab, tmp_path: Path) -> Iterator[Stage]:
    """A described migration that ends with Istio's removal. The application runs without sidecars: Istio has no other user."""
    names = [f"echo-{version}" for version in VERSIONS]

    def roll(stage: Stage, value: str | None) -> None:
        for name in names:
            path = path_of("apps/v1", "deployments", NAMESPACE, name)
            stage.ack.patch(path, {"spec": {"template": {"metadata": {"labels": {"sidecar.istio.io/inject": value}}}}})
        for name in names:
            rollout(stage, ["status", "--timeout=180s"], name, NAMESPACE)

    with net.inside(lab):
        stage = Stage(lab, tmp_path, "end", **QUICK, ack_to_asm_uninstall=True)
        roll(stage, "false")
        try:
            yield stage
        finally:
            if stage.ack.find(ISTIOD) is None or stage.shares() != {0.0}:
                stage.play("ack_to_asm_rollback")
            roll(stage, None)


def injected(stage: Stage) -> bool:
    """Whether a new pod of the application's namespace would get Istio's sidecar, as a dry run says."""
    spec = {"containers": [{"name": "app", "image": "lab/pause"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": NAMESPACE}, "spec": spec}
    made = stage.ack.create(path_of("v1", "pods", NAMESPACE), body, dryRun="All")
    found = [*made["spec"]["containers"], *made["spec"].get("initContainers", [])]
    return any(one["name"] == "istio-proxy" for one in found)


@contextlib.contextmanager
def nothing_lost(stage: Stage) -> Iterator[None]:
    """Requests through the load balancer meanwhile; all of them are answered."""
    file = stage.traffic(100, 600)
    try:
        yield
    finally:
        stage.end_traffic()
    _buckets, summary = evidence.read(file)
    assert (summary["failed"], summary["sent"] > 500) == (0, True), summary


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_istio_goes_while_asm_serves_and_comes_back(plain: Stage) -> None:
    before = plain.world()
    with nothing_lost(plain):
        played = plain.play("ack_to_asm")
        assert played.code == 0, played.text[-4000:]
        again = plain.play("ack_to_asm_finish")
        assert (again.code, again.changed) == (0, 0), again.text[-4000:]
    assert dry_run(plain) == set() and plain.ack.find(ISTIOD) is None
    assert plain.ack.find(INJECTOR) is None and not injected(plain)
    # Its root is as it was, and pods of ASM's gateway start without Istio.
    assert plain.ack.find(path_of("v1", "secrets", SYSTEM, "cacerts")) is not None
    for words in (["restart"], ["status", "--timeout=180s"]):
        rollout(plain, words, "istio-ingressgateway-asm", SYSTEM)
    assert plain.shares() == {100.0}
    with nothing_lost(plain):
        back = plain.play("ack_to_asm_rollback")
        assert back.code == 0, back.text[-4000:]
    assert injected(plain)
    # The gateway came back as gateway_retire brings it back; the load balancer stays in its reusable form.
    left = [line for line in differences(before, plain.world()) if "clb/" not in line and "istio-ingressgateway" not in line]
    assert not left, sequence(left)
