# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retiring a gateway: only with proof, by name and UID; and its return, without traffic."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Health
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm, _retire_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import enforce
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._retire import (
    Observed,
    plan_restored,
    plan_retired,
    returned,
    without_numbers,
)
from tests.unit.plugins.module_utils.mesh import gateway_objects as have

GONE = {**have.REUSE, _ccm.WEIGHT: "0"}


def pdb() -> dict[str, Any]:
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": have.SOURCE, "namespace": have.NAMESPACE, "uid": "uid-pdb"},
        "spec": {},
    }


def finished(**more: Any) -> Observed:
    """All traffic is at the target, and everything that retiring asks for is there."""
    source, target = have.objects(have.SOURCE, **GONE), have.objects(f"istio-{have.TARGET}", **have.REUSE)
    source.hpa, source.pdbs = have.hpa(), [pdb()]
    view = have.view(source.service, target.service, weights=more.pop("weights", (0, 50)), **more)
    health = {}
    for port in have.PORTS:
        ours = [item for item in view.group(port).backends if f"istio-{have.TARGET}" in item.description]
        health[port] = [Health(port, item.server_id, "", item.port, "normal") for item in ours]
    return Observed(source, target, view, health, "/state/snapshots/one.json")


def test_every_deletion_is_named_with_its_uid_and_the_service_goes_last() -> None:
    made = plan_retired(finished())
    assert made.refusals == []
    assert [(change.action, change.target, change.before["uid"]) for change in made.plan.changes] == [
        ("delete", "source/istio-system/HorizontalPodAutoscaler/istio-ingressgateway", "uid-hpa-istio-ingressgateway"),
        ("delete", "source/istio-system/PodDisruptionBudget/istio-ingressgateway", "uid-pdb"),
        ("delete", "source/istio-system/Deployment/istio-ingressgateway", "uid-deploy-istio-ingressgateway"),
        ("delete", "source/istio-system/Service/istio-ingressgateway", "uid-istio-ingressgateway"),
    ]


def without(key: str) -> Callable[[Observed], Any]:
    return lambda seen: seen.source.service["metadata"]["annotations"].pop(key)


def annotated(key: str, value: str) -> Callable[[Observed], Any]:
    return lambda seen: seen.source.service["metadata"]["annotations"].update({key: value})


def tagged(seen: Observed) -> None:
    seen.view.balancer.tags[_ccm.TAG_OWNER] = "a1"


def sick(seen: Observed) -> None:
    seen.health[80] = [dataclasses.replace(item, status="abnormal") for item in seen.health[80]]


def healthy_source_only(seen: Observed) -> None:
    seen.health[443] = [Health(443, "i-ack0", "", 30443, "normal")]


NOT_READY = have.deployment(f"istio-{have.TARGET}", ready=False)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (annotated(_ccm.WEIGHT, "1"), "The source gateway still has traffic"),
        (without(_ccm.WEIGHT), "The source gateway still has traffic"),
        (without(_ccm.ID), "Deleting the Service would take listeners or the load balancer with it"),
        (without(_ccm.VGROUP_PORT), "Deleting the Service would take listeners or the load balancer with it"),
        (annotated(_ccm.OVERRIDE, "true"), "Deleting the Service would take listeners or the load balancer with it"),
        (without(_ccm.OVERRIDE), "Deleting the Service would take listeners or the load balancer with it"),
        (tagged, "Deleting the Service would take listeners or the load balancer with it"),
        (lambda seen: setattr(seen, "snapshot", ""), "There is no way back"),
        (lambda seen: seen.source.sharing.append(have.service("inside")), "The gateway's pods are in use"),
        (lambda seen: seen.health.update({80: []}), "The target gateway does not serve yet"),
        (sick, "The target gateway does not serve yet"),
        (healthy_source_only, "The target gateway does not serve yet"),
        (lambda seen: setattr(seen.target, "deployment", NOT_READY), "The target gateway does not serve yet"),
        (lambda seen: setattr(seen.target, "deployment", None), "The target gateway does not serve yet"),
    ],
)
def test_without_proof_nothing_is_deleted(change: Callable[[Observed], Any], what: str) -> None:
    seen = finished()
    change(seen)
    assert what in {item.what for item in plan_retired(seen).refusals}


def sick_everywhere(seen: Observed, ports: tuple[int, ...]) -> None:
    for port in ports:
        group = seen.view.group(port)
        seen.health[port] = [Health(port, item.server_id, "", item.port, "abnormal") for item in group.backends]


def test_a_port_that_is_healthy_nowhere_is_used_by_nobody_but_one_port_must_serve() -> None:
    seen = finished()
    sick_everywhere(seen, (443,))
    assert plan_retired(seen).refusals == []
    sick_everywhere(seen, have.PORTS)
    assert "on neither side" in plan_retired(seen).refusals[0].why


@pytest.mark.parametrize("weights", [(1, 50), (0, 0), (50, 50), (0, None)])
def test_the_load_balancer_itself_must_show_all_traffic_at_the_target(weights: tuple[int, int | None]) -> None:
    assert "The source gateway still has traffic" in {item.what for item in plan_retired(finished(weights=weights)).refusals}


def test_in_check_mode_what_earlier_phases_will_bring_is_only_told() -> None:
    seen = finished(weights=(50, 0))
    seen.snapshot = ""
    warnings = enforce(plan_retired(seen).refusals, check_mode=True)
    assert len(warnings) == 2
    seen.source.sharing = [have.service("inside")]
    with pytest.raises(Exception, match="also serve the Services inside"):
        enforce(plan_retired(seen).refusals, check_mode=True)


def test_after_a_kill_the_rest_is_deleted_and_then_nothing() -> None:
    seen = finished()
    seen.source.hpa = None
    seen.source.pdbs = []
    assert [change.target.split("/")[2] for change in plan_retired(seen).plan.changes] == ["Deployment", "Service"]
    seen.source.deployment = None
    assert [change.target.split("/")[2] for change in plan_retired(seen).plan.changes] == ["Service"]
    seen.source.service = None
    assert not plan_retired(seen).plan.changed


def kept() -> list[dict[str, Any]]:
    return [have.service(**GONE), have.deployment(), have.hpa(), pdb()]


def retired(**more: Any) -> Observed:
    target = have.objects(f"istio-{have.TARGET}", **have.REUSE)
    view = have.view(None, target.service, weights=(None, 50), **more)
    return Observed(have.objects(have.SOURCE, False), target, view, kept=kept())


def test_the_return_has_pods_first_and_the_service_last_without_traffic() -> None:
    made = plan_restored(retired())
    assert made.refusals == []
    assert [item["kind"] for item in made.objects] == ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"]
    service = made.objects[-1]
    assert service["metadata"]["annotations"] == GONE
    assert set(service["metadata"]) == {"name", "namespace", "labels", "annotations"}
    assert "status" not in service
    assert service["spec"]["ports"][0]["nodePort"] == 30021


def test_a_service_that_had_traffic_or_took_listeners_comes_back_without_either() -> None:
    old = have.service(**{**have.REUSE, _ccm.OVERRIDE: "true"})
    old["metadata"]["annotations"][_ccm.WEIGHT.replace(_ccm.PREFIX, _ccm.LEGACY_PREFIX)] = "100"
    old["metadata"]["labels"].update({_ccm.LABEL_LB: "lb-1", "service.beta.kubernetes.io/hash": "x"})
    fresh = returned(old)
    assert fresh["metadata"]["annotations"] == GONE
    assert set(fresh["metadata"]["labels"]) == {"app", "istio", "team"}


def test_numbers_that_are_taken_are_chosen_anew() -> None:
    fresh = without_numbers(have.service())
    assert "clusterIP" not in fresh["spec"]
    assert not any("nodePort" in port for port in fresh["spec"]["ports"])


def test_what_is_there_already_is_not_made_again() -> None:
    seen = retired()
    seen.source = have.objects(have.SOURCE, **GONE)
    seen.source.hpa, seen.source.pdbs = have.hpa(), [pdb()]
    assert not plan_restored(seen).plan.changed


def test_a_gateway_that_this_migration_did_not_retire_is_not_made() -> None:
    seen = retired()
    seen.kept = []
    made = plan_restored(seen)
    assert not made.plan.changed
    assert "has not retired it" in made.plan.notes[0]


def test_a_place_that_is_gone_is_no_place_to_return_to() -> None:
    seen = retired()
    seen.view = dataclasses.replace(seen.view, groups=seen.view.groups[:2])
    assert "rsp-443" in plan_restored(seen).refusals[0].why


def test_a_node_without_provider_id_is_seen_before_the_return() -> None:
    seen = retired(bad_node=True)
    seen.view.target["spec"]["externalTrafficPolicy"] = "Cluster"
    assert "providerID" in plan_restored(seen).refusals[0].why


class Deletes:
    """What the last steps ask of an API server: it only remembers."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def delete(self, kind: Any, name: str, _namespace: str, *, uid: str) -> None:
        assert uid
        self.names.append(f"{kind.kind}/{name}")


@pytest.mark.parametrize("weights", [(0, 50), (50, 50)], ids=["as it was", "traffic"])
def test_traffic_that_came_back_while_clients_were_waited_for_saves_the_gateway(
    weights: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator takes the traffic back at night, while the end of the source waits for the last connections."""
    source, seen, asked = Deletes(), finished(), []
    session = types.SimpleNamespace(source=source, journal=Journal(str(tmp_path), "shop"))

    def observe(_session: Any, gateway: Any) -> Observed:
        asked.append(gateway)
        return finished(weights=weights)

    monkeypatch.setattr(_retire_run, "observe", observe)
    monkeypatch.setattr(_retire_run, "wait_drained", lambda *_all: (False, 600.0))
    monkeypatch.setattr(_retire_run, "wait_pods_gone", lambda *_all: None)
    monkeypatch.setattr(_retire_run, "verify_out", lambda *_all: None)
    made = plan_retired(seen)
    if weights[0]:
        with pytest.raises(MigrationError, match=r"still has traffic: that came while.*this run has deleted nothing"):
            _retire_run.apply_retired(session, made, 1.0, 600.0)  # type: ignore[arg-type]
        assert source.names == []
    else:
        _retire_run.apply_retired(session, made, 1.0, 600.0)  # type: ignore[arg-type]
        assert [name.partition("/")[0] for name in source.names] == [
            "HorizontalPodAutoscaler",
            "PodDisruptionBudget",
            "Deployment",
            "Service",
        ]
    pair = {"namespace": have.NAMESPACE, "source_service": have.SOURCE, "target_gateway": have.TARGET}
    assert asked == [{**pair, "load_balancer_id": have.LB_ID}]
