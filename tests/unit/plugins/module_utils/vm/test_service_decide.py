# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of VMs: what is made of a wish, what is never touched, and that everything comes back as it was."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_plan import CONTENT, digest, subsets, widened
from tests.unit.plugins.module_utils.vm.service_world import (
    VERSIONS,
    WORKLOADS,
    Memory,
    forecast,
    istio,
    two_versions,
    virtual_service,
)

Object = dict[str, Any]
HOST = "forecast.vmns.svc.cluster.local"
VS, DR = "VirtualService/vmns/forecast", "DestinationRule/vmns/forecast"
GATEWAY = {
    "name": "gw",
    "port": 2050,
    "hosts": ["203.0.113.9"],
    "paths": ["/", "/test"],
    "make": {},
    "load_balancer": {"port": 345},
}


def routes(spec: Object) -> list[Object]:
    found: list[Object] = spec["http"]
    return found


def weights(entry: Object) -> dict[str, int]:
    return {one["destination"]["subset"]: one.get("weight", 100) for one in entry["route"]}


def test_a_service_as_the_vendor_describes_it() -> None:
    world = Memory()
    world.carry_out(two_versions(weights={"v1": 50, "v2": 50}, registry="both", service_account="vmsa"))
    assert world.spec("WorkloadEntry/vmns/forecast-192-0-2-2") == {
        "address": "192.0.2.2",
        "labels": {"app": "forecast", "version": "v2"},
        "serviceAccount": "vmsa",
    }
    assert world.spec("Service/vmns/forecast")["selector"] == {"app": "forecast"}
    assert world.spec("ServiceEntry/vmns/forecast") == {
        "hosts": [HOST],
        "location": "MESH_INTERNAL",
        "ports": [{"name": "http", "number": 8080, "protocol": "HTTP"}],
        "resolution": "STATIC",
        "workloadSelector": {"labels": {"app": "forecast"}},
    }
    assert world.spec(DR) == {"host": HOST, "subsets": VERSIONS}
    (entry,) = routes(world.spec(VS))
    assert entry["match"] == [{"gateways": ["mesh"], "port": 8080}] and weights(entry) == {"v1": 50, "v2": 50}
    assert set(world.actions(two_versions(weights={"v1": 50, "v2": 50}, registry="both", service_account="vmsa")).values()) == {
        "same"
    }
    world.carry_out(forecast(), present=False)
    assert world.observed.objects == {}


def test_routes_come_after_what_they_need_and_go_before_it() -> None:
    world = Memory()
    order = [item.kind for item in sorted(world.carry_out(two_versions())[0].writes, key=lambda item: item.stage)]
    assert order == ["Service", "WorkloadEntry", "WorkloadEntry", "DestinationRule", "VirtualService"]
    order = [item.kind for item in sorted(world.decide(forecast(), present=False)[0].writes, key=lambda item: item.stage)]
    assert order == ["VirtualService", "DestinationRule", "WorkloadEntry", "WorkloadEntry", "Service"]


def test_a_canary_comes_and_goes_and_its_subset_goes_after_its_routes() -> None:
    world = Memory()
    world.carry_out(two_versions())
    before = copy.deepcopy(world.observed.objects)
    world.carry_out(
        two_versions(weights={"v1": 80, "v2": 20}, canaries=[{"subset": "v2", "match": {"headers": {"x": {"exact": "y"}}}}])
    )
    canary, rest = routes(world.spec(VS))
    assert weights(canary) == {"v2": 100} and canary["match"] == [
        {"gateways": ["mesh"], "port": 8080, "headers": {"x": {"exact": "y"}}}
    ]
    assert weights(rest) == {"v1": 80, "v2": 20} and "fault" not in rest
    world.carry_out(two_versions())
    assert {key: obj["spec"] for key, obj in world.observed.objects.items()} == {key: obj["spec"] for key, obj in before.items()}
    (decision,) = world.decide(forecast(workloads=WORKLOADS, subsets=VERSIONS[:1]))
    stages = {item.kind: item.stage for item in decision.writes}
    assert stages == {"DestinationRule": 45}


def test_subsets_that_come_and_go_are_both_there_while_routes_change() -> None:
    world = Memory()
    world.carry_out(two_versions())
    other = [VERSIONS[1], {"name": "v3", "labels": {"version": "v2"}}]
    (decision,) = world.decide(forecast(workloads=WORKLOADS, subsets=other))
    (rule,) = [item for item in decision.writes if item.kind == "DestinationRule"]
    between = widened(rule)
    assert between is not None and rule.body is not None and rule.stage > max(i.stage for i in decision.writes if i is not rule)
    assert subsets(between) == {"v1", "v2", "v3"} and subsets(rule.body) == {"v2", "v3"}
    # a run that is killed between both writes is continued: what is there then is ours
    assert between["metadata"]["annotations"][CONTENT] == digest(between)


def test_faults_hit_what_they_match_and_nothing_else() -> None:
    world = Memory()
    slow = {"delay": {"seconds": 1.5, "percent": 10}}
    gone = {"abort": {"http_status": 503}, "match": {"headers": {"x": {"exact": "y"}}}}
    world.carry_out(two_versions(faults=[gone, slow]))
    matched, rest = routes(world.spec(VS))
    assert matched["fault"] == {"abort": {"httpStatus": 503, "percentage": {"value": 100}}}
    assert matched["match"][0]["headers"] == {"x": {"exact": "y"}} and "headers" not in rest["match"][0]
    assert rest["fault"] == {"delay": {"fixedDelay": "1.5s", "percentage": {"value": 10}}}
    world.carry_out(two_versions())
    assert [entry.get("fault") for entry in routes(world.spec(VS))] == [None]


def test_a_gateway_delegates_and_the_mesh_too() -> None:
    world = Memory()
    wish = two_versions(gateways=[GATEWAY], faults=[{"abort": {"http_status": 599}, "match": {"gateways": ["mesh"]}}])
    world.carry_out(wish)
    base = world.spec(VS)
    assert "hosts" not in base and "gateways" not in base
    fault, plain = routes(base)
    inside, outside = {"gateways": ["mesh"], "port": 8080}, {"gateways": ["istio-system/gw"], "port": 2050}
    assert fault["match"] == [inside] and fault["fault"] and plain["match"] == [inside, outside]
    root = world.spec("VirtualService/istio-system/forecast-vmns-gw")
    assert root["gateways"] == ["istio-system/gw"] and root["hosts"] == ["203.0.113.9"]
    assert [entry["match"][0]["uri"]["prefix"] for entry in root["http"]] == ["/test", "/"]
    assert {json.dumps(entry["delegate"]) for entry in root["http"]} == {json.dumps({"name": "forecast", "namespace": "vmns"})}
    assert world.spec("VirtualService/vmns/forecast-mesh-root")["hosts"] == [HOST]
    assert world.spec("Gateway/istio-system/gw")["servers"][0]["port"]["number"] == 2050
    balancer = world.spec("Service/istio-system/forecast-gw-svc")
    assert (balancer["ports"][0]["port"], balancer["ports"][0]["targetPort"]) == (345, 2050)
    assert set(world.actions(wish).values()) == {"same"}
    world.carry_out(two_versions())
    assert sorted(key for key in world.observed.objects if key.startswith(("VirtualService", "Gateway", "Service/"))) == [
        "Service/vmns/forecast",
        VS,
    ]
    assert world.spec(VS)["hosts"] == [HOST]


# -- objects of the user's ---------------------------------------------------------------------------------------


def left(world: Memory) -> set[str]:
    """Without the VMs and the service itself."""
    return {key for key in world.observed.objects if not key.startswith(("WorkloadEntry", "Service/vmns"))}


def same_but_version(one: Object, two: Object) -> bool:
    return json.dumps({**one, "metadata": {**one["metadata"], "resourceVersion": ""}}, sort_keys=True) == json.dumps(
        {**two, "metadata": {**two["metadata"], "resourceVersion": ""}}, sort_keys=True
    )


def test_wishes_are_put_into_the_users_own_and_taken_out_to_the_byte() -> None:
    own = virtual_service()
    rule = istio(
        "DestinationRule", "own", {"host": "forecast", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 9}}}}
    )
    world = Memory(own, rule)
    names = {"virtual_service": "own", "destination_rule": "own"}
    world.carry_out(two_versions(weights={"v1": 80, "v2": 20}, faults=[{"delay": {"seconds": 1}}], **names))
    admin, rest = routes(world.spec("VirtualService/vmns/own"))
    assert admin == own["spec"]["http"][0]
    assert rest["timeout"] == "3s" and weights(rest) == {"v1": 80, "v2": 20} and rest["fault"]["delay"]["fixedDelay"] == "1s"
    assert world.spec("DestinationRule/vmns/own")["subsets"] == VERSIONS
    assert VS not in world.observed.objects
    world.carry_out(two_versions(weights={"v1": 20, "v2": 80}, **names))
    assert weights(routes(world.spec("VirtualService/vmns/own"))[1]) == {"v1": 20, "v2": 80}
    world.carry_out(two_versions(gateways=[{**GATEWAY, "make": None}], **names))
    assert "hosts" not in world.spec("VirtualService/vmns/own")
    assert world.spec("VirtualService/vmns/forecast-mesh-root")["hosts"] == [HOST]
    assert "VirtualService/vmns/own sends to" in world.problems(forecast(), present=False)
    world.carry_out(forecast(), present=False, parts=("routes",))
    assert same_but_version(world.get("VirtualService/vmns/own"), own)
    assert same_but_version(world.get("DestinationRule/vmns/own"), rule)
    assert left(world) == {"VirtualService/vmns/own", "DestinationRule/vmns/own"}
    assert world.observed.originals == {}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_wished_the_users_own_comes_back(seed: int) -> None:
    """Random VirtualServices and random wishes one after the other; each is idempotent, and the end is the beginning."""
    rng = random.Random(seed)
    own = virtual_service()
    for number in range(rng.randrange(4)):
        match = rng.choice([[{"headers": {"a": {"exact": str(number)}}}], [{"uri": {"prefix": f"/{number}"}}, {"port": 8080}]])
        host = rng.choice(["forecast", HOST, "other"])
        own["spec"]["http"].insert(rng.randrange(2), {"match": match, "route": [{"destination": {"host": host}, "weight": 100}]})
    if rng.random() < 0.5:
        own["metadata"]["annotations"] = {"note": "mine"}
    world = Memory(own)
    for _number in range(4):
        wish = two_versions(virtual_service="own")
        if rng.random() < 0.6:
            share = rng.randint(0, 100)
            wish["weights"] = {"v1": 100 - share, "v2": share}
        if rng.random() < 0.5:
            wish["canaries"] = [{"subset": "v2", "match": {"headers": {"x": {"exact": "y"}}}}]
        if rng.random() < 0.5:
            wish["faults"] = [
                {"abort": {"http_status": 503}, "match": {"queryParams": {"f": {"exact": "1"}}}},
                {"delay": {"seconds": 2}},
            ]
        if rng.random() < 0.4:
            wish["gateways"] = [GATEWAY]
        world.carry_out(wish)
        assert set(world.actions(wish).values()) == {"same"}
    world.carry_out(forecast(), present=False, parts=("routes",))
    assert left(world) == {"VirtualService/vmns/own"}
    assert same_but_version(world.get("VirtualService/vmns/own"), own)


def bound(spec: Object) -> Object:
    return virtual_service(**spec)


@pytest.mark.parametrize(
    ("there", "wish", "said"),
    [
        (virtual_service("forecast"), {}, "name it in virtual_service"),
        (virtual_service("elsewhere"), {}, "vmns/elsewhere is for"),
        (istio("DestinationRule", "other", {"host": HOST}), {}, "name it in destination_rule"),
        (istio("DestinationRule", "own", {"host": "web"}), {"destination_rule": "own"}, "it is for the host web"),
        (
            istio("DestinationRule", "own", {"host": HOST, "subsets": [{"name": "v1", "labels": {"version": "1"}}]}),
            {"destination_rule": "own"},
            "its subset v1 has the labels",
        ),
        (
            istio("DestinationRule", "own", {"host": HOST, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}),
            {"destination_rule": "own", "tls": "DISABLE"},
            "the TLS mode SIMPLE, not DISABLE",
        ),
        (
            bound({"http": [{"route": [{"destination": {"host": "web"}}]}]}),
            {"virtual_service": "own"},
            "none of its routes sends to",
        ),
        (
            bound({"http": [{"route": [{"destination": {"host": "forecast"}}], "fault": {"abort": {"httpStatus": 500}}}]}),
            {"virtual_service": "own", "faults": [{"delay": {"seconds": 1}}]},
            "has a fault of its own",
        ),
        (
            bound({"http": [{"route": [{"destination": {"host": h}, "weight": 50} for h in ("forecast", "web")]}]}),
            {"virtual_service": "own", "weights": {"v1": 100}},
            "sends to other hosts too",
        ),
        (bound({"gateways": ["istio-system/a"]}), {"virtual_service": "own", "gateways": [GATEWAY]}, "bound to gateways already"),
        (
            bound({"http": [{"match": [{"uri": {"exact": "/a"}}], "route": [{"destination": {"host": "forecast"}}]}]}),
            {"virtual_service": "own", "canaries": [{"subset": "v2", "match": {"uri": {"exact": "/b"}}}]},
            "cannot be narrowed",
        ),
        (
            istio("WorkloadEntry", "forecast-192-0-2-1", {"address": "192.0.2.99"}),
            {},
            "was not made by this migration, and differs",
        ),
    ],
)
def test_what_is_the_users_and_stands_in_the_way_is_told_and_left(there: Object, wish: Object, said: str) -> None:
    world = Memory(there)
    (decision,) = world.decide(two_versions(**wish))
    assert said in "; ".join(decision.problems)
    assert decision.writes == []


def test_what_somebody_changed_since_is_left_and_told() -> None:
    world = Memory(virtual_service())
    wish = two_versions(virtual_service="own", weights={"v1": 80, "v2": 20})
    world.carry_out(wish)
    world.spec("VirtualService/vmns/own")["http"][0]["timeout"] = "9s"
    world.spec(DR)["subsets"][0]["labels"] = {"version": "x"}
    said = world.problems(two_versions(virtual_service="own", weights={"v1": 70, "v2": 30}))
    assert "VirtualService/vmns/own: somebody changed it since" in said and f"{DR}: somebody changed it since" in said
    assert world.problems(forecast(), present=False).count("somebody changed it since") == 2


def test_an_original_that_is_lost_is_told() -> None:
    world = Memory(virtual_service())
    world.carry_out(two_versions(virtual_service="own", weights={"v1": 80, "v2": 20}))
    world.observed.originals.clear()
    assert "no copy of how it was" in world.problems(two_versions(virtual_service="own"))
    assert "no copy of how it was" in world.problems(forecast(), present=False)


def test_controllers_may_write_labels_and_annotations() -> None:
    world = Memory()
    world.carry_out(two_versions(gateways=[GATEWAY]))
    for obj in world.observed.objects.values():
        obj["metadata"]["annotations"]["cloud.example.com/id"] = "lb-1"
    world.spec("Service/istio-system/forecast-gw-svc").update(clusterIP="10.0.0.9", sessionAffinity="None")
    assert set(world.actions(two_versions(gateways=[GATEWAY])).values()) == {"same"}
    world.carry_out(two_versions(gateways=[{**GATEWAY, "load_balancer": {"port": 346}}]))
    changed = world.get("Service/istio-system/forecast-gw-svc")
    assert changed["spec"]["clusterIP"] == "10.0.0.9" and changed["metadata"]["annotations"]["cloud.example.com/id"] == "lb-1"
    assert changed["metadata"]["annotations"][CONTENT] == digest(changed)
    world.carry_out(forecast(), present=False)
    assert world.observed.objects == {}


# -- nobody is sent where nobody is ------------------------------------------------------------------------------


def test_a_route_needs_somebody_who_takes_it() -> None:
    assert "nobody takes it" in Memory().problems(forecast(subsets=VERSIONS))
    one = forecast(subsets=VERSIONS, workloads=WORKLOADS[:1])
    Memory().carry_out(one)
    assert "subset v2" in Memory().problems({**one, "weights": {"v1": 80, "v2": 20}})
    world = Memory()
    world.observed.pods["vmns/forecast"] = [{"app": "forecast", "version": "v1"}]
    world.carry_out(forecast(subsets=VERSIONS))
    ill = istio("WorkloadEntry", "forecast-192-0-2-1", {"address": "192.0.2.1", "labels": {"app": "forecast", "version": "v1"}})
    ill["status"] = {"conditions": [{"type": "Healthy", "status": "False"}]}
    assert "no healthy VM or pod" in Memory(ill).problems(forecast(subsets=VERSIONS[:1]))


def test_the_last_vm_of_a_route_is_not_taken_away() -> None:
    world = Memory()
    world.carry_out(two_versions(weights={"v1": 80, "v2": 20}))
    leaving = [{**WORKLOADS[1], "state": "absent"}]
    assert "subset v2, and nobody takes it" in world.problems(forecast(workloads=leaving), parts=("workloads",))
    world.carry_out(two_versions())
    world.carry_out(forecast(workloads=leaving), parts=("workloads",))
    assert [key for key in world.observed.objects if key.startswith("WorkloadEntry")] == ["WorkloadEntry/vmns/forecast-192-0-2-1"]
    assert "nobody takes it" in world.problems(forecast(workloads=WORKLOADS[:1]), parts=("workloads",), present=False)


def test_a_service_that_others_send_to_does_not_go() -> None:
    world = Memory()
    world.carry_out(forecast(workloads=WORKLOADS))
    world.put(virtual_service("theirs", hosts=["web"]))
    assert "VirtualService/vmns/theirs sends to" in world.problems(forecast(), present=False)


# -- istiod's own entries ----------------------------------------------------------------------------------------


def auto(address: str, gone: bool = False) -> Object:
    notes = {"istio.io/autoRegistrationGroup": "forecast", **({"istio.io/disconnectedAt": "2026"} if gone else {})}
    spec = {"address": address, "labels": {"app": "forecast", "version": "v1"}}
    return istio("WorkloadEntry", f"forecast-{address}", spec, annotations=notes)


def test_vms_that_register_themselves_are_known_and_left_alone() -> None:
    world = Memory(auto("192.0.2.1"))
    wish = forecast(
        registration="auto", workloads=WORKLOADS[:1], health_check={"http": {"port": 8080}}, group_labels={"version": "v1"}
    )
    world.carry_out(wish)
    assert world.spec("WorkloadGroup/vmns/forecast") == {
        "metadata": {"labels": {"app": "forecast", "version": "v1"}},
        "template": {"serviceAccount": "default"},
        "probe": {"httpGet": {"path": "/", "port": 8080}},
    }
    assert [key for key in world.observed.objects if key.startswith("WorkloadEntry")] == ["WorkloadEntry/vmns/forecast-192.0.2.1"]
    made = Memory(auto("192.0.2.1"))
    (decision,) = made.carry_out(forecast(workloads=WORKLOADS))
    assert "istiod has registered 192.0.2.1 itself" in "".join(decision.notes)
    assert "WorkloadEntry/vmns/forecast-192-0-2-1" not in made.observed.objects


def test_istiods_entry_goes_by_name_or_when_its_proxy_is_gone() -> None:
    wish = forecast(registration="auto", workloads=WORKLOADS[:1])
    for gone in (False, True):
        world = Memory(auto("192.0.2.1"))
        world.carry_out(wish)
        assert "its proxy is connected" in world.problems(forecast(), present=False)
        world.put(auto("192.0.2.1", gone=gone))
        leaving = forecast() if gone else forecast(workloads=WORKLOADS[:1])
        world.carry_out(leaving, present=False)
        assert world.observed.objects == {}


def test_the_last_vm_that_leaves_takes_the_service_away() -> None:
    world = Memory()
    world.carry_out(forecast(workloads=WORKLOADS))
    parts = ("workloads", "service")
    world.carry_out(forecast(workloads=WORKLOADS[:1]), present=False, parts=parts)
    assert set(world.observed.objects) == {"Service/vmns/forecast", "WorkloadEntry/vmns/forecast-192-0-2-2"}
    assert world.actions(forecast(), present=False, parts=("service",)) == {"Service/vmns/forecast": "kept"}
    world.carry_out(forecast(workloads=WORKLOADS[1:]), present=False, parts=parts)
    assert world.observed.objects == {}


# -- several services --------------------------------------------------------------------------------------------


def test_services_share_a_gateway_and_one_mistake_stops_one_service() -> None:
    balancer = {"name": "shared", "port": 345}
    gateway = {**GATEWAY, "load_balancer": balancer}
    one = two_versions(gateways=[gateway])
    two = {**one, "name": "history", "workloads": [{**w, "labels": {"version": w["labels"]["version"]}} for w in WORKLOADS]}
    world = Memory()
    world.carry_out(one, two)
    assert len([key for key in world.observed.objects if key.startswith("Gateway")]) == 1
    made = world.decide(forecast(), present=False)
    kept = {item.key: item.action for item in made[0].items if item.action == "kept"}
    assert kept == {"Gateway/istio-system/gw": "kept"}
    bad = {**forecast(subsets=VERSIONS), "name": "nobody"}
    first, second = Memory().decide(one, bad)
    assert first.writes and second.problems and not second.writes
