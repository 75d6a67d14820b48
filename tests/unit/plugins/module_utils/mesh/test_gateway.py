# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of the target gateway: what is cloned, what is refused, what is never touched."""

from __future__ import annotations

import copy
import types
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm, _gateway_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import (
    Wanted,
    check_input,
    plan_absent,
    plan_present,
    quantity,
    unlike,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway_clone import clone
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import enforce
from tests.unit.plugins.module_utils.mesh import gateway_objects as have

WANTED = Wanted("shop")
NEW = {**have.REUSE, _ccm.WEIGHT: "0"}


def made_gateway(**more: Any) -> dict[str, Any]:
    """The IstioGateway as this migration creates it, with what a server adds."""
    body = copy.deepcopy(plan_present(have.observed(), Wanted("shop", **more)).body)
    body["metadata"].update(uid="uid-gw", resourceVersion="9")
    body["spec"]["compression"] = {"enabled": False}
    return body


def test_a_clone_has_all_that_makes_the_gateway_what_it_is() -> None:
    plan = plan_present(have.observed(), WANTED)
    spec = plan.body["spec"]
    assert plan.refusals == []
    assert plan.body["apiVersion"] == "istio.alibabacloud.com/v1beta1"
    assert plan.body["metadata"]["labels"] == {"servicemesh.migration/managed-by": "shop"}
    assert spec["clusterIds"] == [have.CLUSTER_ID]
    assert [(port["port"], port["targetPort"]) for port in spec["ports"]] == [(15021, 15021), (80, 8080), (443, 8443)]
    assert not any("nodePort" in port for port in spec["ports"])
    assert spec["externalTrafficPolicy"] == "Local"
    assert spec["serviceType"] == "LoadBalancer"
    assert (spec["autoscaleEnabled"], spec["replicaCount"]) == (False, 2)
    assert spec["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}}
    assert spec["readinessProbe"] == {"failureThreshold": 30, "periodSeconds": 2, "successThreshold": 1}
    assert spec["tolerations"] == [{"key": "edge", "operator": "Exists"}]
    assert spec["nodeSelector"] == {"pool": "edge"}
    assert spec["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert (spec["rollingMaxSurge"], spec["rollingMaxUnavailable"]) == ("100%", "25%")
    assert spec["env"] == [{"name": "TZ", "value": "UTC"}]
    assert spec["podAnnotations"] == {"audit": "yes"}
    assert spec["podLabels"] == {"team": "edge"}
    assert spec["serviceLabels"] == {"team": "edge"}
    assert "the pods' terminationGracePeriodSeconds is not carried over" in " ".join(plan.plan.notes)


def test_pods_of_the_clone_avoid_each_other_and_not_the_sources_pods() -> None:
    spec = plan_present(have.observed(), WANTED).body["spec"]
    (rule,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"] == {"matchLabels": {"istio": have.TARGET}}


def test_safety_annotations_are_explicit_and_without_spaces() -> None:
    seen = have.observed()
    seen.source.service["metadata"]["annotations"][_ccm.VGROUP_PORT] = "rsp-15021:15021,rsp-80:80,rsp-443:443 "
    notes = plan_present(seen, WANTED).body["spec"]["serviceAnnotations"]
    assert notes == NEW


def test_pods_as_backends_stay_pods_as_backends() -> None:
    seen = have.observed()
    seen.source.service["metadata"]["annotations"][_ccm.BACKEND_TYPE] = "eni"
    assert plan_present(seen, WANTED).body["spec"]["serviceAnnotations"][_ccm.BACKEND_TYPE] == "eni"


def test_an_autoscaler_is_carried_over_by_its_bounds() -> None:
    seen = have.observed()
    seen.source.hpa = have.hpa()
    seen.source.deployment["spec"]["replicas"] = 5
    plan = plan_present(seen, WANTED)
    spec = plan.body["spec"]
    assert (spec["autoscaleEnabled"], spec["minReplicas"], spec["maxReplicas"], spec["replicaCount"]) == (True, 2, 7, 2)
    assert spec["cpu"] == {"targetAverageUtilization": 80}
    assert any("runs 5 pods now" in note for note in plan.plan.notes)


def test_overrides_are_merged_last() -> None:
    overrides = {"resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": None, "serviceAnnotations": {"audit": "on"}}
    spec = plan_present(have.observed(), Wanted("shop", overrides=overrides)).body["spec"]
    assert spec["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert "nodeSelector" not in spec
    assert spec["serviceAnnotations"] == {**NEW, "audit": "on"}


@pytest.mark.parametrize(
    "overrides",
    [
        {"ports": []},
        {"clusterIds": ["other"]},
        {"serviceType": "NodePort"},
        {"serviceAnnotations": {_ccm.WEIGHT: "100"}},
        {"serviceAnnotations": {_ccm.OVERRIDE: "true"}},
        {"serviceAnnotations": {_ccm.OVERRIDE.replace("alibaba-cloud", "alicloud"): "true"}},
        {"overrides": {"c1": {"serviceAnnotations": {_ccm.ID: "lb-2"}}}},
        {"overrides": {"c1": {"ports": []}}},
        {"overrides": ["c1"]},
        {"serviceAnnotations": "x"},
    ],
)
def test_what_keeps_the_traffic_safe_cannot_be_overridden(overrides: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        check_input([{"namespace": "istio-system", "source_service": have.SOURCE, "target_gateway": have.TARGET}], overrides)


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        ({"namespace": "edge"}, "must be in the namespace istio-system"),
        ({"target_gateway": "ingressgateway"}, "as Istio's own gateway is"),
        ({"source_service": "istio-edge", "target_gateway": "edge"}, "as Istio's own gateway is"),
        ({"target_gateway": "Edge"}, "is no name"),
        ({"target_gateway": "e" * 58}, "is no name"),
    ],
)
def test_names_that_cannot_work_are_refused_at_once(gateway: dict[str, str], why: str) -> None:
    item = {"namespace": "istio-system", "source_service": have.SOURCE, "target_gateway": have.TARGET, **gateway}
    with pytest.raises(InputError, match=why):
        check_input([item], {})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda notes: notes.pop(_ccm.ID), _ccm.ID),
        (lambda notes: notes.pop(_ccm.WEIGHT), _ccm.WEIGHT),
        (lambda notes: notes.update({_ccm.OVERRIDE: "true"}), 'is not "false"'),
        (lambda notes: notes.update({_ccm.VGROUP_PORT: "rsp-80:80, rsp-443:443"}), "does not reach port 15021, 443"),
    ],
)
def test_a_source_that_is_not_reusable_is_refused_and_in_check_mode_assumed(change: Any, why: str) -> None:
    seen = have.observed()
    change(seen.source.service["metadata"]["annotations"])
    plan = plan_present(seen, WANTED)
    with pytest.raises(MigrationError, match="run clb_reuse") as caught:
        enforce(plan.refusals, check_mode=False)
    assert why in str(caught.value)
    assert why in enforce(plan.refusals, check_mode=True)[0]


@pytest.mark.parametrize("more", [{"tags": {_ccm.TAG_OWNER: "a1"}}, {"names": "k8s/3{}/istio-ingressgateway/istio-system/c1"}])
def test_a_load_balancer_that_the_ccm_still_owns_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(MigrationError, match="not reusable yet"):
        enforce(plan_present(have.observed(**more), WANTED).refusals, check_mode=False)


def test_in_check_mode_the_plan_has_the_annotations_that_clb_reuse_will_write() -> None:
    plan = plan_present(have.observed(reuse=False, tags={_ccm.TAG_OWNER: "a1"}), WANTED)
    assert plan.body["spec"]["serviceAnnotations"] == NEW
    assert len(enforce(plan.refusals, check_mode=True)) == 1


def test_a_node_without_provider_id_is_refused_before_the_first_write() -> None:
    seen = have.observed(bad_node=True)
    seen.source.service["spec"]["externalTrafficPolicy"] = "Cluster"
    with pytest.raises(MigrationError, match=r"source/Node/fresh.*providerID"):
        enforce(plan_present(seen, WANTED).refusals, check_mode=False)


def test_a_service_that_the_new_gateway_would_take_over_is_refused() -> None:
    plan = plan_present(have.observed(made=True), WANTED)
    assert {item.what for item in plan.refusals} == {
        f"The Service istio-{have.TARGET} exists already",
        f"The Deployment istio-{have.TARGET} exists already",
    }


def test_the_second_run_plans_nothing_whatever_the_weight_is_by_then() -> None:
    gateway = made_gateway()
    gateway["spec"]["serviceAnnotations"][_ccm.WEIGHT] = "90"
    gateway["spec"]["resources"]["limits"]["cpu"] = "2000m"
    plan = plan_present(have.observed(gateway=gateway, made=True, weights=(5, 45)), WANTED)
    assert not plan.plan.changed
    assert plan.refusals == []


def test_what_differs_is_mended_and_the_weight_stays() -> None:
    gateway = made_gateway()
    gateway["spec"]["serviceAnnotations"].update({_ccm.WEIGHT: "90", _ccm.OVERRIDE: "true"})
    gateway["spec"]["ports"] = gateway["spec"]["ports"][:2]
    plan = plan_present(have.observed(gateway=gateway, made=True, weights=(5, 45)), WANTED)
    assert plan.refusals == []
    assert plan.body["spec"]["serviceAnnotations"] == {_ccm.OVERRIDE: "false"}
    assert len(plan.body["spec"]["ports"]) == 3
    assert plan.body["metadata"] == {"resourceVersion": "9"}


def test_an_istio_gateway_of_somebody_else_is_taken_as_it_is_only_when_it_agrees() -> None:
    gateway = made_gateway()
    gateway["metadata"]["labels"] = {}
    assert not plan_present(have.observed(gateway=gateway, made=True), WANTED).plan.changed
    gateway["spec"]["serviceAnnotations"][_ccm.ID] = "lb-2"
    plan = plan_present(have.observed(gateway=gateway, made=True), WANTED)
    assert not plan.plan.changed
    assert "is not this migration's" in plan.refusals[0].what


def test_groups_of_a_gateway_with_traffic_are_not_changed() -> None:
    gateway = made_gateway()
    gateway["spec"]["serviceAnnotations"][_ccm.VGROUP_PORT] = "rsp-80:80"
    plan = plan_present(have.observed(gateway=gateway, made=True, weights=(50, 50)), WANTED)
    assert [item.what for item in plan.refusals] == ["The gateway has traffic"]


def test_a_target_that_knows_no_istio_gateway() -> None:
    seen = have.observed()
    seen.kind = None
    assert "does not serve the kind" in plan_present(seen, WANTED).refusals[0].why


def test_a_retired_source_is_no_reason_to_change_the_target() -> None:
    seen = have.observed(gateway=made_gateway(), made=True)
    seen.source.service = seen.source.deployment = None
    plan = plan_present(seen, WANTED)
    assert (plan.plan.changed, plan.refusals) == (False, [])
    seen.gateway = None
    assert plan_present(seen, WANTED).refusals[0].what == "The source gateway's Service does not exist"


def test_a_port_by_a_name_that_no_container_has() -> None:
    service = have.service(**have.REUSE)
    service["spec"]["ports"][0]["targetPort"] = "nobody"
    with pytest.raises(InputError, match="'nobody'"):
        clone(service, have.deployment(), None, target=have.TARGET, cluster_id="c1")


# -- absent


def test_removal_deletes_by_uid_and_nothing_else() -> None:
    plan = plan_absent(have.observed(gateway=made_gateway(), made=True, weights=(50, 0)), WANTED)
    assert [(change.action, change.after) for change in plan.plan.changes] == [
        ("empty", {"autoscaleEnabled": False, "replicaCount": 0}),
        ("delete", None),
    ]
    assert plan.plan.changes[-1].before == {"uid": "uid-gw"}
    assert plan.refusals == []
    seen = have.observed(gateway=made_gateway(), made=True, weights=(50, 0))
    seen.made.deployment["spec"]["replicas"] = 0
    assert [change.action for change in plan_absent(seen, WANTED).plan.changes] == ["delete"]


def test_removal_disarms_the_override_first() -> None:
    seen = have.observed(gateway=made_gateway(), made=True, weights=(50, 0))
    seen.made.service["metadata"]["annotations"][_ccm.OVERRIDE] = "true"
    assert [change.action for change in plan_absent(seen, WANTED).plan.changes] == ["annotate", "empty", "delete"]
    del seen.made.service["metadata"]["annotations"][_ccm.OVERRIDE]
    assert [change.action for change in plan_absent(seen, WANTED).plan.changes] == ["annotate", "empty", "delete"]


@pytest.mark.parametrize(
    ("weights", "annotation", "what"),
    [
        ((50, 1), "0", "The gateway has traffic"),
        ((50, 0), "10", "The gateway may get traffic"),
        ((50, 0), "", "The gateway may get traffic"),
        ((0, 0), "0", "Nobody else would serve"),
    ],
)
def test_removal_is_refused_while_there_is_traffic(weights: tuple[int, int], annotation: str, what: str) -> None:
    seen = have.observed(gateway=made_gateway(), made=True, weights=weights)
    seen.made.service["metadata"]["annotations"][_ccm.WEIGHT] = annotation
    plan = plan_absent(seen, WANTED)
    assert [item.what for item in plan.refusals] == [what]


def test_removal_of_what_this_migration_did_not_make_is_refused() -> None:
    gateway = made_gateway()
    gateway["metadata"]["labels"] = {"servicemesh.migration/managed-by": "other"}
    plan = plan_absent(have.observed(gateway=gateway, made=True, weights=(50, 0)), WANTED)
    assert not plan.plan.changed
    assert "did not make" in plan.refusals[0].what


def test_what_is_absent_already_needs_nothing() -> None:
    plan = plan_absent(have.observed(), WANTED)
    assert (plan.plan.changed, plan.refusals) == (False, [])


@pytest.mark.parametrize(
    ("text", "number"), [("2", 2), ("2000m", 2), ("1Gi", 2**30), ("1G", 1e9), ("100%", None), ("1.2.3", None)]
)
def test_quantities(text: str, number: float | None) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize(
    ("wanted", "present", "patch"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, {"a": {"b": 1}}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1, "y": 2}]}, {}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1, 2]}),
        ({"a": {}}, {}, {}),
        ({"a": "500m"}, {"a": "0.5"}, {}),
        ({"a": False}, {}, {"a": False}),
        ({"a": {"b": 1}}, None, {"a": {"b": 1}}),
    ],
)
def test_a_patch_holds_only_what_differs(wanted: Any, present: Any, patch: Any) -> None:
    assert unlike(wanted, present) == patch


class Patches:
    """What the last steps ask of the target's API server: it only remembers."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def patch(self, *_all: Any, **_more: Any) -> None:
        self.calls.append("patch")

    def delete(self, *_all: Any, uid: str) -> None:
        self.calls.append(f"delete {uid}")


@pytest.mark.parametrize(
    ("weights", "asked", "what"),
    [((50, 0), "0", ""), ((50, 25), "0", "The gateway has traffic"), ((50, 0), "10", "The gateway may get traffic")],
    ids=["as it was", "traffic", "asked for traffic"],
)
def test_clients_may_leave_before_the_pods_go_and_traffic_that_came_meanwhile_saves_them(
    weights: tuple[int, int], asked: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, waited = Patches(), []
    session = types.SimpleNamespace(source=None, target=target, clb=None, journal=Journal(str(tmp_path), "shop"))
    made = plan_absent(have.observed(gateway=made_gateway(), made=True, weights=(50, 0)), WANTED)
    made.observed.made.pods = [{"metadata": {"name": name}} for name in ("asm-1", "asm-2")]

    def wait(_cluster: Any, namespace: str, names: list[str], seconds: float) -> tuple[bool, float]:
        waited.append((namespace, names, seconds, list(target.calls)))
        return False, seconds

    now, first = have.observed(gateway=made_gateway(), made=True, weights=weights).view, made.observed.view
    assert now is not None and now.target is not None
    now.target["metadata"]["annotations"][_ccm.WEIGHT] = asked
    monkeypatch.setattr(_gateway_run, "wait_drained", wait)
    monkeypatch.setattr(_gateway_run, "observe_pair", lambda *_all: now)
    monkeypatch.setattr(_gateway_run, "_wait_empty", lambda *_all: [])
    if what:
        with pytest.raises(MigrationError, match=rf"{what}: that came while.*its pods are all there"):
            _gateway_run.remove(session, made, 1.0, 60.0)  # type: ignore[arg-type]
        assert target.calls == []
    else:
        answer = _gateway_run.remove(session, made, 1.0, 60.0)  # type: ignore[arg-type]
        assert answer == {"drained": False, "drain_seconds": 60.0}
        assert target.calls == ["patch", "delete uid-gw"]
    assert waited == [(have.NAMESPACE, ["asm-1", "asm-2"], 60.0, [])]
    assert made.observed.view is first  # the listeners of then are what those of the end are compared with
