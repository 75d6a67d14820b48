# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of VMs in a real API server with Istio's kinds: made, changed, put into the user's own, and taken away exactly.

What proxies do with them is tested in the lab (tests/integration/vm).
"""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP, SERVICE, Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_run import vm_service
from tests.integration.backup.world import World, make, make_namespaces, service
from tests.unit.plugins.module_utils.vm.service_world import VERSIONS, WORKLOADS, forecast, two_versions, validated

Object = dict[str, Any]
NETWORKING = "networking.istio.io/v1"
KINDS = [
    SERVICE,
    *(
        kind_of(NETWORKING, name)
        for name in ("WorkloadGroup", "WorkloadEntry", "ServiceEntry", "DestinationRule", "VirtualService", "Gateway")
    ),
]
VIRTUAL_SERVICE, ENTRY = kind_of(NETWORKING, "VirtualService"), kind_of(NETWORKING, "WorkloadEntry")
GATEWAY = {
    "name": "gw",
    "port": 2050,
    "hosts": ["203.0.113.9"],
    "paths": ["/test", "/"],
    "make": {},
    "load_balancer": {"port": 345},
}
FULL = two_versions(
    registry="both",
    weights={"v1": 80, "v2": 20},
    canaries=[{"subset": "v2", "match": {"headers": {"end-user": {"exact": "tester"}}}}],
    faults=[
        {"delay": {"seconds": 2, "percent": 12.5}, "match": {"headers": {"slow": {"exact": "1"}}}},
        {"abort": {"http_status": 599, "percent": 1}, "match": {"gateways": ["mesh"]}},
    ],
    gateways=[GATEWAY],
)


def run(
    world: World, folder: Path, *services: Object, check: bool = False, config: World | None = None, **options: Any
) -> Outcome:
    target = config.options if config else {}
    params = {"migration": "vms", "state_dir": str(folder), "source": world.options, "target": target, "wait_timeout": 2.0}
    return vm_service({**validated(*services), "settle_seconds": 0.0, **params, **options}, check)


def state(world: World, namespaces: tuple[str, ...] = ("vmns", "istio-system")) -> dict[str, Object]:
    """Everything in the namespaces that a user could have written."""
    found = {}
    for kind in KINDS:
        for obj in world.cluster.list_all(kind):
            meta = obj["metadata"]
            if meta["namespace"] in namespaces:
                kept = {field: meta[field] for field in ("labels", "annotations", "finalizers") if field in meta}
                found[key_of(obj)] = {"metadata": kept, "spec": obj.get("spec")}
    return found


@pytest.fixture
def world(source: World) -> World:
    make_namespaces(source, "vmns", "istio-system", "shop")
    return source


def own(**spec: Any) -> Object:
    http = [
        {"match": [{"uri": {"prefix": "/admin"}}], "route": [{"destination": {"host": "admin"}}]},
        {"route": [{"destination": {"host": "forecast"}}], "timeout": "3s"},
    ]
    meta = {"name": "own", "namespace": "vmns", "labels": {"team": "weather"}}
    return {
        "apiVersion": NETWORKING,
        "kind": "VirtualService",
        "metadata": meta,
        "spec": {"hosts": ["forecast"], "http": http, **spec},
    }


def test_everything_comes_in_one_call_changes_once_and_goes(world: World, tmp_path: Path) -> None:
    make(world, service("other", "vmns"))
    before = state(world)
    planned = run(world, tmp_path, FULL, check=True)
    assert len(planned.plan.changes) == 10 and state(world) == before
    done = run(world, tmp_path, FULL)
    assert done.plan.as_list() == planned.plan.as_list()
    assert {row["registration"] for row in done.result["services"][0]["workloads"]} == {"made"}
    assert {one["action"] for one in done.result["services"][0]["objects"]} == {"create"}
    again = run(world, tmp_path, FULL)
    assert again.plan.changes == [] and {one["action"] for one in again.result["services"][0]["objects"]} == {"same"}
    fewer = run(world, tmp_path, {**FULL, "gateways": [], "faults": [], "weights": {}, "canaries": []})
    assert {change.action for change in fewer.plan.changes} == {"update", "delete"}
    assert not run(world, tmp_path, {**FULL, "gateways": [], "faults": [], "weights": {}, "canaries": []}).plan.changed
    gone = run(world, tmp_path, forecast(), state="absent")
    assert gone.plan.changed and state(world) == before
    assert not run(world, tmp_path, forecast(), state="absent").plan.changed


def test_the_users_own_comes_back_to_the_byte_from_a_fresh_container(world: World, tmp_path: Path) -> None:
    rule = {"apiVersion": NETWORKING, "kind": "DestinationRule", "metadata": {"name": "own", "namespace": "vmns"}}
    rule["spec"] = {"host": "forecast", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 9}}}}
    make(world, own(), rule, service("forecast", "vmns"))
    before = json.dumps(state(world), sort_keys=True)
    wish = {**FULL, "registry": "service_entry", "virtual_service": "own", "destination_rule": "own"}
    run(world, tmp_path / "one", wish)
    assert json.dumps(state(world), sort_keys=True) != before
    assert not run(world, tmp_path / "two", wish).plan.changed
    run(world, tmp_path / "three", {**wish, "weights": {"v1": 10, "v2": 90}, "gateways": []})
    run(world, tmp_path / "four", forecast(), state="absent")
    assert json.dumps(state(world), sort_keys=True) == before
    mirror = world.cluster.get(CONFIG_MAP, "servicemesh-migration-vms", "istio-system")
    assert mirror is not None and json.loads(mirror["data"]["originals.json"]) == {}


def test_the_mesh_may_have_an_api_server_of_its_own(world: World, target: World, tmp_path: Path) -> None:
    make_namespaces(target, "vmns", "istio-system")
    run(world, tmp_path, two_versions(gateways=[GATEWAY]), config=target)
    assert {key.split("/")[0] for key in state(world)} == {"Service"}
    assert {key.split("/")[0] for key in state(target)} == {"WorkloadEntry", "DestinationRule", "VirtualService", "Gateway"}
    run(world, tmp_path, forecast(), config=target, state="absent")
    assert state(world) == state(target) == {}


def test_conflicts_are_all_told_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    strange = service("forecast", "vmns", ports=[{"name": "tcp-x", "port": 9}])
    make(world, strange, own())
    before = state(world)
    nobody = {**forecast(subsets=VERSIONS), "name": "nobody"}
    with pytest.raises(MigrationError) as caught:
        run(world, tmp_path, two_versions(), nobody, {**two_versions(), "name": "history"})
    text = caught.value.message
    for said in ("Service/vmns/forecast: it is there", "vmns/own is for", "nobody takes it", "Nothing has been changed"):
        assert said in text
    assert state(world) == before
    done = run(world, tmp_path, two_versions(), nobody, {**two_versions(), "name": "history"}, on_conflict="skip")
    assert len(done.warnings) == 2 and {row["service"]: bool(row["problems"]) for row in done.result["services"]} == {
        "vmns/forecast": True,
        "vmns/nobody": True,
        "vmns/history": False,
    }
    assert {key for key in state(world) if key not in before} == {
        "Service/vmns/history",
        "WorkloadEntry/vmns/history-192-0-2-1",
        "WorkloadEntry/vmns/history-192-0-2-2",
        "DestinationRule/vmns/history",
        "VirtualService/vmns/history",
    }
    run(world, tmp_path, {"name": "history", "namespace": "vmns"}, state="absent")
    assert state(world) == before


def test_what_the_api_server_does_not_take_is_told_before_the_first_write(world: World, tmp_path: Path) -> None:
    with pytest.raises(MigrationError) as caught:
        run(world, tmp_path, two_versions(gateways=[{**GATEWAY, "namespace": "nowhere"}]))
    assert "nowhere" in caught.value.message and state(world) == {}
    with pytest.raises(MigrationError) as caught:
        run(world, tmp_path, two_versions(canaries=[{"subset": "v2", "match": {"header": {"x": {"exact": "y"}}}}]))
    assert "header" in caught.value.message and "would drop" in caught.value.message and state(world) == {}


def test_vms_register_and_leave_one_by_one_while_routes_stay(world: World, tmp_path: Path) -> None:
    def entries() -> set[str]:
        return {obj["spec"]["address"] for obj in world.cluster.list_all(ENTRY)}

    run(world, tmp_path, forecast(), parts=["service"])
    for number in range(1, 6):
        version = {"version": "v1" if number < 5 else "v2"}
        alone = {**forecast(), "workloads": [{"address": f"192.0.2.{number}", "labels": version}]}
        assert len(run(world, tmp_path, alone, parts=["workloads"]).plan.changes) == 1
        assert not run(world, tmp_path, alone, parts=["workloads"]).plan.changed
    run(world, tmp_path, forecast(subsets=VERSIONS, weights={"v1": 80, "v2": 20}), parts=["routes"])
    with pytest.raises(MigrationError, match="nobody takes it"):
        run(world, tmp_path, forecast(workloads=[{"address": "192.0.2.5"}]), parts=["workloads"], state="absent")
    run(world, tmp_path, forecast(workloads=[{"address": "192.0.2.4"}]), parts=["workloads"], state="absent")
    assert entries() == {f"192.0.2.{number}" for number in (1, 2, 3, 5)}


def test_a_vm_that_does_not_register_itself_is_named_in_time(world: World, tmp_path: Path) -> None:
    wish = forecast(registration="auto", workloads=WORKLOADS[:1], health_check={"tcp": {"port": 8080}})
    run(world, tmp_path, wish, parts=["service"])
    with pytest.raises(MigrationError, match=r"192\.0\.2\.1 has not registered itself"):
        run(world, tmp_path, wish, parts=["workloads"])
    meta = {"name": "forecast-a", "namespace": "vmns", "annotations": {"istio.io/autoRegistrationGroup": "forecast"}}
    spec = {"address": "192.0.2.1", "labels": {"app": "forecast"}}
    status = {"conditions": [{"type": "Healthy", "status": "True"}]}
    entry = {"apiVersion": NETWORKING, "kind": "WorkloadEntry", "metadata": meta, "spec": spec, "status": status}
    make(world, entry)

    def heal() -> None:
        path = Kind(NETWORKING, "WorkloadEntry", "workloadentries")
        world.cluster.patch(path, "forecast-a/status", "vmns", {"status": status})

    threading.Timer(1.0, heal).start()
    try:
        done = run(world, tmp_path, wish, parts=["workloads"], wait_timeout=20.0)
    except MigrationError as error:
        pytest.fail(error.message)
    assert done.result["services"][0]["workloads"] == [
        {"address": "192.0.2.1", "name": "forecast-a", "registration": "auto", "healthy": True}
    ]
    assert not done.plan.changed


def test_two_runs_at_the_same_time_write_into_the_same_object_one_after_the_other(world: World, tmp_path: Path) -> None:
    """Slices of one job: each has a journal of its own, and the mirror."""
    make(world, own(), service("forecast", "vmns"))
    before = state(world)
    wish = {**two_versions(weights={"v1": 80, "v2": 20}), "registry": "service_entry", "virtual_service": "own"}
    errors: list[str] = []

    def one(number: int) -> None:
        try:
            run(world, tmp_path / str(number), copy.deepcopy(wish))
        except MigrationError as error:
            errors.append(error.message)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not run(world, tmp_path / "last", wish).plan.changed
    run(world, tmp_path / "fresh", forecast(), state="absent")
    assert state(world) == before
