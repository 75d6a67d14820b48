# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""migration_preflight in the lab: it only reads, says all at once, and is never stopped by what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from lab.demo.stage import differences
from lab.kube import path_of
from lab.state import Lab
from tests.integration.ccm.world import until
from tests.integration.collection.gateway_world import NAMESPACE, SOURCE, Gateways, gateways


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[Gateways]:
    with gateways(lab, tmp_path, "gw-preflight") as found:
        yield found


def bad(outcome: Any) -> set[tuple[str, str]]:
    return {(item["severity"], item["id"]) for item in outcome.result["findings"] if item["severity"] != "info"}


def test_a_sound_world_has_no_errors_and_is_only_read(world: Gateways) -> None:
    before = world.stage.world()
    calls = len(world.stage.cloud("calls")["calls"])
    outcome = world.call("preflight", steps=[1, 5, 25, 50, 100])
    # The CCM makes listeners with rr; clb_reuse mends that.
    assert bad(outcome) == {("warning", "scheduler")}
    assert outcome.result["skipped"] == []
    shares = [item["message"] for item in outcome.result["findings"] if item["id"] == "step-share"]
    assert len(shares) == 5
    assert not outcome.plan.changed
    assert not differences(before, world.stage.world())
    assert world.writes(calls) == []
    assert not (world.folder / "state").exists()


def test_findings_stand_beside_each_other(world: Gateways) -> None:
    service = path_of("v1", "services", NAMESPACE, SOURCE)
    secret = path_of("v1", "secrets", NAMESPACE, "echo-cert")
    kept = world.ack.get(secret)
    world.asm.create(path_of("v1", "namespaces"), {"metadata": {"name": "demo"}})
    other = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "echo-gateway"},
        "spec": {"selector": {"a": "b"}, "servers": [{"port": {"number": 1, "name": "x", "protocol": "TCP"}, "hosts": ["*"]}]},
    }
    world.asm.create(path_of("networking.istio.io/v1", "gateways", "demo"), other)
    try:
        world.ack.patch(service, {"metadata": {"labels": {"argocd.argoproj.io/instance": "edge"}}})
        world.ack.delete(secret)
        outcome = world.answer("preflight")
        found = bad(outcome)
        assert {("warning", "gitops"), ("error", "secrets"), ("error", "mesh-config"), ("warning", "scheduler")} <= found
        assert outcome.failed is not None
        assert "echo-cert" in outcome.failed.message
        assert world.answer("preflight", fail_on="never").failed is None
    finally:
        world.ack.patch(service, {"metadata": {"labels": {"argocd.argoproj.io/instance": None}}})
        for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
            kept["metadata"].pop(field, None)
        world.ack.create(path_of("v1", "secrets", NAMESPACE), kept)
        world.asm.delete(path_of("v1", "namespaces", name="demo"))
        until("the namespace is gone", lambda: world.asm.find(path_of("v1", "namespaces", name="demo")) is None)


@pytest.mark.parametrize(
    ("over", "finding", "text"),
    [
        ({"source": {"cluster_uid": "wrong"}}, "source-api", "is not the one that was named"),
        ({"target": {"host": "https://10.10.0.1:1"}}, "target-api", "gave no answer"),
        ({"target": {"api_key": "expired", "kubeconfig": "LAB_ASM_KUBECONFIG_FAULTY"}}, "target-api", "401"),
        ({"gateways": [{"load_balancer_id": "lb-wrong"}]}, "gateway", "lb-"),
        ({"gateways": [{"source_service": "nobody", "load_balancer_id": None}]}, "target-gateway", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_a_finding(world: Gateways, over: dict[str, Any], finding: str, text: str) -> None:
    params = world.params("preflight")
    for key, value in over.items():
        params[key] = [{**params[key][0], **value[0]}] if key == "gateways" else {**params[key], **value}
    params["target"]["kubeconfig"] = world.stage.env.get(params["target"]["kubeconfig"], params["target"]["kubeconfig"])
    outcome = world.answer("preflight", **params)
    assert outcome.failed is not None
    mine = [item for item in outcome.result["findings"] if item["id"] == finding]
    assert mine, outcome.result["findings"]
    assert text in mine[0]["message"]


def test_source_and_target_must_not_be_the_same(world: Gateways) -> None:
    params = world.params("preflight")
    with pytest.raises(MigrationError, match="same API server"):
        world.call("preflight", target={**params["source"]})


@pytest.mark.parametrize(
    ("over", "text"),
    [
        ({"steps": [101]}, "not in 0..100"),
        ({"steps": ["ten"]}, "no number"),
        ({"steps": [{"hold": 3}]}, "no share"),
        ({"gateways": []}, "empty"),
    ],
)
def test_options_that_cannot_be_right_are_refused_at_once(world: Gateways, over: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        world.call("preflight", **over)
